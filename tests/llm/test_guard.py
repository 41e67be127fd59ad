"""The guard: a served command never outlives its parent, however the parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from kar.errors import ServerStartFailed, SettingsError
from kar.llm.local import model_revision, serve_foreground, serving
from kar.settings import LLMSettings
from kar.store import Home
from tests.llm import stand_in

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, "s")
    stand_in.model(home)
    return home


SETTINGS = LLMSettings(model="stand-in")


def gone(pids: list[int], within_s: float = 15.0) -> bool:
    """Whether all of them end in time; one that waits to be reaped has ended."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not any(_is_alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_server_and_what_it_started_are_gone_after_the_block(home: Home) -> None:
    with serving(home, SETTINGS, command=stand_in.command) as url:
        said = stand_in.ask(url)
        pids = [said["pid"], said["child"]]
        assert all(_is_alive(pid) for pid in pids)
        assert said["cwd"] == str(home.models)
        assert said["offline"] == "1"
    assert gone(pids)
    assert not list(home.models.glob("*.log"))


def test_the_server_is_gone_after_an_exception(home: Home) -> None:
    said = {}

    def fail() -> None:
        with serving(home, SETTINGS, command=stand_in.command) as url:
            said.update(stand_in.ask(url))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gone([said["pid"], said["child"]])


def test_a_server_that_ignores_sigterm_is_killed(home: Home) -> None:
    with serving(home, SETTINGS, command=stand_in.stubborn) as url:
        said = stand_in.ask(url)
    assert gone([said["pid"], said["child"]], within_s=1.0)


_PARENT = """
import sys, time
from pathlib import Path
from kar.llm.local import serve_foreground, serving
from kar.settings import LLMSettings
from kar.store import Home
from tests.llm import stand_in
with serving(Home(Path(sys.argv[1]), "s"), LLMSettings(model="stand-in"), command=stand_in.command) as url:
    print(url, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_the_server_is_gone_after_its_parent_was_ended_by(home: Home, name: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(home.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        said = stand_in.ask(parent.stdout.readline().strip())
        guard = psutil.Process(said["pid"]).ppid()
        parent.send_signal(getattr(signal, name))
        parent.wait(15)
    assert gone([guard, said["pid"], said["child"]])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a guard's command only on Linux")
def test_the_server_is_gone_when_its_guard_is_killed(home: Home) -> None:
    with serving(home, SETTINGS, command=stand_in.command) as url:
        said = stand_in.ask(url)
        psutil.Process(said["pid"]).parent().kill()
        assert gone([said["pid"]], within_s=5.0)
    assert gone([said["child"]])


def test_a_server_that_ends_early_is_named_with_the_end_of_its_log(home: Home) -> None:
    with (
        pytest.raises(ServerStartFailed, match="the weights are made of cheese") as caught,
        serving(home, SETTINGS, command=stand_in.broken),
    ):
        pass
    assert "code 3" in str(caught.value)
    assert list(home.models.glob("*.log"))  # kept: the message names it


def test_a_server_that_never_gets_healthy_is_stopped(home: Home) -> None:
    started = time.monotonic()
    with pytest.raises(ServerStartFailed, match="within 1 s"), serving(home, SETTINGS, command=stand_in.sick, start_timeout_s=1.0):
        pass
    assert time.monotonic() - started < 12


def test_a_model_that_was_not_fetched_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'absent' is not in") as caught, serving(Home(tmp_path, "s"), LLMSettings(model="absent")):
        pass
    assert caught.value.do == "run: kar fetch model"
    with pytest.raises(SettingsError):
        serve_foreground(Home(tmp_path, "s"), LLMSettings(), 1)


def test_the_revision_comes_from_the_settings_or_the_unpacked_model(home: Home) -> None:
    assert model_revision(SETTINGS, home) == "gguf-sha256:cafe"
    assert model_revision(LLMSettings(model="stand-in", revision="r2"), home) == "r2"
    assert model_revision(LLMSettings(provider="openai", model="big"), home) == ""
