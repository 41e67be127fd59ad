"""A release as plain tables for tools that know nothing of releases: one row per subject, no layers, two times for Feast.

    out/release.json                        the release's own manifest: what the vectors are and where they come from
    out/user_knowledge/part-00000.parquet …     sorted by user_id, evenly cut; the release's columns, then
        event_timestamp                     from when on a point-in-time join may serve the row
        created_timestamp                   when the release was published
    out/item_knowledge/part-00000.parquet …

`event_timestamp` by clock:
    published   when the release was published: nothing is served before it could be read. For production.
    evidence    the newest event that any of the row's views has seen (1970 where they saw none); of a pooled view a microsecond later,
                since it knows that event's label. For studies on old data, where everything was published later.
A point-in-time join of another tool looks at one row's time; `kar.release.join` looks at each view's own.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from kar.errors import ReleaseError
from kar.release import layout, manifest
from kar.release.asof import Clock
from kar.release.columns import table_writer, vector_array
from kar.release.layout import Kind, Side
from kar.release.reader import Release

EVENT, CREATED = "event_timestamp", "created_timestamp"
MANIFEST = "release.json"
_MOST_FILES = 10_000


@dataclass(frozen=True)
class Exported:
    """What was written: rows and files of each side."""

    path: Path
    rows: dict[Side, int]
    files: int
    bytes: int


def export(
    release: Release,
    out: Path,
    sides: Sequence[Side] = layout.SIDES,
    *,
    files: int = 1,
    clock: Clock = "published",
    overwrite: bool = False,
) -> Exported:
    """Write a release as plain Parquet. A folder is there whole or not at all.

    Args:
        out: the folder to make.
        files: of each side, of equal length; 20 or more for readers that shuffle by file. A side has at most one per row.
        clock: see the module's docstring.
        overwrite: replace the folder, if an export made it.

    Raises:
        ReleaseError: the folder exists, an argument is out of range, or the file system refuses.
    """
    if not 1 <= files <= _MOST_FILES:
        raise ReleaseError(f"a side cannot be exported as {files:,} files", f"say a number from 1 to {_MOST_FILES:,}")
    _refuse_taken(out, overwrite)
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for side in sides:
            _write_side(release, partial, side, files, clock)
        (partial / MANIFEST).write_bytes(manifest.to_bytes(release.manifest))
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise ReleaseError(f"nothing was exported to {out}: {error}", "make room or name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    parts = sorted(out.rglob("*.parquet"))
    return Exported(out, {side: len(release.ids(side)) for side in sides}, len(parts), sum(path.stat().st_size for path in parts))


def _refuse_taken(out: Path, overwrite: bool) -> None:
    """A folder that something else made is never removed."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ReleaseError(f"{out} exists already", "name another folder, or replace an older export with --overwrite")
    if not (out / MANIFEST).is_file():
        raise ReleaseError(f"{out} is no earlier export: it holds no {MANIFEST}", "name another folder")


def _write_side(release: Release, folder: Path, side: Side, files: int, clock: Clock) -> None:
    (folder / layout.table_name(side)).mkdir()
    views = release.views(side)
    widths = manifest.widths(release.manifest, side)
    vectors = {layout.vector_column(view, kind): (view, kind) for view in views for kind in widths[view].kinds}
    # the release's columns in their order, without those that say how the release stores its rows
    columns = layout.schema(side, release.ids(side).type, widths, has_layers=False)
    plain = release.table(side, [name for name in columns.names if name not in vectors])
    schema = pa.schema([*columns, *(pa.field(name, layout.TIME, nullable=False) for name in (EVENT, CREATED))])
    event_us = _event_us(release, side, views, clock)
    count = len(release.ids(side))
    cuts = np.linspace(0, count, max(1, min(files, count)) + 1).astype(int)
    words = [layout.column(view, part) for view in views for part in layout.WORDS]
    for number, (first, end) in enumerate(itertools.pairwise(cuts)):
        path = folder / layout.table_name(side) / f"part-{number:05d}.parquet"
        with table_writer(path, schema, vectors=list(vectors), words=words) as writer:
            for batch in _batches(release, plain, schema, vectors, event_us, int(first), int(end)):
                writer.write_table(batch, row_group_size=layout.ROW_GROUP)


def _batches(
    release: Release,
    plain: pa.Table,
    schema: pa.Schema,
    vectors: dict[str, tuple[str, Kind]],
    event_us: np.ndarray,
    first: int,
    end: int,
) -> Iterator[pa.Table]:
    """Rows first … end in parts of a row group, so that the vectors of a large release are never in memory together."""
    created = pa.scalar(release.published_at, layout.TIME)
    for start in range(first, max(end, first + 1), layout.ROW_GROUP):
        stop = min(start + layout.ROW_GROUP, end)
        rows = np.arange(start, stop)
        columns = [
            vector_array(release.vectors_at(vectors[name][0], rows, vectors[name][1])[0])
            if name in vectors
            else plain.column(name).slice(start, stop - start)
            for name in schema.names[:-2]
        ]
        times = [pa.array(event_us[start:stop]).cast(layout.TIME), pa.repeat(created, stop - start)]
        yield pa.table([*columns, *times], schema=schema)


def _event_us(release: Release, side: Side, views: list[str], clock: Clock) -> np.ndarray:
    """int64 [rows]: µs since 1970 UTC."""
    count = len(release.ids(side))
    if clock == "published":
        return np.full(count, pa.scalar(release.published_at, layout.TIME).cast(pa.int64()).as_py(), np.int64)
    newest = np.zeros(count, np.int64)
    for view in views:
        seen_us = release.evidence_newest_us(side, view)
        served_from = np.where(seen_us > 0, seen_us + int(release.is_pooled(view)), 0)
        newest = np.maximum(newest, served_from)
    return newest
