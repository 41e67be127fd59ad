"""kar_train, kar_maintenance and kar_downstream_example as Airflow's own DagBag finds them, in each of the three places to run kar."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DAGS = ("kar_downstream_example", "kar_maintenance", "kar_train")
POOLS = set(json.loads((ROOT / "dags" / "pools.json").read_text()))
_PROBE = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
found = {}
for name in ("kar_downstream_example", "kar_maintenance", "kar_train", "kar_nightly"):
    started = time.process_time()
    bag = DagBag(f"dags/{name}.py")
    seconds = time.process_time() - started
    dag = bag.dags.get(name)
    DagSerialization.to_json(dag)
    found[name] = {
        "errors": {str(k): str(v) for k, v in bag.import_errors.items()}, "seconds": seconds, "doc": dag.doc_md, "tags": sorted(dag.tags),
        "catchup": dag.catchup, "max_active_runs": dag.max_active_runs, "schedule": type(dag.timetable).__name__,
        "params": sorted(dag.params), "macros": sorted(dag.user_defined_macros or {}),
        "tasks": {t.task_id: {
            "next": sorted(t.downstream_task_ids), "owner": t.owner, "retries": t.retries, "pool": t.pool, "type": t.task_type,
            "timeout_s": t.execution_timeout.total_seconds() if t.execution_timeout else None, "mapped": t.is_mapped,
            "arguments": list(getattr(t, "arguments", None) or getattr(t, "command", None) or []), "asks": getattr(t, "asks", None),
            "weight": t.priority_weight,
        } for t in dag.topological_sort()},
    }
heavy = sorted(m for m in ("kar", "torch", "pandas", "duckdb", "vllm", "sentence_transformers") if m in sys.modules)
providers = sorted(m for m in ("docker", "kubernetes") if m in sys.modules)
print("PROBE" + json.dumps({"dags": found, "heavy": heavy, "providers": providers}))
"""


def probed(folder: Path, **variables: str) -> dict[str, Any]:
    """One fresh interpreter, because Airflow and the DAG files configure themselves from the environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAR_")}
    environment |= {"AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **variables}
    done = subprocess.run([sys.executable, "-c", _PROBE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("PROBE")]
    assert lines, done.stderr[-3000:] + done.stdout[-2000:]
    found: dict[str, Any] = json.loads(lines[0].removeprefix("PROBE"))
    return found


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return probed(tmp_path_factory.mktemp("airflow"), KAR_FORGET_REQUESTS="/requests")


@pytest.mark.parametrize("name", DAGS)
def test_each_parses_quickly_and_says_what_it_is_for(probe: dict[str, Any], name: str) -> None:
    dag = probe["dags"][name]
    assert dag["errors"] == {}
    assert dag["seconds"] < 2
    assert dag["doc"]
    assert "kar" in dag["tags"]
    assert dag["catchup"] is False


def test_parsing_imports_nothing_heavy_and_no_provider_that_is_not_used(probe: dict[str, Any]) -> None:
    assert probe["heavy"] == []
    assert probe["providers"] == []


def test_every_task_has_an_owner_retries_a_time_out_and_a_pool(probe: dict[str, Any]) -> None:
    tasks = [task for name in DAGS for task in probe["dags"][name]["tasks"].values()]
    assert len(tasks) == 2 + 2 + 6
    for task in tasks:
        assert task["owner"] == "kar"
        assert task["retries"] >= 1
        assert 0 < task["timeout_s"] <= 24 * 3600
        assert task["pool"] in POOLS


def test_a_training_is_of_five_seeds_and_four_arms_and_its_questions_stand_where_questions_stand(probe: dict[str, Any]) -> None:
    dag = probe["dags"]["kar_train"]
    examples, adaptor = dag["tasks"]["snapshot.examples"], dag["tasks"]["adaptor"]
    assert examples["next"] == ["adaptor"]
    assert (examples["pool"], examples["asks"], adaptor["pool"], adaptor["asks"]) == ("kar_llm", True, "kar_gpu", False)
    assert 'adaptor.arms=["base","text","knowledge","permuted"]' in adaptor["arguments"]
    assert "adaptor.seeds={{ params.seeds | tojson }}" in adaptor["arguments"]
    assert dag["macros"] == ["kar_date"]


def test_maintenance_forgets_first_and_verifies_what_it_changed(probe: dict[str, Any]) -> None:
    tasks = probe["dags"]["kar_maintenance"]["tasks"]
    assert tasks["nights_are_over"]["next"] == ["collect", "compact", "forget"]
    assert tasks["compact"]["next"] == ["verify_ledger"]
    assert tasks["collect"]["next"] == ["verify_release"]
    assert tasks["forget"]["arguments"] == ["forget", "requests", "/requests"]
    assert tasks["forget"]["weight"] > max(task["weight"] for name, task in tasks.items() if name != "forget")
    assert {task["pool"] for name, task in tasks.items() if name != "nights_are_over"} == {"kar_publish"}


def test_the_downstream_job_listens_to_partitions_of_the_release(probe: dict[str, Any]) -> None:
    dag = probe["dags"]["kar_downstream_example"]
    assert dag["schedule"] == "PartitionedAssetTimetable"
    assert dag["tasks"]["train_ctr"]["mapped"]
    assert dag["tasks"]["releases"]["next"] == ["train_ctr"]


@pytest.mark.parametrize(
    ("runner", "operator", "more"),
    [
        ("docker", "KarDockerOperator", {"KAR_HOME": "/data"}),
        ("kubernetes", "KarPodOperator", {"KAR_HOME": "/data", "KAR_KUBERNETES_CLAIM": "kar", "KAR_KUBERNETES_SECRET": "llm/key"}),
    ],
)
def test_in_containers_and_pods_the_graph_is_the_same(
    probe: dict[str, Any], tmp_path: Path, runner: str, operator: str, more: dict[str, str]
) -> None:
    there = probed(tmp_path, KAR_FORGET_REQUESTS="/requests", KAR_RUNNER=runner, KAR_IMAGE="kar:1", **more)
    assert there["providers"] == [runner]
    for name in (*DAGS, "kar_nightly"):
        here, elsewhere = probe["dags"][name]["tasks"], there["dags"][name]["tasks"]
        assert {task: found["next"] for task, found in here.items()} == {task: found["next"] for task, found in elsewhere.items()}
        assert {task: found["arguments"] for task, found in here.items()} == {task: found["arguments"] for task, found in elsewhere.items()}
    kinds = {found["type"] for name in ("kar_train", "kar_maintenance") for found in there["dags"][name]["tasks"].values()}
    assert kinds == {operator, "NothingRuns"}
