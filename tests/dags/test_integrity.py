"""Every DAG file, parsed once by Airflow itself: quick, innocent, complete, and the graph that is expected."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from deployment import POOLS

from kar import flow

ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in (ROOT / "dags").glob("kar_*.py"))
HEAVY = ("kar", "torch", "pandas", "numpy", "duckdb", "vllm", "openai", "pyarrow", "sentence_transformers")
_VARIABLES = {
    "KAR_LLM_SERVER": "command",
    "KAR_LLM_URL": "http://127.0.0.1:9/v1",
    "KAR_LLM_START": "serve",
    "KAR_SOURCES_MARKER": "/in/{date}/_OK",
}

_NAUGHTY = """# Airflow looks only into files that say airflow and dag
import pathlib, socket, subprocess
from airflow.sdk import Variable
pathlib.Path(__file__).with_suffix(".txt").write_text("written")
subprocess.run(["true"])
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError:
    pass
Variable.get("limit")
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All files in one fresh interpreter; a deployment that shows every optional task."""
    home = tmp_path_factory.mktemp("airflow")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KAR_", "AIRFLOW"))}
    environment = {**clean, **_VARIABLES, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    naughty = tmp_path_factory.mktemp("naughty")
    (naughty / "kar_naughty.py").write_text(_NAUGHTY)
    command = [sys.executable, str(Path(__file__).with_name("parsed.py")), str(ROOT / "dags"), str(naughty)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("PARSED")]
    assert lines, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(lines[0].removeprefix("PARSED"))
    return found


def test_every_dag_file_parses_and_defines_the_dag_of_its_name(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert {"kar_nightly.py", "kar_deadline.py"} <= set(FILES)
    assert parsed["all"] == [name.removesuffix(".py") for name in FILES]


def test_no_dag_file_takes_two_seconds_to_parse(parsed: dict[str, Any]) -> None:
    assert {name: said["seconds"] for name, said in parsed["files"].items() if said["seconds"] >= 2} == {}
    assert len(parsed["files"]) == len(FILES)


def test_parsing_opens_no_socket_starts_no_process_writes_nothing_and_asks_for_no_variable(parsed: dict[str, Any]) -> None:
    assert {name: said["did"] for name, said in parsed["files"].items()} == {name: [] for name in FILES}


def test_a_file_that_did_any_of_this_would_be_seen(parsed: dict[str, Any]) -> None:
    assert {said.partition(" ")[0] for said in parsed["naughty"]} >= {"open", "subprocess.Popen", "socket.connect", "Variable"}


def test_parsing_imports_nothing_heavy(parsed: dict[str, Any]) -> None:
    assert [name for name in parsed["imported"] if name in HEAVY] == []


def test_the_modules_import_at_parse_only_the_standard_library_airflow_and_each_other() -> None:
    paths = sorted((ROOT / "dags").glob("*.py"))
    own = {path.stem for path in paths}
    allowed = own | set(sys.stdlib_module_names) | {"airflow"}
    of_their_provider = {"runner_docker.py", "runner_kubernetes.py"}  # imported only where the deployment chose them
    checked = [path for path in paths if path.name not in of_their_provider]
    strange = {path.name: sorted(_imported(path) - allowed) for path in checked}
    assert strange == {path.name: [] for path in checked}
    assert len(checked) >= 10


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_every_task_has_an_owner_retries_a_time_out_and_a_pool_that_exists(parsed: dict[str, Any]) -> None:
    tasks = {f"{dag_id}.{task_id}": task for dag_id, dag in parsed["dags"].items() for task_id, task in dag["tasks"].items()}
    assert len(tasks) >= 20
    for name, task in tasks.items():
        assert task["owner"] == "kar", name
        assert task["retries"] >= 1, name
        assert 0 < task["timeout_s"] <= 24 * 3600, name
        assert task["pool"] in POOLS, name


def test_no_dag_catches_up_and_each_says_what_it_is(parsed: dict[str, Any]) -> None:
    for name, dag in parsed["dags"].items():
        assert dag["catchup"] is False, name
        assert len(dag["doc"]) > 100, name
        assert "kar" in dag["tags"], name


def test_the_night_is_the_graph_that_its_first_lines_draw(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["kar_nightly"]["tasks"]
    assert {name: task["next"] for name, task in tasks.items()} == {
        "sources_ready": ["sources"],
        "sources": ["histories"],
        "histories": ["prompts"],
        "prompts": ["llm.server_up", "llm.shards"],
        "llm.server_up": ["llm.ask", "llm.server_down"],
        "llm.shards": ["llm.ask"],
        "llm.ask": ["knowledge", "llm.server_down"],
        "llm.server_down": [],
        "knowledge": ["vectors"],
        "vectors": ["training_due"],
        "training_due": ["training"],
        "training": ["examples", "features", "train"],
        "train": ["over"],
        "examples": ["adaptor"],
        "adaptor": ["features"],
        "features": ["report", "verify"],
        "verify": ["promote"],
        "promote": ["over", "report"],
        "report": ["over"],
        "over": [],
    }
    assert set(flow.NAMES) <= set(tasks)


def test_only_promotion_announces_a_release(parsed: dict[str, Any]) -> None:
    announcing = {name: task["outlets"] for name, task in parsed["dags"]["kar_nightly"]["tasks"].items() if task["outlets"]}
    assert announcing == {"promote": ["kar_release"]}


def test_the_scarce_places_are_behind_pools(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["kar_nightly"]["tasks"]
    pools = {pool: sorted(name for name, task in tasks.items() if task["pool"] == pool) for pool in POOLS if pool != "kar"}
    assert pools == {"kar_llm": ["llm.ask"], "kar_gpu": ["adaptor", "vectors"], "kar_publish": ["features", "promote", "verify"]}


def test_a_night_is_one_partition_at_a_time(parsed: dict[str, Any]) -> None:
    assert parsed["dags"]["kar_nightly"]["schedule"] == "CronPartitionTimetable"
    assert parsed["dags"]["kar_nightly"]["max_active_runs"] == 1


def test_the_params_of_a_night_have_a_schema(parsed: dict[str, Any]) -> None:
    params = parsed["dags"]["kar_nightly"]["params"]
    assert set(params) == {"date", "settings", "set", "promote"}
    assert all(schema.get("type") for schema in params.values())
