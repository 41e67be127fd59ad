"""Writing that survives a crash: digests taken while writing, fsync of files and folders, one publisher at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FICLONE = 0x40049409  # linux/fs.h: let one file share the blocks of another


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
def publisher_lock(published: Path) -> Iterator[None]:
    """Wait until this process is the only one that writes below `published`. The kernel lets go when a process dies."""
    published.mkdir(parents=True, exist_ok=True)
    with (published / ".publish.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def file_sha(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
