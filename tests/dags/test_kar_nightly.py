"""dags/kar_nightly.py parses in Airflow's own DagBag and says what kar.flow says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kar import flow

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # Airflow takes seconds to import
_PROBE = """
import json, sys, time
before = set(sys.modules)
from airflow.dag_processing.dagbag import DagBag
started = time.monotonic()
bag = DagBag("dags")
seconds = time.monotonic() - started
dag = bag.dags.get("kar_nightly")
print("PROBE" + json.dumps({
    "errors": {str(k): str(v) for k, v in bag.import_errors.items()},
    "seconds": seconds,
    "heavy": sorted(m for m in ("kar", "torch", "pandas", "duckdb", "vllm", "sentence_transformers") if m in sys.modules),
    "tasks": [] if dag is None else [
        {"id": t.task_id, "next": sorted(t.downstream_task_ids), "retries": t.retries, "owner": t.owner,
         "timeout_s": t.execution_timeout.total_seconds()} for t in dag.topological_sort()],
    "catchup": dag.catchup, "doc": dag.doc_md, "tags": sorted(dag.tags),
}))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """One fresh interpreter, because Airflow configures itself at import from the environment."""
    home = tmp_path_factory.mktemp("airflow")
    environment = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    done = subprocess.run([sys.executable, "-c", _PROBE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith("PROBE")]
    assert lines, done.stderr[-2000:]
    found: dict[str, object] = json.loads(lines[0].removeprefix("PROBE"))
    return found


def test_the_dag_parses_without_an_import_error(probe: dict[str, object]) -> None:
    assert probe["errors"] == {}
    assert probe["doc"]
    assert probe["tags"] == ["kar"]
    assert probe["catchup"] is False


def test_the_tasks_are_the_stages_of_the_flow_in_order(probe: dict[str, object]) -> None:
    tasks = probe["tasks"]
    assert isinstance(tasks, list)
    assert [t["id"] for t in tasks] == list(flow.NAMES)
    assert [t["next"] for t in tasks] == [[name] for name in flow.NAMES[1:]] + [[]]


def test_every_task_has_an_owner_retries_and_a_time_out(probe: dict[str, object]) -> None:
    tasks = probe["tasks"]
    assert isinstance(tasks, list)
    assert len(tasks) == len(flow.FLOW)
    for task in tasks:
        assert task["owner"] == "kar"
        assert task["retries"] >= 1
        assert 0 < task["timeout_s"] <= 6 * 3600


def test_parsing_imports_nothing_heavy(probe: dict[str, object]) -> None:
    assert probe["heavy"] == []
