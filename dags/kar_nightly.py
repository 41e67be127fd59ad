"""kar, every night: one task per stage, each `python -m kar run <stage>`; this file says when, never how.

The interpreter is `KAR_PYTHON`, the scenario `KAR_SETTINGS`, the data folder `KAR_HOME`. Start it by hand for a date:
`airflow dags trigger kar_nightly --conf '{"date": "2026-11-19"}'`. A stage whose recipe has not changed does nothing,
so clearing a task is always safe. A release that the promotion gate holds back (exit code 3) fails its task without a retry; the report
is made all the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

# The folder of the DAG files is on the path of Airflow's processes, but not of everything that parses a DAG file.
sys.path.insert(0, str(Path(__file__).parent))
from partition import partition_date

NIGHTLY = ("sources", "histories", "prompts", "knowledge", "vectors")
TRAINING = ("examples", "adaptor")
PUBLISHING = ("features", "report")
_HELD_BACK = 3
_TIMEOUT = {"knowledge": timedelta(hours=6), "adaptor": timedelta(hours=6), "vectors": timedelta(hours=2)}


def kar(stage: str, date: str, settings: str) -> None:
    """Run one stage in kar's own interpreter; its output goes to the task's log as it comes."""
    command = [os.environ.get("KAR_PYTHON", sys.executable), "-m", "kar", "run", stage, "--date", date]
    if settings:
        command += ["--settings", settings]
    done = subprocess.run(command, check=False)
    if done.returncode == _HELD_BACK:
        raise AirflowFailException("the release is published, but a check of the promotion gate failed: the last one is still served")
    done.check_returncode()


@dag(
    dag_id="kar_nightly",
    schedule="0 1 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["kar"],
    params={
        "settings": Param("", type="string", description="settings file; empty: $KAR_SETTINGS"),
        "date": Param(None, type=["null", "string"], format="date", description="partition date; empty: the night's own"),
    },
    default_args={"owner": "kar", "retries": 2, "retry_delay": timedelta(minutes=5)},
)
def kar_nightly() -> None:
    previous = None
    for name in (*NIGHTLY, *TRAINING, *PUBLISHING):
        rule = "all_done" if name == "report" else "all_success"

        @task(task_id=name, execution_timeout=_TIMEOUT.get(name, timedelta(hours=1)), trigger_rule=rule)
        def run_stage(stage: str) -> None:
            context = get_current_context()
            kar(stage, partition_date(context), context["params"]["settings"])

        current = run_stage(name)
        if previous is not None:
            previous >> current
        previous = current


kar_nightly()
