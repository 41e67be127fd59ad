"""Run one command on a leash: it and what it started die with whoever started it, however that died. Standard library only.

    python leash.py PARENT_PID GRACE_S COMMAND...

A task of Airflow may be killed with SIGKILL (out of memory, a worker lost). Its kar would go on asking and writing beside
the retry. So the task starts this, in a session of its own; the kernel tells it when the task is gone (Linux), and it ends
the command's whole process group: SIGTERM, and SIGKILL after the grace. Without prctl (macOS) an orderly stop ends the
command too, only SIGKILL of the task does not.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

_PR_SET_PDEATHSIG = 1
_SIGNALLED = 128


def main(arguments: list[str]) -> int:
    """Run the command; its exit code, 128 + the signal that ended it."""
    parent, grace_s, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    _die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        return _SIGNALLED + signal.SIGTERM
    child = None
    try:
        # this process has one thread, so a preexec_fn is safe here; it covers the case that the leash itself is killed
        child = subprocess.Popen(command, preexec_fn=lambda: _die_with_parent(signal.SIGKILL))
        code = child.wait()
    except _Stopped:
        _end(child, grace_s)
        return _SIGNALLED + signal.SIGTERM
    return code if code >= 0 else _SIGNALLED - code


class _Stopped(BaseException):
    """A signal came: raised out of wait()."""


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise _Stopped


def _end(child: subprocess.Popen[bytes] | None, grace_s: float) -> None:
    """End the process group: the child in order if it can within the grace, whatever is left of the group by force."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while child is not None and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(0, signal.SIGKILL)  # this process with it


def _die_with_parent(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
