"""Releases wherever they lie: in a folder, or in an object store at `s3://bucket/prefix`. A folder is handed on to the room's own functions.

    publish     staged and verified on this machine, sent file by file, the manifest last, then CURRENT by compare-and-swap
    open, join  CURRENT is read once; files are fetched when they are first asked for, their digests verified, and memory-mapped
    the rest    the function for folders runs on a checkout, and what it changed goes back on condition (see `remote_checkout`);
                `looked` and `changed` do that for any function of a published folder

In a store no step renames anything, and a publisher that dies at any instant leaves CURRENT as it was.
"""

from __future__ import annotations

import atexit
import datetime as dt
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from kar.errors import ReleaseBusy, ReleaseCorrupt, ReleaseNotFound
from kar.release import audit, layout, manifest, pointer
from kar.release.remote_checkout import Checkout, fetcher, require_release
from kar.release.remote_place import S3Place

if TYPE_CHECKING:
    import pyarrow as pa

    from kar.release.asof import Clock, Joined
    from kar.release.collect import Collected
    from kar.release.publish import Published
    from kar.release.reader import Release
    from kar.release.rows import Facts, SideRows
    from kar.release.shelf import Listed, Service

T = TypeVar("T")
Where = str | Path
_TRIES = 5
_AT_WORK = dt.timedelta(days=1)  # no publisher sends one release for longer


def is_remote(path: Where) -> TypeGuard[str]:
    return isinstance(path, str) and "://" in path


def open_release(uri: str, as_of: dt.datetime | None = None, *, verify: bool = False, lease_s: float | None = None) -> Release:
    """As `reader.open_release`; `verify` recomputes the digests of what lies on this machine, and fetches all that does not."""
    from kar.release import reader

    published, release = _split(uri)
    store = _kept(Checkout(published))
    with store.told():
        if release is None:
            store.pull_current()
            current = pointer.read_current(store.folder)
            served = current.release if as_of is None else current.at(manifest.in_utc(as_of))
            if served is not None and served != current.release:
                store.pull_manifest(served)
        else:
            served = release
            require_release(store, release)
        if verify and served is not None:
            for file in _files(store, served).values():
                store.cache.recheck(file["sha256"], uri)
            store.pull_files(served)
        return reader.open_release(
            store.folder if release is None else layout.releases_folder(store.folder) / release, as_of, verify=verify
        )


def join(releases_path: Where, examples: pa.Table, clock: Clock = "published", **how: Any) -> Joined:
    """As `asof.join`, also of a uri."""
    from kar.release import asof

    with reading(releases_path) as folder:
        return asof.join(folder, examples, clock, **how)


@contextmanager
def reading(releases_path: Where) -> Iterator[Path]:
    """A published folder, or for a uri one in which whatever was ever served opens as it lies there, until the process ends."""
    if not is_remote(releases_path):
        yield Path(releases_path)
        return
    store = _kept(Checkout(_published(releases_path)))
    with store.told():
        store.pull_current()
        for served in {entry.release for entry in pointer.read_current(store.folder).served}:
            store.pull_manifest(served)
        yield store.folder


def verify(path: Where) -> dict[str, Any]:
    """As `audit.verify`; in a store every object is read again, whatever lies on this machine."""
    if not is_remote(path):
        return audit.verify(path)
    published, release = _split(path)
    store = Checkout(published)
    try:
        with store.told():
            if release is None:
                release = store.pull_current() or pointer.read_current(store.folder).release
            else:
                require_release(store, release)
            return audit.verify(store.pull_files(release, fresh=True))
    finally:
        store.close()


def list_releases(path: Where, at: dt.datetime | None = None) -> list[Listed]:
    """As `shelf.list_releases`, also of a uri."""
    from kar.release import shelf

    return looked(path, lambda folder: shelf.list_releases(folder, at))


def collect(published: Where, keep: int | None = None, *, at: dt.datetime | None = None, dry_run: bool = False, **how: Any) -> Collected:
    """As `collect.collect`, also in a store; there a release that was leased while it was being removed goes back.

    What a publisher that died more than a day ago left in a store goes too.
    """
    from kar.release.collect import KEEP
    from kar.release.collect import collect as collect_folder

    at, keep = at or dt.datetime.now(dt.UTC), KEEP if keep is None else keep
    if not is_remote(published):
        return collect_folder(published, keep, at=at, dry_run=dry_run, **how)
    place = S3Place(_published(published))
    lying = place.names(layout.releases_folder(Path()).name)
    found = changed(published, lambda folder: collect_folder(folder, keep, at=at, dry_run=dry_run, **how))
    freed = sum(there.bytes for name, there in lying.items() if name.split("/")[1] in found.removed)
    if not dry_run:
        store = Checkout(place.uri)
        try:
            for name in store.abandoned(at - _AT_WORK):
                place.delete(name)
                freed += lying[name].bytes if name in lying else 0
        finally:
            store.close()
    return replace(found, freed_bytes=freed)


def promote(path: Where, release: str, at: dt.datetime | None = None, **how: Any) -> dict[str, Any]:
    """As `shelf.promote`, also in a store. Raises ReleaseBusy if CURRENT was moved while the release was being verified."""
    from kar.release import shelf

    return _serve(path, release, lambda folder: shelf.promote(folder, release, at, **how))


def rollback(path: Where, release: str, at: dt.datetime | None = None, **how: Any) -> dict[str, Any]:
    """As `shelf.rollback`, also in a store. Raises as `promote`."""
    from kar.release import shelf

    return _serve(path, release, lambda folder: shelf.rollback(folder, release, at, **how))


def publish(published: Where, sides: tuple[SideRows, SideRows], facts: Facts, **how: Any) -> Published:
    """As `publish.publish`, also to a store. The result's `path` is then the staged copy on this machine, there until the process ends.

    Raises:
        ReleaseBusy: another publisher moved CURRENT meanwhile; the release lies there and is not served.
    """
    from kar.release.publish import publish as publish_to_folder

    if not is_remote(published):
        return publish_to_folder(Path(published), sides, facts, **how)
    store = _kept(Checkout(_published(published)))
    with store.told():
        store.place.require_writer()
        serving = parent = store.pull_current()
        if parent is not None:
            try:
                store.pull_files(parent)
            except ReleaseCorrupt:
                parent = None  # nothing of a damaged release is handed on: everything is written and sent anew
        before = _current_bytes(store)
        made = publish_to_folder(store.folder, sides, facts, **how)
        name = made.path.name
        is_new = name != serving and store.push_release(name, parent)
        if not is_new and name != serving:  # the same content lies there from another publication: serve that one
            _stage_theirs(store, name, before)
            made = publish_to_folder(store.folder, sides, facts, **how)
        if made.is_promoted:
            store.push_current(name)
        return replace(made, is_new=is_new)


@contextmanager
def looking(where: Where, *, files: bool = False) -> Iterator[Path]:
    """A published folder, or for a uri one that reads as what lies there did at this moment, gone at the end.

    Args:
        files: also the files of the release that is served, for who reads them by path; else they come when a `Release` asks for them.
    """
    if not is_remote(where):
        yield Path(where)
        return
    store = Checkout(_published(where))
    try:
        with store.told():
            store.pull_state()
            if files and (served := store.pull_current()) is not None:
                store.pull_files(served)
            yield store.folder
    finally:
        store.close()


def looked(where: Where, look: Callable[[Path], T]) -> T:
    """What a function that changes nothing says of a published folder or uri."""
    with looking(where) as folder:
        return look(folder)


def service(where: Where, release: str) -> Service:
    """As `shelf.service`, also of a uri."""
    from kar.release import shelf

    return looked(where, lambda folder: shelf.service(folder, release))


def changed(where: Where, change: Callable[[Path], T]) -> T:
    """Run a function that changes pins, leases or which releases are kept, on a published folder or uri.

    In a store it is run again if somebody else changed something before its changes were there: of a folder that it removed nothing is
    removed in the store unless CURRENT, pins and leases are still what it saw.

    Raises:
        ReleaseBusy: that happened too often.
    """
    if not is_remote(where):
        return change(Path(where))
    for _ in range(_TRIES):
        store = Checkout(_published(where))
        try:
            with store.told():
                store.place.require_writer()
                store.pull_state()
                result = change(store.folder)
                if store.push_state():
                    return result
        finally:
            store.close()
    raise ReleaseBusy(f"others changed {where} {_TRIES} times while this was decided; nothing was removed", "run again")


def _serve(path: Where, release: str, move: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    if not is_remote(path):
        return move(Path(path))
    store = Checkout(_published(path))
    try:
        with store.told():
            store.place.require_writer()
            store.pull_current()
            require_release(store, release)
            store.pull_files(release, fresh=True)
            found = move(store.folder)
            store.push_current(release)
            return found
    finally:
        store.close()


def _stage_theirs(store: Checkout, release: str, before: bytes | None) -> None:
    """Put what lies in the store in the place of what was staged, and CURRENT as it was."""
    shutil.rmtree(layout.releases_folder(store.folder) / release)
    require_release(store, release)
    store.pull_files(release, fresh=True)
    current = layout.current_path(store.folder)
    if before is None:
        current.unlink(missing_ok=True)
    else:
        current.write_bytes(before)


def _current_bytes(store: Checkout) -> bytes | None:
    path = layout.current_path(store.folder)
    return path.read_bytes() if path.exists() else None


def _files(store: Checkout, release: str) -> dict[str, dict[str, Any]]:
    found = fetcher(layout.releases_folder(store.folder) / release)
    return found.files if found else {}


def _split(uri: str) -> tuple[str, str | None]:
    """s3://bucket/prefix/releases/<id> is one release of s3://bucket/prefix."""
    head, separator, release = uri.rstrip("/").rpartition(f"/{layout.releases_folder(Path()).name}/")
    return (head, release) if separator and "/" not in release else (uri, None)


def _published(uri: str) -> str:
    published, release = _split(uri)
    if release is not None:
        raise ReleaseNotFound(f"{uri} is one release", f"name the published place: {published}")
    return published


def _kept(store: Checkout) -> Checkout:
    """What is opened may be read until the process ends."""
    atexit.register(store.close)
    return store
