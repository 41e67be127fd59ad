"""The releases of one published folder: list them, promote one, go back to one. Each change verifies first."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kar.errors import ReleaseError
from kar.release import audit, durable, layout, manifest, pointer


@dataclass(frozen=True)
class Listed:
    """One line of `kar release list`.

    Args:
        manifest: None if it cannot be read; `problem` then says why.
        served_since: when CURRENT pointed at it last; None: never.
    """

    id: str
    is_current: bool
    served_since: dt.datetime | None
    manifest: dict[str, Any] | None
    problem: str = ""

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
        return bool(self.manifest and self.manifest["is_reconstructed"])


def list_releases(path: str | Path) -> list[Listed]:
    """Every release below a published folder, newest publication first; damaged ones come last, with their problem.

    Raises:
        ReleaseCorrupt: CURRENT cannot be read.
    """
    path = Path(path)
    current = pointer.maybe_current(path)
    since = {entry.release: entry.since for entry in current.served} if current else {}
    listed = []
    for name in pointer.ids(path):
        is_current = current is not None and name == current.release
        try:
            found = manifest.read(layout.releases_folder(path) / name, current.manifest_sha256 if current and is_current else None)
            listed.append(Listed(name, is_current, since.get(name), found))
        except ReleaseError as error:
            listed.append(Listed(name, is_current, since.get(name), None, error.what))
    return sorted(listed, key=lambda one: (one.manifest["published_at"] if one.manifest else "", one.id), reverse=True)


def promote(path: str | Path, release: str, at: dt.datetime | None = None) -> dict[str, Any]:
    """Serve a published release that is newer than the one served, e.g. after its gate was looked at.

    Args:
        at: now; None: the machine's clock.

    Returns:
        The manifest of the release now served.

    Raises:
        ReleaseNotFound: no such release.
        ReleaseCorrupt: it does not verify, or CURRENT is damaged.
        ReleaseError: it is older than the one served (that would be a rollback).
    """
    return _serve(Path(path), release, at, may_go_back=False)


def rollback(path: str | Path, release: str, at: dt.datetime | None = None) -> dict[str, Any]:
    """Serve a release whatever its age; also mends a CURRENT that is damaged or points nowhere.

    The next night's release, being newer, is promoted over it again. Arguments, result and errors as `promote`.
    """
    return _serve(Path(path), release, at, may_go_back=True)


def _serve(path: Path, release: str, at: dt.datetime | None, *, may_go_back: bool) -> dict[str, Any]:
    found = audit.verify(pointer.folder_of(path, release))
    try:
        with durable.publisher_lock(path):
            if not may_go_back and (current := pointer.maybe_current(path)) is not None:
                if current.release == release:
                    return found
                pointer.refuse_older(found, manifest.read(pointer.folder_of(path, current.release)))
            pointer.swap(path, release, at or dt.datetime.now(dt.UTC))
    except OSError as error:
        raise ReleaseError(f"CURRENT in {path} was not changed: {error}", "make room or give the right to write, then run again") from error
    return found
