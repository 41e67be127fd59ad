"""Publish a release: write beside the target, re-read and verify, fsync, rename, and only then swap CURRENT.

A crash at any instant leaves CURRENT as it was or as it shall be; what was half written is removed by the next publisher.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.errors import ReleaseError
from kar.release import audit, durable, layout, manifest, pointer
from kar.release.layout import Kind
from kar.release.rows import Facts, SideRows, ViewRows, check_shapes


@dataclass(frozen=True)
class Published:
    """What came of it.

    Args:
        is_new: false if the same content had been published before; that release is verified and used again.
        is_promoted: whether CURRENT points at it now.
    """

    path: Path
    manifest: dict[str, Any]
    manifest_sha: str
    is_new: bool
    is_promoted: bool


def publish(
    published: Path, sides: tuple[SideRows, SideRows], facts: Facts, *, promote: bool = True, wait_s: float = durable.WAIT_S
) -> Published:
    """Publish users and items as one release.

    Args:
        published: `<home>/published`; made if it does not exist.
        sides: users and items.
        promote: move CURRENT to it if its data_cutoff is newer (`pointer.promotes_over`); False: never.
        wait_s: how long to wait for another publisher.

    Raises:
        ReleaseBusy: another publisher worked all that time; it is named.
        ReleaseCorrupt: what was written does not verify; nothing is published.
        ReleaseError: the rows do not fit each other or are not finite, or the file system refuses (full, read-only).
    """
    for side in sides:
        check_shapes(side)
    try:
        with durable.publisher_lock(published, wait_s):
            releases = layout.releases_folder(published)
            releases.mkdir(exist_ok=True)
            for left in releases.glob(".*.partial"):  # of a publisher that died: we hold the lock, so nobody writes it
                shutil.rmtree(left)
            partial = releases / f".{uuid.uuid4().hex[:12]}.partial"
            try:
                written = _write(partial, sides, facts, pointer.maybe_current(published))
                path, is_new = _put_in_place(partial, releases, written)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            kept = written if is_new else audit.verify(path)
            is_promoted = _promote_if_newer(published, kept, facts.published_at, allowed=promote)
            return Published(path, kept, durable.file_sha(path / layout.MANIFEST), is_new, is_promoted)
    except OSError as error:
        raise ReleaseError(
            f"nothing was published in {published}: {error}", "make room or give the right to write, then run again"
        ) from error


def _write(partial: Path, sides: tuple[SideRows, SideRows], facts: Facts, current: pointer.Current | None) -> dict[str, Any]:
    """Write all files of a release and verify them by reading them back; returns the manifest."""
    partial.mkdir()
    widths = {view.view: view.widths for side in sides for view in side.views if view.pooled_from is None}
    space = manifest.space_of(facts.encoder_id, str(facts.adaptor["sha"]), widths, facts.normalisation)
    tables, matrices = {}, {}
    for side in sides:
        tables[layout.table_name(side.side)] = _write_table(partial, side)
        for view in side.views:
            for kind in view.widths.kinds:
                matrices[layout.matrix_name(view.view, kind)] = _write_matrix(partial, view, kind)
    newest = [t for side in sides for view in side.views if (t := pc.max(view.evidence_newest_at).as_py()) is not None]
    found: dict[str, Any] = {
        "format": manifest.FORMAT,
        "parent": current.release if current else None,
        "scenario": facts.scenario,
        "date": facts.date.isoformat(),
        "data_cutoff": manifest.to_text(max(newest)) if newest else None,
        "published_at": manifest.to_text(facts.published_at),
        "is_reconstructed": facts.is_reconstructed,
        "space_id": manifest.space_id(space),
        "space": space,
        "encoder_id": facts.encoder_id,
        "adaptor": facts.adaptor,
        "templates": facts.templates,
        "models": facts.models,
        "inputs": facts.inputs,
        "uplift": facts.uplift,
        "code_version": facts.code_version,
        "id_types": {side.side: str(side.ids.type) for side in sides},
        "views": {view.view: _view_entry(view) for side in sides for view in side.views},
        "tables": tables,
        "matrices": matrices,
    }
    found["release"] = manifest.release_id(found)
    found["stats"] = _write_stats(partial, found, {view.view: view.is_missing for side in sides for view in side.views})
    durable.write_bytes(partial / layout.MANIFEST, manifest.to_bytes(found))
    audit.verify_content(partial, manifest.read(partial))
    for folder in (*(partial / layout.table_name(side.side) for side in sides), partial):
        durable.sync_folder(folder)
    return found


def _view_entry(view: ViewRows) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "side": layout.side_of(view.view),
        "adapted_width": view.widths.adapted,
        "knowledge_width": view.widths.knowledge,
        "default_adapted_vector": [float(x) for x in view.default],
    }
    return entry if view.pooled_from is None else entry | {"pooled_from": asdict(view.pooled_from)}


def _write_table(partial: Path, side: SideRows) -> dict[str, Any]:
    (partial / layout.table_name(side.side)).mkdir()
    schema = layout.schema(side.side, side.ids.type, {view.view: view.widths for view in side.views})
    files = []
    for number, first in enumerate(range(0, max(len(side.ids), 1), layout.ROWS_PER_PART)):
        rows = slice(first, min(first + layout.ROWS_PER_PART, len(side.ids)))
        name = layout.part_name(side.side, number)
        with durable.HashingFile(partial / name) as stream:
            _write_part(stream, side, schema, rows)
        files.append({"path": name, "rows": rows.stop - rows.start, "bytes": stream.bytes, "sha256": stream.sha256})
    covered = [~view.is_missing for view in side.views]
    written = [has for view, has in zip(side.views, covered, strict=True) if view.pooled_from is None]
    any_covered = int(np.logical_or.reduce(written).sum()) if written else 0
    return {
        "rows": len(side.ids),
        "views": [view.view for view in side.views],
        "schema": layout.plain_schema(schema),
        "coverage": {view.view: audit.share(int(has.sum()), len(has)) for view, has in zip(side.views, covered, strict=True)},
        "covered_share": audit.share(any_covered, len(side.ids)),
        "files": files,
    }


def _write_part(stream: durable.HashingFile, side: SideRows, schema: pa.Schema, rows: slice) -> None:
    """One Parquet file. BYTE_STREAM_SPLIT + zstd is smaller and faster on vectors than either alone; no dictionary there."""
    vectors = [layout.vector_column(view.view, kind) for view in side.views for kind in view.widths.kinds]
    words = [layout.column(view.view, part) for view in side.views for part in ("origin", "model")]
    encodings = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in vectors}
    if side.ids.type == pa.int64():
        encodings[layout.id_column(side.side)] = "DELTA_BINARY_PACKED"
    with pq.ParquetWriter(
        stream, schema, compression="zstd", compression_level=1, use_dictionary=words, column_encoding=encodings, store_schema=True
    ) as writer:
        for batch in _row_groups(side, schema, rows):
            writer.write_batch(batch, row_group_size=layout.ROW_GROUP)


def _row_groups(side: SideRows, schema: pa.Schema, rows: slice) -> Iterator[pa.RecordBatch]:
    """The rows as batches of one row group each; matrices are sliced, never copied as a whole (they may be memory maps)."""
    for first in range(rows.start, rows.stop, layout.ROW_GROUP):
        part = slice(first, min(first + layout.ROW_GROUP, rows.stop))
        columns = [side.ids.slice(first, part.stop - first)]
        for view in side.views:
            columns.append(pa.array(view.is_missing[part]))
            columns += [_fixed_size(view.matrix(kind)[part]) for kind in view.widths.kinds]
            for values, type_ in (
                (view.evidence_newest_at, layout.TIME),
                (view.asked_at, layout.TIME),
                (view.origin, pa.string()),
                (view.model, pa.string()),
            ):
                columns.append(values.slice(first, part.stop - first).cast(type_))
        yield pa.record_batch(columns, schema=schema)


def _fixed_size(vectors_NW: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(vectors_NW).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=layout.vector_type(vectors_NW.shape[1]))


def _write_matrix(partial: Path, view: ViewRows, kind: Kind) -> dict[str, Any]:
    name, matrix_NW = layout.matrix_name(view.view, kind), view.matrix(kind)
    with durable.HashingFile(partial / name) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": matrix_NW.shape})
        for first in range(0, len(matrix_NW), layout.ROW_GROUP):
            part_NW = np.ascontiguousarray(matrix_NW[first : first + layout.ROW_GROUP], "<f4")
            if not np.isfinite(part_NW).all():
                bad = first + int(np.flatnonzero(~np.isfinite(part_NW).all(axis=1))[0])
                raise ReleaseError(
                    f"view {view.view}: the {kind} vector of row {bad} is not finite", "look at the checkpoint and the encoder"
                )
            stream.write(part_NW.data)
    return {"view": view.view, "kind": kind, "shape": list(matrix_NW.shape), "bytes": stream.bytes, "sha256": stream.sha256}


def _write_stats(partial: Path, found: dict[str, Any], masks: dict[str, np.ndarray]) -> dict[str, Any]:
    data = manifest.to_bytes(audit.compute_stats(partial, found, masks))
    durable.write_bytes(partial / layout.STATS, data)
    return {"path": layout.STATS, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _put_in_place(partial: Path, releases: Path, found: dict[str, Any]) -> tuple[Path, bool]:
    """Rename the verified folder to its id, unless that release exists already; returns its path and whether it is new."""
    path = releases / str(found["release"])
    if path.exists():
        return path, False
    partial.rename(path)
    durable.sync_folder(releases)
    return path, True


def _promote_if_newer(published: Path, found: dict[str, Any], at: dt.datetime, *, allowed: bool) -> bool:
    current = pointer.maybe_current(published)
    if current is not None and current.release == found["release"]:
        return True
    if not allowed:
        return False
    if current is not None:
        served = manifest.read(pointer.folder_of(published, current.release))
        if not pointer.promotes_over(found, served):
            return False
    pointer.swap(published, str(found["release"]), at)
    return True
