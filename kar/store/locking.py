"""Locks between processes: the kernel lets go of one when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from kar.errors import AlreadyRunning


@contextlib.contextmanager
def locked(path: Path, what: str, do: str, *, is_shared: bool = False) -> Iterator[None]:
    """Hold a lock file, without waiting. Makes the folder.

    Args:
        what, do: of the error, where another process holds it.
        is_shared: beside others who share it, never beside one who does not.

    Raises:
        AlreadyRunning: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            raise AlreadyRunning(what, do) from error
        yield
