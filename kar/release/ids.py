"""Ids to row numbers, for whole arrays at a time."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ReleaseError
from kar.release.hashes import hash_ids

Ids: TypeAlias = Any  # a sequence of ints or texts, a NumPy array, or an Arrow array, chunked or not
_TABLE_FROM = 50_000  # ids asked at once from which a direct table pays for being built
_TABLE_SPREAD = 4  # widest range of ids, in rows, that gets one
_BLOCK = 65_536  # ids looked up at once in a direct table: what lies between stays in the cache


class IdIndex:
    """Finds rows by id. Ids ascend strictly, int64 or string, as in a release's table.

    Ints: binary search, or a direct table for large questions over a dense range. Strings: a question as long as the
    ids hashes those anew, a shorter one asks a table that is built once (`TextTable`).
    """

    def __init__(self, ids: pa.Array, name: str, hashed: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """Of ascending ids.

        Args:
            hashed: of texts, where somebody has them already: their hashes, ascending, and the row of each.
        """
        self.ids = ids
        self._hashed = hashed
        self._name = name
        self._numbers: np.ndarray | None = ids.to_numpy() if ids.type == pa.int64() else None
        self._direct: np.ndarray | None = None
        self._texts: TextTable | None = None

    def rows(self, wanted: Ids) -> np.ndarray:
        """int64 [len(wanted)], -1 where an id is unknown or null; repeats are fine.

        Raises:
            ReleaseError: ints were asked of string ids or the other way round.
        """
        values = as_ids(wanted, self.ids.type, self._name)
        if self._numbers is None:
            return self._rows_of_texts(values)
        if not values.null_count:
            return self._rows_of_numbers(self._numbers, values.to_numpy())
        rows = self._rows_of_numbers(self._numbers, values.fill_null(0).to_numpy())
        rows[values.is_null().to_numpy(zero_copy_only=False)] = -1
        return rows

    def _rows_of_numbers(self, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
        if not len(numbers):
            return np.full(len(values), -1, np.int64)
        low, spread = int(numbers[0]), int(numbers[-1]) - int(numbers[0]) + 1
        if self._direct is None and len(values) >= _TABLE_FROM and spread <= _TABLE_SPREAD * len(numbers):
            self._direct = np.full(spread + 1, -1, np.int64)  # the last place answers whatever lies outside
            self._direct[numbers - low] = np.arange(len(numbers))
        if self._direct is not None:
            rows = np.empty(len(values), np.int64)
            for first in range(0, len(values), _BLOCK):
                # as unsigned, an id below the lowest lies far above the highest: one comparison for both ends, and no overflow
                places = (values[first : first + _BLOCK] - np.int64(low)).view(np.uint64)
                np.minimum(places, np.uint64(spread), out=places)
                np.take(self._direct, places.view(np.int64), out=rows[first : first + _BLOCK], mode="clip")
            return rows
        places = np.minimum(np.searchsorted(numbers, values), len(numbers) - 1)
        return np.where(numbers[places] == values, places, -1)

    def _rows_of_texts(self, values: pa.Array) -> np.ndarray:
        if len(values) >= len(self.ids):
            return _filled(pc.index_in(values, value_set=self.ids))
        if self._texts is None:
            self._texts = TextTable(self.ids, *(self._hashed or _by_hash(self.ids)))
        if not values.null_count:
            return self._texts.rows(values)
        rows = self._texts.rows(values.fill_null(""))
        rows[values.is_null().to_numpy(zero_copy_only=False)] = -1
        return rows


class TextTable:
    """Rows of texts by their hash, for question after question.

    The hashes in order, the row of each, and where those with the same highest bits begin: 12 bytes an id (mapped files, for a side that lies in
    one piece) and 4 to 8 more. Hashes spread evenly, so that there is about one of each beginning, and a text is found at the first
    place looked at, or not much later. A hash alone never decides: the texts are compared too.
    """

    def __init__(self, ids: pa.Array, hashed: np.ndarray, row_of: np.ndarray) -> None:
        self._ids, self._hashed, self._row_of = ids, hashed, row_of
        bits = max(1, (len(ids) - 1).bit_length())  # as many beginnings as ids, or up to twice as many
        self._shift = np.uint64(64 - bits)
        sizes = np.bincount((hashed >> self._shift).view(np.int64), minlength=1 << bits)
        self._first_of = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)

    def rows(self, wanted: pa.Array) -> np.ndarray:
        """int64 [len(wanted)], -1 where a text is unknown. No nulls."""
        found = np.full(len(wanted), -1, np.int64)
        for first in range(0, len(wanted), _BLOCK):
            self._find(wanted.slice(first, _BLOCK), found[first : first + _BLOCK])
        return found

    def _find(self, wanted: pa.Array, found: np.ndarray) -> None:
        hashed = hash_ids(wanted)
        beginning = (hashed >> self._shift).view(np.int64)
        places, ends = self._first_of[beginning], self._first_of[beginning + 1]
        asked = np.flatnonzero(places < ends)
        places, ends = places[asked], ends[asked]
        while len(asked):
            is_same = self._hashed[places] == hashed[asked]
            hits, rows = asked[is_same], self._row_of[places[is_same]]
            if len(hits):
                is_equal = same_texts(self._ids, rows, wanted, hits)
                found[hits[is_equal]] = rows[is_equal]
                is_same[is_same] = is_equal
            goes_on = ~is_same & (places + 1 < ends)
            asked, places, ends = asked[goes_on], places[goes_on] + 1, ends[goes_on]


def _by_hash(ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of texts, ascending, and the row of each, int32."""
    hashed = hash_ids(ids)
    order = np.argsort(hashed, kind="stable")
    return hashed[order], order.astype(np.int32)


def same_texts(left: pa.Array, left_rows: np.ndarray, right: pa.Array, right_rows: np.ndarray) -> np.ndarray:
    """bool [len(left_rows)]: whether left[left_rows] equals right[right_rows]; `right_rows` ascend strictly."""
    others = right if len(right_rows) == len(right) else right.take(pa.array(right_rows))
    equal: np.ndarray = pc.equal(left.take(pa.array(left_rows)), others).to_numpy(zero_copy_only=False)
    return equal


def as_ids(wanted: Ids, id_type: pa.DataType, name: str) -> pa.Array:
    """A question as an Arrow array of the table's own id type; anything lossy or of another kind is refused with a ReleaseError."""
    try:
        values: Any = wanted if isinstance(wanted, pa.Array | pa.ChunkedArray) else pa.array(wanted)
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        kind = values.type
        fits = pa.types.is_null(kind) or (
            pa.types.is_integer(kind)
            if id_type == pa.int64()
            else (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
        )
        if fits:
            return values if kind == id_type else values.cast(id_type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ReleaseError(f"{name} ids are {id_type} in this release; those asked for do not convert: {error}") from error
    raise ReleaseError(f"{name} ids are {id_type} in this release, asked for as {kind}", f"cast them to {id_type}")


def _filled(places: pa.Array) -> np.ndarray:
    rows: np.ndarray = places.fill_null(-1).to_numpy().astype(np.int64)
    return rows
