"""dags/runner.py and leash.py: what a task runs, what its end means, and that nothing outlives it."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from deployment import Deployment
from runner import HeldBack, KarOperator, mapped_stage_task, seconds_left, stage_task, summary, variables

HERE = Path(__file__).parent
PYTHON = str(HERE / "stand_in.py")
KEY = "sk-planted-0451"
NOW = dt.datetime(2026, 11, 20, 5, 0, tzinfo=dt.UTC)


def operator(*arguments: str, **more: Any) -> KarOperator:
    return KarOperator(task_id="stage", arguments=list(arguments), python=PYTHON, **more)


def test_a_task_is_done_with_the_json_of_its_last_line(stand_in: Any) -> None:
    said = operator("run", "prompts", "--date", "2026-11-19", "--json").execute({})
    assert said is not None
    assert said["figures"] == {"requests": 12}
    assert [call["arguments"] for call in stand_in.calls] == [["run", "prompts", "--date", "2026-11-19", "--json"]]


def test_a_command_that_says_no_json_leaves_no_xcom(stand_in: Any) -> None:
    assert operator("release", "verify", "--date", "2026-11-19").execute({}) is None
    assert len(stand_in.calls) == 1


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (1, AirflowException, "exit code 1: kar: there is no table\n  do: make one"),
        (2, AirflowFailException, "wrong usage"),
        (3, HeldBack, "kar: there is no table"),
        (9, AirflowException, "exit code 9"),
    ],
)
def test_an_exit_code_says_whether_a_retry_may_help(stand_in: Any, code: int, kind: type[Exception], said: str) -> None:
    stand_in.rules(features={"exit": code, "stderr": "kar: there is no table\n  do: make one"})
    with pytest.raises(kind) as caught:
        operator("run", "features").execute({})
    assert said in str(caught.value)
    assert isinstance(caught.value, AirflowFailException) is (code in (2, 3))
    assert "log of" not in str(caught.value)


def test_kar_s_lineage_has_the_task_as_parent_where_airflow_names_one(stand_in: Any) -> None:
    on = Deployment.from_environment({"KAR_LINEAGE": "1", "OPENLINEAGE_URL": "http://lineage:5000", "OPENLINEAGE_API_KEY": KEY})
    templates = variables(on)
    assert KEY not in str(templates)
    assert (templates["KAR_LINEAGE"], templates["OPENLINEAGE_URL"]) == ("1", "http://lineage:5000")
    macros = SimpleNamespace(
        lineage_parent_id=lambda task: f"airflow/{task}/run", lineage_root_parent_id=lambda task: f"airflow/dag of {task}/run"
    )

    def rendered(name: str, **context: object) -> str:
        return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(templates[name]).render(task_instance="ask", **context)

    with_provider = {"macros": SimpleNamespace(OpenLineageProviderPlugin=macros)}
    assert rendered("OPENLINEAGE_PARENT_ID", **with_provider) == "airflow/ask/run"
    assert rendered("OPENLINEAGE_ROOT_PARENT_ID", **with_provider) == "airflow/dag of ask/run"
    assert rendered("OPENLINEAGE_PARENT_ID", macros=SimpleNamespace()) == ""
    off = variables(Deployment.from_environment({"OPENLINEAGE_URL": "http://lineage:5000"}))
    assert not [name for name in off if "LINEAGE" in name]


def test_what_kar_says_is_in_the_log(stand_in: Any, capsys: pytest.CaptureFixture[str]) -> None:
    operator("run", "sources").execute({})
    log = capsys.readouterr().out
    assert "log of sources" in log
    assert "sources is done" in log


def test_the_key_reaches_only_a_task_that_asks_and_no_log(
    stand_in: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAR_LLM_API_KEY", KEY)
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", KEY)
    stand_in.rules(ask={"stderr": f"the server quotes {KEY}"})
    operator("run", "sources").execute({})
    operator("ask", "--shard", "0/1", asks=True).execute({})
    sources, ask = stand_in.calls
    assert "KAR_LLM_API_KEY" not in sources["environment"]
    assert ask["environment"]["KAR_LLM_API_KEY"] == KEY
    assert sources["airflow"] == ask["airflow"] == []
    log = "".join(capsys.readouterr())
    assert "the server quotes ***" in log
    assert KEY not in log


def test_a_connection_holds_the_key_and_is_not_handed_on(
    stand_in: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_KAR_LLM", f"http://:{KEY}@vllm:8000")
    stand_in.rules(ask={"stderr": f"the server quotes {KEY}"})
    operator("ask", "--shard", "0/1", asks=True, connection="kar_llm").execute({})
    operator("run", "sources", connection="kar_llm").execute({})
    ask, sources = stand_in.calls
    assert ask["environment"]["KAR_LLM_API_KEY"] == KEY
    assert "KAR_LLM_API_KEY" not in sources["environment"]
    assert ask["airflow"] == sources["airflow"] == []
    assert KEY not in "".join(capsys.readouterr())


def test_a_failure_quotes_no_key(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAR_LLM_API_KEY", KEY)
    stand_in.rules(ask={"exit": 1, "stderr": f"kar: the server refuses {KEY}"})
    with pytest.raises(AirflowException, match="refuses \\*\\*\\*"):
        operator("ask", asks=True).execute({})


def test_a_deployment_and_a_run_say_what_kar_finds_in_its_environment(stand_in: Any) -> None:
    task = operator("run", "sources", variables=variables(Deployment(settings="it's.toml", home="/data", overrides=("llm.concurrency=2",))))
    task.render_template_fields({"params": {"settings": "", "set": ["features.keep=3"]}})
    task.execute({})
    task = operator("run", "sources", variables=variables(Deployment(settings="shop.toml")))
    task.render_template_fields({"params": {"settings": "other.toml", "set": None}})
    task.execute({})
    first, second = (call["environment"] for call in stand_in.calls)
    assert first == {"KAR_SETTINGS": "it's.toml", "KAR_HOME": "/data", "KAR_SET": "llm.concurrency=2\nfeatures.keep=3"}
    assert second["KAR_SETTINGS"] == "other.toml"
    assert "KAR_SET" not in second


def test_the_time_left_is_what_is_left_when_the_task_starts() -> None:
    until = "until 2026-11-20T05:15:00+00:00"
    assert seconds_left(until, NOW) == "900"
    assert seconds_left(until, NOW + dt.timedelta(minutes=14, seconds=30)) == "30"
    assert seconds_left(until, NOW + dt.timedelta(hours=3)) == "0"
    assert seconds_left("--date", NOW) == "--date"


def test_a_mapped_task_turns_its_deadline_into_seconds_when_its_arguments_are_resolved() -> None:
    with DAG("d", schedule=None):
        lines = EmptyOperator(task_id="lines").output
        ask = mapped_stage_task("ask", lines, deployment=Deployment(), pool="kar_llm", asks=True)
    (resolve,) = ask.expand_input.value["arguments"].callables
    until = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    line = resolve(["ask", "--stop-in", f"until {until.isoformat()}", "--json"])
    assert line[:2] + line[3:] == ["ask", "--stop-in", "--json"]
    assert 3500 < int(line[2]) <= 3600


def test_an_xcom_is_read_whether_it_is_an_object_its_text_or_missing() -> None:
    assert summary({"a": 1}) == summary('{"a": 1}') == {"a": 1}
    assert summary(None) == summary("no json") == summary("[1]") == {}


def test_the_factory_makes_a_task_with_what_the_deployment_says() -> None:
    task = stage_task("sources", ["run", "sources"], deployment=Deployment(python="py"), pool="kar_gpu", asks=True)
    assert isinstance(task, KarOperator)
    assert (task.python, task.pool, task.asks, task.execution_timeout) == ("py", "kar_gpu", True, dt.timedelta(hours=1))


def test_a_task_that_is_killed_ends_its_kar(stand_in: Any) -> None:
    stand_in.rules(ask={"count_to": 3000})
    task = operator("ask")
    counted = stand_in.folder / "counted"
    watcher = subprocess.Popen([sys.executable, "-c", _KILL_WHEN_COUNTING, str(counted), str(os.getpid())])
    before = signal.signal(signal.SIGUSR1, lambda *_: task.on_kill())
    try:
        with pytest.raises(AirflowException, match="was stopped by signal"):
            task.execute({})
    finally:
        signal.signal(signal.SIGUSR1, before)
        watcher.wait()
    assert _stands_still(counted)


@pytest.mark.slow
def test_a_task_that_dies_by_sigkill_leaves_nothing_that_writes(stand_in: Any) -> None:
    stand_in.rules(ask={"count_to": 3000})
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "dags")}
    task = subprocess.Popen(
        [sys.executable, "-c", _RUN_A_TASK, PYTHON], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    counted = stand_in.folder / "counted"
    _wait_for(counted)
    assert not _stands_still(counted)
    task.kill()
    task.wait()
    time.sleep(0.2)
    assert _stands_still(counted)


def test_a_task_whose_supervisor_is_gone_ends_its_kar(stand_in: Any) -> None:
    stand_in.rules(ask={"count_to": 3000})
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "dags")}
    command = [sys.executable, "-c", _SUPERVISE, _RUN_A_TASK, PYTHON]
    supervisor = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    counted = stand_in.folder / "counted"
    _wait_for(counted)
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + 30
    while not _stands_still(counted):
        assert time.monotonic() < deadline, "kar goes on without a supervisor"


_SUPERVISE = """
import subprocess, sys
subprocess.run([sys.executable, "-c", *sys.argv[1:]])
"""
_RUN_A_TASK = """
import sys
from runner import KarOperator
KarOperator(task_id="ask", arguments=["ask"], python=sys.argv[1]).execute({})
"""
_KILL_WHEN_COUNTING = """
import os, pathlib, signal, sys, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.02)
os.kill(int(sys.argv[2]), signal.SIGUSR1)
"""


def _wait_for(path: Path, at_most_s: float = 30) -> None:
    deadline = time.monotonic() + at_most_s
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def _stands_still(path: Path) -> bool:
    before = path.read_text()
    time.sleep(0.3)
    return path.read_text() == before
