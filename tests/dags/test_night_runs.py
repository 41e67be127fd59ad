"""kar_nightly, run whole on SQLite as `airflow dags test` does, with a stand-in for kar: what it calls and how it ends."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
pytestmark = pytest.mark.slow  # Airflow's metadata database, and some ten seconds a night

DATE = "2026-11-19"
YESTERDAY = (dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)).isoformat()
CASES: dict[str, dict[str, Any]] = {
    "too early": {"dag": "kar_deadline"},
    "plain": {"date": DATE},
    "held back": {"date": DATE, "rules": {"promote": {"exit": 3, "stderr": "kar: the gate failed: coverage fell"}}},
    "retried": {
        "conf": {"date": "2026-11-03", "set": ["llm.token_budget=10"]},
        "rules": {"vectors": {"exit": 1, "stderr": "kar: no server"}},
    },
    "first": {"rules": {"due": {"json": {"due": True, "training": "", "why": "no training yet"}}}},
    "unserved": {
        "date": DATE,
        "conf": {"promote": False},
        "rules": {"knowledge": {"json": {"figures": {"stopped_by": "token_budget"}, "rejected": {"over_budget": 7}}}},
    },
    "older": {"date": DATE, "rules": {"promote": {"json": {"is_promoted": False, "served": "2026-11-20-xyz"}}}},
    "in time": {"dag": "kar_deadline"},
}


def _environment(home: Path, stand_in: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KAR_", "AIRFLOW"))}
    tell = stand_in / "tell.py"
    tell.write_text(f"import sys\nopen({str(stand_in / 'told.txt')!r}, 'a').write(sys.stdin.read() + '\\n')\n")
    return {
        **clean,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "KAR_PYTHON": str(HERE / "stand_in.py"),
        "KAR_STAND_IN": str(stand_in),
        "KAR_SHARD_REQUESTS": "5",
        "KAR_RETRY_DELAY": "0",
        "KAR_NOTIFY": f"{sys.executable} {tell}",
    }


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """An environment with a migrated database, and the stand-in's folder."""
    folder = tmp_path_factory.mktemp("nights")
    (folder / "stand_in").mkdir()
    environment = _environment(folder / "airflow", folder / "stand_in")
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True, timeout=600)
    return environment, folder


@pytest.fixture(scope="module")
def nights(airflow: tuple[dict[str, str], Path]) -> dict[str, dict[str, Any]]:
    environment, folder = airflow
    (folder / "cases.json").write_text(json.dumps(CASES))
    command = [sys.executable, str(HERE / "nights.py"), str(folder / "cases.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    told = [json.loads(line.removeprefix("NIGHT")) for line in done.stdout.splitlines() if line.startswith("NIGHT")]
    assert len(told) == len(CASES), done.stderr[-3000:] + done.stdout[-3000:]
    return {night["name"]: night for night in told}


def _words(night: dict[str, Any]) -> list[str]:
    return [" ".join(call[:2]) if call[0] != "ask" else f"ask {call[call.index('--shard') + 1]}" for call in night["calls"]]


def test_a_night_runs_the_stages_in_order_with_as_many_shards_as_the_requests_need(nights: dict[str, dict[str, Any]]) -> None:
    night = nights["plain"]
    assert night["state"] == "success"
    words = _words(night)
    assert sorted(words[3:6]) == ["ask 0/3", "ask 1/3", "ask 2/3"]  # Airflow runs mapped tasks in any order
    assert [*words[:3], *words[6:]] == [
        *("run sources", "run histories", "run prompts", "run knowledge", "run vectors"),
        *("training due", "run features", "release verify", "release promote", "run report"),
    ]
    assert all(call[call.index("--date") + 1] == DATE for call in night["calls"])
    features = night["calls"][-4]
    assert features[features.index("--set") + 1] == "features.promote=false"


def test_a_night_announces_its_release_in_the_partition_of_its_date(nights: dict[str, dict[str, Any]]) -> None:
    extra = {"release_id": f"{DATE}-abc", "path": f"published/releases/{DATE}-abc", "date": DATE}
    assert nights["plain"]["events"] == [{"extra": extra, "partition_key": DATE}]


def test_a_release_that_its_gate_holds_back_fails_once_is_told_and_reported(nights: dict[str, dict[str, Any]]) -> None:
    night = nights["held back"]
    assert night["state"] == "failed"
    assert (night["tasks"]["promote"], night["tasks"]["report"], night["tasks"]["over"]) == ("failed", "success", "upstream_failed")
    assert _words(night).count("release promote") == 1
    assert night["events"] == []
    assert night["told"].startswith(f"kar: gate failed: {DATE}: promote: kar: the gate failed: coverage fell")


def test_a_named_error_is_retried_and_ends_the_night_without_a_release(nights: dict[str, dict[str, Any]]) -> None:
    night = nights["retried"]
    assert night["state"] == "failed"
    assert _words(night).count("run vectors") == 3
    assert _words(night)[-1] == "run vectors"
    assert night["tasks"]["report"] == "skipped"
    assert night["told"].count("kar: task failed: 2026-11-03: vectors") == 1


def test_the_first_night_trains_and_a_run_without_a_date_is_for_yesterday(nights: dict[str, dict[str, Any]]) -> None:
    night = nights["first"]
    assert night["state"] == "success"
    assert [word for word in _words(night) if word.startswith("run ")][-4:] == ["run examples", "run adaptor", "run features", "run report"]
    assert night["tasks"]["train"] == "skipped"
    assert {call[call.index("--date") + 1] for call in night["calls"]} == {YESTERDAY}
    assert nights["plain"]["tasks"]["adaptor"] == "skipped"


def test_a_run_that_shall_not_serve_publishes_reports_and_announces_nothing(nights: dict[str, dict[str, Any]]) -> None:
    night = nights["unserved"]
    assert night["state"] == "success"
    assert night["tasks"]["promote"] == "skipped"
    assert "release promote" not in _words(night)
    assert _words(night)[-1] == "run report"
    assert night["events"] == []


def test_a_budget_stop_is_told(nights: dict[str, dict[str, Any]]) -> None:
    assert "kar: budget stop: 2026-11-19: the token budget was reached, 7 planned subjects were not asked" in nights["unserved"]["told"]
    assert nights["plain"]["told"] == ""


def test_a_release_older_than_what_is_served_is_not_announced(nights: dict[str, dict[str, Any]]) -> None:
    night = nights["older"]
    assert (night["state"], night["tasks"]["promote"], night["tasks"]["report"]) == ("success", "skipped", "success")
    assert night["events"] == []


def test_a_night_whose_release_is_not_served_when_it_is_due_is_told(nights: dict[str, dict[str, Any]]) -> None:
    assert nights["too early"]["state"] == nights["in time"]["state"] == "success"
    assert nights["too early"]["told"].startswith(f"kar: deadline missed: {YESTERDAY}: no release of that night is served at 06:00 UTC")
    assert nights["in time"]["told"] == ""


def test_airflow_dags_test_is_the_quick_way_in(airflow: tuple[dict[str, str], Path]) -> None:
    environment, folder = airflow
    for name in ("rules.json", "calls.jsonl"):
        (folder / "stand_in" / name).unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "test", "kar_nightly", DATE], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    calls = (folder / "stand_in" / "calls.jsonl").read_text().splitlines()
    assert len(calls) == 13
    assert all(DATE in json.loads(call)["arguments"] for call in calls)
