"""dags/server.py: a server that stands is waited for, one of our own is started and stopped, and nothing is for nothing."""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, TaskGroup
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSensorTimeout, TaskDeferred
from deployment import Deployment
from runner import KarOperator
from server import FileThere, ServerDown, ServerUp, Started, llm_server

NOW = dt.datetime.now(dt.UTC)
_SERVER = """
import http.server, sys
class Models(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/v1/models" else 404); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Models).serve_forever()
"""


class Models(BaseHTTPRequestHandler):
    """Lists models to who has the key; the server's `status` says how it is."""

    def do_GET(self) -> None:
        seen = self.headers.get("Authorization", "")
        self.server.seen.append((self.path, seen))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def models() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Models)
    server.status, server.seen = 200, []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def night(requests: int = 3) -> dict[str, Any]:
    return {"ti": SimpleNamespace(xcom_pull=lambda task_ids: {"figures": {"requests": requests}})}


def up(url: str, **more: Any) -> ServerUp:
    return ServerUp(task_id="server_up", url=url, planned_by="prompts", **more)


def test_a_server_that_lists_its_models_is_up_and_gets_the_key(models: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAR_LLM_API_KEY", "sk-1")
    assert up(f"http://127.0.0.1:{models.server_port}/v1").execute(night()) is None
    assert models.seen == [("/v1/models", "Bearer sk-1")]  # type: ignore[attr-defined]


def test_a_server_that_loads_is_waited_for_on_the_time_trigger_alone(models: HTTPServer) -> None:
    models.status = 503  # type: ignore[attr-defined]
    task = up(f"http://127.0.0.1:{models.server_port}/v1", every=dt.timedelta(seconds=5))
    before = dt.datetime.now(dt.UTC)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(night())
    path, kwargs = deferred.value.trigger.serialize()
    assert path == "airflow.providers.standard.triggers.temporal.DateTimeTrigger"
    assert before + task.every <= kwargs["moment"] <= dt.datetime.now(dt.UTC) + task.every
    models.status = 200  # type: ignore[attr-defined]
    resume = getattr(task, deferred.value.method_name)
    assert resume(night(), event=None, **(deferred.value.kwargs or {})) is None


def test_a_server_that_never_comes_is_not_waited_for_for_ever() -> None:
    task = up("http://127.0.0.1:9/v1", at_most=dt.timedelta(minutes=30))
    with pytest.raises(AirflowSensorTimeout, match="does not answer"):
        task.again(night(), since=(NOW - dt.timedelta(hours=1)).isoformat())


def test_a_server_that_refuses_the_key_is_not_waited_for(models: HTTPServer) -> None:
    models.status = 401  # type: ignore[attr-defined]
    with pytest.raises(AirflowFailException, match="refuses the key"):
        up(f"http://127.0.0.1:{models.server_port}/v1").execute(night())


def test_a_night_with_nothing_to_ask_needs_no_server(tmp_path: Path) -> None:
    assert up("http://127.0.0.1:9/v1", start="touch started", folder=str(tmp_path)).execute(night(requests=0)) is None
    assert list(tmp_path.iterdir()) == []


def _free_port() -> int:
    server = HTTPServer(("127.0.0.1", 0), Models)
    server.server_close()
    return server.server_port


def _until_up(task: ServerUp) -> None:
    """As Airflow would: look again whenever it deferred."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            task.execute(night())
        except TaskDeferred:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the server did not come up")


def test_a_server_of_our_own_is_started_once_and_stopped_whole(tmp_path: Path) -> None:
    port = _free_port()
    script = tmp_path / "server.py"
    script.write_text(_SERVER)
    task = up(f"http://127.0.0.1:{port}/v1", start=f"'{sys.executable}' '{script}' {port}", folder=str(tmp_path / "llm"))
    _until_up(task)
    started = Started(tmp_path / "llm")
    group = int(started._said()["process_group"])
    _until_up(task)
    assert int(started._said()["process_group"]) == group
    ServerDown(task_id="server_down", stop="", folder=str(tmp_path / "llm")).execute({})
    assert not started.is_running()
    with pytest.raises(TaskDeferred):
        up(f"http://127.0.0.1:{port}/v1").execute(night())


def test_a_server_that_was_there_before_is_neither_started_nor_stopped(models: HTTPServer, tmp_path: Path) -> None:
    up(f"http://127.0.0.1:{models.server_port}/v1", start="exit 1", folder=str(tmp_path)).execute(night())
    ServerDown(task_id="server_down", stop=f"touch {tmp_path}/stopped", folder=str(tmp_path)).execute({})
    assert list(tmp_path.iterdir()) == []


def test_a_start_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    looked = tmp_path / "looked"
    command = f"until [ -e {looked} ]; do sleep 0.02; done; echo no GPU here; exit 4"  # else it may have failed before the first look
    task = up("http://127.0.0.1:9/v1", start=command, folder=str(tmp_path / "server"))
    with pytest.raises(TaskDeferred):
        task.execute(night())
    looked.touch()
    _wait_for(tmp_path / "server" / "exit_code")
    with pytest.raises(AirflowException, match="exit code 4: no GPU here"):
        task.again(night(), since=NOW.isoformat())


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stop_command_is_what_stops_a_server_that_was_started(tmp_path: Path) -> None:
    Started(tmp_path).start("sleep 60")
    ServerDown(task_id="server_down", stop=f"touch {tmp_path}/stopped", folder=str(tmp_path)).execute({})
    assert (tmp_path / "stopped").exists()
    assert not Started(tmp_path).is_running()


def test_the_number_of_a_dead_server_that_another_process_got_is_left_alone(tmp_path: Path) -> None:
    started = Started(tmp_path)
    started.start("sleep 60")
    group = int(started._said()["process_group"])
    os.killpg(group, signal.SIGKILL)
    (tmp_path / "process.json").write_text(f'{{"process_group": {os.getpid()}, "began": "1"}}')
    started.end()
    assert not started.is_ours()


def test_a_file_is_there_or_is_waited_for(tmp_path: Path) -> None:
    task = FileThere(task_id="sources_ready", path=str(tmp_path / "_SUCCESS"))
    with pytest.raises(TaskDeferred):
        task.execute({})
    (tmp_path / "_SUCCESS").touch()
    assert task.execute({}) is None


@pytest.mark.parametrize(
    ("deployment", "made"),
    [
        (Deployment(), (False, False)),
        (Deployment(llm_server="standing", llm_url="http://a/v1"), (True, False)),
        (Deployment(llm_server="command", llm_url="http://a/v1", llm_start="serve"), (True, True)),
    ],
)
def test_the_deployment_chooses_what_stands_around_the_questions(deployment: Deployment, made: tuple[bool, bool]) -> None:
    with DAG("d", schedule=None), TaskGroup("llm"):
        up, down = llm_server(deployment, planned_by="prompts")
        KarOperator(task_id="ask", arguments=["ask"])
    assert (up is not None, down is not None) == made
    if up is not None and down is not None:
        assert (up.is_setup, down.is_teardown, up.task_id) == (True, True, "llm.server_up")
        assert down.task_id in up.downstream_task_ids
