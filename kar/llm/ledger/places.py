"""Where a ledger's files lie, and on which disks they may not.

ledger/answers.sqlite            the shard "main", while a run goes on
ledger/answers.NAME.sqlite       another shard: one per process that writes
ledger/parts/SHA-SHA.parquet     compacted rows; the name is the digest of the file and that of its footer
"""

from __future__ import annotations

import contextlib
import errno
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from kar.errors import LedgerError

MOUNTS = Path("/proc/mounts")

# SQLite's locks cannot be trusted on these: two writers would not see each other.
_NETWORK = frozenset(
    [
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "orangefs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.davfs", "fuse.juicefs"),
        *("pvfs2", "ocfs2", "gfs2", "ncpfs", "davfs", "fuse.mount-s3"),
    ]
)
_SHARD = re.compile(r"[A-Za-z0-9_-]{1,64}")
RESCUE = (
    "put a copy of it in its place; or save what can be read with: kar ledger export FILE.parquet, move the ledger folder away, "
    "then: kar ledger import FILE.parquet; what cannot be read is asked and paid for again"
)
_MAKE_ROOM = "make room on the disk and run again: every answer that was committed is kept and is not paid for twice"


def shard_path(folder: Path, shard: str) -> Path:
    """The SQLite file of a shard.

    Raises:
        LedgerError: a name that is no plain word.
    """
    if not _SHARD.fullmatch(shard):
        raise LedgerError(f"{shard!r} cannot name a shard of the ledger", "use letters, digits, - and _")
    return folder / ("answers.sqlite" if shard == "main" else f"answers.{shard}.sqlite")


def shard_paths(folder: Path) -> list[Path]:
    """The SQLite files of all shards, by name."""
    return sorted(p for p in folder.glob("answers*.sqlite") if p.name == "answers.sqlite" or p.name.startswith("answers."))


def parts_folder(folder: Path) -> Path:
    return folder / "parts"


def part_paths(folder: Path) -> list[Path]:
    """The Parquet files of all parts, by name; unfinished ones have hidden names."""
    return sorted(p for p in parts_folder(folder).glob("*.parquet") if not p.name.startswith("."))


def file_system_of(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that holds `path`, as the mount table names it; empty where there is no such table."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, best, kind = path.resolve(), -1, ""
    for line in lines:
        words = line.split(" ")
        # the table writes blanks in a path as \040
        point = Path(words[1].encode().decode("unicode_escape")) if len(words) > 2 else None
        if point is not None and place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), words[2]
    return kind


def refuse_network(folder: Path, mounts: Path = MOUNTS) -> None:
    """Raises LedgerError where SQLite's locks do not hold."""
    if (kind := file_system_of(folder, mounts)) in _NETWORK:
        raise LedgerError(
            f"the ledger folder {folder} lies on a network file system ({kind}), where SQLite's locks do not hold",
            "set KAR_HOME to a local disk",
        )


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn what SQLite, Parquet and the system raise about `path` into a LedgerError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise _of_sqlite(path, error) from error
    except pa.ArrowException as error:
        raise LedgerError(f"the ledger's part {path} is damaged: {_first_line(error)}", RESCUE) from error
    except OSError as error:
        if error.errno is None:  # Arrow's own: a page whose checksum differs, a file that ends too early
            raise LedgerError(f"the ledger's part {path} is damaged: {_first_line(error)}", RESCUE) from error
        if error.errno in _NO_ROOM:
            raise LedgerError(f"there is no room to write {path}: {error.strerror}", _MAKE_ROOM) from error
        raise LedgerError(
            f"the ledger {path} cannot be written or read: {error.strerror}", "look at the disk and its permissions"
        ) from error


_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def _of_sqlite(path: Path, error: sqlite3.Error) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return LedgerError(f"there is no room to write the ledger {path}: {error}", _MAKE_ROOM)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or type(error) is sqlite3.DatabaseError:
        return LedgerError(f"the ledger {path} is damaged: {error}", RESCUE)
    return LedgerError(
        f"the ledger {path} cannot be written or read: {error}",
        "look at the disk's space, quota, permissions and health, then run again: every answer that was committed is kept",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
