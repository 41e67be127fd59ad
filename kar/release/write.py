"""The files of a release: Parquet, matrices and index of each part, written from a publisher's rows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ReleaseError
from kar.release import durable, layout
from kar.release.columns import table_writer, vector_array
from kar.release.content import ColumnDigest, merged
from kar.release.index import index_batch, write_index
from kar.release.layers import NewPart, Plan, merged_ids
from kar.release.layout import Kind
from kar.release.pages import let_go
from kar.release.rows import SideRows, ViewRows


def side_content(side: SideRows) -> dict[str, str]:
    """The digest of every column of a side, in id order.

    Raises:
        ReleaseError: a vector is not finite.
    """
    digests: dict[str, ColumnDigest] = {layout.id_column(side.side): ColumnDigest()}
    for first in range(0, len(side.ids), layout.ROW_GROUP):
        digests[layout.id_column(side.side)].update(side.ids.slice(first, layout.ROW_GROUP))
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing lets go of the interpreter lock
        for found in pool.map(_view_content, side.views):
            digests |= found
    return merged(digests)


def _view_content(view: ViewRows) -> dict[str, ColumnDigest]:
    names = [layout.column(view.view, "is_missing"), *(layout.vector_column(view.view, kind) for kind in view.widths.kinds)]
    digests = {name: ColumnDigest() for name in [*names, *(layout.column(view.view, part) for part in layout.TOLD)]}
    for first in range(0, len(view.is_missing), layout.ROW_GROUP):
        rows = slice(first, first + layout.ROW_GROUP)
        digests[names[0]].update(view.is_missing[rows].astype(np.uint8))
        for kind in view.widths.kinds:
            part_NW = np.ascontiguousarray(view.matrix(kind)[rows], "<f4")
            if not np.isfinite(part_NW).all():
                bad = first + int(np.flatnonzero(~np.isfinite(part_NW).all(axis=1))[0])
                raise ReleaseError(
                    f"view {view.view}: the {kind} vector of row {bad} is not finite", "look at the checkpoint and the encoder"
                )
            digests[layout.vector_column(view.view, kind)].update(part_NW)
            let_go(view.matrix(kind))
        for part, type_ in layout.TOLD.items():
            digests[layout.column(view.view, part)].update(getattr(view, part).slice(first, layout.ROW_GROUP).cast(type_))
    return digests


@dataclass(frozen=True)
class Written:
    """Manifest entries of the files of one side."""

    files: list[dict[str, Any]]
    matrices: dict[str, dict[str, Any]]
    indexes: dict[str, dict[str, Any]]


def write_side(partial: Path, side: SideRows, plan: Plan, kept_from: Path | None, found: dict[str, Any]) -> Written:
    """Link the parts that are kept, write those that are new.

    Args:
        kept_from: folder of the release before, if parts are kept.
        found: its manifest.
    """
    (partial / layout.table_name(side.side)).mkdir()
    written = Written([], {}, {})
    if plan.kept:
        assert kept_from is not None, "parts are kept of a release"
        entries = {file["path"]: file for file in found["tables"][layout.table_name(side.side)]["files"]}
        for part in plan.kept:
            written.files.append(entries[part.path])
            written.indexes[part.index] = found["indexes"][part.index]
            names = [part.matrix(view.view, kind) for view in side.views for kind in view.widths.kinds]
            written.matrices.update({name: found["matrices"][name] for name in names})
            for name in (part.path, part.index, *names):
                durable.link(kept_from / name, partial / name)
    schema = layout.schema(side.side, side.ids.type, {view.view: view.widths for view in side.views})
    with ThreadPoolExecutor(max_workers=2) as pool:  # Parquet and matrices are encoded, hashed and written outside the interpreter lock
        for new in plan.new:
            content = PartRows(side, new)
            table = pool.submit(_write_table, partial, content, schema)
            index = pool.submit(_write_index, partial, content)
            matrices = [pool.submit(_write_matrix, partial, content, view, kind) for view in side.views for kind in view.widths.kinds]
            written.files.append(table.result())
            written.indexes.update([index.result()])
            written.matrices.update([matrix.result() for matrix in matrices])
    written.files.sort(key=lambda file: (file["bucket"], file["layer"]))
    return written


class PartRows:
    """The rows of a new part in id order, tombstones among them; matrices are sliced, never copied as a whole (they may be memory maps)."""

    def __init__(self, side: SideRows, new: NewPart) -> None:
        self.side, self.new = side, new
        self._rows: np.ndarray | None = None
        if isinstance(new.rows, slice):
            self.ids = side.ids
        elif len(new.removed):
            self.ids, order = merged_ids(side.ids.take(pa.array(new.rows)), new.removed)
            self._rows = np.append(new.rows, np.full(len(new.removed), -1))[order]
        else:
            self.ids, self._rows = side.ids.take(pa.array(new.rows)), new.rows
        self.is_removed = np.zeros(len(self.ids), bool) if self._rows is None else self._rows < 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_tombstones(self) -> bool:
        return len(self.new.removed) > 0

    def rows(self, part: slice) -> slice | np.ndarray:
        """The side's rows of a piece of the part; -1 where the piece holds a tombstone."""
        return part if self._rows is None else self._rows[part]

    def vectors(self, view: ViewRows, kind: Kind, part: slice) -> np.ndarray:
        """float32 [rows, W]; a tombstone holds what stands for "no knowledge"."""
        vectors_NW: np.ndarray = np.ascontiguousarray(
            view.matrix(kind)[self.rows(part)] if len(view.is_missing) else self._none(view, kind, part), "<f4"
        )
        if self.has_tombstones:
            vectors_NW[self.is_removed[part]] = view.default if kind == "adapted" else 0.0
        return vectors_NW

    def _none(self, view: ViewRows, kind: Kind, part: slice) -> np.ndarray:
        return np.zeros((len(self.is_removed[part]), view.matrix(kind).shape[1]), np.float32)

    def mask(self, view: ViewRows, part: slice) -> np.ndarray:
        """bool [rows]."""
        if not self.has_tombstones:
            return view.is_missing[self.rows(part)]
        is_missing = self.is_removed[part].copy()
        live = ~is_missing
        is_missing[live] = view.is_missing[self._rows_of(part)[live]]
        return is_missing

    def told(self, values: pa.Array, type_: pa.DataType, part: slice) -> pa.Array:
        if self._rows is None:
            return values.slice(part.start, part.stop - part.start).cast(type_)
        rows = self._rows_of(part)
        return values.take(pa.array(rows, mask=rows < 0) if self.has_tombstones else pa.array(rows)).cast(type_)

    def _rows_of(self, part: slice) -> np.ndarray:
        assert self._rows is not None, "a part with tombstones is no whole one"
        return self._rows[part]

    def let_go(self) -> None:
        """Take the pages of the publisher's matrices, where those are memory maps, out of this process."""
        for view in self.side.views:
            for kind in view.widths.kinds:
                let_go(view.matrix(kind))

    def pieces(self) -> Iterator[slice]:
        """The part in pieces of one row group each."""
        for first in range(0, len(self), layout.ROW_GROUP):
            yield slice(first, min(first + layout.ROW_GROUP, len(self)))


def _write_table(partial: Path, content: PartRows, schema: pa.Schema) -> dict[str, Any]:
    side, new = content.side, content.new
    vectors = [layout.vector_column(view.view, kind) for view in side.views for kind in view.widths.kinds]
    words = [layout.column(view.view, part) for view in side.views for part in layout.WORDS]
    encodings = {layout.id_column(side.side): "DELTA_BINARY_PACKED"} if side.ids.type == pa.int64() else {}
    name = layout.part_name(side.side, new.bucket, new.layer)
    with (
        durable.HashingFile(partial / name) as stream,
        table_writer(stream, schema, vectors=vectors, words=words, encodings=encodings) as writer,
    ):
        for part in content.pieces():
            writer.write_batch(_batch(content, schema, part), row_group_size=layout.ROW_GROUP)
            content.let_go()
    size = {"rows": len(content), "removed": len(new.removed), "bytes": stream.bytes, "sha256": stream.sha256}
    return {"path": name, "bucket": new.bucket, "layer": new.layer, **size}


def _batch(content: PartRows, schema: pa.Schema, part: slice) -> pa.RecordBatch:
    count = part.stop - part.start
    columns = [
        content.ids.slice(part.start, count),
        pa.array(np.full(count, content.new.layer, np.int16)),
        pa.array(content.is_removed[part]),
    ]
    for view in content.side.views:
        columns.append(pa.array(content.mask(view, part)))
        columns += [vector_array(content.vectors(view, kind, part)) for kind in view.widths.kinds]
        columns += [content.told(getattr(view, name), type_, part) for name, type_ in layout.TOLD.items()]
    return pa.record_batch(columns, schema=schema)


def _write_matrix(partial: Path, content: PartRows, view: ViewRows, kind: Kind) -> tuple[str, dict[str, Any]]:
    new, width = content.new, view.matrix(kind).shape[1]
    name = layout.matrix_name(view.view, kind, new.bucket, new.layer)
    with durable.HashingFile(partial / name) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (len(content), width)})
        for part in content.pieces():
            stream.write(content.vectors(view, kind, part).data)
            content.let_go()
    place = {"view": view.view, "kind": kind, "bucket": new.bucket, "layer": new.layer}
    return name, {**place, "shape": [len(content), width], "bytes": stream.bytes, "sha256": stream.sha256}


def _write_index(partial: Path, content: PartRows) -> tuple[str, dict[str, Any]]:
    new, side = content.new, content.side
    name = layout.index_name(side.side, new.bucket, new.layer)
    masks = {view.view: content.mask(view, slice(0, len(content))) for view in side.views}
    with durable.HashingFile(partial / name) as stream:
        write_index(stream, index_batch(content.ids, content.is_removed, new.base_row, masks))
    return name, {"side": side.side, "bucket": new.bucket, "layer": new.layer, "bytes": stream.bytes, "sha256": stream.sha256}


def newest(side: SideRows) -> Any:
    """The newest evidence of a side; None: it saw no interaction."""
    times = [t for view in side.views if (t := pc.max(view.evidence_newest_at).as_py()) is not None]
    return max(times) if times else None
