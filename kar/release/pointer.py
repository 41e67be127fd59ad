"""CURRENT: which release is served now, and which was served since when. Swapped in one step, never edited.

`served` in it is what makes an as-of join exact: a release that was published but not promoted (a backfill, a failed
gate) was never there for a reader, and a rollback was there from the moment it was made.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from kar.errors import ReleaseBusy, ReleaseCorrupt, ReleaseError, ReleaseNotFound
from kar.release import durable, layout, manifest

_MEND = "name a release to serve: kar release rollback ID (kar release list shows them)"
_SHOWN = 10  # ids in a message


@dataclass(frozen=True)
class Served:
    """A release was what readers got from `since` on, until the next entry's `since`; `by`: the process that moved CURRENT."""

    release: str
    since: dt.datetime
    by: str = ""


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
    current = _parsed(published)
    folder = layout.releases_folder(published) / current.release
    if not (folder / layout.MANIFEST).is_file():
        raise ReleaseNotFound(
            f"{layout.current_path(published)} points at release {current.release}, which is not in {folder.parent}"
            f"{gone(published, current.release)}",
            _MEND,
        )
    if current.served:
        return current
    since = manifest.from_text(manifest.read(folder)["published_at"])
    return Current(current.release, current.manifest_sha256, (Served(current.release, since),))


def _parsed(published: Path) -> Current:
    """What CURRENT says, whether or not its releases are there."""
    path = layout.current_path(published)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ReleaseNotFound(f"{published} serves no release: there is no CURRENT in it", "publish one: kar run all") from error
    except OSError as error:
        raise ReleaseError(f"{path} cannot be opened: {error}", "give the right to read it") from error
    try:
        told = json.loads(data)
        served = tuple(
            Served(str(e["release"]), manifest.in_utc(manifest.from_text(e["since"])), str(e.get("by", ""))) for e in told.get("served", [])
        )
        return Current(str(told["release"]), str(told["manifest_sha256"]), served)
    except (ValueError, KeyError, TypeError, AttributeError, ReleaseError) as error:
        what = "is empty" if not data.strip() else f"cannot be read: {error!r}"
        raise ReleaseCorrupt(f"{path} {what}", _MEND) from error


def maybe_current(published: Path) -> Current | None:
    """CURRENT, or None where nothing was ever promoted. Raises as `read_current` for a damaged one."""
    return read_current(published) if layout.current_path(published).exists() else None


def digest(published: Path) -> str:
    """sha256 of CURRENT as it lies there, readable or not; empty where there is none. What `swap` compares with."""
    try:
        return durable.file_sha(layout.current_path(published))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
        return ""


def swap(published: Path, release: str, at: dt.datetime, expected: str | None = None) -> Current:
    """Point CURRENT at a release. The caller holds the publisher's lock and has verified the release.

    Args:
        at: now; if the clock went backwards, the last swap's time is used, so that `served` stays in order.
        expected: `digest` of CURRENT when the caller decided; None: it decided under the lock.

    Raises:
        ReleaseBusy: CURRENT is not what it was then; says who moved it.
    """
    before = _before(published)
    if expected is not None and digest(published) != expected:
        _lost_to(published, release, before)
    served = before.served if before else ()
    since = max([manifest.in_utc(at), *(entry.since for entry in served)])
    sha = durable.file_sha(layout.releases_folder(published) / release / layout.MANIFEST)
    by = f"process {os.getpid()} on {os.uname().nodename}"
    current = Current(release, sha, (*served, Served(release, since, by)))
    durable.replace(layout.current_path(published), to_bytes(current))
    return current


def _before(published: Path) -> Current | None:
    """CURRENT for who replaces it. One that points nowhere still says what was served when; of a damaged one that is lost."""
    try:
        return maybe_current(published)
    except ReleaseNotFound:
        return _parsed(published)
    except ReleaseCorrupt:
        return None


def _lost_to(published: Path, release: str, winner: Current | None) -> NoReturn:
    if winner is None:
        who = "and cannot be read now"
    else:
        last = winner.served[-1]
        who = f"{last.by or 'another process'} made it serve {last.release} at {manifest.to_text(last.since)}"
    raise ReleaseBusy(
        f"CURRENT in {published} was moved while {release} was being verified: {who}; {release} is not served",
        "look at what is served now (kar release list), then run again",
    )


def to_bytes(current: Current) -> bytes:
    """CURRENT as it is written."""
    served = [{"release": e.release, "since": manifest.to_text(e.since), **({"by": e.by} if e.by else {})} for e in current.served]
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
        shown = (
            f"{', '.join(found[-_SHOWN:]) or 'none published'}{' (the newest; kar release list shows all)' if len(found) > _SHOWN else ''}"
        )
        raise ReleaseNotFound(f"there is no release {release!r} in {published}{gone(published, release)}", f"name one of: {shown}")
    return folder


def named(published: Path, text: str | None) -> Path:
    """The folder of the release that a user means: by its id, by how its id begins (its date, say), or without a name the one served.

    Raises:
        ReleaseNotFound: none, or several, are named so.
        ReleaseCorrupt: CURRENT is asked for and damaged.
    """
    if text is None:
        return folder_of(published, read_current(published).release)
    fitting = [release for release in ids(published) if text and release.startswith(text)]
    if len(fitting) > 1 and text not in fitting:
        raise ReleaseNotFound(f"{text!r} may be {len(fitting)} releases in {published}", f"say which: {', '.join(fitting[:_SHOWN])}")
    return folder_of(published, fitting[0] if len(fitting) == 1 else text)


def ids(published: Path) -> list[str]:
    """Ids of the finished releases, in order of their names (date, then content)."""
    return sorted(path.parent.name for path in layout.releases_folder(published).glob(f"[!.]*/{layout.MANIFEST}"))


def gone_path(published: Path) -> Path:
    """Which releases were removed on purpose: a line of JSON each."""
    return published / "removed.jsonl"


def gone(published: Path, release: str) -> str:
    """When and by what a release, or those whose ids begin so, was removed, to end a message with; empty if nothing is known of it."""
    told = ""
    with contextlib.suppress(OSError):
        for line in gone_path(published).read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                entry = json.loads(line)
                if release and entry["release"].startswith(release):
                    told = f": {entry['by']} removed {entry['release']} at {entry['removed_at']}"
    return told


def refuse_older(candidate: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise ReleaseError if promoting the candidate would move readers back in time."""
    if not promotes_over(candidate, current):
        raise ReleaseError(
            f"release {candidate['release']} (data cutoff {candidate['data_cutoff']}, date {candidate['date']}) is not newer than "
            f"{current['release']} ({current['data_cutoff']}, {current['date']}), which is served",
            f"to serve the older one on purpose: kar release rollback {candidate['release']}",
        )
