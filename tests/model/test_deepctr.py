"""deepctr-torch is imported without its version check."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_PROGRAM = """
import sys, threading
opened, before = [], threading.Thread.start
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
started = []
threading.Thread.start = lambda self: (started.append(self.name), before(self))[1]
import {module}
print("sockets", sorted(set(opened)), "threads", started, "layers", "deepctr_torch.layers.core" in sys.modules)
"""


def _after_importing(module: str) -> str:
    """What a fresh interpreter did while it imported the module: socket events, threads started."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(module=module)], capture_output=True, text=True, env=env, timeout=120, check=True
    )
    return done.stdout


@pytest.mark.slow
def test_importing_the_layers_opens_no_socket_and_starts_no_thread() -> None:
    assert _after_importing("kar.model.deepctr") == "sockets [] threads [] layers True\n"


def test_only_one_module_imports_deepctr_torch() -> None:
    files = sorted((ROOT / "kar").rglob("*.py"))
    naming = [path.name for path in files if "import deepctr_torch" in path.read_text() or "from deepctr_torch" in path.read_text()]
    assert len(files) > 20
    assert naming == ["deepctr.py"]
