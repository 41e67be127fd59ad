"""kar_train and kar_maintenance, run whole on SQLite as `airflow dags test` does, with a stand-in for kar."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow  # Airflow's metadata database, and some seconds a run

YESTERDAY = (dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)).isoformat()
CASES: dict[str, dict[str, Any]] = {
    "held back": {"dag": "kar_train", "rules": {"adaptor": {"exit": 3, "stderr": "kar: AUC below a coin's"}}},
    # after it: `dag.test` leaves a run's params in the DAG that the process holds
    "training": {"dag": "kar_train", "conf": {"date": "2026-11-03", "seeds": [7]}},
    "maintenance": {"dag": "kar_maintenance", "rules": {"collect": {"exit": 1, "stderr": "kar: another process is at work"}}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("others")
    (folder / "stand_in").mkdir()
    tell = folder / "tell.py"
    tell.write_text(f"import sys\nopen({str(folder / 'stand_in' / 'told.txt')!r}, 'a').write(sys.stdin.read() + '\\n')\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KAR_", "AIRFLOW"))} | {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE.parents[1] / "dags"),
        "KAR_PYTHON": str(HERE / "stand_in.py"),
        "KAR_STAND_IN": str(folder / "stand_in"),
        "KAR_RETRY_DELAY": "0",
        "KAR_FORGET_REQUESTS": "/requests",
        "KAR_NOTIFY": f"{sys.executable} {tell}",
    }
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True, timeout=600)
    (folder / "cases.json").write_text(json.dumps(CASES))
    command = [sys.executable, str(HERE / "nights.py"), str(folder / "cases.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    told = [json.loads(line.removeprefix("NIGHT")) for line in done.stdout.splitlines() if line.startswith("NIGHT")]
    assert len(told) == len(CASES), done.stderr[-3000:] + done.stdout[-3000:]
    return {run["name"]: run for run in told}


def test_a_training_asks_kar_for_its_seeds_and_arms_on_its_date(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["training"]
    assert run["state"] == "success"
    arms = 'adaptor.arms=["base","text","knowledge","permuted"]'
    assert run["calls"] == [
        ["run", "examples", "--date", "2026-11-03", "--json"],
        ["run", "adaptor", "--date", "2026-11-03", "--set", "adaptor.seeds=[7]", "--set", arms, "--json"],
    ]


def test_a_training_that_its_gate_holds_back_fails_once_and_is_told_with_the_command_that_looks_closer(
    runs: dict[str, dict[str, Any]],
) -> None:
    run = runs["held back"]
    assert run["state"] == "failed"
    assert run["tasks"]["adaptor"] == "failed"
    trainings = [call for call in run["calls"] if call[1] == "adaptor"]
    assert len(trainings) == 1
    assert "adaptor.seeds=[1, 2, 3, 4, 5]" in trainings[0]
    assert run["told"].startswith(f"kar: gate failed: {YESTERDAY}: adaptor: kar: AUC below a coin's")
    assert "look closer: kar training list" in run["told"]


def test_of_maintenance_each_part_fails_alone_after_it_was_tried_again(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["maintenance"]
    assert run["state"] == "failed"
    wanted = {"collect": "failed", "verify_release": "upstream_failed"}
    wanted |= dict.fromkeys(("nights_are_over", "forget", "compact", "verify_ledger"), "success")
    assert run["tasks"] == wanted
    words = [" ".join(call) for call in run["calls"]]
    assert words.count("release collect") == 9
    assert {"forget requests /requests", "ledger compact", "ledger verify"} <= set(words)
    assert "task failed" in run["told"]
