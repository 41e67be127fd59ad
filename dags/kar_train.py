"""Train the adaptor: every week, when a night says that one is due, and on demand. Five seeds, four arms.

    [server_up →] examples [→ server_down] → adaptor

`kar_nightly` starts this when `kar training due` says so: the vectors' encoder or template changed, or the last training is old.
A checkpoint is used only if its gate holds: the next night takes the newest one that was promoted. One that is held back (exit
code 3) fails `adaptor` without a retry, with the gate's words; nights go on with the one before. `kar training list` shows the
verdicts.

* **By hand**: `airflow dags trigger kar_train --conf '{"date": "2026-11-19"}'`; without a date: yesterday. A date that was trained
  already, by the same settings on the same data, does nothing.
* In time mode the examples meet knowledge of an earlier date, whose nightly stages `examples` makes first if they are missing. It may
  ask the language model for that, so it stands where questions stand: pool kar_llm, the key, the server around it.
* Schedule: `KAR_TRAIN_SCHEDULE` (Sundays at 08:00 UTC, after the night's release is due).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import sys
from pathlib import Path
from typing import Any

from airflow.sdk import Param, TaskGroup, dag

# The folder of the DAG files is on the path of Airflow's processes, but not of everything that parses a DAG file.
sys.path.insert(0, str(Path(__file__).parent))
from defaults import SETTINGS_PARAMS, date_param, task_defaults
from deployment import Deployment
from night import run_type
from partition import DATE, partition_date
from runner import stage_task
from server import llm_server

HERE = Deployment.from_environment()
ARMS = '["base","text","knowledge","permuted"]'


def training_date(run: Any) -> str:
    """The date that a training is for: the day before a scheduled run's time, also when it is cleared weeks later.

    Any other run's date is resolved as everywhere. (A night carries its date as its partition key. Partitions of a weekly schedule are a
    week apart, so a training's run has none.)
    """
    if run_type(run) == "scheduled" and not (getattr(run, "conf", None) or {}).get("date"):
        return str(run.run_after.astimezone(dt.UTC).date() - dt.timedelta(days=1))
    return partition_date(run)


@dag(
    dag_id="kar_train",
    schedule=os.environ.get("KAR_TRAIN_SCHEDULE") or "0 8 * * 0",
    # no start_date: a scheduler that begins now waits for the next time, and does not make up for the one that was
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["kar"],
    user_defined_macros={"kar_date": training_date},
    params={
        "date": date_param("train on what was known at the end of this day; empty: see above"),
        **SETTINGS_PARAMS,
        "seeds": Param(
            [1, 2, 3, 4, 5], type="array", items={"type": "integer"}, minItems=1, description="one training of each arm for each"
        ),
    },
    default_args=task_defaults(HERE),
)
def kar_train() -> None:
    with TaskGroup("snapshot", tooltip="examples, and the knowledge that they meet"):
        examples = stage_task(
            "examples",
            ["run", "examples", "--date", DATE, "--json"],
            deployment=HERE,
            pool="kar_llm",
            asks=True,
            timeout=dt.timedelta(hours=6),
            retries=4,  # the night whose tables it reads may still be at work
        )
        # a folder of its own: a night's server_down must not end a server that this started, nor the other way round
        own = dataclasses.replace(HERE, home=str(Path(HERE.home or ".kar") / "_train"))
        up, down = llm_server(own, planned_by="examples")
        if up is not None:
            up >> examples
        if down is not None:
            examples >> down
    seeds = ["--set", "adaptor.seeds={{ params.seeds | tojson }}", "--set", f"adaptor.arms={ARMS}"]
    adaptor = stage_task(
        "adaptor",
        ["run", "adaptor", "--date", DATE, *seeds, "--json"],
        deployment=HERE,
        pool="kar_gpu",
        timeout=dt.timedelta(hours=24),  # killed midway it goes on from its last epochs, so a retry is not a new training
    )
    examples >> adaptor


kar_train()
