"""A killed adaptor stage: the next run does only what is missing, and its tables are those of an unbroken run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kar.store import Home
from tests.model.conftest import make_world, small_settings
from tests.model.test_stage import DATE, run, settings_of

ROOT = Path(__file__).parents[2]


def settings(processes: int) -> Any:
    return settings_of(small_settings(epochs=4, dropout=0.1, arms=["base", "knowledge"], seeds=[1, 2, 3], processes=processes))


def states(home: Home) -> list[Path]:
    return sorted(home.partition("adaptor", DATE).work.glob("*/*.safetensors"))


def killed(home: Home, processes: int) -> list[int]:
    """Run the stage in a process, kill it once it keeps five states. Returns its children's process ids."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.model.test_killed_stage", str(home.root), str(processes)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while len(states(home)) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return [int(child) for child in children]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_stage_redoes_only_what_is_missing_and_makes_the_same_tables(
    tmp_path: Path, processes: int, capfd: pytest.CaptureFixture[str]
) -> None:
    home, unbroken = Home(tmp_path / "killed", "world"), Home(tmp_path / "unbroken", "world")
    expected = run(make_world(), unbroken, settings(processes))
    capfd.readouterr()
    children = killed(home, processes)
    deadline = time.monotonic() + 5
    while any(is_running(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(child) for child in children)
    kept = len(states(home))  # now that no child writes another one
    assert 5 <= kept < 12
    assert not home.partition("adaptor", DATE).exists()

    manifest = run(make_world(), home, settings(processes))
    said = [line for line in capfd.readouterr().err.splitlines() if "goes on" in line]
    assert len(said) == kept
    assert sum("is_finished=True" in line for line in said) >= kept - processes
    assert manifest.figures["checkpoint_shas"] == expected.figures["checkpoint_shas"]
    for table in ("metric", "comparison", "prediction", "epoch"):
        assert manifest.tables[table]["sha"] == expected.tables[table]["sha"], table
    assert not home.partition("adaptor", DATE).work.exists()  # the partition is sealed


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


if __name__ == "__main__":
    run(make_world(), Home(Path(sys.argv[1]), "world"), settings(int(sys.argv[2])))
