"""Open a release and look vectors up by id. What a downstream job imports: pyarrow, numpy and the standard library only."""

from __future__ import annotations

import datetime as dt
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kar.errors import ReleaseError, ReleaseNotFound, SpaceMismatch
from kar.release import audit, layout, leases, manifest, pointer, remote, remote_checkout, remote_lease
from kar.release.content import instants
from kar.release.ids import Ids
from kar.release.layout import Kind, Side
from kar.release.logical import Logical


def open_release(path: str | Path, as_of: dt.datetime | None = None, *, verify: bool = False, lease_s: float | None = None) -> Release:
    """Open a release; exported as `kar.release.open`.

    CURRENT is read once: whatever is published later, this object stays with the release it found.

    Args:
        path: a published folder or `s3://bucket/prefix`, or one release in it (`…/releases/<id>`).
        as_of: the release that a published folder served at this instant (with its time zone); None: now.
        verify: recompute every digest first (about a second per million rows). Sizes are checked in any case.
        lease_s: take a lease of so many seconds before anything is opened (`kar.release.leases`); it is renewed, and given back when
            this object is dropped or the process ends. None: no lease.

    Raises:
        ReleaseNotFound: nothing is published there, or nothing was at `as_of`.
        ReleaseCorrupt: CURRENT, the manifest or a file is not what it should be.
        ReleaseError: a newer kar wrote it.
    """
    if remote.is_remote(path):
        return remote.open_release(path, as_of, verify=verify, lease_s=lease_s)
    path = Path(path)
    while True:
        before = pointer.digest(path)
        try:
            return _open_once(path, as_of, verify, lease_s)
        except ReleaseNotFound:
            if pointer.digest(path) == before:
                raise  # else: what CURRENT named was promoted over and collected before we got to it


def _open_once(path: Path, as_of: dt.datetime | None, verify: bool, lease_s: float | None) -> Release:
    folder, expected_sha = _resolved(path, as_of)
    lease = None if lease_s is None else remote_lease.take(leases.published_of(folder), folder.name, lease_s)
    try:
        release = _opened(folder, manifest.read(folder, expected_sha), verify)
    except ReleaseError:
        if lease is not None:
            lease.close()
        raise
    if lease is not None:
        weakref.finalize(release, lease.close)
    return release


def _resolved(path: Path, as_of: dt.datetime | None) -> tuple[Path, str | None]:
    """The folder of the release that is meant, and the digest of its manifest if CURRENT names it."""
    if (path / layout.MANIFEST).is_file():
        if as_of is not None:
            raise ReleaseError(f"{path} is one release; as_of chooses among several", "open the published folder above releases/")
        return path, None
    current = pointer.read_current(path)
    release = current.release if as_of is None else current.at(manifest.in_utc(as_of))
    if release is None:
        raise ReleaseNotFound(
            f"{path} served nothing at {as_of}; the first release was served from {manifest.to_text(current.served[0].since)}",
            "ask for a later instant",
        )
    return pointer.folder_of(path, release), current.manifest_sha256 if release == current.release else None


def _opened(folder: Path, found: dict[str, Any], verify: bool) -> Release:
    fetch = remote_checkout.fetcher(folder)
    if verify:
        audit.verify(folder)
    elif fetch is None:
        audit.check_sizes(folder, found)
    return Release(folder, found, fetch)


class Release:
    """One published release, immutable. Columns are read when first asked for; matrices are memory-mapped."""

    def __init__(self, path: Path, found: dict[str, Any], fetch: Callable[[str], Path] | None = None) -> None:
        self.path = path
        self._fetch = fetch
        self.manifest = found
        self._sides: dict[Side, Logical] = {}
        self._matrices: dict[tuple[str, Kind], np.ndarray] = {}
        self._masks: dict[str, np.ndarray] = {}
        self._evidence: dict[str, np.ndarray] = {}

    def __repr__(self) -> str:
        return f"<Release {self.id} space {self.space_id} data cutoff {self.data_cutoff}>"

    @property
    def id(self) -> str:
        return str(self.manifest["release"])

    @property
    def space_id(self) -> str:
        return str(self.manifest["space_id"])

    @property
    def encoder_id(self) -> str:
        return str(self.manifest["space"]["encoder_id"])

    @property
    def data_cutoff(self) -> dt.datetime | None:
        """The newest interaction that any of its knowledge has seen; None: it saw none."""
        text = self.manifest["data_cutoff"]
        return None if text is None else manifest.from_text(text)

    @property
    def published_at(self) -> dt.datetime:
        return manifest.from_text(self.manifest["published_at"])

    def views(self, side: Side, kind: Kind = "adapted") -> list[str]:
        """The views that have such vectors; pooled ones have no knowledge vectors."""
        return [view for view in self._table(side)["views"] if kind == "adapted" or not self.is_pooled(view)]

    def is_pooled(self, view: str) -> bool:
        """Whether a view holds means over the items of each user's history (see `kar.release.layout`)."""
        self._require_view(layout.side_of(view), view)
        return manifest.is_pooled(self.manifest, view)

    def width(self, view: str, kind: Kind = "adapted") -> int:
        self._require_view(layout.side_of(view), view)
        return int(self.manifest["views"][view][f"{kind}_width"])

    def ids(self, side: Side) -> pa.Array:
        """Every id of the side, ascending, int64 or string; row n of every column and matrix belongs to the n-th."""
        return self._side(side).ids

    def rows(self, side: Side, ids: Ids) -> np.ndarray:
        """Row numbers, int64, -1 where the release does not know the id. Raises ReleaseError for ids of another type."""
        return self._side(side).rows(ids)

    def table(self, side: Side, columns: list[str] | None = None) -> pa.Table:
        """The side's table, one row per subject in id order; None: all columns (but those that only say which layer a row lies in)."""
        return self._side(side).read(columns)

    def is_missing(self, side: Side, view: str) -> np.ndarray:
        """bool [rows]: true where the release has no knowledge of that row."""
        self._require_view(side, view)
        if view not in self._masks:
            self._masks[view] = self._side(side).mask(view)
        return self._masks[view]

    def evidence_newest_us(self, side: Side, view: str) -> np.ndarray:
        """int64 [rows]: newest interaction the prompt saw, µs since 1970 UTC; the smallest int64 where it saw none."""
        self._require_view(side, view)
        if view not in self._evidence:
            self._evidence[view] = instants(self._side(side).column(layout.column(view, "evidence_newest_at")))
        return self._evidence[view]

    def matrix(self, view: str, kind: Kind = "adapted") -> np.ndarray:
        """float32 [rows, W] in id order, read-only; rows without knowledge hold the default vector.

        Memory-mapped where one file holds it all; else put together in memory, which `gather` spares.
        """
        side = layout.side_of(view)
        self._require_view(side, view, kind)
        if (view, kind) not in self._matrices:
            self._matrices[view, kind] = self._side(side).whole(view, kind)
            self._matrices[view, kind].flags.writeable = False
        return self._matrices[view, kind]

    def gather(self, view: str, rows: np.ndarray, kind: Kind = "adapted") -> np.ndarray:
        """float32 [len(rows), W]: the vectors of some rows, which must all be known (0 or more); only their pages are read."""
        side = layout.side_of(view)
        self._require_view(side, view, kind)
        return self._side(side).gather(view, rows, kind)

    def default(self, view: str, kind: Kind = "adapted") -> np.ndarray:
        """float32 [W]: what stands for "no knowledge": the adaptor's learned vector, or zeros for knowledge vectors."""
        self._require_view(layout.side_of(view), view, kind)
        if kind == "knowledge":
            return np.zeros(self.width(view, kind), np.float32)
        return np.array(self.manifest["views"][view]["default_adapted_vector"], np.float32)

    def vectors(self, side: Side, view: str, ids: Ids, kind: Kind = "adapted") -> tuple[np.ndarray, np.ndarray]:
        """Vectors of ids, in their order.

        Returns:
            float32 [N, W] and bool [N], true where knowledge is missing; there, and for unknown ids, the default vector.

        Raises:
            ReleaseError: no such view, or ids of another type.
        """
        self._require_view(side, view, kind)
        return self.vectors_at(view, self.rows(side, ids), kind)

    def vectors_at(self, view: str, rows: np.ndarray, kind: Kind = "adapted") -> tuple[np.ndarray, np.ndarray]:
        """As `vectors`, for row numbers that were looked up before (-1: unknown)."""
        side = layout.side_of(view)
        if not self._table(side)["rows"]:
            is_missing = np.ones(len(rows), bool)
            return np.tile(self.default(view, kind), (len(rows), 1)), is_missing
        places = np.maximum(rows, 0)
        is_missing = self._side(side).mask(view, places) | (rows < 0)
        vectors_NW = self.gather(view, places, kind)
        vectors_NW[rows < 0] = self.default(view, kind)
        return vectors_NW, is_missing

    def require_space(self, space_id: str) -> None:
        """Raise SpaceMismatch unless the adapted vectors live in that space (the one a model was trained in)."""
        if space_id != self.space_id:
            raise SpaceMismatch(
                f"release {self.id} lives in space {self.space_id}, not in {space_id}: another encoder or adaptor made its vectors",
                "train on this release, or open one of that space",
            )

    def file(self, name: str) -> Path:
        """Where one of the release's files, as its manifest names it, lies on this machine; one of a store is fetched and verified."""
        return self._fetch(name) if self._fetch else self.path / name

    def lease(self, seconds: float = 600.0, reader: str = "") -> leases.Lease:
        """Keep this release from being collected while a `with` block runs; a thread renews the lease (`kar.release.leases`).

        Args:
            seconds: how long the release stays if this process dies.
            reader: what others are told of who reads.

        Raises:
            ReleaseNotFound: it was collected already.
            ReleaseError: the lease cannot be written, or the release lies in no published folder.
        """
        return remote_lease.take(leases.published_of(self.path), self.id, seconds, reader)

    def _table(self, side: Side) -> dict[str, Any]:
        if side not in layout.SIDES:
            raise ReleaseError(f"there is no side {side!r}", "ask for user or item")
        table: dict[str, Any] = self.manifest["tables"][layout.table_name(side)]
        return table

    def _require_view(self, side: Side, view: str, kind: Kind = "adapted") -> None:
        if view not in self._table(side)["views"]:
            held = [v for s in layout.SIDES for v in self.views(s)]
            raise ReleaseError(f"release {self.id} holds no view {view!r} of {side}s", f"it holds {', '.join(held) or 'none'}")
        if kind == "knowledge" and manifest.is_pooled(self.manifest, view):
            raise ReleaseError(f"{view} is pooled from adapted vectors and has no knowledge vectors", "take kind='adapted'")

    def _side(self, side: Side) -> Logical:
        if side not in self._sides:
            self._table(side)
            self._sides[side] = Logical(self.path, self.manifest, side, self._fetch)
        return self._sides[side]
