"""Run a command so that it cannot outlive its parent, however the parent ends. Standard library only; run by path.

    python -I guard.py COMMAND…        stdin: a pipe whose other end only the parent holds

The guard leads a process group of its own, with the command in it. The group is killed when the pipe closes (the
parent ended: return, exception, SIGKILL), when the parent's id changes, on SIGTERM or SIGINT, and when the command
ends. On Linux the kernel kills the command if the guard itself is killed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_GRACE_S = 3.0
_LOOK_EVERY_S = 0.25
_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
    parent = os.getppid()
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def die_with_guard() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_guard)
    while child.poll() is None and not ended and os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], _LOOK_EVERY_S)
        if readable and not os.read(sys.stdin.fileno(), 1024):
            break
    code = child.poll()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(os.getpgrp(), signal.SIGTERM)  # the command, and what it started
    if code is None:
        _wait(child, _GRACE_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)  # the guard too
    return code if code is not None and code >= 0 else 1


def _wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    until = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
