"""A private local folder that reads as the published folder in a store did at one moment; what a function changes in it goes back.

So that every rule about releases (which may be promoted, what a pin keeps, what a lease holds) is written once, for folders. A checkout
begins with nothing but the uri it came from; `pull_…` brings what is needed. What goes back is put on the condition that it is still what
was pulled: of two who change the same thing one wins, and the other is told.

In the store a release lies as
    releases/<id>/manifest.json                           put last, and only if there is none
    releases/<id>/<first 12 hex of its sha256>/<file>     what it binds; two publishers of one release never write the same object
and everything else (CURRENT, pins, leases) under the name it has in a folder.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from kar.errors import KarError, ReleaseBusy, ReleaseCorrupt, ReleaseError, ReleaseNotFound
from kar.release import layout, manifest
from kar.release.remote_cache import Cache, link
from kar.release.remote_place import Held, S3Place

ORIGIN = ".remote"  # in a checkout: the uri it came from
CURRENT = layout.current_path(Path()).name
_AT_ONCE = 8


@dataclass(frozen=True)
class Fetcher:
    """Fetches files of one release when they are first asked for; a reader's hands. Pickles, so that workers may have one."""

    uri: str
    release: str
    folder: str
    files: dict[str, dict[str, Any]]

    def __call__(self, name: str, *, fresh: bool = False) -> Path:
        """Where the file lies now, its digest verified when it came."""
        place, file, key = S3Place(self.uri), self.files[name], f"{self.folder}/{name}"
        where = f"{self.uri}/{key}"
        return Cache().file(file["sha256"], file["bytes"], where, partial(place.fetch, key), fresh=fresh)


def fetcher(folder: Path) -> Fetcher | None:
    """For a release's folder inside a checkout; None for any other."""
    origin = folder.parent.parent / ORIGIN
    try:
        uri = origin.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    data = (folder / layout.MANIFEST).read_bytes()
    found = manifest.read(folder)
    return Fetcher(uri, folder.name, files_folder(folder.name, data), _safe_files(folder, found))


def files_folder(release: str, manifest_bytes: bytes) -> str:
    return f"{release_folder(release)}/{hashlib.sha256(manifest_bytes).hexdigest()[:12]}"


class Checkout:
    """One moment of a published place.

    Args:
        folder: reads like a published folder, as far as it was pulled.
    """

    def __init__(self, uri: str) -> None:
        self.place = S3Place(uri)
        self.cache = Cache()
        self.folder = self.cache.scratch()
        self._pulled: dict[str, Held] = {}
        layout.releases_folder(self.folder).mkdir()
        (self.folder / ORIGIN).write_text(self.place.uri, encoding="utf-8")

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Errors name the uri, not the private folder; what this machine's disk says is said of its folder."""
        try:
            yield
        except KarError as error:
            what, do = (text.replace(str(self.folder), self.place.uri) for text in (error.what, error.do))
            if (what, do) == (error.what, error.do):
                raise
            raise type(error)(what, do) from error
        except OSError as error:
            raise ReleaseError(
                f"nothing was changed in {self.place.uri}: this machine cannot keep what it needs of it: {error}",
                "make room, or name another folder by KAR_CACHE",
            ) from error

    def pull_current(self) -> str | None:
        """CURRENT as it lies there, with its release's manifest; returns the release it names, None without one or if it is damaged."""
        held = self._pull(CURRENT)
        if held is None:
            return None
        try:
            told = json.loads(held.data)
            release, sha = str(told["release"]), str(told["manifest_sha256"])
        except (ValueError, KeyError, TypeError):
            return None  # the reader of CURRENT will say what is wrong with it
        return release if self.pull_manifest(release, sha) else None

    def pull_manifest(self, release: str, sha: str | None = None) -> bool:
        """A release's manifest; false if there is none. With its digest known it is taken from this machine where it lies here."""
        if not _is_plain(release):
            return False
        name = f"{release_folder(release)}/{layout.MANIFEST}"
        if sha and (data := self.cache.small(sha)) is not None:
            _write(self.folder / name, data)
            return True
        held = self._pull(name)
        if held is not None:
            self.cache.keep(self.folder / name, hashlib.sha256(held.data).hexdigest())
        return held is not None

    def pull_state(self) -> None:
        """Everything but what manifests bind: CURRENT, every manifest, pins, leases."""
        wanted = [name for name in self.place.names() if not _is_bound(name)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._pull, wanted))

    def pull_files(self, release: str, *, fresh: bool = False) -> Path:
        """All files of a release whose manifest was pulled.

        Args:
            fresh: read every object again instead of trusting what was verified before on this machine.

        Raises:
            ReleaseCorrupt: the first object that is missing, cut or changed; its uri.
        """
        folder = layout.releases_folder(self.folder) / release
        fetch = fetcher(folder)
        assert fetch is not None
        for name in fetch.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_AT_ONCE // 2) as pool:
            for name, path in zip(fetch.files, pool.map(partial(fetch, fresh=fresh), fetch.files), strict=True):
                (folder / name).unlink(missing_ok=True)
                link(path, folder / name)
        return folder

    def push_release(self, release: str, parent: str | None) -> bool:
        """Upload a release that was verified here, its manifest last.

        Objects that the parent holds with the same digest are copied within the store, the others sent.

        Returns:
            False if the release lies there already, from another publication of the same content; nothing is left of ours then.
        """
        key = f"{release_folder(release)}/{layout.MANIFEST}"
        if self.place.read(key) is not None:
            return False
        folder = layout.releases_folder(self.folder) / release
        data, files = (folder / layout.MANIFEST).read_bytes(), manifest.files(manifest.read(folder))
        base, held = files_folder(release, data), self._objects_of(parent)

        def put(name: str) -> None:
            source = held.get(files[name]["sha256"])
            if source is None or not self.place.copy(source, f"{base}/{name}", files[name]["bytes"]):
                self.place.send(folder / name, f"{base}/{name}")
            self.cache.keep(folder / name, files[name]["sha256"])

        with ThreadPoolExecutor(_AT_ONCE // 2) as pool:
            list(pool.map(put, files))
        lying = self.place.names(base)
        for name, file in files.items():
            there = lying.get(f"{base}/{name}")
            if there is None or there.bytes != file["bytes"]:
                raise ReleaseCorrupt(
                    f"{self.place.uri}/{base}/{name}: {file['bytes']} bytes were sent, the store holds {there.bytes if there else 'nothing'}",
                    "publish again; nothing was promoted",
                )
        if self.place.replace_if(key, data, None) or self._lies(key, data):
            self.cache.keep(folder / layout.MANIFEST, hashlib.sha256(data).hexdigest())
            return True
        for name in lying:
            self.place.delete(name)
        return False

    def push_current(self, release: str) -> bool:
        """Put CURRENT back if it was moved here; returns whether it was.

        Raises:
            ReleaseBusy: somebody else moved it since it was pulled; says who won.
        """
        data, before = layout.current_path(self.folder).read_bytes(), self._pulled.get(CURRENT)
        if before is not None and before.data == data:
            return False
        if self.place.replace_if(CURRENT, data, before.tag if before else None) or self._lies(CURRENT, data):
            return True
        raise ReleaseBusy(
            f"CURRENT in {self.place.uri} was moved meanwhile: {self._winner()}; {release} lies there and is not served",
            f"look at what is served now, then: kar release promote {release}",
        )

    def push_state(self) -> bool:
        """Put back what was changed, then remove what was removed: releases from their manifest on, so that none is ever seen half.

        Returns:
            False if anything is no longer what was pulled: the caller decides again on a new checkout.
        """
        lying = {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}
        mine = {name: path.read_bytes() for name, path in lying.items() if not _is_hidden(name) and not _is_bound(name)}
        for name, data in mine.items():
            before = self._pulled.get(name)
            if before is None or before.data != data:
                is_put = self.place.replace_if(name, data, before.tag if before else None) or self._lies(name, data)
                if not is_put:
                    return False
        gone = sorted(name for name in self._pulled if name not in mine)
        if not gone:
            return True
        if not self._is_still({*mine, *gone}):
            return False
        for name in gone:
            self.place.delete(name)
        if not self._is_still({*mine}):  # somebody came between our look and our hand: a lease put there since must hold
            for name in gone:
                self.place.replace_if(name, self._pulled[name].data, None)
            return False
        for name in gone:
            if name.endswith(f"/{layout.MANIFEST}"):
                for bound in self.place.names(str(PurePosixPath(name).parent)):
                    self.place.delete(bound)
        return True

    def abandoned(self, before: dt.datetime) -> list[str]:
        """Objects of releases that no manifest binds: of publishers that died, or are at work still if they were put after `before`."""
        folder = layout.releases_folder(Path()).name
        lying = self.place.names(folder)
        bound = set()
        for name in lying:
            if not _is_bound(name) and (held := self.place.read(name)) is not None:
                bound.add(files_folder(PurePosixPath(name).parts[1], held.data))
        return [
            name
            for name, there in lying.items()
            if _is_bound(name) and "/".join(PurePosixPath(name).parts[:3]) not in bound and there.written_at < before
        ]

    def _is_still(self, expected: set[str]) -> bool:
        """Whether nobody took a lease, set a pin, moved CURRENT or published since this was pulled, but for what was put from here."""
        if {name for name in self.place.names() if not _is_bound(name)} != expected:
            return False
        for name in expected:
            if not name.endswith(f"/{layout.MANIFEST}"):
                local, held = self.folder / name, self.place.read(name)
                data = local.read_bytes() if local.is_file() else self._pulled[name].data
                if held is None or held.data != data:
                    return False
        return True

    def _pull(self, name: str) -> Held | None:
        held = self.place.read(name)
        if held is not None:
            self._pulled[name] = held
            _write(self.folder / name, held.data)
        return held

    def _objects_of(self, release: str | None) -> dict[str, str]:
        """sha256 → object, of a release whose manifest was pulled."""
        fetch = fetcher(layout.releases_folder(self.folder) / release) if release else None
        return {file["sha256"]: f"{fetch.folder}/{name}" for name, file in fetch.files.items()} if fetch else {}

    def _lies(self, name: str, data: bytes) -> bool:
        """Whether our own bytes lie there: a put whose answer was lost is sent again, and refused because it had worked."""
        held = self.place.read(name)
        return held is not None and held.data == data

    def _winner(self) -> str:
        held = self.place.read(CURRENT)
        try:
            last = json.loads(held.data)["served"][-1] if held else {}
            return f"{last.get('by') or 'another publisher'} made it serve {last['release']} at {last['since']}"
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "by whom cannot be read there"


def release_folder(release: str) -> str:
    """Where a release's manifest lies, relative to the published place."""
    return f"{layout.releases_folder(Path()).name}/{release}"


def _is_bound(name: str) -> bool:
    """Whether a manifest binds it: releases/<id>/<12 hex>/…, or releases/<id>/… in a folder."""
    parts = PurePosixPath(name).parts
    return parts[0] == layout.releases_folder(Path()).name and not (len(parts) == 3 and parts[2] == layout.MANIFEST)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def _is_plain(name: str) -> bool:
    return bool(name) and PurePosixPath(name).name == name and not name.startswith(".")


def _safe_files(folder: Path, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A manifest comes from elsewhere: none of its names may lead out of the release's folder."""
    try:
        files = manifest.files(found)
        bad = [name for name in files if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    except (KeyError, TypeError, AttributeError) as error:
        raise ReleaseCorrupt(
            f"{folder / layout.MANIFEST} is not built as format {found['format']} says: {error!r}", "publish again"
        ) from error
    if bad:
        raise ReleaseCorrupt(f"{folder / layout.MANIFEST} names files outside the release: {bad}", "publish again")
    return files


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def require_release(store: Checkout, release: str) -> None:
    """Raise ReleaseNotFound, naming those that exist, unless the release's manifest can be pulled."""
    if store.pull_manifest(release):
        return
    ids = sorted(
        {
            PurePosixPath(name).parts[1]
            for name in store.place.names(layout.releases_folder(Path()).name)
            if name.endswith(f"/{layout.MANIFEST}")
        }
    )
    raise ReleaseNotFound(
        f"there is no release {release!r} in {store.place.uri}", f"name one of: {', '.join(ids[-10:]) or 'none published'}"
    )
