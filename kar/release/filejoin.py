"""Join a file of examples to the releases, into a file: in pieces, so that neither needs to fit into memory.

    kar.release.join_files("…/published", "examples.parquet", "joined.parquet")

Columns written after those of the examples, in their order and number:
    release                            which release served the example; null: none did
    user_row, item_row                 with rows_only: int64, the row in that release (`Release.vectors_at`); -1: unknown there, or no release
    user_preference_is_missing         per view, named <side>_<view>: whether the example may not use it
    user_preference_adapted_vector     without rows_only: the vector, or the default where it is missing

Nothing is written under the name asked for until all of it is there: a reader finds the whole result or none.
(The module is not named `join`: that is the function `kar.release.join`, for a table in memory.)
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from kar.errors import ReleaseError
from kar.release import durable, layout, remote
from kar.release.asof import AsOf, Clock, Joined, Timeline
from kar.release.columns import table_writer, vector_array
from kar.release.examplefiles import PIECE_ROWS, ExampleFiles
from kar.release.layout import Kind, Side


@dataclass
class JoinedFile:
    """What a join of files did.

    Args:
        path: the Parquet file, or with `files` the folder of part-*.parquet.
        rows: examples read, which is also rows written.
        before_first: of them, examples older than the first release.
        with_knowledge: view → examples that may use it.
        releases: the releases that served, oldest first, with the number of their examples.
    """

    path: Path
    rows: int = 0
    before_first: int = 0
    with_knowledge: dict[str, int] = field(default_factory=dict)
    releases: dict[str, int] = field(default_factory=dict)


def join_files(
    releases_path: str | Path,
    examples: str | Path,
    out: str | Path,
    *,
    clock: Clock = "published",
    rows_only: bool = False,
    views: Sequence[str] | None = None,
    kind: Kind = "adapted",
    space_id: str | None = None,
    files: int | None = None,
) -> JoinedFile:
    """Join every example as of its own time; see the module's docstring for what is written.

    Args:
        releases_path: a published folder or `s3://bucket/prefix`.
        examples: a Parquet file, or a folder of them (in order of their names), with user_id, item_id and event_at.
        out: must not exist. One Parquet file; with `files` a folder.
        clock: see `kar.release.asof`.
        views: None: all that the serving releases hold with such vectors.
        space_id: the space that adapted vectors must live in; None: any, but one.
        files: write so many parts of (nearly) equal size. Loaders that shuffle by file want 20 or more.

    Raises:
        ReleaseError: the examples cannot be read, are none, lack a column, hold one twice or one that would be written, a time is no
            instant or null, the ids are of another type; `out` exists or cannot be written. Nothing is left under its name.
        ReleaseNotFound: nothing is published, or a release that served some of the examples is gone.
        SpaceMismatch: vectors that do not mix would meet, or are not of `space_id`.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise ReleaseError(f"{out} exists already", "name another file, or remove it")
    source = ExampleFiles(examples)
    with remote.reading(releases_path) as folder:
        timeline = Timeline(folder, clock)
        as_of = AsOf(timeline, source.served_by(timeline))
        plan = _Plan(as_of, source.schema, views, kind, rows_only=rows_only, space_id=space_id)
    told = JoinedFile(out, with_knowledge=dict.fromkeys(plan.views, 0), releases={one.id: 0 for one in as_of.releases})
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        _write(plan, source, partial, files, told)
        partial.rename(out)
        durable.sync_folder(out.absolute().parent)
    except OSError as error:
        raise ReleaseError(f"{out} cannot be written: {error}", "make room, or name a folder that may be written to") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)
    return told


class _Plan:
    """Which columns come out, and how a piece of the examples gets them."""

    def __init__(
        self, as_of: AsOf, schema: pa.Schema, views: Sequence[str] | None, kind: Kind, *, rows_only: bool, space_id: str | None
    ) -> None:
        self.as_of, self.kind, self.rows_only = as_of, kind, rows_only
        nothing = as_of.join(schema.empty_table())  # ids of another type are refused here, before anything is written
        held = [view for side in layout.SIDES for view in nothing.views(side, kind)]
        self.views = list(dict.fromkeys(views)) if views is not None else held
        if unknown := [view for view in self.views if view not in held]:
            raise ReleaseError(f"no release that serves these examples holds {kind} vectors of {unknown}", f"they hold {held}")
        if not rows_only:
            nothing.require_one_space(kind)
        if space_id is not None:
            for release in as_of.releases:
                release.require_space(space_id)
        fields = [pa.field("release", pa.string())]
        if rows_only:
            fields += [pa.field(f"{side}_row", pa.int64(), nullable=False) for side in layout.SIDES]
        self.vectors: list[str] = []
        for view in self.views:
            fields.append(pa.field(_column(view, "is_missing"), pa.bool_(), nullable=False))
            if not rows_only:
                width = nothing.vectors(layout.side_of(view), view, kind)[0].shape[1]
                self.vectors.append(_column(view, f"{kind}_vector"))
                fields.append(pa.field(self.vectors[-1], layout.vector_type(width), nullable=False))
        names = schema.names + [one.name for one in fields]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ReleaseError(f"the join would write the columns {twice}, which the examples hold already", "rename or drop them")
        self.schema = pa.schema([*schema, *fields], schema.metadata)
        self.plain = [name for name in names if name not in self.vectors]

    def joined(self, examples: pa.Table, told: JoinedFile) -> pa.Table:
        """The examples with their new columns; counts go into `told`."""
        joined = self.as_of.join(examples)
        arrays = [*examples.columns, _names(joined)]
        if self.rows_only:
            arrays += [pa.array(joined.rows(side), pa.int64()) for side in layout.SIDES]
        for view in self.views:
            vectors, is_missing = self._of_view(joined, layout.side_of(view), view)
            arrays += [pa.array(is_missing), *vectors]
            told.with_knowledge[view] += len(is_missing) - int(is_missing.sum())
        told.rows += len(joined)
        served = np.bincount(joined.release_numbers + 1, minlength=len(joined.releases) + 1)
        told.before_first += int(served[0])
        for release, count in zip(joined.releases, served[1:], strict=True):
            told.releases[release.id] += int(count)
        return pa.table(arrays, schema=self.schema)

    def _of_view(self, joined: Joined, side: Side, view: str) -> tuple[list[pa.Array], np.ndarray]:
        if self.rows_only:
            return [], joined.is_missing(side, view)
        vectors_NW, is_missing = joined.vectors(side, view, self.kind)
        return [vector_array(vectors_NW)], is_missing


def _column(view: str, part: str) -> str:
    return f"{layout.side_of(view)}_{layout.column(view, part)}"


def _names(joined: Joined) -> pa.Array:
    numbers = pa.array(joined.release_numbers, mask=joined.release_numbers < 0)
    return pa.DictionaryArray.from_arrays(numbers, pa.array([one.id for one in joined.releases], pa.string())).cast(pa.string())


def _write(plan: _Plan, source: ExampleFiles, partial: Path, files: int | None, told: JoinedFile) -> None:
    """All parts, one after the other; a piece of the examples is cut where a part ends."""
    if files is not None:
        partial.mkdir()
    count = 1 if files is None else max(1, min(files, source.rows))
    ends = iter([source.rows * (number + 1) // count for number in range(count)])
    paths = iter([partial] if files is None else [partial / f"part-{number:05d}.parquet" for number in range(count)])
    with ExitStack() as stack:
        end, writer = next(ends), stack.enter_context(_Part(next(paths), plan))
        for table in source.batches():
            if told.rows + len(table) > source.rows:
                raise ReleaseError("the examples grew while they were read", "run again when nobody writes them")
            while told.rows + len(table) > end:
                here = end - told.rows
                if here:
                    writer.write(plan.joined(table.slice(0, here), told))
                    table = table.slice(here)
                writer.close()
                end, writer = next(ends), stack.enter_context(_Part(next(paths), plan))
            writer.write(plan.joined(table, told))
        writer.close()
    if told.rows != source.rows:
        raise ReleaseError("the examples shrank while they were read", "run again when nobody writes them")
    if files is not None:
        durable.sync_folder(partial)


class _Part:
    """One Parquet file being written; synced to the disk when it is closed."""

    def __init__(self, path: Path, plan: _Plan) -> None:
        self._path = path
        self._writer = table_writer(path, plan.schema, vectors=plan.vectors, words=plan.plain)

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=PIECE_ROWS)

    def close(self) -> None:
        self._writer.close()
        with self._path.open("rb") as stream:
            os.fsync(stream.fileno())
