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
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Joined:
    """Examples with the release and rows that may serve them; N examples in the order given.

    Args:
        releases: the releases that serve at least one example, oldest first; with none, the first ever served stands
            here alone, for its default vectors.
        release_numbers: int64 [N], place in `releases`; -1: before the first release.
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

    def __len__(self) -> int:
        return len(self.event_us)

    def rows(self, side: Side) -> np.ndarray:
        """int64 [N], -1 where no row of the side may be looked up. A row may still be missing in a view: see is_missing."""
        return self.user_rows if side == "user" else self.item_rows

    def views(self, side: Side, kind: Kind = "adapted") -> list[str]:
        """The views of which any of the releases holds such vectors."""
        return list(dict.fromkeys(view for release in self.releases for view in release.views(side, kind)))

    def is_missing(self, side: Side, view: str) -> np.ndarray:
        """bool [N]: unknown, without knowledge, or with knowledge that has seen something newer than the example."""
        self._require_view(side, view)
        result = np.ones(len(self), bool)
        for number, release in enumerate(self.releases):
            where = self._served_by(number, side)
            if view in release.views(side) and len(where):
                rows = self.rows(side)[where]
                seen_us, event_us = release.evidence_newest_us(side, view)[rows], self.event_us[where]
                is_too_new = seen_us >= event_us if release.is_pooled(view) else seen_us > event_us
                result[where] = release.is_missing(side, view)[rows] | is_too_new
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
        self._require_one_space(kind)
        holders = [release for release in self.releases if view in release.views(side)]
        default = holders[0].default(view, kind)
        is_missing = self.is_missing(side, view)
        result = np.empty((len(self), len(default)), np.float32)
        for number, release in enumerate(self.releases):
            where = np.flatnonzero((self.release_numbers == number) & ~is_missing)
            if len(where):
                result[where] = release.matrix(view, kind)[self.rows(side)[where]]
        result[is_missing] = default
        return result, is_missing

    def _served_by(self, number: int, side: Side) -> np.ndarray:
        return np.flatnonzero((self.release_numbers == number) & (self.rows(side) >= 0))

    def _require_view(self, side: Side, view: str) -> None:
        if view not in self.views(side):
            raise ReleaseError(f"the releases joined hold no view {view!r} of {side}s", f"they hold {self.views(side)}")

    def _require_one_space(self, kind: Kind) -> None:
        found = {release.id: release.space_id if kind == "adapted" else release.encoder_id for release in self.releases}
        if len(set(found.values())) > 1:
            what = "spaces" if kind == "adapted" else "encoders"
            raise SpaceMismatch(
                f"the examples meet {kind} vectors of several {what}: {found}",
                "take kind='knowledge' and learn an adaptor of your own, or keep to examples of one space"
                if kind == "adapted"
                else "keep to examples whose releases share the encoder",
            )


def join(releases_path: str | Path, examples: pa.Table, clock: Clock = "published") -> Joined:
    """Join examples to the releases of a published folder, each as of its own time.

    Args:
        releases_path: a published folder.
        examples: columns user_id, item_id (of the releases' id types) and event_at (timestamp with time zone, no null).
        clock: see the module's docstring.

    Raises:
        ReleaseNotFound: nothing is published, or a release that served some of the examples is gone.
        ReleaseError: a column is missing or of another type.
    """
    path = Path(releases_path)
    if clock not in ("published", "evidence"):
        raise ReleaseError(f"there is no clock {clock!r}", "join with clock='published' or clock='evidence'")
    event_us = _event_us(examples)
    releases, numbers = _served(path, event_us) if clock == "published" else ((open_release(path),), np.zeros(len(event_us), np.int64))
    rows = {side: _rows(releases, numbers, side, examples.column(layout.id_column(side))) for side in layout.SIDES}
    return Joined(clock, releases, numbers, rows["user"], rows["item"], event_us)


def _event_us(examples: pa.Table) -> np.ndarray:
    """Times of the examples as int64 µs UTC, after checking that the columns are there and mean what they must."""
    missing = [name for name in ("user_id", "item_id", "event_at") if name not in examples.column_names]
    if missing:
        raise ReleaseError(f"the examples lack the columns {missing}; they hold {examples.column_names}", "rename or add them")
    event_at = examples.column("event_at")
    if not pa.types.is_timestamp(event_at.type) or event_at.type.tz is None:
        raise ReleaseError(
            f"event_at of the examples is {event_at.type}, not an instant with a time zone", "cast it to timestamp[us, tz=UTC]"
        )
    if event_at.null_count:
        raise ReleaseError(f"event_at of the examples holds {event_at.null_count} nulls", "give every example a time, or leave it out")
    # finer units are cut, not refused: an example may be taken for up to 1 µs older than it is, never for newer
    values: np.ndarray = pc.cast(event_at, layout.TIME, safe=False).cast(pa.int64()).to_numpy()
    return values


def _served(path: Path, event_us: np.ndarray) -> tuple[tuple[Release, ...], np.ndarray]:
    """The releases that served the examples, and which one each: one search over the instants at which CURRENT moved."""
    served = pointer.read_current(path).served
    since_us = np.array([_us(entry.since) for entry in served], np.int64)
    entries = np.searchsorted(since_us, event_us, side="right") - 1
    used = sorted({int(entry) for entry in np.unique(entries) if entry >= 0}) or [0]
    names = list(dict.fromkeys(served[entry].release for entry in used))
    releases = tuple(_opened(path, name) for name in names)
    number_of = np.full(len(served) + 1, -1, np.int64)  # the last place answers entry -1: before the first release
    for entry in used:
        number_of[entry] = names.index(served[entry].release)
    return releases, number_of[entries]


def _opened(path: Path, release: str) -> Release:
    try:
        return open_release(layout.releases_folder(path) / release)
    except ReleaseNotFound as error:
        raise ReleaseNotFound(
            f"release {release}, which was served at the time of some examples, is gone from {path}{pointer.gone(path, release)}",
            "leave those examples out; kar release collect keeps what was served last (features.keep) and what is pinned: keep more of them",
        ) from error


def _us(instant: dt.datetime) -> int:
    return (manifest.in_utc(instant) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _rows(releases: tuple[Release, ...], numbers: np.ndarray, side: Side, ids: pa.ChunkedArray) -> np.ndarray:
    """int64 [N]: the row of each example's id in the release that serves it; -1: unknown, or no release."""
    if len(releases) == 1:
        return np.where(numbers == 0, releases[0].rows(side, ids), -1)
    rows = np.full(len(numbers), -1, np.int64)
    for number, release in enumerate(releases):
        where = np.flatnonzero(numbers == number)
        rows[where] = release.rows(side, ids.take(pa.array(where)))
    return rows
