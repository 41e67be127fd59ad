"""Collect: remove releases that nobody needs any more. What stays, and why, is said of each.

Kept are
    * the release that CURRENT serves, whatever else is true of it;
    * the `keep` releases served last, by the list in CURRENT: an as-of join (`kar.release.join`) needs whatever was served at the time of its
      oldest example, so that `keep` nights of examples can be joined. A join that reaches further back is refused (ReleaseNotFound names
      the removed release and `collect`), never served by a neighbour; pin what a longer study needs;
    * of those that never were served (backfills, failed gates) the `keep` published last;
    * pinned ones (`kar release pin`), for themselves or because a pinned report names them;
    * leased ones (`kar.release.leases`);
    * those whose manifest cannot be read, e.g. of a newer kar: nobody can say what they are.
CURRENT keeps naming releases that were removed, so that a join knows what it lacks; `removed.jsonl` says when they went.

Removing is a rename to a hidden name, under the lock that readers take their leases with, and then the deletion. Never while anything is
published or promoted: both hold the publisher's lock. A killed collector leaves hidden folders, which the next one deletes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from kar.errors import ReleaseError, ReleaseNotFound
from kar.release import durable, layout, leases, manifest, pins, pointer

KEEP = 30
_HIDDEN = ".removed"


@dataclass(frozen=True)
class Judged:
    """What `collect` says of one release; `why`: the reasons to keep it, none: it goes."""

    release: str
    why: tuple[str, ...]

    @property
    def is_kept(self) -> bool:
        return bool(self.why)


@dataclass(frozen=True)
class Collected:
    """What was done, or would be.

    Args:
        judged: every release, by name.
        freed_bytes: of the removed ones' files, those that no other release links.
        leases_run_out: files of dead readers that were removed.
    """

    judged: tuple[Judged, ...]
    freed_bytes: int
    leases_run_out: int
    is_dry_run: bool

    @property
    def removed(self) -> list[str]:
        return [one.release for one in self.judged if not one.is_kept]


def collect(
    published: str | Path, keep: int = KEEP, *, at: dt.datetime | None = None, dry_run: bool = False, wait_s: float = durable.WAIT_S
) -> Collected:
    """Remove the releases that the module's rule does not keep.

    Args:
        at: now; None: the machine's clock.
        dry_run: only say what would go.
        wait_s: how long to wait for a publisher.

    Raises:
        ReleaseNotFound: there is no such folder, or CURRENT points nowhere.
        ReleaseCorrupt: CURRENT, a lease or pins.json is damaged: nothing is removed.
        ReleaseBusy: a publisher worked all the time.
        ReleaseError: `keep` is less than 1, or the file system refuses.
    """
    published, at = Path(published), at or dt.datetime.now(dt.UTC)
    if keep < 1:
        raise ReleaseError(f"collect cannot keep {keep} releases", "keep at least 1 (features.keep)")
    if not published.is_dir():
        raise ReleaseNotFound(f"there is no folder {published}", "name a published folder, $KAR_HOME/<scenario>/published")
    try:
        if dry_run:
            judged = judge(published, keep, at)
            run_out = sum(not one.is_live(at) for one in leases.read_all(published))
            return Collected(judged, _freed([_folder(published, one.release) for one in judged if not one.is_kept]), run_out, True)
        with durable.publisher_lock(published, wait_s, "collecting"):
            _delete_hidden(published, at)
            with leases.keeping(published, alone=True):
                run_out = leases.drop_run_out(published, at)
                judged = judge(published, keep, at)
                hidden = [_hide(published, one.release) for one in judged if not one.is_kept]
            freed = _freed(hidden)
            _delete_hidden(published, at)
            return Collected(judged, freed, run_out, False)
    except OSError as error:
        raise ReleaseError(
            f"{published} was not cleaned up to the end: {error}", "give the right to write, then run again; nothing is half removed"
        ) from error


def judge(published: Path, keep: int, at: dt.datetime) -> tuple[Judged, ...]:
    """Why each release is kept. Raises as `collect`; removes nothing."""
    current = pointer.maybe_current(published)
    served = list(dict.fromkeys(entry.release for entry in reversed(current.served))) if current else []
    why: dict[str, list[str]] = {release: [] for release in pointer.ids(published)}
    if current:
        why[current.release].append("served now")
    for place, release in enumerate([release for release in served if release in why][:keep]):
        if place:
            why[release].append(f"among the {keep} served last")
    published_at: dict[str, str] = {}
    for release in why:
        try:
            published_at[release] = str(manifest.read(_folder(published, release))["published_at"])
        except ReleaseError as error:
            why[release].append(f"cannot be read: {error.what}")
    never = sorted((release for release in published_at if release not in served), key=lambda release: published_at[release])
    for release in never[-keep:]:
        why[release].append(f"among the {keep} published last that never were served")
    for pin in pins.read(published):
        if pin.release in why:
            why[pin.release].append(str(pin))
    for release, held in leases.live(published, at).items():
        if release in why:
            why[release] += [f"leased by {lease}" for lease in held]
    return tuple(Judged(release, tuple(reasons)) for release, reasons in why.items())


def remove(published: Path, release: str, at: dt.datetime, by: str) -> None:
    """Remove one release for a reason of its own, whatever `collect` would say of it; the caller holds the publisher's lock.

    Args:
        by: who removes it, for the errors of those who look for it, e.g. "kar forget".

    Raises:
        ReleaseNotFound: no such release.
        ReleaseError: CURRENT serves it, or a reader has leased it.
    """
    pointer.folder_of(published, release)
    with leases.keeping(published, alone=True):
        current = pointer.maybe_current(published)
        if current is not None and current.release == release:
            raise ReleaseError(f"{release} is served now and cannot be removed", "promote another first")
        if held := leases.live(published, at).get(release):
            raise ReleaseError(f"{release} is leased by {held[0]}", "wait for the reader, then run again")
        _hide(published, release)
    _delete_hidden(published, at, by)


def _folder(published: Path, release: str) -> Path:
    return layout.releases_folder(published) / release


def _hide(published: Path, release: str) -> Path:
    """One step takes the release from every reader that has not opened it; who has mapped its files keeps them."""
    path = _folder(published, release)
    hidden = path.with_name(f".{release}.{uuid.uuid4().hex[:8]}{_HIDDEN}")
    path.rename(hidden)
    durable.sync_folder(hidden.parent)
    return hidden


def _delete_hidden(published: Path, at: dt.datetime, by: str = "kar release collect") -> None:
    for path in sorted(layout.releases_folder(published).glob(f".*{_HIDDEN}")):
        shutil.rmtree(path)
        release = path.name.removeprefix(".").removesuffix(_HIDDEN).rpartition(".")[0]
        line = json.dumps({"release": release, "removed_at": manifest.to_text(at), "by": by})
        with contextlib.suppress(OSError), pointer.gone_path(published).open("a", encoding="utf-8") as stream:  # a courtesy to later errors
            stream.write(line + "\n")


def _freed(folders: list[Path]) -> int:
    """Bytes of the files all of whose links lie in these folders."""
    links: dict[tuple[int, int], int] = {}
    found: dict[tuple[int, int], os.stat_result] = {}
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        stat = path.stat()
        key = (stat.st_dev, stat.st_ino)
        links[key] = links.get(key, 0) + 1
        found[key] = stat
    return sum(stat.st_size for key, stat in found.items() if links[key] >= stat.st_nlink)
