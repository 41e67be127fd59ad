"""What kar_train's date is, which releases a downstream run is for, and which examples go with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_PROBE = """
import datetime as dt, json, os, sys
from pathlib import Path
from types import SimpleNamespace as Of
sys.path.insert(0, "dags")
import kar_maintenance, kar_train
from downstream import TrainOnRelease, chosen, examples_of

def tried(function, *of):
    try:
        return function(*of)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

at = lambda hour: dt.datetime(2026, 11, 22, hour, tzinfo=dt.UTC)
def run(kind, **more):
    return Of(**{"run_type": kind, "conf": {}, "partition_key": None, "logical_date": None, "run_after": at(8), **more})
def event(hour, **extra):
    return Of(timestamp=at(hour), extra=extra, source_dag_id="kar_nightly", source_run_id="r1", partition_key="2026-11-19")

first = {"release_id": "2026-11-19-aa", "path": "/h/s/published/releases/2026-11-19-aa", "date": "2026-11-19"}
second = {"release_id": "2026-11-19-bb", "path": "/h/s/published", "date": "2026-11-19"}
home = Path(os.environ["HERE"])
for date in ("2026-11-10", "2026-11-17", "2026-11-24"):
    (home / "examples" / f"date={date}").mkdir(parents=True)
    (home / "examples" / f"date={date}" / "example.parquet").touch()

class Instance:
    def __init__(self, **running): self.running = running
    def get_dr_count(self, dag_id, states): return self.running.get(dag_id, 0) if states == ["running"] else 99

over = kar_maintenance.NothingRuns(task_id="over", dag_ids=("kar_nightly", "kar_train"))
job = home / "job.py"
job.write_text("import json, os, sys; print(json.dumps(sys.argv[1:])); sys.exit(int(os.environ.get('JOB_EXIT', '0')))")
class Stand(TrainOnRelease):
    program = (str(job),)
release = {"release_id": "2026-11-19-aa", "published": str(home / "published"), "date": "2026-11-19"}
task = Stand(task_id="train", release=release, python=sys.executable)
print("PROBE" + json.dumps({
    "dates": [tried(kar_train.training_date, one) for one in (
        run("scheduled", logical_date=at(8)), run("manual", conf={"date": "2026-11-03"}), run("scheduled", conf={"date": "2026-11-04"}), run("manual"))],
    "one": tried(chosen, [event(3, **first)], {}),
    "several": tried(chosen, [event(5, **second), event(3, **first), event(6, **first)], {"release_id": "no", "published": "/no"}),
    "nameless": tried(chosen, [event(3, **first), event(4, date="2026-11-19")], {"release_id": "2026-11-01-cc", "published": "/p"}),
    "by_hand": tried(chosen, [], {"release_id": "2026-11-01-cc", "published": "/h/published/"}),
    "nothing": tried(chosen, [], {"release_id": "", "published": ""}),
    "examples": [tried(examples_of, str(home / "published"), date, pattern) for date, pattern in (
        ("2026-11-19", ""), ("2026-11-17", ""), ("2026-11-01", ""), ("2026-11-19", "/data/{date}.parquet"))],
    "running": [over.missing({"ti": Instance(**one)}) for one in ({}, {"kar_nightly": 1}, {"kar_nightly": 2, "kar_train": 1})],
    "trained": tried(task.execute, {"params": {"epochs": 3}}), "arguments": task.arguments,
}))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("airflow")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAR_")}
    environment |= {"AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "HERE": str(folder)}
    done = subprocess.run([sys.executable, "-c", _PROBE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("PROBE")]
    assert lines, done.stderr[-3000:] + done.stdout[-2000:]
    found: dict[str, Any] = json.loads(lines[0].removeprefix("PROBE"))
    return found | {"folder": str(folder)}


def test_a_scheduled_training_is_for_the_day_before_also_when_it_is_cleared_long_after(probe: dict[str, Any]) -> None:
    """The clock is not asked: 2026-11-22 is over or not when this test runs."""
    assert probe["dates"] == ["2026-11-21", "2026-11-03", "2026-11-04", "2026-11-21"]


def test_a_run_is_for_the_release_of_the_very_event(probe: dict[str, Any]) -> None:
    assert probe["one"] == [{"release_id": "2026-11-19-aa", "published": "/h/s/published", "date": "2026-11-19"}]


def test_several_events_of_one_run_are_each_trained_on_once_oldest_first(probe: dict[str, Any]) -> None:
    assert [one["release_id"] for one in probe["several"]] == ["2026-11-19-aa", "2026-11-19-bb"]
    assert {one["published"] for one in probe["several"]} == {"/h/s/published"}


def test_an_event_that_names_no_release_fails_and_nothing_stands_in_for_it(probe: dict[str, Any]) -> None:
    assert probe["nameless"].startswith("AirflowFailException: the event of 2026-11-22 04:00:00+00:00 from kar_nightly r1 names no release")


def test_a_person_names_the_release_and_where_it_lies(probe: dict[str, Any]) -> None:
    assert probe["by_hand"] == [{"release_id": "2026-11-01-cc", "published": "/h/published", "date": "2026-11-01"}]
    assert probe["nothing"].startswith("AirflowFailException: no event started this run")


def test_the_examples_are_never_newer_than_the_release(probe: dict[str, Any]) -> None:
    newest, same, none, own = probe["examples"]
    assert newest == same == f"{probe['folder']}/examples/date=2026-11-17/example.parquet"
    assert none.startswith("AirflowFailException: no examples at or before 2026-11-01")
    assert own == "/data/2026-11-19.parquet"


def test_the_job_is_told_the_release_by_its_id_and_says_which_it_read(probe: dict[str, Any]) -> None:
    home = probe["folder"]
    read = {"--release": f"{home}/published", "--release-id": "2026-11-19-aa", "--clock": "evidence", "--epochs": "3"}
    read["--examples"] = f"{home}/examples/date=2026-11-17/example.parquet"
    words = probe["arguments"]
    assert dict(zip(words[::2], words[1::2], strict=True)) == read
    assert probe["trained"] == {
        "release_id": "2026-11-19-aa",
        "published": f"{home}/published",
        "date": "2026-11-19",
        "examples": read["--examples"],
    }


def test_maintenance_waits_while_a_night_or_a_training_runs(probe: dict[str, Any]) -> None:
    assert probe["running"] == ["", "1 run of kar_nightly at work", "2 runs of kar_nightly at work, 1 run of kar_train at work"]
