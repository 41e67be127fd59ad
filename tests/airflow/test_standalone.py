"""`make airflow`: what the command prints, writes and leaves behind. On SQLite, as a person starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import IO

import psutil
import pytest

from dags.tools.standalone import Standalone, StandaloneError, free_port
from tests.airflow.client import Client, wait_for

pytestmark = pytest.mark.airflow
ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "dags" / "tools" / "standalone.py"
START_S = 180  # longest wait on a machine with other things to do
HEALTHY_S = 30
SLEEPER = """
    import datetime as dt
    from airflow.sdk import dag, task

    @dag(schedule=None, start_date=dt.datetime(2026, 1, 1), catchup=False)
    def sleeper():
        @task.bash
        def sleep() -> str:
            return "sleep 987"
        sleep()

    sleeper()
"""


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    """The command, in an empty home, with no DAG of ours to run on its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "KAR_"))}
    environ |= {"HOME": str(folder / "user"), "KAR_HOME": str(folder / "kar"), "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False"}
    (folder / "user").mkdir(exist_ok=True)
    (folder / "here").mkdir(exist_ok=True)
    command = [sys.executable, str(PROGRAM), *more]
    return subprocess.Popen(command, cwd=folder / "here", env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(stream: IO[str] | None, words: str) -> str:
    """What it prints up to the line that holds the words."""
    assert stream is not None
    said = ""
    for line in stream:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it never said {words!r}:\n{said}")


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_it_is_healthy_tells_the_password_once_writes_only_below_its_home_and_leaves_no_child(tmp_path: Path) -> None:
    for is_first, sig in ((True, signal.SIGINT), (False, signal.SIGTERM)):
        with start(tmp_path) as process:
            said = read_until(process.stdout, "Ctrl-C stops")
            took = re.search(r"healthy after (\d+) s: http://127\.0\.0\.1:\d+", said)
            assert took is not None
            load = os.getloadavg()[0]
            print(f"\nhealthy after {took[1]} s, load {load:.1f} on {os.cpu_count()} processors")
            if load <= (os.cpu_count() or 1):
                assert int(took[1]) <= HEALTHY_S
            password = json.loads(next((tmp_path / "kar" / "_airflow").glob("*passwords*")).read_text())["admin"]
            assert (password in said) is is_first
            children = descendants(process.pid)
            assert len(children) >= 4
            process.send_signal(sig)
            assert process.wait(60) == 0
            psutil.wait_procs(children, timeout=2)
            assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    written = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {("kar", "_airflow")}
    for name in ("secrets.json", "simple_auth_manager_passwords.json.generated", "airflow.cfg"):
        assert stat.S_IMODE((tmp_path / "kar" / "_airflow" / name).stat().st_mode) == 0o600


def test_a_taken_port_is_replaced_by_the_next_free_one_and_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) in range(port + 1, port + 100)
        here = Standalone(tmp_path, port=port)
        assert here.url.endswith(f":{here.port}")
        assert here.port != port


def test_all_parts_share_secrets_that_are_made_once(tmp_path: Path) -> None:
    one, other = Standalone(tmp_path, port=0), Standalone(tmp_path, port=0)
    for name in ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API__SECRET_KEY"):
        assert one.environ[name] == other.environ[name]
        assert len(one.environ[name]) >= 40
    assert one.is_new_password
    assert not other.is_new_password
    assert (
        Standalone(tmp_path / "elsewhere", port=0).environ["AIRFLOW__API_AUTH__JWT_SECRET"] != one.environ["AIRFLOW__API_AUTH__JWT_SECRET"]
    )


def test_a_second_one_in_the_same_home_is_refused_and_a_running_task_ends_with_the_first(tmp_path: Path) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "sleeper.py").write_text(textwrap.dedent(SLEEPER))
    first = Standalone(tmp_path / "home", port=0, dags=dags)
    first.start(START_S)
    try:
        with pytest.raises(StandaloneError, match="runs already"):
            Standalone(tmp_path / "home", port=0, dags=dags).start()
        client = Client(first.url, first.password)
        wait_for("the DAG", lambda: client.get("/dags")["dags"], 60, lambda: first.log_of("dag-processor"))
        client.trigger("sleeper", {})
        wait_for("the task's command", lambda: sleeping(first), 60, lambda: first.log_of("scheduler"))
        first.kill("scheduler")  # its forks live on: they too must go
    finally:
        began = time.monotonic()
        first.stop(grace_s=3)
        print(f"\nstopped in {time.monotonic() - began:.0f} s")
    assert first.processes() == []
    assert sleeping() == []


def sleeping(one: Standalone | None = None) -> list[psutil.Process]:
    found = []
    for process in one.processes() if one else psutil.process_iter():
        try:
            if process.cmdline()[-2:] == ["sleep", "987"]:
                found.append(process)
        except psutil.Error:
            continue
    return found
