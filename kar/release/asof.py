"""Join examples to releases as of each example's time: what a reader could have had then, and nothing its label leaked into.

Two clocks:
    published   the release that was served at the example's time, and of it only rows whose newest evidence is not newer
                than the example. This is the join for production.
    evidence    the release served now, and of it only rows whose newest evidence is not newer than the example. For
                studies on historic data, where everything was published after the last example. Not a production join:
                the language model that wrote the knowledge is newer than the examples and may know what came after.
Of a pooled view (`user.liked_facts`: means over the history's items) the evidence must be older than the example, not merely no newer: the
newest event that was pooled may be the example itself, with its label.
Every example gets a row; where nothing may serve it, the mask says so and the default vector stands in.

`join` takes a table in memory; `AsOf` keeps the releases open for as many tables as a stream of examples has.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ReleaseError, ReleaseNotFound, SpaceMismatch
from kar.release import layout, manifest, pointer
from kar.release.layout import Kind, Side
from kar.release.reader import Release, open_release

Clock = Literal["published", "evidence"]
CLOCKS: tuple[Clock, ...] = ("published", "evidence")
_NEVER = np.iinfo(np.int64).min
_BLOCK = 65_536  # examples looked at at once: what lies between stays in the cache


class _Lookup:
    """What one release says of one view, with one more place at the end, so that row -1 finds "missing, never seen"."""

    def __init__(self, release: Release, side: Side, view: str) -> None:
        self.is_missing = np.append(release.is_missing(side, view), True)
        self.is_pooled = release.is_pooled(view)
        self._evidence = release.evidence_newest_us(side, view)
        self._newest_us = int(self._evidence.max(initial=_NEVER))
        self._padded: np.ndarray | None = None

    def missing(self, rows: np.ndarray, event_us: np.ndarray) -> np.ndarray:
        """bool [N]: without knowledge, or with knowledge that has seen something newer than the example."""
        result: np.ndarray = self.is_missing[rows]
        oldest = int(event_us.min(initial=np.iinfo(np.int64).max))
        if self._newest_us < oldest or (self._newest_us == oldest and not self.is_pooled):
            return result  # whatever the row, its evidence is old enough: the usual case of the published clock
        if self._padded is None:  # made when it is first needed, which is often never
            self._padded = np.append(self._evidence, _NEVER)
        seen_us = self._padded[rows]
        result |= (seen_us >= event_us) if self.is_pooled else (seen_us > event_us)
        return result


@dataclass(frozen=True)
class Joined:
    """Examples with the release and rows that may serve them; N examples in the order given.

    Args:
        releases: the releases that serve at least one example, oldest first; with none, the first ever served stands
            here alone, for its default vectors.
        release_numbers: int32 [N], place in `releases`; -1: before the first release.
        user_rows: int64 [N], row of the user in that release; -1: unknown there, or no release.
        item_rows: int64 [N], the same for the item.
        event_us: int64 [N], time of the example, µs since 1970 UTC.
    """

    clock: Clock
    releases: tuple[Release, ...]
    release_numbers: np.ndarray
    user_rows: np.ndarray
    item_rows: np.ndarray
    event_us: np.ndarray
    _lookups: dict[tuple[int, str], _Lookup] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.event_us)

    def part(self, rows: slice | np.ndarray) -> Joined:
        """Some of the examples: a slice or row numbers. What was looked up of the releases is kept."""
        return replace(
            self,
            release_numbers=self.release_numbers[rows],
            user_rows=self.user_rows[rows],
            item_rows=self.item_rows[rows],
            event_us=self.event_us[rows],
        )

    def rows(self, side: Side) -> np.ndarray:
        """int64 [N], -1 where no row of the side may be looked up. A row may still be missing in a view: see is_missing."""
        return self.user_rows if side == "user" else self.item_rows

    def views(self, side: Side, kind: Kind = "adapted") -> list[str]:
        """The views of which any of the releases holds such vectors."""
        return list(dict.fromkeys(view for release in self.releases for view in release.views(side, kind)))

    def is_missing(self, side: Side, view: str) -> np.ndarray:
        """bool [N]: unknown, without knowledge, or with knowledge that has seen something newer than the example."""
        self._require_view(side, view)
        rows = self.rows(side)
        only = self._only()
        if only is not None and view in self.releases[only].views(side):
            return self._lookup(only, side, view).missing(rows, self.event_us)
        result = np.ones(len(self), bool)
        for number, release in enumerate(self.releases):
            if view in release.views(side):
                where = np.flatnonzero(self.release_numbers == number)
                result[where] = self._lookup(number, side, view).missing(rows[where], self.event_us[where])
        return result

    def coverage(self, side: Side, view: str) -> float:
        """Share of the examples with knowledge; 0 of none is 0."""
        return float(1.0 - self.is_missing(side, view).mean()) if len(self) else 0.0

    def vectors(self, side: Side, view: str, kind: Kind = "adapted") -> tuple[np.ndarray, np.ndarray]:
        """float32 [N, W] and the mask of `is_missing`; where it is true the vector is the default.

        Raises:
            SpaceMismatch: adapted vectors of several spaces, or knowledge vectors of several encoders, would be mixed.
            ReleaseError: no such view.
        """
        self._require_view(side, view)
        self.require_one_space(kind)
        holders = [release for release in self.releases if view in release.views(side)]
        default, is_missing = holders[0].default(view, kind), self.is_missing(side, view)
        only = self._only()
        if only is not None and not is_missing.all():
            result = self.releases[only].gather(view, np.maximum(self.rows(side), 0), kind)
        else:
            result = np.empty((len(self), len(default)), np.float32)
            for number, release in enumerate(self.releases):
                where = np.flatnonzero((self.release_numbers == number) & ~is_missing)
                if len(where):
                    result[where] = release.gather(view, self.rows(side)[where], kind)
        result[is_missing] = default
        return result, is_missing

    def require_one_space(self, kind: Kind = "adapted") -> None:
        """Raise SpaceMismatch if the examples meet vectors of this kind that do not mix."""
        found = {release.id: release.space_id if kind == "adapted" else release.encoder_id for release in self.releases}
        if len(set(found.values())) > 1:
            what = "spaces" if kind == "adapted" else "encoders"
            raise SpaceMismatch(
                f"the examples meet {kind} vectors of several {what}: {found}",
                "take kind='knowledge' and learn an adaptor of your own, or keep to examples of one space"
                if kind == "adapted"
                else "keep to examples whose releases share the encoder",
            )

    def _only(self) -> int | None:
        """The release that serves all of these examples, if one does. (With one release, an example before it has row -1.)"""
        if len(self.releases) == 1:
            return 0
        low, high = int(self.release_numbers.min(initial=len(self.releases))), int(self.release_numbers.max(initial=-1))
        return low if 0 <= low == high else None

    def _lookup(self, number: int, side: Side, view: str) -> _Lookup:
        if (number, view) not in self._lookups:
            self._lookups[number, view] = _Lookup(self.releases[number], side, view)
        return self._lookups[number, view]

    def _require_view(self, side: Side, view: str) -> None:
        if view not in self.views(side):
            raise ReleaseError(f"the releases joined hold no view {view!r} of {side}s", f"they hold {self.views(side)}")


def join(releases_path: str | Path, examples: pa.Table, clock: Clock = "published", lease_s: float | None = None) -> Joined:
    """Join examples to the releases of a published folder, each as of its own time.

    Args:
        releases_path: a published folder; by clock evidence also one release in it, `…/releases/<id>`.
        examples: columns user_id, item_id (of the releases' id types) and event_at (timestamp with time zone, no null).
        clock: see the module's docstring.
        lease_s: lease the releases that serve the examples, as `open`, for as long as they are held; None: no lease.

    Raises:
        ReleaseNotFound: nothing is published, or a release that served some of the examples is gone.
        ReleaseError: a column is missing or of another type.
    """
    timeline = Timeline(releases_path, clock)
    check_columns(examples.schema)
    event_us = times(examples.column("event_at"))
    return AsOf(timeline, timeline.used(timeline.entries(event_us)), lease_s).join(examples)


class Timeline:
    """Which release was served from when on, as CURRENT says when this is made. CURRENT is read once, here.

    Args:
        releases_path: as `join`.

    Raises:
        ReleaseNotFound: nothing is published.
        ReleaseError: no such clock.
    """

    def __init__(self, releases_path: str | Path, clock: Clock = "published") -> None:
        if clock not in CLOCKS:
            raise ReleaseError(f"there is no clock {clock!r}", "join with clock='published' or clock='evidence'")
        self.path, self.clock = Path(releases_path), clock
        if clock == "evidence" and (self.path / layout.MANIFEST).is_file():
            self.served: tuple[pointer.Served, ...] = (pointer.Served(self.path.name, dt.datetime.min.replace(tzinfo=dt.UTC)),)
            self.path = self.path.parent.parent
        else:
            served = pointer.read_current(self.path).served
            self.served = served if clock == "published" else served[-1:]
        since_us = [_us(entry.since) for entry in self.served] if clock == "published" else [_NEVER]
        self._since_us = np.array(since_us, np.int64)

    def entries(self, event_us: np.ndarray) -> np.ndarray:
        """int32 [N]: place in `served` of what was served at each time; -1: before the first release."""
        result = np.empty(len(event_us), np.int32)
        for first in range(0, len(event_us), _BLOCK):
            part = event_us[first : first + _BLOCK]
            result[first : first + _BLOCK] = np.searchsorted(self._since_us, part, side="right")
        result -= 1
        return result

    def used(self, entries: np.ndarray) -> list[int]:
        """The places that occur, ascending, without -1."""
        is_used = np.zeros(len(self.served) + 1, bool)  # the last place is that of entry -1
        for first in range(0, len(entries), _BLOCK):
            is_used[entries[first : first + _BLOCK]] = True
        return [int(entry) for entry in np.flatnonzero(is_used[:-1])]


class AsOf:
    """The releases that serve a stream of examples, open, so that table after table is joined to the same ones.

    Args:
        timeline: of the published folder.
        used: places in `timeline.served` that any of the examples will need; with none, the first stands in.
        lease_s: as `join`.

    Raises:
        ReleaseNotFound: a release that served some of the examples is gone.
    """

    def __init__(self, timeline: Timeline, used: Iterable[int], lease_s: float | None = None) -> None:
        self._timeline = timeline
        served = timeline.served
        names = list(dict.fromkeys(served[entry].release for entry in sorted(used) or [0]))
        self.releases = tuple(_opened(timeline.path, name, lease_s) for name in names)
        place = {name: number for number, name in enumerate(names)}
        # a release that nobody said would be used has no number; the last place answers entry -1: before the first release
        self._number_of = np.array([*(place.get(entry.release, -2) for entry in served), -1], np.int32)
        self._is_in_order = np.array_equal(self._number_of[:-1], np.arange(len(served)))
        self._lookups: dict[tuple[int, str], _Lookup] = {}
        self._has_one_set: dict[Side, bool] = {}

    def join(self, examples: pa.Table) -> Joined:
        """Join one table; arguments and errors as the function `join`."""
        check_columns(examples.schema)
        event_us = times(examples.column("event_at"))
        entries = self._timeline.entries(event_us)
        numbers = entries if self._is_in_order else self._number_of[entries]
        if numbers.min(initial=0) < -1:
            raise ReleaseError("the examples meet a release that the stream was not opened for", "open it with every release they use")
        rows = {side: self._rows(numbers, side, examples.column(layout.id_column(side))) for side in layout.SIDES}
        return Joined(self._timeline.clock, self.releases, numbers, rows["user"], rows["item"], event_us, self._lookups)

    def _rows(self, numbers: np.ndarray, side: Side, ids: pa.ChunkedArray) -> np.ndarray:
        """int64 [N]: the row of each example's id in the release that serves it; -1: unknown, or no release."""
        rows = np.full(len(numbers), -1, np.int64)
        if self._share_ids(side):  # most nights know the subjects of the night before: look them up once
            first = 0
            for chunk in ids.chunks if len(ids) >= _BLOCK * ids.num_chunks else [ids]:  # large ones as they are, without a copy
                rows[first : first + len(chunk)] = self.releases[0].rows(side, chunk)
                first += len(chunk)
            if numbers.min(initial=0) < 0:
                rows[numbers < 0] = -1
            return rows
        for number, release in enumerate(self.releases):
            where = np.flatnonzero(numbers == number)
            if len(where) or not len(ids):  # ids of another type are refused even where there are none
                rows[where] = release.rows(side, ids.take(pa.array(where)))
        return rows

    def _share_ids(self, side: Side) -> bool:
        """Whether all releases hold the same subjects; then a subject has the same row in each."""
        if side not in self._has_one_set:
            column = layout.id_column(side)
            digests = {release.manifest["tables"][layout.table_name(side)].get("content", {}).get(column) for release in self.releases}
            if None in digests:  # formats 1 and 2 have no digests of columns
                first = self.releases[0].ids(side)
                self._has_one_set[side] = all(release.ids(side).equals(first) for release in self.releases[1:])
            else:
                self._has_one_set[side] = len(digests) == 1
            for release in self.releases[: 1 if self._has_one_set[side] else None]:
                if release.manifest["id_types"][side] == "int64":
                    release.ids(side)  # a stream will ask for most of them: let the release make ready for that
        return self._has_one_set[side]


def times(event_at: pa.ChunkedArray) -> np.ndarray:
    """Instants of any unit and time zone as int64 µs since 1970 UTC. Raises ReleaseError for nulls."""
    if event_at.null_count:
        raise ReleaseError(f"event_at of the examples holds {event_at.null_count} nulls", "give every example a time, or leave it out")
    # finer units are cut, not refused: an example may be taken for up to 1 µs older than it is, never for newer
    exact = event_at if event_at.type == layout.TIME else pc.cast(event_at, layout.TIME, safe=False)
    chunks = [chunk.view(pa.int64()).to_numpy() for chunk in exact.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.empty(0, np.int64), *chunks])


def check_columns(schema: pa.Schema) -> None:
    """Raise ReleaseError unless the examples hold user_id, item_id and an event_at that is an instant, each once."""
    wanted = ("user_id", "item_id", "event_at")
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise ReleaseError(f"the examples lack the columns {missing}; they hold {schema.names}", "rename or add them")
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise ReleaseError(f"the examples hold the columns {twice} more than once", "rename or drop all but one")
    event_type = schema.field("event_at").type
    if not pa.types.is_timestamp(event_type) or event_type.tz is None:
        raise ReleaseError(f"event_at of the examples is {event_type}, not an instant with a time zone", "cast it to timestamp[us, tz=UTC]")


def _opened(path: Path, release: str, lease_s: float | None) -> Release:
    try:
        return open_release(layout.releases_folder(path) / release, lease_s=lease_s)
    except ReleaseNotFound as error:
        raise ReleaseNotFound(
            f"release {release}, which was served at the time of some examples, is gone from {path}{pointer.gone(path, release)}",
            "leave those examples out; kar release collect keeps what was served last (features.keep) and what is pinned: keep more of them",
        ) from error


def _us(instant: dt.datetime) -> int:
    return (manifest.in_utc(instant) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
