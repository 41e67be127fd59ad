"""Files of releases that were fetched once, on this machine, by digest: what two releases share lies here once.

`$KAR_CACHE`, else `$XDG_CACHE_HOME/kar`, else `~/.cache/kar`. Anybody may delete any of it at any time: it is fetched again. It is kept
below `$KAR_CACHE_BYTES` (default 20 GiB) by forgetting what was used longest ago; what was used in the last ten minutes stays, so that
nobody's file vanishes between being found and being opened. A file that is mapped outlives its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from kar.errors import ReleaseCorrupt, ReleaseError
from kar.release import durable
from kar.release.remote_place import Sink

DEFAULT_BYTES = 20 << 30
_IN_USE_S = 600.0
_STALE_S = 2 * 86_400.0
_SHA = re.compile(r"^[0-9a-f]{64}$")


class Cache:
    """Objects by sha256, and scratch folders on the same file system, so that both can be links to one file."""

    def __init__(self, root: Path | None = None, limit: int | None = None) -> None:
        self.root = root or _root()
        self.limit = limit if limit is not None else _limit()
        self.objects = self.root / "objects"

    def file(self, sha: str, size: int, where: str, fetch: Callable[[Sink], None], *, fresh: bool = False) -> Path:
        """The file with that digest, fetched if it is not here.

        Args:
            where: the object's uri, for the message.
            fetch: writes its bytes.
            fresh: fetch it even if it is here, because what is in the store is to be checked.

        Raises:
            ReleaseCorrupt: what came has another size or digest; it is not kept.
            ReleaseError: this machine's disk refuses.
        """
        path = self._path(sha, where)
        try:
            if not fresh and path.stat().st_size == size:
                os.utime(path)
                return path
        except FileNotFoundError:
            pass
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{uuid.uuid4().hex}.partial")
            try:
                with durable.HashingFile(partial) as stream:
                    fetch(stream)
                _require(where, size, sha, stream)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except FileNotFoundError as error:
            raise ReleaseCorrupt(f"{where} is missing, although the manifest names it", _DO) from error
        except OSError as error:
            raise ReleaseError(
                f"{where} could not be kept in {self.root}: {error}", "make room, or name another folder by KAR_CACHE"
            ) from error
        self.trim(path)
        return path

    def small(self, sha: str) -> bytes | None:
        """The bytes with that digest, if they are here and still have it."""
        try:
            data = self._path(sha, sha).read_bytes()
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha else None

    def recheck(self, sha: str, where: str) -> None:
        """Forget a file that is no longer what it was when it was fetched."""
        path = self._path(sha, where)
        if path.exists() and durable.file_sha(path) != sha:
            path.unlink(missing_ok=True)

    def keep(self, path: Path, sha: str) -> None:
        """Take a verified file into the cache under its digest, without a copy where the file system can, or leave it."""
        target = self._path(sha, str(path))
        with contextlib.suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            link(path, target)

    def scratch(self) -> Path:
        """A new private folder; those that killed processes left behind are removed."""
        folder = self.root / "scratch"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.iterdir():
                with contextlib.suppress(OSError):
                    if time.time() - left.stat().st_mtime > _STALE_S:
                        shutil.rmtree(left)
            mine = folder / uuid.uuid4().hex[:12]
            mine.mkdir()
        except OSError as error:
            raise ReleaseError(f"{self.root} cannot be written: {error}", "name a folder by KAR_CACHE") from error
        return mine

    def trim(self, keep: Path | None = None) -> None:
        """Delete what was used longest ago until the rest fits."""
        found = []
        for path in self.objects.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for used, size, path in sorted(found):
            if total <= self.limit or time.time() - used < _IN_USE_S:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size

    def _path(self, sha: str, where: str) -> Path:
        if not _SHA.match(sha):
            raise ReleaseCorrupt(f"{where}: its manifest gives {sha[:80]!r} for a sha256", _DO)
        return self.objects / sha[:2] / sha


_DO = "do not use it; publish again, or serve another: kar release rollback ID"


def link(source: Path, target: Path) -> None:
    """One file under two names, or a copy where the file system cannot. Raises FileExistsError."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        partial = target.with_name(f".{uuid.uuid4().hex}.partial")
        shutil.copyfile(source, partial)
        partial.replace(target)


def _require(where: str, size: int, sha: str, found: durable.HashingFile) -> None:
    if found.bytes != size:
        raise ReleaseCorrupt(f"{where}: bytes should be {size}, found {found.bytes}", _DO)
    if found.sha256 != sha:
        raise ReleaseCorrupt(f"{where}: the sha256 should be {sha}, found {found.sha256}", _DO)


def _root() -> Path:
    if chosen := os.environ.get("KAR_CACHE"):
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kar"


def _limit() -> int:
    text = os.environ.get("KAR_CACHE_BYTES") or str(DEFAULT_BYTES)
    if not text.isdecimal():
        raise ReleaseError(f"KAR_CACHE_BYTES is {text!r}", "set it to a number of bytes")
    return int(text)
