"""What the layers of one bucket put over its layer 0, kept as short sorted lists: nothing here is as long as the bucket.

Words: a *place* counts the rows of all parts of the side through, bucket by bucket, oldest layer first; a *base row* is a row of the bucket's
layer 0; a *row* counts the bucket's live subjects in id order.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ReleaseCorrupt
from kar.release import layout
from kar.release.index import BASE_ROW, PartIndex

_DO = "serve another: kar release rollback ID"


class Overlay:
    """Rows to places and back, for one bucket."""

    def __init__(self, first: int, base_count: int, layers: list[tuple[int, PartIndex]]) -> None:
        """From the indexes of the bucket's layers.

        Args:
            first: the place of the first base row.
            base_count: how many base rows there are.
            layers: of each layer, oldest first, the place of its first row, and its index.

        Raises:
            ReleaseCorrupt: a layer speaks of base rows that there are not.
        """
        self._first, self._base_count = first, base_count
        told = [_Told(place, index, base_count) for place, index in layers]
        base_row, place, is_removed = (
            np.concatenate([getattr(one, name) for one in told]) if told else np.zeros(0, kind)
            for name, kind in (("base_row", np.int64), ("place", np.int64), ("is_removed", bool))
        )
        known = np.flatnonzero(base_row >= 0)
        known = known[np.argsort(base_row[known], kind="stable")]
        known = known[_is_last(base_row[known])]  # of one base row the newest layer
        self._gone = base_row[known[is_removed[known]]]
        live = known[~is_removed[known]]
        self._over, self._over_place = base_row[live], place[live]
        new = np.flatnonzero(base_row < 0)
        if len(new):
            ids = pa.concat_arrays([one.new_ids for one in told])
            order = pc.sort_indices(ids).to_numpy()  # stable: of one id the newest layer comes last
            ids = ids.take(pa.array(order))
            is_last = np.ones(len(order), bool)
            is_last[:-1] = pc.not_equal(ids.slice(0, len(ids) - 1), ids.slice(1)).to_numpy(zero_copy_only=False)
            new = new[order[is_last]]
            new = new[~is_removed[new]]
        self._added_before, self._added_place = -1 - base_row[new], place[new]
        self.count = base_count - len(self._gone) + len(new)
        self._added_row = self._added_before - np.searchsorted(self._gone, self._added_before) + np.arange(len(new))
        self._live_place = np.concatenate([self._over_place, self._added_place])
        self._live_row = np.concatenate([self._row_of_base(self._over), self._added_row])
        order = np.argsort(self._live_place)
        self._live_place, self._live_row = self._live_place[order], self._live_row[order]

    def places(self, rows: np.ndarray) -> np.ndarray:
        """int64: the place of each row."""
        if not len(self._live_place) and not len(self._gone):
            return rows + self._first
        added = np.searchsorted(self._added_row, rows, side="right")
        kept = rows - added
        base = kept + np.searchsorted(self._gone - np.arange(len(self._gone)), kept, side="right")
        places: np.ndarray = base + self._first
        _put(places, base, self._over, self._over_place)
        _put(places, rows, self._added_row, self._added_place)
        return places

    def rows(self, places: np.ndarray) -> np.ndarray:
        """int64: the row that lies at each place; -1 where a newer layer or a tombstone hides it, or it is a tombstone itself."""
        base = places - self._first
        is_base = (base >= 0) & (base < self._base_count)
        if not len(self._live_place) and not len(self._gone):
            return np.where(is_base, base, -1)
        is_hidden = _is_in(base, self._gone) | _is_in(base, self._over)
        rows = np.where(is_base & ~is_hidden, self._row_of_base(base), -1)
        _put(rows, places, self._live_place, self._live_row)
        return rows

    def _row_of_base(self, base: np.ndarray) -> np.ndarray:
        """The row of live base rows: less by those that went before it, more by those that were put in before it."""
        rows: np.ndarray = base - np.searchsorted(self._gone, base) + np.searchsorted(self._added_before, base, side="right")
        return rows


class _Told:
    """What one layer tells: of each of its rows the base row, the place, and whether it is a tombstone; ids of those that layer 0 has not."""

    def __init__(self, first: int, index: PartIndex, base_count: int) -> None:
        self.base_row = index.numbers(BASE_ROW).astype(np.int64)
        if ((self.base_row >= base_count) | (self.base_row < -1 - base_count)).any():
            raise ReleaseCorrupt(f"{index.path} is damaged: it names rows that its bucket does not have", _DO)
        self.place = np.arange(first, first + len(index))
        self.is_removed = index.numbers(layout.IS_REMOVED)
        self.new_ids = index.ids.take(pa.array(np.flatnonzero(self.base_row < 0)))


def _is_last(ascending: np.ndarray) -> np.ndarray:
    """bool [N]: whether the next value is another one."""
    return np.append(ascending[:-1] != ascending[1:], True) if len(ascending) else np.zeros(0, bool)


def _is_in(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    if not len(ascending):
        return np.zeros(len(values), bool)
    found: np.ndarray = ascending[np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)] == values
    return found


def _put(target: np.ndarray, values: np.ndarray, ascending: np.ndarray, replacement: np.ndarray) -> None:
    """Where a value is one of `ascending`, set the target to what stands beside that one."""
    if not len(ascending):
        return
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    hit = ascending[at] == values
    target[hit] = replacement[at[hit]]
