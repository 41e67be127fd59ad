"""Recompute everything a release claims and name the first difference."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.errors import ReleaseCorrupt
from kar.release import durable, layout, manifest, pointer
from kar.release.content import logical_content
from kar.release.hashes import buckets_of_hashes, hash_ids
from kar.release.index import BASE_ROW, PartIndex, base_rows
from kar.release.layout import Kind, Side
from kar.release.logical import Logical
from kar.release.manifest import Part
from kar.release.stats import age_histogram, view_stats

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


def verify_content(folder: Path, found: dict[str, Any], before: dict[str, Any] | None = None) -> None:
    """All checks but the folder's own name, which a release being published does not have yet.

    Args:
        before: the manifest of a release that its publisher verified. A part that it holds too, byte for byte as its digests say (they are
            recomputed here), is not compared with itself again.
    """
    try:
        _ids_and_space(folder, found)
        _digests(folder, found)
        sides = [Logical(folder, found, side) for side in layout.SIDES]
        for side in sides:
            _parts(folder, found, side.side, before)
        times = [t for side in sides if (t := _side(folder, found, side)) is not None]
        expected = manifest.to_text(max(times)) if times else None
        if found["data_cutoff"] != expected:
            _differs(folder / layout.MANIFEST, "data_cutoff (the newest evidence in the tables)", found["data_cutoff"], expected)
        _pooled(folder, found)
        _stats(folder, found, sides)
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


def _parts(folder: Path, found: dict[str, Any], side: Side, before: dict[str, Any] | None) -> None:
    """Check each part of a side by itself: schema, rows, order, buckets, finiteness, and that matrices and index repeat its Parquet file."""
    entry = found["tables"][layout.table_name(side)]
    views = manifest.widths(found, side)
    has_layers = manifest.has_layers(found)
    id_type = pa.int64() if found["id_types"][side] == "int64" else pa.string()
    expected = layout.schema(side, id_type, views, has_layers=has_layers)
    if entry["schema"] != layout.plain_schema(expected):
        _differs(folder / layout.MANIFEST, f"the schema of {layout.table_name(side)}", entry["schema"], layout.plain_schema(expected))
    parts = manifest.parts(found, side)
    if has_layers:
        _check_places(folder, found, side, parts)
    defaults = {view: np.array(found["views"][view]["default_adapted_vector"], np.float32) for view in views}
    last, base = None, None
    held = {} if before is None or not _judges_alike(found, before, side) else manifest.files(before)
    files = manifest.files(found)
    is_base_held = False
    for part in parts:
        path = folder / part.path
        is_held = bool(held) and all(held.get(name) == files[name] for name in part.files(views))
        is_base_held = is_held if part.layer == 0 else is_base_held
        if is_held and is_base_held:  # a layer is held against its layer 0
            base = PartIndex(folder / part.index, part.rows) if part.layer == 0 else base
            continue
        matrices = {(view, kind): _matrix(folder, found, part, view, kind) for view, widths in views.items() for kind in widths.kinds}
        index = PartIndex(folder / part.index, part.rows) if has_layers else None
        base = index if part.layer == 0 else base
        if (
            part.layer > 0
            and index is not None
            and base is not None
            and not np.array_equal(index.numbers(BASE_ROW), base_rows(base, index.ids))
        ):
            raise ReleaseCorrupt(f"{index.path}: {BASE_ROW} is not where its ids lie in layer 0", _DO)
        last = last if not has_layers else None  # the ids of formats 1 and 2 ascend from part to part
        row = 0
        for batch in _batches(path, expected):
            last = _check_ids(path, batch.column(0), last)
            for view in views:
                own = {kind: matrices[view, kind] for kind in views[view].kinds}
                _check_view(path, batch, part, view, row, own, defaults[view])
            if index is not None:
                _check_index(path, batch, part, index, row, list(views), entry["buckets"])
            row += batch.num_rows
        if row != part.rows:
            _differs(path, "rows", part.rows, row)


def _judges_alike(found: dict[str, Any], before: dict[str, Any], side: Side) -> bool:
    """Whether all that `_parts` holds a part against, besides its own files, was the same for the release before."""

    def told(one: dict[str, Any]) -> list[object]:
        table = one["tables"].get(layout.table_name(side), {})
        views = {view: one["views"][view] for view in table.get("views", [])}
        return [one["format"], one["code_version"], one["id_types"][side], table.get("schema"), table.get("buckets"), views]

    return manifest.has_layers(found) and told(found) == told(before)


def _check_places(folder: Path, found: dict[str, Any], side: Side, parts: list[Part]) -> None:
    """Every bucket has a layer 0, no layer twice, and every part its matrices and its index."""
    table = found["tables"][layout.table_name(side)]
    path = folder / layout.MANIFEST
    if (count := table["buckets"]) < 1 or count & (count - 1):
        _differs(path, f"buckets of {layout.table_name(side)}", "a power of two", count)
    bases = [part.bucket for part in parts if part.layer == 0]
    places = [(part.bucket, part.layer) for part in parts]
    if bases != list(range(count)) or len(set(places)) != len(places):
        _differs(path, f"layer 0 of {layout.table_name(side)}", f"one of each of {count} buckets", places)
    for part in parts:
        if part.path != layout.part_name(side, part.bucket or 0, part.layer):
            _differs(path, "a part's name", layout.part_name(side, part.bucket or 0, part.layer), part.path)


def _side(folder: Path, found: dict[str, Any], side: Logical) -> dt.datetime | None:
    """Check what a side says as a whole against the manifest; returns its newest evidence."""
    entry = found["tables"][layout.table_name(side.side)]
    has_layers = manifest.has_layers(found)
    rows = len(side.ids) if has_layers else sum(part.rows for part in side.parts)
    if rows != entry["rows"]:
        _differs(folder / layout.table_name(side.side), "rows", entry["rows"], rows)
    masks = {view: side.mask(view) for view in entry["views"]}
    shares = {view: share(int((~mask).sum()), rows) for view, mask in masks.items()}
    written = [~mask for view, mask in masks.items() if not manifest.is_pooled(found, view)]
    covered = share(int(np.logical_or.reduce(written).sum()), rows) if written else 0.0
    if [entry["coverage"], entry["covered_share"]] != [shares, covered]:
        what = f"coverage of {side.side}s"
        _differs(folder / layout.MANIFEST, what, [entry["coverage"], entry["covered_share"]], [shares, covered])
    if has_layers:
        for name, sha in logical_content(side, manifest.widths(found, side.side)).items():
            if entry["content"].get(name) != sha:
                _differs(folder / layout.table_name(side.side), f"the content of {name}", entry["content"].get(name), sha)
        for view in entry["views"]:
            if not manifest.is_pooled(found, view):
                _check_age(folder, found, side, view)
    times = [t for view in masks if (t := pc.max(side.column(layout.column(view, "evidence_newest_at"))).as_py()) is not None]
    return max(times) if times else None


def _check_age(folder: Path, found: dict[str, Any], side: Logical, view: str) -> None:
    histogram = age_histogram(side.column(layout.column(view, "asked_at")), dt.date.fromisoformat(found["date"]))
    if found["age"][view] != histogram:
        _differs(folder / layout.MANIFEST, f"age of {view}", found["age"][view], histogram)


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
    path: Path, batch: pa.RecordBatch, part: Part, view: str, row: int, matrices: dict[Kind, np.ndarray], default_A: np.ndarray
) -> None:
    """One view's columns of one batch, whose first row is `row` of its part."""
    is_missing = batch.column(layout.column(view, "is_missing")).to_numpy(zero_copy_only=False)
    for kind, matrix_NW in matrices.items():
        column = batch.column(layout.vector_column(view, kind))
        vectors_NW = column.flatten().to_numpy().reshape(batch.num_rows, -1)
        where = f"{path}, {layout.vector_column(view, kind)}"
        if not np.isfinite(vectors_NW).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors_NW).all(axis=1))[0])
            raise ReleaseCorrupt(f"{where}: not a finite number in row {row + bad} (id {batch.column(0)[bad].as_py()!r})", _DO)
        first = part.first + row
        if not np.array_equal(vectors_NW, matrix_NW[first : first + batch.num_rows]):
            raise ReleaseCorrupt(f"{where}: not the floats of {part.matrix(view, kind)}", _DO)
        expected_W = default_A if kind == "adapted" else np.zeros(matrix_NW.shape[1], np.float32)
        if is_missing.any() and not (vectors_NW[is_missing] == expected_W).all():
            raise ReleaseCorrupt(f"{where}: a row without knowledge does not hold the default vector", _DO)
    evidence = batch.column(layout.column(view, "evidence_newest_at"))
    if pc.any(pc.and_(pc.is_valid(evidence), pa.array(is_missing)), min_count=0).as_py():
        raise ReleaseCorrupt(f"{path}: rows without knowledge of {view} have evidence", _DO)


def _check_index(path: Path, batch: pa.RecordBatch, part: Part, index: PartIndex, row: int, views: list[str], buckets: int) -> None:
    """The index repeats the Parquet file, finds each id where it lies, and the ids belong into their bucket."""
    ids = batch.column(0)
    if not pc.all(pc.equal(batch.column(layout.LAYER), part.layer), min_count=0).as_py():
        raise ReleaseCorrupt(f"{path}: the column {layout.LAYER} is not {part.layer} throughout", _DO)
    hashed = hash_ids(ids)
    strange = np.flatnonzero(buckets_of_hashes(hashed, buckets) != part.bucket)
    if len(strange):
        raise ReleaseCorrupt(f"{path}: {ids[int(strange[0])].as_py()!r} belongs into another bucket", _DO)
    if not np.array_equal(index.find(ids, hashed), np.arange(row, row + batch.num_rows)):
        raise ReleaseCorrupt(f"{index.path} does not find the ids of {path.name} where they lie", _DO)
    for name in (layout.IS_REMOVED, *(layout.column(view, "is_missing") for view in views)):
        if not index.column(name).slice(row, batch.num_rows).equals(batch.column(name)):
            raise ReleaseCorrupt(f"{index.path}: {name} is not that of {path.name}", _DO)


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


def _matrix(folder: Path, found: dict[str, Any], part: Part, view: str, kind: Kind) -> np.ndarray:
    name = part.matrix(view, kind)
    entry = found["matrices"][name]
    rows = part.rows if part.bucket is not None else found["tables"][layout.table_name(part.side)]["rows"]
    expected = (rows, found["views"][view][f"{kind}_width"])
    try:
        matrix: np.ndarray = np.load(folder / name, mmap_mode="r" if rows and expected[1] else None, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ReleaseCorrupt(f"{folder / name} cannot be read as a matrix: {error}", _DO) from error
    if matrix.shape != expected or matrix.dtype != np.float32 or entry["shape"] != list(expected):
        _differs(folder / name, "shape and type", (*expected, "float32"), (*matrix.shape, str(matrix.dtype)))
    return matrix


def compute_stats(sides: list[Logical], found: dict[str, Any]) -> dict[str, Any]:
    """What stats.json holds: view → kind → figures, six digits."""
    return {
        view: {kind: _rounded(view_stats(_taking(side, view, kind), side.mask(view))) for kind in widths.kinds}
        for side in sides
        for view, widths in manifest.widths(found, side.side).items()
    }


def _taking(side: Logical, view: str, kind: Kind) -> Callable[[np.ndarray], np.ndarray]:
    def take(rows: np.ndarray) -> np.ndarray:
        vectors_NW = side.gather(view, rows, kind)
        side.let_go()
        return vectors_NW

    return take


def _rounded(figures: dict[str, float | int | None]) -> dict[str, float | int | None]:
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in figures.items()}


def _stats(folder: Path, found: dict[str, Any], sides: list[Logical]) -> None:
    path = folder / found["stats"]["path"]
    try:
        written = json.loads(path.read_bytes())
    except ValueError as error:
        raise ReleaseCorrupt(f"{path} is not JSON: {error}", _DO) from error
    for view, kinds in compute_stats(sides, found).items():
        for kind, figures in kinds.items():
            for name, value in figures.items():
                claimed = written[view][kind][name]
                close = claimed == value if None in (claimed, value) else math.isclose(claimed, value, rel_tol=1e-4, abs_tol=1e-6)
                if not close:
                    _differs(path, f"{view} {kind} {name}", claimed, value)


def _differs(where: Path, what: str, claimed: object, found: object) -> NoReturn:
    raise ReleaseCorrupt(f"{where}: {what} should be {claimed}, found {found}", _DO)
