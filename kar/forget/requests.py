"""A folder of requests to be forgotten, worked off: `user.txt` and `item.txt`, one id a line, to which others append meanwhile.

A line is taken when it is ended: half of an id may be somebody else's. What is done is overwritten in its place with line ends, so that an id
leaves the disk and no line that was appended meanwhile is lost, as it could be if the file were written anew. Empty lines mean nothing.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass, field
from pathlib import Path

from kar.errors import SourceError
from kar.forget.forgetting import Named, forget_known
from kar.forget.receipt import Receipt
from kar.forget.subjects import SIDES, Subjects, subjects_of
from kar.settings import Settings
from kar.store import Home
from kar.store.forgotten import Side
from kar.store.locking import locked

_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class _Line:
    """One ended line of a file. `is_id` False: it is no id of the scenario's type; `subject_id` is then what it says."""

    side: Side
    path: Path
    start: int
    data: bytes
    subject_id: str
    is_id: bool


@dataclass
class WorkedOff:
    """What came of a folder of requests.

    Args:
        receipt: of those that were known; None: there were none.
        done: lines that left the files.
        unknown: ids that nothing knows, and lines that are no ids; they stay.
        waiting: lines that stay for the next time: a release is leased, a file is not ended.
    """

    receipt: Receipt | None = None
    done: int = 0
    unknown: list[Named] = field(default_factory=list)
    waiting: int = 0


def work_off(settings: Settings, home: Home, folder: Path, now: dt.datetime, *, is_dry: bool = False) -> WorkedOff:
    """Forget whom the folder names. Killed midway, the next call goes on: an id leaves its file when all about it is gone.

    Args:
        folder: with user.txt, item.txt, or neither.
        is_dry: say what would be touched; nothing is written.

    Raises:
        SourceError: there is no such folder, or a file cannot be read.
        AlreadyRunning: another process works the folder off; or as `forget`. And as `forget` but for the unknown, which are told.
    """
    if not folder.is_dir():
        raise SourceError(f"there is no folder {folder}", "make it, or name the one that requests are written to")
    with locked(folder / ".kar.lock", f"another process works off {folder}", "wait for it"):
        lines, open_ends = _lines(settings, folder)
        known = [line for line in lines if line.is_id]
        told = WorkedOff(unknown=[(line.side, line.subject_id) for line in lines if not line.is_id], waiting=open_ends)
        wanted = {side: frozenset(line.subject_id for line in known if line.side == side) for side in SIDES}
        if not known:
            return told
        told.receipt, unknown = forget_known(settings, home, Subjects(wanted["user"], wanted["item"]), now, is_dry=is_dry)
        told.unknown += unknown
        left = [line for line in known if (line.side, line.subject_id) not in set(unknown)]
        if told.receipt is None or is_dry:
            return told
        if told.receipt.is_complete:
            told.done = sum(_blank(line) for line in left)
        told.waiting += len(left) - told.done
        return told


def _lines(settings: Settings, folder: Path) -> tuple[list[_Line], int]:
    """The ended lines of both files that hold something, and how many lines have no end yet."""
    found, open_ends = list[_Line](), 0
    for side in SIDES:
        path, start = folder / f"{side}.txt", 0
        try:
            with path.open("r+b") as stream:  # to write it, so that nobody is forgotten whose line could not leave
                pieces = stream.read().split(b"\n")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SourceError(f"{path} cannot be opened: {error}", "give the right to read and write it") from error
        for piece in pieces[:-1]:
            text = piece.removeprefix(_MARK).rstrip(b"\r").decode("utf-8", "replace")
            if text.strip():
                found.append(_Line(side, path, start, piece, *_id(settings, side, text)))
            start += len(piece) + 1
        open_ends += bool(pieces[-1].strip())
    return found, open_ends


def _id(settings: Settings, side: Side, text: str) -> tuple[str, bool]:
    """The id that a line names, and whether it is one."""
    try:
        one = subjects_of(settings, [text] if side == "user" else [], [text] if side == "item" else [])
    except SourceError:
        return text, False
    return next(iter(one.of(side))), "\ufffd" not in text


def _blank(line: _Line) -> bool:
    """Overwrite a line in its place; False if something else stands there by now."""
    handle = os.open(line.path, os.O_RDWR)
    try:
        if os.pread(handle, len(line.data), line.start) != line.data:
            return False
        os.pwrite(handle, b"\n" * len(line.data), line.start)
        os.fsync(handle)
        return True
    finally:
        os.close(handle)
