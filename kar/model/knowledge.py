"""Knowledge vectors of the views that an arm uses, joined to the examples once; batches then gather by row."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from kar.errors import ModelError
from kar.model.batches import Bool, Kind, Side, TrainingData

_READ_ROWS = 8192
Int32 = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
Float32 = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True)
class Vectors:
    """The vectors of one view.

    Args:
        subject_ids: text, distinct.
        matrix_RT: row 0 is zeros, no knowledge; row n is subject n − 1's. It may be a memory map, which no training copies.
    """

    subject_ids: pa.Array
    matrix_RT: Float32

    @classmethod
    def of(cls, subject_ids: pa.Array, vectors_NT: Float32) -> Vectors:
        """Vectors in the order of the subjects; copied."""
        return cls(subject_ids, np.concatenate([np.zeros((1, vectors_NT.shape[1]), np.float32), vectors_NT]))

    @property
    def vectors_NT(self) -> Float32:  # noqa: N802  (a shape suffix)
        """[subjects, width]."""
        return self.matrix_RT[1:]


def read(table: pa.Table, view: str) -> Vectors:
    """One view's vectors out of the table knowledge_vector; no rows if the view has none.

    Raises:
        ModelError: vectors of several widths, or one that is not finite.
    """
    rows = table.filter(pc.equal(table["view"], view))
    subject_ids = rows["subject_id"].combine_chunks()
    matrix_RT = np.zeros((rows.num_rows + 1, _width(rows["vector"], view)), np.float32)
    _fill(matrix_RT[1:], rows["vector"], view, subject_ids)
    return Vectors(subject_ids, matrix_RT)


def mapped(path: Path, keys: pa.Table, views: Iterable[str], folder: Path) -> dict[str, Vectors]:
    """The vectors of some views as memory maps: every process that opens them shares one copy, which the system may drop and reread.

    Args:
        path: the table knowledge_vector; it is read a row group at a time.
        keys: its columns view and subject_id.
        folder: where the matrices lie, one file a view, written by the first that asks. Of this table alone.

    Raises:
        ModelError: as `read`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for view in views:
        subject_ids = keys["subject_id"].filter(pc.equal(keys["view"], view)).combine_chunks()
        matrix = folder / f"{quote(view, safe='')}.npy"
        if not matrix.exists():
            _write(path, view, subject_ids, matrix)
        # c: a tensor over it is writable as torch wants it, and nothing that is written reaches the file
        found[view] = Vectors(subject_ids, np.load(matrix, mmap_mode="c"))
    return found


def _write(path: Path, view: str, subject_ids: pa.Array, matrix: Path) -> None:
    partial = matrix.with_name(f".{matrix.name}.{os.getpid()}.partial")
    matrix_RT: Float32 | None = None
    done = 0
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(_READ_ROWS, columns=["view", "vector"]):
            vector = batch["vector"].filter(pc.equal(batch["view"], view))
            if not len(vector):
                continue
            width = _width(vector, view)
            if matrix_RT is None:
                matrix_RT = np.lib.format.open_memmap(partial, "w+", np.float32, (len(subject_ids) + 1, width))
            _fill(matrix_RT[done + 1 : done + 1 + len(vector)], vector, view, subject_ids[done : done + len(vector)])
            done += len(vector)
    if matrix_RT is None:
        with partial.open("wb") as stream:
            np.save(stream, np.zeros((1, 0), np.float32))
    else:
        matrix_RT.flush()  # type: ignore[attr-defined]
    partial.replace(matrix)


def _width(vectors: pa.Array | pa.ChunkedArray, view: str) -> int:
    widths = pc.unique(pc.list_value_length(vectors)).to_pylist()
    if len(widths) > 1:
        raise ModelError(f"view {view} holds vectors of different widths: {sorted(widths)}", "run: kar run vectors")
    return widths[0] if widths else 0


def _fill(matrix_NT: Float32, vectors: pa.Array | pa.ChunkedArray, view: str, subject_ids: pa.Array) -> None:
    """Copy vectors into a matrix. Raises ModelError for one that is not finite, or of another width."""
    flat = np.asarray(pc.list_flatten(vectors), dtype=np.float32)
    if flat.size != matrix_NT.size:
        raise ModelError(f"view {view} holds vectors of different widths, one of them {matrix_NT.shape[1]}", "run: kar run vectors")
    matrix_NT[:] = flat.reshape(matrix_NT.shape)
    broken = ~np.isfinite(matrix_NT).all(axis=1)
    if broken.any():
        subject = subject_ids[int(np.flatnonzero(broken)[0])].as_py()
        raise ModelError(f"view {view}: {broken.sum()} vectors are not finite, first that of {subject!r}", "run: kar run vectors")


@dataclass(frozen=True)
class Join:
    """A view's vectors and who has which, before it is known of which examples.

    Args:
        view, side: what the view is of.
        vectors_RT: on the device.
        row_S: every user's or item's row of them; 0: none.
        in_history: to be joined to the events of the histories too.
    """

    view: str
    side: Side
    vectors_RT: Tensor
    row_S: Int32
    in_history: bool

    @classmethod
    def of(
        cls, data: TrainingData, view: str, side: Side, vectors: Vectors, width: int, seed: int | None, *, in_history: bool = False
    ) -> Join:
        """Look every user or item of the data up; the arguments are those of `attach`."""
        matrix_RT = vectors.matrix_RT
        if len(matrix_RT) > 1 and matrix_RT.shape[1] != width:
            raise ModelError(
                f"view {view} holds vectors of width {matrix_RT.shape[1]}, another view of the arm {width}",
                "encode all views with one encoder",
            )
        row_S = _row_of_subject(data, side, vectors.subject_ids)
        if seed is not None:
            covered = np.flatnonzero(row_S)
            row_S[covered] = np.random.default_rng([seed, zlib.crc32(view.encode())]).permutation(row_S[covered])
        if len(matrix_RT) == 1:
            matrix_RT = np.zeros((1, width), np.float32)
        return cls(view, side, torch.from_numpy(matrix_RT).to(data.device), row_S, in_history and side == "item")

    def to(self, data: TrainingData, is_allowed_E: Bool | None) -> Kind:
        """Join them to examples. `data`: of the same users and items."""
        row_E = self.row_S[data.user_E if self.side == "user" else data.item_E]
        if is_allowed_E is not None:
            row_E = row_E * is_allowed_E
        row_V = (self.row_S * data.may_meet_I)[data.item_V] if self.in_history else None
        rows = [None if row is None else torch.from_numpy(row).to(data.device) for row in (row_E, row_V)]
        assert rows[0] is not None
        return Kind(self.view, self.side, self.vectors_RT, rows[0], rows[1])


def attach(
    data: TrainingData,
    view: str,
    side: Side,
    vectors: Vectors,
    width: int,
    is_allowed_E: Bool | None,
    seed: int | None,
    *,
    in_history: bool = False,
) -> Kind:
    """Join a view's vectors to the examples.

    Args:
        side: whom the view is about.
        width: of every vector of the arm; only used where the view has no vectors at all.
        is_allowed_E: whether knowledge may serve the example; None: it may serve all.
        seed: not None: the vectors are shuffled across the subjects that have one (the permuted arm); who has one stays as it is.
        in_history: join them to the events of the histories too, where the view is of items. A text that has seen an event
            newer than the oldest example stays out of the histories: it might tell what an example asks.

    Raises:
        ModelError: the vectors have another width.
    """
    return Join.of(data, view, side, vectors, width, seed, in_history=in_history).to(data, is_allowed_E)


def _row_of_subject(data: TrainingData, side: Side, subject_ids: pa.Array) -> Int32:
    """[distinct users or items] 0: no vector; n: vector n − 1."""
    ids = (data.user_ids if side == "user" else data.item_ids).cast(pa.string())
    found = pc.index_in(ids, value_set=subject_ids)  # int32
    return np.array(pc.fill_null(pc.add(found, pa.scalar(1, pa.int32())), 0))
