"""Recompute everything a release claims and name the first difference."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.errors import ReleaseCorrupt
from kar.release import durable, layout, manifest, pointer
from kar.release.layout import Kind, Side
from kar.release.stats import view_stats

_DO = "do not use it; publish again, or serve another: kar release rollback ID"


def verify(path: str | Path) -> dict[str, Any]:
    """Check a release against its manifest: digests, schema, rows, keys, order, finiteness, matrices, shares, clocks.

    Args:
        path: a release's folder, or a published folder, whose CURRENT is then checked with the release it names.

    Returns:
        The manifest.

    Raises:
        ReleaseCorrupt: the first difference found.
        ReleaseNotFound: there is nothing to verify.
    """
    path = Path(path)
    if not (path / layout.MANIFEST).exists():
        current = pointer.read_current(path)
        path = pointer.folder_of(path, current.release)
        return _verified(path, manifest.read(path, current.manifest_sha256))
    return _verified(path, manifest.read(path))


def _verified(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    if folder.name != found["release"]:
        _differs(folder / layout.MANIFEST, "the release id", found["release"], folder.name)
    verify_content(folder, found)
    return found


def verify_content(folder: Path, found: dict[str, Any]) -> None:
    """All checks but the folder's own name, which a release being published does not have yet."""
    try:
        _ids_and_space(folder, found)
        _digests(folder, found)
        newest = [_table(folder, found, side) for side in layout.SIDES]
        cutoff = max((t for t in newest if t is not None), default=None)
        expected = manifest.to_text(cutoff) if cutoff is not None else None
        if found["data_cutoff"] != expected:
            _differs(folder / layout.MANIFEST, "data_cutoff (the newest evidence in the tables)", found["data_cutoff"], expected)
        _pooled(folder, found)
        _stats(folder, found)
    except (KeyError, TypeError, AttributeError) as error:
        raise ReleaseCorrupt(f"{folder / layout.MANIFEST} is not built as format {found['format']} says: {error!r}", _DO) from error


def _ids_and_space(folder: Path, found: dict[str, Any]) -> None:
    path = folder / layout.MANIFEST
    if found["release"] != manifest.release_id(found):
        _differs(path, "the release id", found["release"], manifest.release_id(found) + " by content")
    if found["space_id"] != manifest.space_id(found["space"]):
        _differs(path, "space_id", found["space_id"], manifest.space_id(found["space"]) + " by encoder, adaptor and widths")


def _digests(folder: Path, found: dict[str, Any]) -> None:
    files = manifest.files(found)
    check_sizes(folder, found)
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing lets go of the interpreter lock
        for (name, file), sha in zip(files.items(), pool.map(durable.file_sha, [folder / name for name in files]), strict=True):
            if sha != file["sha256"]:
                _differs(folder / name, "the sha256", file["sha256"], sha)
    known = {*files, layout.MANIFEST}
    extra = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if set(extra) - known:
        raise ReleaseCorrupt(f"{folder} holds files that its manifest does not name: {sorted(set(extra) - known)}", _DO)


def check_sizes(folder: Path, found: dict[str, Any]) -> None:
    """Existence and bytes of every file: the cheap half of the digests, done at every opening."""
    for name, file in manifest.files(found).items():
        try:
            size = (folder / name).stat().st_size
        except FileNotFoundError as error:
            raise ReleaseCorrupt(f"{folder / name} is missing, although the manifest names it", _DO) from error
        if size != file["bytes"]:
            _differs(folder / name, "bytes", file["bytes"], size)


def _table(folder: Path, found: dict[str, Any], side: Side) -> dt.datetime | None:
    """Check one side's table against its matrices and the manifest; returns its newest evidence."""
    entry = found["tables"][layout.table_name(side)]
    views = manifest.widths(found, side)
    expected = layout.schema(side, pa.int64() if found["id_types"][side] == "int64" else pa.string(), views)
    if entry["schema"] != layout.plain_schema(expected):
        _differs(folder / layout.MANIFEST, f"the schema of {layout.table_name(side)}", entry["schema"], layout.plain_schema(expected))
    matrices = {(view, kind): _matrix(folder, found, view, kind) for view, widths in views.items() for kind in widths.kinds}
    defaults = {view: np.array(found["views"][view]["default_adapted_vector"], np.float32) for view in views}
    row, last, newest = 0, None, None
    covered = dict.fromkeys(views, 0)
    any_covered = 0
    for file in entry["files"]:
        path = folder / file["path"]
        first = row
        for batch in _batches(path, expected):
            last = _check_ids(path, batch.column(0), last)
            has_any = np.zeros(batch.num_rows, bool)
            for view in views:
                own = {kind: matrices[view, kind] for kind in views[view].kinds}
                is_missing, seen = _check_view(path, batch, view, row, own, defaults[view])
                covered[view] += int((~is_missing).sum())
                if not manifest.is_pooled(found, view):
                    has_any |= ~is_missing
                newest = seen if newest is None or (seen is not None and seen > newest) else newest
            any_covered += int(has_any.sum())
            row += batch.num_rows
        if row - first != file["rows"]:
            _differs(path, "rows", file["rows"], row - first)
    if row != entry["rows"]:
        _differs(folder / layout.table_name(side), "rows", entry["rows"], row)
    shares = {view: share(count, row) for view, count in covered.items()}
    if entry["coverage"] != shares or entry["covered_share"] != share(any_covered, row):
        _differs(
            folder / layout.MANIFEST, f"coverage of {side}s", [entry["coverage"], entry["covered_share"]], [shares, share(any_covered, row)]
        )
    return newest


def share(count: int, total: int) -> float:
    """count / total, rounded so that it reads well and compares exactly; 0 of nothing is 0."""
    return round(count / total, 6) if total else 0.0


def _batches(path: Path, expected: pa.Schema) -> Iterator[pa.RecordBatch]:
    try:
        file = pq.ParquetFile(path)
        if not file.schema_arrow.remove_metadata().equals(expected):
            _differs(path, "the schema", str(expected), str(file.schema_arrow))
        for number in range(file.num_row_groups):
            yield from (batch for batch in file.read_row_group(number).combine_chunks().to_batches() if batch.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ReleaseCorrupt(f"{path} cannot be read as Parquet: {error}", _DO) from error


def _check_ids(path: Path, ids: pa.Array, last: pa.Scalar | None) -> pa.Scalar:
    """Ids ascend strictly (strings by their UTF-8 bytes), so each occurs once."""
    if ids.null_count:
        raise ReleaseCorrupt(f"{path} holds {ids.null_count} null ids", _DO)
    ascends = pc.less(ids.slice(0, len(ids) - 1), ids.slice(1))
    if not pc.all(ascends, min_count=0).as_py():
        place = pc.index(ascends, False).as_py()
        raise ReleaseCorrupt(f"{path}: ids do not ascend: {ids[place].as_py()!r} is followed by {ids[place + 1].as_py()!r}", _DO)
    if last is not None and not pc.less(last, ids[0]).as_py():
        raise ReleaseCorrupt(f"{path}: ids do not ascend: {last.as_py()!r} is followed by {ids[0].as_py()!r}", _DO)
    return ids[len(ids) - 1]


def _check_view(
    path: Path, batch: pa.RecordBatch, view: str, row: int, matrices: dict[Kind, np.ndarray], default_A: np.ndarray
) -> tuple[np.ndarray, dt.datetime | None]:
    """One view's columns of one batch; returns its mask and its newest evidence."""
    is_missing = batch.column(layout.column(view, "is_missing")).to_numpy(zero_copy_only=False)
    for kind, matrix_NW in matrices.items():
        column = batch.column(layout.vector_column(view, kind))
        vectors_NW = column.flatten().to_numpy().reshape(batch.num_rows, -1)
        where = f"{path}, {layout.vector_column(view, kind)}"
        if not np.isfinite(vectors_NW).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors_NW).all(axis=1))[0])
            raise ReleaseCorrupt(f"{where}: not a finite number in row {row + bad} (id {batch.column(0)[bad].as_py()!r})", _DO)
        if not np.array_equal(vectors_NW, matrix_NW[row : row + batch.num_rows]):
            raise ReleaseCorrupt(f"{where}: not the floats of {layout.matrix_name(view, kind)}", _DO)
        expected_W = default_A if kind == "adapted" else np.zeros(matrix_NW.shape[1], np.float32)
        if is_missing.any() and not (vectors_NW[is_missing] == expected_W).all():
            raise ReleaseCorrupt(f"{where}: a row without knowledge does not hold the default vector", _DO)
    evidence = batch.column(layout.column(view, "evidence_newest_at"))
    if pc.any(pc.and_(pc.is_valid(evidence), pa.array(is_missing)), min_count=0).as_py():
        raise ReleaseCorrupt(f"{path}: rows without knowledge of {view} have evidence", _DO)
    return is_missing, pc.max(evidence).as_py()


def _pooled(folder: Path, found: dict[str, Any]) -> None:
    """A pooled view lives among the vectors of the item view that it names, and shares its default."""
    for view, entry in found["views"].items():
        if not manifest.is_pooled(found, view):
            continue
        source = found["views"].get(entry["pooled_from"]["view"])
        if source is None or source["side"] != "item":
            raise ReleaseCorrupt(
                f"{folder / layout.MANIFEST}: {view} is pooled from {entry['pooled_from']['view']}, no item view here", _DO
            )
        for name in ("adapted_width", "default_adapted_vector"):
            if entry[name] != source[name]:
                _differs(folder / layout.MANIFEST, f"{name} of {view}", source[name], entry[name])


def _matrix(folder: Path, found: dict[str, Any], view: str, kind: Kind) -> np.ndarray:
    name = layout.matrix_name(view, kind)
    rows = found["tables"][layout.table_name(layout.side_of(view))]["rows"]
    expected = (rows, found["views"][view][f"{kind}_width"])
    try:
        matrix: np.ndarray = np.load(folder / name, mmap_mode="r" if rows else None, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ReleaseCorrupt(f"{folder / name} cannot be read as a matrix: {error}", _DO) from error
    if matrix.shape != expected or matrix.dtype != np.float32:
        _differs(folder / name, "shape and type", (*expected, "float32"), (*matrix.shape, str(matrix.dtype)))
    return matrix


def compute_stats(folder: Path, found: dict[str, Any], masks: dict[str, np.ndarray]) -> dict[str, Any]:
    """What stats.json holds: view → kind → figures, six digits.

    Args:
        masks: view → bool [rows], true where knowledge is missing.
    """
    return {
        view: {
            kind: _rounded(view_stats(_matrix(folder, found, view, kind), mask))
            for kind in manifest.widths(found, layout.side_of(view))[view].kinds
        }
        for view, mask in masks.items()
    }


def _rounded(figures: dict[str, float | int | None]) -> dict[str, float | int | None]:
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in figures.items()}


def _stats(folder: Path, found: dict[str, Any]) -> None:
    path = folder / found["stats"]["path"]
    try:
        written = json.loads(path.read_bytes())
    except ValueError as error:
        raise ReleaseCorrupt(f"{path} is not JSON: {error}", _DO) from error
    masks = {view: _mask(folder, found, side, view) for side in layout.SIDES for view in manifest.widths(found, side)}
    for view, kinds in compute_stats(folder, found, masks).items():
        for kind, figures in kinds.items():
            for name, value in figures.items():
                claimed = written[view][kind][name]
                close = claimed == value if None in (claimed, value) else math.isclose(claimed, value, rel_tol=1e-4, abs_tol=1e-6)
                if not close:
                    _differs(path, f"{view} {kind} {name}", claimed, value)


def _mask(folder: Path, found: dict[str, Any], side: Side, view: str) -> np.ndarray:
    name = layout.column(view, "is_missing")
    parts = [pq.ParquetFile(folder / f["path"]).read([name]).column(0) for f in found["tables"][layout.table_name(side)]["files"]]
    return np.concatenate([part.to_numpy() for part in parts]) if parts else np.zeros(0, bool)


def _differs(where: Path, what: str, claimed: object, found: object) -> NoReturn:
    raise ReleaseCorrupt(f"{where}: {what} should be {claimed}, found {found}", _DO)
