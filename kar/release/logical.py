"""The rows of one side as a reader sees them, ids ascending, whatever buckets and layers hold them.

A row's place is one number: the rows of all parts are counted through, bucket by bucket, oldest layer first. Of a side that was written in
one piece row n has place n, and nothing is worked out at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.errors import ReleaseCorrupt, ReleaseNotFound
from kar.release import hashes, layout, manifest
from kar.release.ids import IdIndex, Ids, as_ids
from kar.release.index import HASH, HASH_ROW, PartIndex
from kar.release.layout import Kind, Side
from kar.release.overlay import Overlay
from kar.release.pages import let_go

_DO = "serve another: kar release rollback ID"
_PARSING = threading.Lock()
"""NumPy parses a matrix's header as a Python literal; two threads at once made CPython 3.11.7 raise a SystemError about its recursion depth."""
_WHOLE_FROM = 4  # once more than 1 / so many of all ids were asked for, a table of all of them answers; before, each part's mapped index


class Logical:
    """One side of a release's folder; every array it gives has one entry per live subject, in id order."""

    def __init__(self, folder: Path, found: dict[str, Any], side: Side, fetch: Callable[[str], Path] | None = None) -> None:
        self.side, self.folder = side, folder
        self._file = fetch or folder.joinpath  # where a file lies; one of a store is fetched when it is first asked for
        self.parts = manifest.parts(found, side)
        self.count = int(found["tables"][layout.table_name(side)]["rows"])
        self._release = str(found["release"])
        self._has_layers = manifest.has_layers(found)
        self._id_type = pa.int64() if found["id_types"][side] == "int64" else pa.string()
        self._bucket_count = int(found["tables"][layout.table_name(side)].get("buckets", 1))
        self._indexes: dict[int, PartIndex] = {}
        self._matrices: dict[tuple[int, str, Kind], np.ndarray] = {}
        self._masks: dict[str, pa.Array] = {}
        self._place_of_row: np.ndarray | None = None
        self._row_of_place: np.ndarray | None = None
        self._firsts = np.cumsum([0, *(part.rows for part in self.parts)])  # the place of each part's first row
        self._search: IdIndex | None = None
        self._asked = 0  # ids, in all questions so far

    @property
    def is_plain(self) -> bool:
        """Whether row n lies at place n: no layers, and one bucket."""
        return not self._has_layers or len(self.parts) == 1

    @property
    def ids(self) -> pa.Array:
        """Every id, ascending."""
        return self._whole_search().ids

    def rows(self, wanted: Ids) -> np.ndarray:
        """int64 [len(wanted)]: row of each id, -1 where there is none of it, or null. Raises ReleaseError for ids of another type."""
        values = as_ids(wanted, self._id_type, self.side)
        self._asked += len(values)
        if not self._has_layers or self._search is not None or self._asked * _WHOLE_FROM > self.count or values.null_count:
            return self._whole_search().rows(values)
        hashed = hashes.hash_ids(values) if self._id_type != pa.int64() or self._bucket_count > 1 else None
        rows = np.full(len(values), -1, np.int64)
        first = 0
        for number, part in enumerate(self.parts):
            asked = None
            if hashed is not None and self._bucket_count > 1:
                asked = np.flatnonzero(hashes.buckets_of_hashes(hashed, self._bucket_count) == part.bucket)
            some = values if asked is None else values.take(pa.array(asked))
            found = self.index(number).find(some, hashed if asked is None or hashed is None else hashed[asked])
            is_hit = found >= 0
            hit_rows = self._rows_of_places(found[is_hit] + first)
            where = np.flatnonzero(is_hit) if asked is None else asked[is_hit]
            rows[where] = np.maximum(rows[where], hit_rows)  # what a newer layer or a tombstone hides has row -1
            first += part.rows
        return rows

    def gather(self, view: str, rows: np.ndarray | slice, kind: Kind) -> np.ndarray:
        """float32 [len(rows), W]: the vectors of some rows (0 … count - 1, in any order, with repeats), read where they lie."""
        if self.is_plain:
            whole = self.matrix(0, view, kind)
            # np.take copies a row at a time: a third of the time that indexing with the same numbers takes
            taken: np.ndarray = whole[rows] if isinstance(rows, slice) else np.take(whole, rows, axis=0)
            return taken
        places = self.places_of(rows)
        base, in_base = self.matrix(0, view, kind), self.parts[0].rows
        # nearly every row lies in the first part, as a rule: take all from there, then mend those that do not
        gathered: np.ndarray = (
            np.take(base, np.where(places < in_base, places, 0), axis=0) if in_base else np.empty((len(places), base.shape[1]), np.float32)
        )
        others = np.flatnonzero(places >= in_base)
        numbers = np.searchsorted(self._firsts, places[others], side="right") - 1
        for number in np.unique(numbers):
            where = others[numbers == number]
            gathered[where] = np.take(self.matrix(int(number), view, kind), places[where] - self._firsts[number], axis=0)
        return gathered

    def whole(self, view: str, kind: Kind) -> np.ndarray:
        """float32 [count, W]: the mapped file where one holds it all, else put together in memory."""
        if self.is_plain:
            return self.matrix(0, view, kind, as_map=True)
        return self.gather(view, np.arange(self.count), kind)

    def let_go(self) -> None:
        """Take the matrices' pages out of this process; for those who stream through all of them."""
        for matrix in list(self._matrices.values()):  # another thread may open one meanwhile
            let_go(matrix)

    def matrix(self, number: int, view: str, kind: Kind, *, as_map: bool = False) -> np.ndarray:
        """The matrix of one part (formats 1 and 2: of the whole side), memory-mapped read-only.

        Raises:
            ReleaseNotFound: the file is gone.
            ReleaseCorrupt: it is no matrix.
        """
        key = (number, view, kind)
        if key not in self._matrices:
            path = self._file(self.parts[number].matrix(view, kind))
            try:
                with _PARSING:
                    self._matrices[key] = np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None, allow_pickle=False)
            except FileNotFoundError as error:
                raise self._gone(error) from error
            except ValueError as error:
                raise ReleaseCorrupt(f"{path} cannot be read as a matrix: {error}", _DO) from error
        found = self._matrices[key]
        # taking rows of the plain array that lies over the map is a third faster than of the map itself
        return found if as_map else found.view(np.ndarray)

    def mask(self, view: str, rows: np.ndarray | None = None) -> np.ndarray:
        """bool [count], or [len(rows)]: true where nothing is known."""
        name = layout.column(view, "is_missing")
        if not self._has_layers:
            if name not in self._masks:
                self._masks[name] = self.column(name)
            bits = self._masks[name] if rows is None else self._masks[name].take(pa.array(rows))
        else:
            if name not in self._masks:
                found = [self.index(number).column(name) for number in range(len(self.parts))]
                self._masks[name] = found[0] if len(found) == 1 else pa.concat_arrays(found)
            bits = self._masks[name]
            if rows is not None:
                bits = bits.take(pa.array(self.places_of(rows)))
            elif not self.is_plain:
                bits = bits.take(pa.array(self.places))
        values: np.ndarray = bits.to_numpy(zero_copy_only=False)
        return values

    def column(self, name: str, *, as_dictionary: bool = False) -> pa.Array:
        """A column of the Parquet files.

        Args:
            as_dictionary: keep texts as a dictionary, which is a tenth of the memory where they repeat.
        """
        table = self.read([name], [name] if as_dictionary else None)
        return table.column(0).unify_dictionaries().combine_chunks() if as_dictionary else table.column(0).combine_chunks()

    def read(self, columns: list[str] | None = None, dictionaries: list[str] | None = None) -> pa.Table:
        """Columns of the table; None: all but `layer` and `is_removed`."""
        try:
            files = [pq.ParquetFile(self._file(part.path), read_dictionary=dictionaries) for part in self.parts]
            if columns is None:
                columns = [name for name in files[0].schema_arrow.names if name not in (layout.LAYER, layout.IS_REMOVED)]
            table = pa.concat_tables([file.read(columns) for file in files])
        except FileNotFoundError as error:
            raise self._gone(error) from error
        except (pa.ArrowException, OSError) as error:
            raise ReleaseCorrupt(f"release {self._release}, {self.side}s: {error}", _DO) from error
        return table if self.is_plain else table.combine_chunks().take(pa.array(self.places))

    def index(self, number: int) -> PartIndex:
        """The index of one part. Not in formats 1 and 2."""
        if number not in self._indexes:
            part = self.parts[number]
            self._indexes[number] = PartIndex(self._file(part.index), part.rows)
        return self._indexes[number]

    @property
    def places(self) -> np.ndarray:
        """int64 [count]: the place of each row."""
        if self._place_of_row is None:
            self._place_of_row = self._all_places()
        return self._place_of_row

    def places_of(self, rows: np.ndarray | slice) -> np.ndarray:
        """int64 [len(rows)]: the place of some rows; of one bucket it is worked out for those alone."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.count))
        if self.is_plain:
            return rows
        if self._place_of_row is not None or self._bucket_count > 1:
            return self.places[rows]
        return self._overlays[0].places(rows)

    def _rows_of_places(self, places: np.ndarray) -> np.ndarray:
        if self.is_plain:
            return places
        if self._bucket_count == 1:
            return self._overlays[0].rows(places)
        if self._row_of_place is None:
            self._row_of_place = np.full(self._firsts[-1], -1, np.int32)
            self._row_of_place[self.places] = np.arange(self.count, dtype=np.int32)
        rows: np.ndarray = self._row_of_place[places]
        return rows

    def _all_places(self) -> np.ndarray:
        if self.is_plain:
            return np.arange(self.count)
        live = [overlay.places(np.arange(overlay.count)) for overlay in self._overlays]
        if len(live) == 1:
            return live[0]
        places = np.concatenate(live)
        ids = self._ids_at(places)
        order = np.argsort(ids.to_numpy(), kind="stable") if ids.type == pa.int64() else pc.sort_indices(ids).to_numpy()
        ordered: np.ndarray = places[order]
        return ordered

    @cached_property
    def _overlays(self) -> list[Overlay]:
        """Of each bucket."""
        found = []
        for bucket in range(self._bucket_count):
            base, *layers = [number for number, part in enumerate(self.parts) if part.bucket == bucket]
            told = [(int(self._firsts[number]), self.index(number)) for number in layers]
            found.append(Overlay(int(self._firsts[base]), self.parts[base].rows, told))
        if (count := sum(overlay.count for overlay in found)) != self.count:
            raise ReleaseCorrupt(f"{self.folder / layout.table_name(self.side)}: rows should be {self.count}, found {count}", _DO)
        return found

    def _whole_search(self) -> IdIndex:
        if self._search is None:
            ids = self._ids_at(self.places) if self._has_layers else self.column(layout.id_column(self.side))
            # one part's index file holds the hashes of its texts, in order
            is_hashed = self._has_layers and self.is_plain and self._id_type != pa.int64()
            self._search = IdIndex(ids, self.side, (self.index(0).numbers(HASH), self.index(0).numbers(HASH_ROW)) if is_hashed else None)
        return self._search

    def _ids_at(self, places: np.ndarray) -> pa.Array:
        ids = [self.index(number).ids for number in range(len(self.parts))]
        return ids[0] if self.is_plain else pa.concat_arrays(ids).take(pa.array(places))

    def _gone(self, error: FileNotFoundError) -> ReleaseNotFound:
        return ReleaseNotFound(f"release {self._release} was deleted while it was open: {error}", layout.GONE_DO)
