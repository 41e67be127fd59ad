"""OpenLineage events of the stages, over a real loopback receiver and the library's file transport."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from kar import backfill, flow, lineage
from kar import run as runner
from kar.errors import SourceError
from kar.lineage.sending import Sender
from kar.lineage.telling import Told
from kar.store import Home, Manifest
from tests import world
from tests.forget import homes
from tests.lineage.receiver import receiving
from tests.lineage.spec import faults
from tests.llm.loopback import loopback
from tests.test_cli import SETTINGS

ROOT = Path(__file__).parents[2]
DAY = world.LAST_DAY
NOW = dt.datetime.combine(DAY + dt.timedelta(days=1), dt.time(1), dt.UTC)
TASK, NIGHT = "0190b6a0-0000-7000-8000-000000000001", "0190b6a0-0000-7000-8000-000000000002"
KEY = "sk-planted-5f1c2ad0e7"
PLANNED = [(name, state) for name in flow.PLANNING for state in ("START", "COMPLETE")]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    world.write(tmp_path / "data")
    (tmp_path / "world.toml").write_text(SETTINGS.format(folder=tmp_path / "data", prompts=ROOT / "prompts"))
    return tmp_path


def kar(shop: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, on the shop's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENLINEAGE")}
    return subprocess.run(
        [sys.executable, "-m", "kar", *arguments, "--settings", "world.toml", "--date", DAY.isoformat()],
        cwd=shop,
        env={**kept, "PYTHONPATH": str(ROOT), "KAR_HOME": str(shop / "home"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def to_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lineage is on in this process, and goes to this file, as a user's own configuration says."""
    path, config = tmp_path / "events.jsonl", tmp_path / "openlineage.yml"
    config.write_text(yaml.safe_dump({"transport": {"type": "file", "log_file_path": str(path), "append": True}}))
    monkeypatch.setenv("KAR_LINEAGE", "1")
    monkeypatch.setenv("OPENLINEAGE_CONFIG", str(config))
    return path


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def told(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["job"]["name"], event["eventType"]) for event in events]


@pytest.mark.slow
def test_stages_tell_a_server_what_they_read_and_wrote_and_whose_run_they_are_part_of(shop: Path) -> None:
    with receiving() as server:
        environment = {
            "KAR_LINEAGE": "1",
            "OPENLINEAGE_URL": server.url,
            "OPENLINEAGE_PARENT_ID": f"airflow/kar_nightly.prompts/{TASK}",
            "OPENLINEAGE_ROOT_PARENT_ID": f"airflow/kar_nightly/{NIGHT}",
        }
        done = kar(shop, "plan", **environment)
        assert done.returncode == 0, done.stderr
        assert server.told() == PLANNED
        kar(shop, "plan", **environment)
        assert len(server.events) == len(PLANNED), "a stage that does nothing tells nothing"
    assert [faults(event) for event in server.events] == [[]] * len(PLANNED)
    begun, event = server.events[4:]
    home = Home.of("world", shop / "home")
    made = Manifest.read(home.partition("prompts", DAY).manifest_path)
    read = Manifest.read(home.partition("histories", DAY).manifest_path)
    assert begun["run"]["runId"] == event["run"]["runId"] != server.events[0]["run"]["runId"]
    assert begun["eventTime"] < event["eventTime"]
    assert event["producer"].startswith("urn:kar:")
    assert event["job"]["namespace"] == "world"
    facets = event["run"]["facets"]
    assert facets["nominalTime"]["nominalStartTime"] == f"{DAY}T00:00:00+00:00"
    assert facets["nominalTime"]["nominalEndTime"] == f"{DAY + dt.timedelta(days=1)}T00:00:00+00:00"
    assert facets["parent"]["run"]["runId"] == TASK
    assert facets["parent"]["job"] == {"namespace": "airflow", "name": "kar_nightly.prompts", "facets": {}}
    assert facets["parent"]["root"]["run"]["runId"] == NIGHT
    assert {test["name"]: int(test["actual"]) for test in facets["test"]["tests"]} == made.rejected

    inputs = {one["name"]: one for one in event["inputs"]}
    assert set(inputs) == {
        *("histories.history", "histories.item_profile", "histories.item_neighbour", "sources.user_attribute", "sources.item_attribute"),
        *("file:movies/factors.toml", "file:movies/user.preference.toml", "file:movies/item.facts.toml"),
    }
    history = inputs["histories.history"]
    assert history["facets"]["version"]["datasetVersion"] == read.tables["history"]["sha"]
    assert history["inputFacets"]["inputStatistics"]["rowCount"] == 12
    assert history["inputFacets"]["subset"]["inputCondition"]["partitions"][0]["dimensions"] == {"date": DAY.isoformat()}
    [plan, request] = event["outputs"]
    assert (plan["name"], request["name"]) == ("prompts.plan", "prompts.request")
    assert plan["outputFacets"]["outputStatistics"]["rowCount"] == made.tables["plan"]["rows"] == 32
    assert plan["facets"]["version"]["datasetVersion"] == made.tables["plan"]["sha"]
    assert {"name": "view", "type": "string"}.items() <= plan["facets"]["schema"]["fields"][0].items()
    assert begun["outputs"] == []


def test_rows_that_were_left_out_are_told_by_reason(tmp_path: Path, to_file: Path) -> None:
    data = world.write(tmp_path / "data")
    with (data / "interactions.csv").open("a", newline="") as file:
        file.write("1,999,5,1760000000\r\n1,998,5,1760000001\r\n")
    runner.run_stage("sources", world.settings(data), Home.of("world", tmp_path), DAY, NOW)
    [_, event] = events_of(to_file)
    assert faults(event) == []
    [unknown] = [test for test in event["run"]["facets"]["test"]["tests"] if test["name"] == "unknown_item"]
    assert (unknown["actual"], unknown["status"], unknown["severity"]) == ("2", "fail", "warn")
    assert "999" not in json.dumps(unknown), "which row it was is nobody's business there"


@pytest.mark.slow
def test_nothing_is_told_unless_it_is_switched_on(shop: Path) -> None:
    with receiving() as server:
        assert kar(shop, "plan", OPENLINEAGE_URL=server.url).returncode == 0
    assert server.raw == []
    imported = "import sys, kar.run; print([name for name in sys.modules if name.startswith(('openlineage', 'requests'))])"
    asked = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert asked.stdout.strip() == "[]"
    assert [value for value in ("", "0", "False", "no", " off ", "1", "true", "yes") if lineage.is_on({"KAR_LINEAGE": value})] == [
        "1",
        "true",
        "yes",
    ]
    assert not lineage.is_on({"OPENLINEAGE_URL": "http://127.0.0.1:9"})


def test_a_stage_that_fails_tells_the_class_of_its_error_and_no_word_of_it(tmp_path: Path, to_file: Path) -> None:
    data = world.write(tmp_path / "data")
    (data / "users.csv").write_text("quillfeather,age\n1,33\n")
    with pytest.raises(SourceError, match="quillfeather"):
        runner.run_stage("sources", world.settings(data), Home.of("world", tmp_path), DAY, NOW)
    events = events_of(to_file)
    assert told(events) == [("sources", "START"), ("sources", "FAIL")]
    assert [faults(event) for event in events] == [[], []]
    assert events[1]["run"]["facets"]["errorMessage"]["message"] == "SourceError"
    assert "quillfeather" not in to_file.read_text()


def test_a_stage_that_is_stopped_tells_that(tmp_path: Path, to_file: Path) -> None:
    settings, home = world.settings(world.write(tmp_path / "data")), Home.of("world", tmp_path)
    inputs = runner.inputs_of(flow.SOURCES, settings, home, DAY, NOW)
    with pytest.raises(KeyboardInterrupt), lineage.told(inputs, {"files": {}}, home.partition("sources", DAY)):
        raise KeyboardInterrupt
    assert told(events_of(to_file)) == [("sources", "START"), ("sources", "ABORT")]


def test_a_rehearsal_of_a_backfill_tells_nothing(tmp_path: Path, to_file: Path) -> None:
    settings, home = world.settings(world.write(tmp_path / "data")), Home.of("world", tmp_path)
    assert len(backfill.foresee(settings, home, [DAY], lambda: NOW)) == 1
    assert events_of(to_file) == []
    runner.run_stage("sources", settings, home, DAY, NOW)
    assert len(events_of(to_file)) == 2, "afterwards it is on again"


def test_no_event_of_a_night_holds_a_text_an_id_or_a_secret(tmp_path: Path, to_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAR_LLM_API_KEY", KEY)
    monkeypatch.setenv("OPENLINEAGE__FACETS__ENVIRONMENT_VARIABLES", '["KAR_LLM_API_KEY"]')  # the library would copy it into every event
    with loopback(homes.behave) as server:
        settings = homes.settings(homes.data(tmp_path / "data"), server.base_url)
        runner.run_all(settings, Home.of("world", tmp_path / "home"), DAY, lambda: NOW, list(flow.NIGHTLY))
    events = events_of(to_file)
    assert told(events) == [(name, state) for name in flow.NIGHTLY for state in ("START", "COMPLETE")]
    assert [faults(event) for event in events] == [[]] * len(events)
    text = to_file.read_text()
    for planted in (KEY, homes.USER, homes.ITEM, homes.WORDS, "Film 3", str(tmp_path), server.base_url):
        assert planted not in text, planted


@pytest.mark.parametrize("mode", ["never", "500"])
def test_a_server_that_does_not_take_an_event_costs_one_wait_and_one_warning(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sender, home = Sender(patience_s=0.5), Home.of("world", tmp_path)
    inputs = runner.inputs_of(flow.SOURCES, world.settings(tmp_path), home, DAY, NOW)
    with receiving(mode) as server, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
        environment.setenv("OPENLINEAGE__TRANSPORT__URL", server.url)
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(SourceError), Told(sender, inputs, {"files": {}}, home.partition("sources", DAY), {}):
                raise SourceError("the stage's own error comes through")
        assert time.monotonic() - started < 1.5
        assert len(server.raw) == 1
    warnings = [line for line in capsys.readouterr().err.splitlines() if "lineage" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: no lineage is told any more; the stages go on because=")
    assert warnings[0].endswith("'HTTPError 500'" if mode == "500" else "'no answer within 0.5 s'")


@pytest.mark.slow
def test_a_night_goes_on_where_nobody_listens_and_no_address_or_key_is_logged(shop: Path) -> None:
    with receiving("401") as server:
        where = server.url.replace("//", f"//someone:{KEY}@")
        done = kar(shop, "run", "sources", KAR_LINEAGE="1", OPENLINEAGE_URL=where, OPENLINEAGE_API_KEY=KEY)
    assert done.returncode == 0
    assert "no lineage is told any more; the stages go on because='HTTPError 401'" in done.stderr
    assert KEY not in done.stderr + done.stdout
    done = kar(shop, "plan", KAR_LINEAGE="1", OPENLINEAGE_URL="http://127.0.0.1:9")
    assert done.returncode == 0
    assert done.stderr.count("lineage") == 1
    assert "because=ConnectionError" in done.stderr


def test_a_switch_without_an_address_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.chdir(tmp_path):
        Sender().send(lambda: None)
    assert "neither OPENLINEAGE_URL nor OPENLINEAGE_CONFIG says where to send it" in capsys.readouterr().err


def test_a_switch_without_the_library_is_told_and_ends_nothing() -> None:
    """Its sisters share the name `openlineage`, so that may be there and the client not."""
    code = "import sys; sys.modules['openlineage.client'] = None; from kar.lineage.sending import sender; sender().send(lambda: None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0
    assert "pip install 'kar[lineage]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "is_there"),
    [
        (f"airflow/dag.task/{TASK}", True),
        (f"https://airflow.example/prod/dag.task/{TASK}", True),
        ("airflow/dag.task/no-uuid", False),
        (TASK, False),
        ("", False),
    ],
)
def test_a_parent_is_told_only_if_it_can_be_read(
    tmp_path: Path, to_file: Path, monkeypatch: pytest.MonkeyPatch, given: str, is_there: bool
) -> None:
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", given)
    home = Home.of("world", tmp_path)
    inputs = runner.inputs_of(flow.SOURCES, world.settings(tmp_path), home, DAY, NOW)
    with pytest.raises(SourceError), lineage.told(inputs, {"files": {}}, home.partition("sources", DAY)):
        raise SourceError("ends it")
    for event in events_of(to_file):
        assert faults(event) == []
        parent = event["run"]["facets"].get("parent")
        assert (parent is not None) == is_there
        if parent:
            assert f"{parent['job']['namespace']}/{parent['job']['name']}/{parent['run']['runId']}" == given
            assert parent["root"]["run"]["runId"] == TASK
