"""A measured process: what it says, its processor time (wait4) and its highest memory.

Standard library only: the peers' interpreter need not hold kar.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Task = TypeVar("Task")


@dataclass(frozen=True)
class Measured:
    """A process that ended well.

    Args:
        said: its last line of output, a JSON object, without what `report` added.
        cpu_s: user and system time, imports and waited-for children included.
        peak_mb: highest resident memory, 10^6 bytes.
    """

    said: dict[str, Any]
    cpu_s: float
    peak_mb: float


def measure(module: str, task: Mapping[str, Any], python: str = sys.executable) -> Measured:
    """Run `python -m module TASK-AS-JSON`, which ends with `report`, to its end; its messages go to our stderr.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.Popen([python, "-m", module, json.dumps(task)], stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    with process.stdout as output:
        lines = output.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not lines:
        raise RuntimeError(f"python -m {module} ended with code {process.returncode}: {dict(task)}")
    said = json.loads(lines[-1])
    return Measured(said, usage.ru_utime + usage.ru_stime, said.pop("peak_mb"))


def main(task: Callable[..., Task], act: Callable[[Task], Mapping[str, Any]]) -> None:
    """A measured process that may lack a package: do the task that its argument names and report; or report `missing`, the package."""
    try:
        report(act(task(**json.loads(sys.argv[1]))))
    except ImportError as error:
        report({"missing": error.name or str(error)})


def report(said: Mapping[str, Any]) -> None:
    """Say a measured process's last line."""
    print(json.dumps({**said, "peak_mb": _peak_mb()}))


def _peak_mb() -> float:
    """Our own highest resident memory. Not wait4's: that one begins with the memory of the process that started us."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        kib = int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return kib * 1024 / 1e6


def environment() -> dict[str, str]:
    """Ours, without what makes a library ask the network at import."""
    return {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
