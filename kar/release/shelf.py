"""The releases of one published folder: list them, promote one, go back to one. Each change verifies first."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kar.errors import GateFailed, ReleaseError
from kar.release import audit, durable, layout, leases, manifest, pins, pointer
from kar.release.leases import Leased
from kar.release.pins import Pin

T = TypeVar("T")


@dataclass(frozen=True)
class Listed:
    """One line of `kar release list`.

    Args:
        manifest: None if it cannot be read; `problem` then says why.
        served_since: when CURRENT pointed at it last; None: never.
        pins: why it is pinned; none: it is not.
        leases: of the readers that hold it.
    """

    id: str
    is_current: bool
    served_since: dt.datetime | None
    manifest: dict[str, Any] | None
    problem: str = ""
    pins: tuple[Pin, ...] = ()
    leases: tuple[Leased, ...] = ()

    @property
    def data_cutoff(self) -> dt.datetime | None:
        text = self.manifest["data_cutoff"] if self.manifest else None
        return manifest.from_text(text) if text else None

    @property
    def published_at(self) -> dt.datetime | None:
        return manifest.from_text(self.manifest["published_at"]) if self.manifest else None

    @property
    def space_id(self) -> str:
        return str(self.manifest["space_id"]) if self.manifest else ""

    @property
    def is_reconstructed(self) -> bool:
        """Whether it was made long after its date, so that a newer language model may have told what came later."""
        return bool(self.manifest and self.manifest["is_reconstructed"])

    @property
    def bytes(self) -> int:
        """Of all its files, also those that it shares with other releases."""
        return sum(file["bytes"] for file in manifest.files(self.manifest).values()) if self.manifest else 0

    @property
    def failed_checks(self) -> list[str]:
        """Of its gate."""
        return [verdict["check"] for verdict in (self.manifest or {}).get("gate", []) if not verdict["is_passed"]]


def list_releases(path: str | Path, at: dt.datetime | None = None) -> list[Listed]:
    """Every release below a published folder, newest publication first; damaged ones come last, with their problem.

    What is wrong with the folder itself (a damaged CURRENT, pins or leases that cannot be read) is left out: see `problems`.

    Args:
        at: now, for the leases; None: the machine's clock.
    """
    path = Path(path)
    current = _readable(lambda: pointer.maybe_current(path))
    since = {entry.release: entry.since for entry in current.served} if current else {}
    held = _readable(lambda: leases.live(path, at or dt.datetime.now(dt.UTC))) or {}
    pinned: dict[str, list[Pin]] = {}
    for pin in _readable(lambda: pins.read(path)) or []:
        pinned.setdefault(pin.release, []).append(pin)
    listed = []
    for name in pointer.ids(path):
        is_current = current is not None and name == current.release
        found, problem = None, ""
        try:
            found = manifest.read(layout.releases_folder(path) / name, current.manifest_sha256 if current and is_current else None)
        except ReleaseError as error:
            problem = error.what
        listed.append(Listed(name, is_current, since.get(name), found, problem, tuple(pinned.get(name, ())), tuple(held.get(name, ()))))
    return sorted(listed, key=lambda one: (one.manifest["published_at"] if one.manifest else "", one.id), reverse=True)


def problems(path: str | Path, at: dt.datetime | None = None) -> list[ReleaseError]:
    """What is wrong with a published folder, apart from its releases: CURRENT, the clock it was written by, leases, pins."""
    path, at = Path(path), at or dt.datetime.now(dt.UTC)
    found = []
    for read in (pointer.maybe_current, leases.read_all, pins.read):
        try:
            told: Any = read(path)
        except ReleaseError as error:
            found.append(error)
            continue
        if read is pointer.maybe_current and told is not None and (since := told.served[-1].since) > at:
            found.append(
                ReleaseError(
                    f"CURRENT in {path} was last moved at {manifest.to_text(since)}, which has not come yet: a clock was, or is, wrong",
                    "until then every promotion is written down with that time, and joins by publication follow it; set the clock right",
                )
            )
    return found


def served_now(path: str | Path) -> str:
    """Id of the release served; empty if none is, or CURRENT is damaged."""
    current = _readable(lambda: pointer.maybe_current(Path(path)))
    return current.release if current else ""


@dataclass(frozen=True)
class Service:
    """What CURRENT says of one release.

    Args:
        is_there: whether it lies in the published folder.
        is_now: CURRENT points at it.
        since: when CURRENT was first moved to it; None: never.
    """

    is_there: bool = False
    is_now: bool = False
    since: dt.datetime | None = None

    @property
    def is_known(self) -> bool:
        """False of a release that was removed and is not in CURRENT's list: nobody knows any more."""
        return self.is_there or self.since is not None


def service(path: str | Path, release: str) -> Service:
    """Whether a release is served, or was. A damaged CURRENT serves nothing."""
    path = Path(path)
    current = _readable(lambda: pointer.maybe_current(path))
    since = [entry.since for entry in current.served if entry.release == release] if current else []
    return Service(release in pointer.ids(path), current is not None and current.release == release, min(since, default=None))


def _readable(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except ReleaseError:
        return None


def promote(
    path: str | Path, release: str, at: dt.datetime | None = None, *, despite_gate: bool = False, wait_s: float = durable.WAIT_S
) -> dict[str, Any]:
    """Serve a published release that is newer than the one served, e.g. one that was published without being promoted.

    Newer is a newer data_cutoff; of two with the same one see `pointer.promotes_over`.

    Args:
        at: now; None: the machine's clock.
        despite_gate: also one whose gate said no.
        wait_s: how long to wait for a publisher.

    Returns:
        The manifest of the release now served.

    Raises:
        ReleaseNotFound: no such release.
        ReleaseCorrupt: it does not verify, or CURRENT is damaged.
        ReleaseBusy: a publisher worked all the time, or CURRENT was moved while the release was being verified; says by whom.
        GateFailed: its gate said no.
        ReleaseError: it is older than the one served (that would be a rollback).
    """
    return _serve(Path(path), release, at, wait_s, may_go_back=False, despite_gate=despite_gate)


def rollback(path: str | Path, release: str, at: dt.datetime | None = None, *, wait_s: float = durable.WAIT_S) -> dict[str, Any]:
    """Serve a release whatever its age and its gate; also mends a CURRENT that is damaged or points nowhere.

    The next night's release, being newer, is promoted over it again. Arguments, result and errors as `promote`.
    """
    return _serve(Path(path), release, at, wait_s, may_go_back=True, despite_gate=True)


def _serve(path: Path, release: str, at: dt.datetime | None, wait_s: float, *, may_go_back: bool, despite_gate: bool) -> dict[str, Any]:
    folder = pointer.folder_of(path, release)
    decided_on = pointer.digest(path)
    found = audit.verify(folder)  # takes its time, so not under the lock: what changed meanwhile is noticed below
    try:
        with durable.publisher_lock(path, wait_s, "promoting"):
            pointer.folder_of(path, release)  # it may have been collected meanwhile
            if not may_go_back and (current := pointer.maybe_current(path)) is not None:
                if current.release == release:
                    return found
                if pointer.digest(path) == decided_on:
                    pointer.refuse_older(found, manifest.read(pointer.folder_of(path, current.release)))
            if not despite_gate:
                _refuse_failed(found)
            pointer.swap(path, release, at or dt.datetime.now(dt.UTC), decided_on)
    except OSError as error:
        raise ReleaseError(f"CURRENT in {path} was not changed: {error}", "make room or give the right to write, then run again") from error
    return found


def _refuse_failed(found: dict[str, Any]) -> None:
    failed = [verdict for verdict in found.get("gate", []) if not verdict["is_passed"]]
    if failed:
        raise GateFailed(
            f"the gate of {found['release']} said no: {'; '.join(verdict['why'] for verdict in failed)}",
            f"if it shall be served all the same: kar release promote --despite-gate {found['release']}",
        )
