"""What the rich base shows of an example besides ids and attributes: the hour, mean ratings, every value of an attribute.

No field of an example depends on an event that is at or after it, of any user, nor on a rating that some example asks for.

Shape suffixes as in `batches`; besides: U distinct users · I distinct items
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.model.batches import Bool
from kar.model.vocabulary import Int64

Float64 = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_STEPS = 10
"""Means are categories of a tenth of a star."""


def hours(event_at_E: pa.ChunkedArray) -> pa.Array:
    """[E] hour of the day, UTC."""
    return pc.hour(event_at_E).combine_chunks()


def is_free(position_V: Int64, user_V: Int64, position_E: Int64, user_E: Int64) -> Bool:
    """[V] whether an event comes before its user's first example; all events of a user without example do."""
    first_U = np.full(int(user_V.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first_U, user_E, position_E)
    return np.asarray(position_V < first_U[user_V])


def user_means(value_V: Float64, user_V: Int64, count: int) -> pa.Array:
    """[U] mean value of each user's events, as a category; null: he has none.

    Args:
        value_V: NaN: does not count.
        count: U.
    """
    has_value_V = np.isfinite(value_V)
    owner, value = user_V[has_value_V], value_V[has_value_V]
    total_U: Float64 = np.bincount(owner, value, minlength=count).astype(np.float64)  # of ints where nothing has a value
    return _categories(total_U, np.bincount(owner, minlength=count))


@dataclass(frozen=True)
class FreeEvents:
    """The events that come before their user's first example: nothing asks for them, so means may rest on them.

    Args:
        user_N, item_N: rows of the distinct ids.
        at_N: times, of one unit.
        value_N: the rating; where the data have none at all (clicks), the label. Finite.
    """

    user_N: Int64
    item_N: Int64
    at_N: Int64
    value_N: Float64

    @classmethod
    def of(cls, free: pa.Table, item_ids: pa.Array) -> FreeEvents:
        """Those that have a value.

        Args:
            free: user (row), item_id, at, rating and label of each.
        """
        rating = np.asarray(free["rating"].to_numpy(), dtype=np.float64)
        label = np.asarray(free["label"].to_numpy(), dtype=np.float64)
        value = rating if np.isfinite(rating).any() else np.where(label >= 0, label, np.nan)
        has_value = np.isfinite(value)
        item = pc.index_in(free["item_id"], value_set=item_ids).cast(pa.int64()).to_numpy()
        user, at = free["user"].to_numpy(), free["at"].to_numpy()
        return cls(user[has_value], np.asarray(item)[has_value], at[has_value], value[has_value])


@dataclass(frozen=True)
class ItemMeans:
    """The mean value of each item's free events up to any time.

    Args:
        time_M: distinct times, ascending.
        place_N: item · (M + 1) + place of the time, ascending; `total_N1` the sum of the values before each.
    """

    time_M: Int64
    place_N: Int64
    total_N1: Float64

    @classmethod
    def of(cls, free: FreeEvents) -> ItemMeans:
        time_M = np.unique(free.at_N)
        place_N = free.item_N * (len(time_M) + 1) + np.searchsorted(time_M, free.at_N)  # by item, then by time
        order = np.argsort(place_N, kind="stable")
        return cls(time_M, place_N[order], np.concatenate([[0.0], np.cumsum(free.value_N[order])]))

    def before(self, item_E: Int64, at_E: Int64) -> pa.Array:
        """[E] mean of the target item's events that are older than the example, as a category; null: there are none.

        An event of the example's own instant is not older.
        """
        steps = len(self.time_M) + 1
        first_E = np.searchsorted(self.place_N, item_E * steps)
        end_E = np.searchsorted(self.place_N, item_E * steps + np.searchsorted(self.time_M, at_E))
        return _categories(self.total_N1[end_E] - self.total_N1[first_E], end_E - first_E)

    def categories(self) -> pa.Array:
        """Every category that an item's mean so far takes at some time; events of one instant count together, whatever their order."""
        end_N = np.flatnonzero(np.append(np.diff(self.place_N) != 0, True)[: len(self.place_N)]) + 1
        item_N = self.place_N // (len(self.time_M) + 1)
        first_N = np.searchsorted(item_N, item_N[end_N - 1])
        return _categories(self.total_N1[end_N] - self.total_N1[first_N], end_N - first_N).unique()


def _categories(total: Float64, count: Int64) -> pa.Array:
    """Means in tenths; null where nothing was counted."""
    tenths = np.rint(np.round(total / np.maximum(count, 1) * _STEPS, 6)).astype(np.int64)  # 6: sums of two orders differ in the last bit
    return pa.array(tenths, mask=count == 0)


def listed(item_ids: pa.Array, by_place: pa.Table, name: str) -> tuple[Int64, pa.Array]:
    """Every value of an attribute: [X] item row, ascending, and value.

    Args:
        by_place: the table item_attribute in (item_id, place) order, `item_ids` being sorted alike; rows of other items are left out.
    """
    rows = by_place.filter(pc.and_(pc.equal(by_place["name"], name), pc.is_in(by_place["item_id"], value_set=item_ids)))
    row_X = pc.index_in(rows["item_id"], value_set=item_ids).cast(pa.int64())
    return np.asarray(row_X.to_numpy(), dtype=np.int64), rows["value"].combine_chunks()
