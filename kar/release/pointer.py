"""CURRENT: which release is served now, and which was served since when. Swapped in one step, never edited.

`served` in it is what makes an as-of join exact: a release that was published but not promoted (a backfill, a failed
gate) was never there for a reader, and a rollback was there from the moment it was made.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kar.errors import ReleaseCorrupt, ReleaseError, ReleaseNotFound
from kar.release import durable, layout, manifest

_MEND = "name a release to serve: kar release rollback ID (kar release list shows them)"


@dataclass(frozen=True)
class Served:
    """A release was what readers got from `since` on, until the next entry's `since`."""

    release: str
    since: dt.datetime


@dataclass(frozen=True)
class Current:
    """The content of CURRENT.

    Args:
        release: id of the release served now.
        manifest_sha256: digest of its manifest.json.
        served: oldest first, times never decreasing; the last entry is `release`.
    """

    release: str
    manifest_sha256: str
    served: tuple[Served, ...]

    def at(self, instant: dt.datetime) -> str | None:
        """The release served at an instant; None before the first."""
        fitting = [entry.release for entry in self.served if entry.since <= instant]
        return fitting[-1] if fitting else None


def read_current(published: Path) -> Current:
    """Read CURRENT once.

    Raises:
        ReleaseNotFound: nothing was ever promoted here, or it points at a release that is not there.
        ReleaseCorrupt: it is empty or not what `swap` writes.
    """
    if not published.is_dir():
        raise ReleaseNotFound(f"there is no folder {published}", "name a published folder, $KAR_HOME/<scenario>/published")
    path = layout.current_path(published)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ReleaseNotFound(f"{published} serves no release: there is no CURRENT in it", "publish one: kar run all") from error
    try:
        data = json.loads(text)
        release, sha = str(data["release"]), str(data["manifest_sha256"])
        served = tuple(Served(str(e["release"]), manifest.in_utc(manifest.from_text(e["since"]))) for e in data.get("served", []))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = "is empty" if not text.strip() else f"cannot be read: {error!r}"
        raise ReleaseCorrupt(f"{path} {what}", _MEND) from error
    folder = layout.releases_folder(published) / release
    if not (folder / layout.MANIFEST).is_file():
        raise ReleaseNotFound(f"{path} points at release {release}, which is not in {folder.parent}", _MEND)
    if not served:
        served = (Served(release, manifest.from_text(manifest.read(folder)["published_at"])),)
    return Current(release, sha, served)


def maybe_current(published: Path) -> Current | None:
    """CURRENT, or None where nothing was ever promoted. Raises as `read_current` for a damaged one."""
    return read_current(published) if layout.current_path(published).exists() else None


def swap(published: Path, release: str, at: dt.datetime) -> Current:
    """Point CURRENT at a release. The caller holds the publisher's lock and has verified the release.

    Args:
        at: now; if the clock went backwards, the last swap's time is used, so that `served` stays in order.
    """
    try:
        before = maybe_current(published)
    except (ReleaseCorrupt, ReleaseNotFound):
        before = None  # a damaged pointer is what a rollback mends; its list of served releases is lost
    served = before.served if before else ()
    since = max([manifest.in_utc(at), *(entry.since for entry in served)])
    sha = hashlib.sha256((layout.releases_folder(published) / release / layout.MANIFEST).read_bytes()).hexdigest()
    current = Current(release, sha, (*served, Served(release, since)))
    durable.replace(layout.current_path(published), _to_bytes(current))
    return current


def _to_bytes(current: Current) -> bytes:
    served = [{"release": entry.release, "since": manifest.to_text(entry.since)} for entry in current.served]
    value = {"release": current.release, "manifest_sha256": current.manifest_sha256, "served": served}
    return (json.dumps(value, indent=1) + "\n").encode()


def promotes_over(candidate: dict[str, Any], current: dict[str, Any]) -> bool:
    """Whether a release may replace the one served without being asked for by name.

    Newer data_cutoff first, then the later date, then an original over a reconstruction, then the later publication:
    a backfill never moves CURRENT over a newer night. A release that saw no interaction (null) is older than any.
    """
    return _age(candidate) > _age(current)


def _age(found: dict[str, Any]) -> tuple[str, str, bool, str]:
    # ISO texts in UTC with microseconds sort as the instants do
    return (found["data_cutoff"] or "", found["date"], not found["is_reconstructed"], found["published_at"])


def folder_of(published: Path, release: str) -> Path:
    """The folder of a release by id. Raises ReleaseNotFound, naming those that exist."""
    folder = layout.releases_folder(published) / release
    if Path(release).name != release or release.startswith(".") or not (folder / layout.MANIFEST).is_file():
        found = ids(published)
        raise ReleaseNotFound(f"there is no release {release!r} in {published}", f"name one of: {', '.join(found) or 'none published'}")
    return folder


def ids(published: Path) -> list[str]:
    """Ids of the finished releases, in order of their names (date, then content)."""
    return sorted(path.parent.name for path in layout.releases_folder(published).glob(f"[!.]*/{layout.MANIFEST}"))


def refuse_older(candidate: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise ReleaseError if promoting the candidate would move readers back in time."""
    if not promotes_over(candidate, current):
        raise ReleaseError(
            f"release {candidate['release']} (data cutoff {candidate['data_cutoff']}, date {candidate['date']}) is not newer than "
            f"{current['release']} ({current['data_cutoff']}, {current['date']}), which is served",
            f"to serve the older one on purpose: kar release rollback {candidate['release']}",
        )
