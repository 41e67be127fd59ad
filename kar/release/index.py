"""The index file of one part: its ids, masks and places, laid out so that a reader maps it and reads only what it asks for.

An Arrow IPC file of one batch, uncompressed, whose columns all have the part's rows:
    id            ascending, as in the Parquet file
    is_removed    as in the Parquet file
    base_row      layers only: the row of the id in the bucket's layer 0; -1 - r where it is not in it, r being the row it would go before
    hash          texts only: their hashes, ascending
    hash_row      texts only: the row that each of those hashes belongs to
    <view>_is_missing   as in the Parquet file

Looking 10,000 texts up costs one binary search for all of them; reading a million texts from Parquet and hashing them costs fifty times that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ReleaseCorrupt, ReleaseNotFound
from kar.release import layout
from kar.release.hashes import hash_ids
from kar.release.ids import same_texts

_DO = "do not use it; publish again, or serve another: kar release rollback ID"
ID, BASE_ROW, HASH, HASH_ROW = "id", "base_row", "hash", "hash_row"


def index_batch(ids: pa.Array, is_removed: np.ndarray, base_row: np.ndarray | None, masks: dict[str, np.ndarray]) -> pa.RecordBatch:
    """The content of an index file.

    Args:
        ids: of one part, ascending.
        base_row: int32 [rows], see the module's docstring; None for layer 0.
        masks: view -> bool [rows].
    """
    columns: dict[str, pa.Array] = {ID: ids, layout.IS_REMOVED: pa.array(is_removed)}
    if base_row is not None:
        columns[BASE_ROW] = pa.array(base_row, pa.int32())
    if ids.type != pa.int64():
        hashed = hash_ids(ids)
        order = np.argsort(hashed, kind="stable")
        columns[HASH], columns[HASH_ROW] = pa.array(hashed[order]), pa.array(order.astype(np.int32))
    for view, mask in masks.items():
        columns[layout.column(view, "is_missing")] = pa.array(mask)
    return pa.RecordBatch.from_pydict(columns)


def write_index(stream: pa.NativeFile | object, batch: pa.RecordBatch) -> None:
    with pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


class PartIndex:
    """One part's index, memory-mapped."""

    def __init__(self, path: Path, rows: int) -> None:
        """Raises ReleaseNotFound if the file is gone, ReleaseCorrupt if it is no index of so many rows."""
        try:
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all()
        except FileNotFoundError as error:
            raise ReleaseNotFound(f"{path.parent.name} was deleted while it was open: {error}", layout.GONE_DO) from error
        except (pa.ArrowException, OSError) as error:
            raise ReleaseCorrupt(f"{path} cannot be read as an index: {error}", _DO) from error
        if table.num_rows != rows or table.schema.names[:2] != [ID, layout.IS_REMOVED]:
            raise ReleaseCorrupt(f"{path}: rows should be {rows}, found {table.num_rows}", _DO)
        self.path = path
        self._columns: dict[str, pa.Array] = {
            name: column.chunk(0) if column.num_chunks else pa.array([], column.type)
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
        self._check_ids()

    def _check_ids(self) -> None:
        """A damaged offset would be read beyond the file's end, which no exception catches: look at them first."""
        if self.ids.type == pa.int64():
            return
        _, offsets, data = self.ids.buffers()
        steps = np.frombuffer(offsets, np.int32)[: len(self.ids) + 1] if offsets is not None else np.zeros(1, np.int32)
        if len(self.ids) and (steps[0] < 0 or steps[-1] > (data.size if data is not None else 0) or (steps[1:] < steps[:-1]).any()):
            raise ReleaseCorrupt(f"{self.path} is damaged: the places of its ids do not ascend", _DO)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> list[str]:
        return list(self._columns)

    @property
    def ids(self) -> pa.Array:
        return self._columns[ID]

    def column(self, name: str) -> pa.Array:
        """Raises ReleaseCorrupt if there is none of that name."""
        try:
            return self._columns[name]
        except KeyError as error:
            raise ReleaseCorrupt(f"{self.path} has no column {name}; it has {self.names}", _DO) from error

    def numbers(self, name: str) -> np.ndarray:
        """A column as NumPy array: bool, or a view of the mapped file."""
        values: np.ndarray = self.column(name).to_numpy(zero_copy_only=False)
        return values

    def find(self, wanted: pa.Array, hashed: np.ndarray | None) -> np.ndarray:
        """int64 [len(wanted)]: row of each id in this part, -1 where it is not in it.

        Args:
            wanted: of the table's id type, without nulls.
            hashed: `hash_ids(wanted)` for texts; not looked at for numbers.
        """
        if not len(self.ids):
            return np.full(len(wanted), -1, np.int64)
        if hashed is None or self.ids.type == pa.int64():
            known, values = self.ids.to_numpy(), wanted.to_numpy()
            places = np.minimum(np.searchsorted(known, values), len(known) - 1)
            return np.where(known[places] == values, places, -1)
        return self._find_texts(wanted, hashed)

    def _find_texts(self, wanted: pa.Array, hashed: np.ndarray) -> np.ndarray:
        known, row_of = self.column(HASH).to_numpy(), self.column(HASH_ROW).to_numpy()
        found = np.full(len(wanted), -1, np.int64)
        places = np.searchsorted(known, hashed)
        asked = np.flatnonzero(places < len(known))
        asked = asked[known[places[asked]] == hashed[asked]]
        while len(asked):  # once, but for two ids of one hash
            rows = row_of[places[asked]]
            is_hit = same_texts(self.ids, rows, wanted, asked)
            found[asked[is_hit]] = rows[is_hit]
            asked = asked[~is_hit]
            places[asked] += 1
            asked = asked[places[asked] < len(known)]
            asked = asked[known[places[asked]] == hashed[asked]]
        return found


def base_rows(base: PartIndex, ids: pa.Array) -> np.ndarray:
    """int32 [len(ids)]: what `base_row` is for ascending ids of a layer, given the index of its bucket's layer 0."""
    rows = base.find(ids, None if ids.type == pa.int64() else hash_ids(ids))
    strange = np.flatnonzero(rows < 0)
    if len(strange):
        rows[strange] = -1 - _ranks(base.ids, ids.take(pa.array(strange)))
    return rows.astype(np.int32)


def _ranks(known: pa.Array, wanted: pa.Array) -> np.ndarray:
    """int64 [len(wanted)]: how many of the known ids are less than each wanted one; both ascend, and share none."""
    if known.type == pa.int64():
        ranks: np.ndarray = np.searchsorted(known.to_numpy(), wanted.to_numpy())
        return ranks
    order = pc.sort_indices(pa.concat_arrays([known, wanted])).to_numpy()
    places: np.ndarray = np.flatnonzero(order >= len(known)) - np.arange(len(wanted))
    return places
