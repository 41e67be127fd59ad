"""Compacts copies of a ledger in processes of their own and kills each of them one line of code later than the one before.

Run as a program: python -m tests.llm.ledger.kill LEDGER COPIES. Copies are named by the line event they died at.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import kar.llm.ledger
from kar.llm.ledger import Ledger
from tests.llm.ledger.rows import answer

_WATCHED = str(Path(kar.llm.ledger.__file__).with_name("compact.py"))


def die_at(event: int) -> None:
    """From now on, the `event`th line of the compaction is the last one."""
    seen = 0

    def trace(frame: FrameType, kind: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != _WATCHED:
            return None
        if kind == "line":
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def compact_and_die(folder: Path, event: int) -> None:
    """One row more, then the compaction."""
    ledger = Ledger.open(folder)
    ledger.put(answer("last"))
    ledger.flush()
    die_at(event)
    ledger.compact()
    sys.settrace(None)
    ledger.close()


def main(template: Path, copies: Path, step: int) -> int:
    """Kill until a compaction gets to its end; returns how many were killed."""
    for event in range(1, 100_000, step):
        folder = copies / f"{event:05d}"
        shutil.copytree(template, folder)
        child = os.fork()
        if child == 0:
            compact_and_die(folder, event)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            return 0 if os.waitstatus_to_exitcode(status) == 0 else 1
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
