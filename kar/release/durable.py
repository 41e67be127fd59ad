"""Writing that survives a crash: digests taken while writing, fsync of files and folders, one publisher at a time."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kar.errors import ReleaseBusy

_FICLONE = 0x40049409  # linux/fs.h: let one file share the blocks of another
WAIT_S = 600.0  # for another publisher; `features.publisher_wait_s` says otherwise
_LOOK_EVERY_S = 0.02


class HashingFile(io.RawIOBase):
    """A file being written whose sha256 is known at the end without reading it back; fsynced on close.

    What a later read finds must match this digest, so a disk that lies is noticed.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb", buffering=0)
        self._sha = hashlib.sha256()
        self.bytes = 0

    def write(self, data: Any) -> int:  # a bytes-like object; typing.Buffer needs Python 3.12
        view = memoryview(data).cast("B")
        self._sha.update(view)
        size = len(view)
        while len(view):
            view = view[self._stream.write(view) :]
        self.bytes += size
        return size

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.bytes

    def close(self) -> None:
        if not self.closed:
            try:
                os.fsync(self._stream.fileno())
            finally:
                self._stream.close()
                super().close()

    @property
    def sha256(self) -> str:
        return self._sha.hexdigest()


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`; where the file system has no hard links its blocks are shared, or else copied.

    The file is complete and durable already, and nobody writes into a published file: only its name is new.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOSPC, errno.EROFS):
            raise
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
        except OSError:  # another file system, or one that shares no blocks
            shutil.copyfileobj(reading, writing, 1 << 20)
        writing.flush()
        os.fsync(writing.fileno())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file and fsync it."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Make the names inside a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, data: bytes) -> None:
    """Swap a small file in one step: readers see the old bytes or the new ones, also after a power cut."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    write_bytes(partial, data)
    partial.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def publisher_lock(published: Path, wait_s: float = WAIT_S, doing: str = "publishing") -> Iterator[None]:
    """Be the only process that writes releases below `published`. The kernel lets go when a process dies.

    Args:
        wait_s: how long to wait for another one to finish; 0: not at all.
        doing: what the others are told while they wait.

    Raises:
        ReleaseBusy: another process held it all that time; says which one, where and since when.
    """
    published.mkdir(parents=True, exist_ok=True)
    path = published / ".publish.lock"
    with path.open("a+b") as stream:
        _wait_for(stream, path, wait_s)
        with contextlib.suppress(OSError):  # who holds it is a courtesy; a full disk must not keep anyone from collecting
            stream.truncate(0)
            since = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            stream.write(json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "since": since, "doing": doing}).encode())
            stream.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                stream.truncate(0)


def _wait_for(stream: io.BufferedRandom, path: Path, wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise ReleaseBusy(
                    f"{_holder(path)} in {path.parent}; waited {wait_s:g} s for it",
                    "let it finish, then run again (features.publisher_wait_s)",
                ) from None
            time.sleep(_LOOK_EVERY_S)
        else:
            return


def _holder(path: Path) -> str:
    """Who holds the lock, from what it wrote there; it may be just about to write it, or to let go."""
    try:
        told = json.loads(path.read_bytes())
        return f"process {told['pid']} on {told['host']} has been {told['doing']} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process is publishing"


def file_sha(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
