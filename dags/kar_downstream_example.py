"""A downstream team's job: train their CTR model on each release of kar, on the very release whose event started the run.

Scheduled on the partitioned asset `kar_release`: one run for each date that was promoted. The release is read from the event,
never from CURRENT: between the event and this task a newer release may be served, and a cleared run must do again what it did.

Two events of one date (a night that was run again) may come as one run: then each release that they name is trained on, in the order
of the events. An event that names no release fails the run; nothing is read in its place.

* **By hand**: `airflow dags trigger kar_downstream_example --conf '{"release_id": "2026-11-19-…", "published": "/…/published"}'`.
* The labelled examples are `KAR_DOWNSTREAM_EXAMPLES` ({date} stands for the partition), or else kar's own, the newest at or before the
  release's date. `KAR_DOWNSTREAM_PYTHON` is the job's interpreter: it needs torch and `kar.release`, and runs beside the task
  whatever KAR_RUNNER says. A team copies examples/train_ctr.py and this file, and puts its own table and model in their place.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path
from typing import Any

from airflow.sdk import Param, PartitionedAssetTimetable, dag, get_current_context, task

# The folder of the DAG files is on the path of Airflow's processes, but not of everything that parses a DAG file.
sys.path.insert(0, str(Path(__file__).parent))
from assets import RELEASE
from defaults import task_defaults
from deployment import Deployment
from downstream import TrainOnRelease, chosen

HERE = Deployment.from_environment()


@dag(
    dag_id="kar_downstream_example",
    schedule=PartitionedAssetTimetable(assets=RELEASE),
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=4,
    doc_md=__doc__,
    tags=["kar", "example"],
    params={
        "release_id": Param("", type="string", description="by hand only: the release to train on"),
        "published": Param("", type="string", description="by hand only: the published folder that holds it"),
        "epochs": Param(12, type="integer", minimum=1, description="at most so many"),
    },
    default_args=task_defaults(HERE, execution_timeout=dt.timedelta(minutes=10)),
)
def kar_downstream_example() -> None:
    python = os.environ.get("KAR_DOWNSTREAM_PYTHON") or HERE.python
    TrainOnRelease.partial(task_id="train_ctr", python=python, execution_timeout=dt.timedelta(hours=2)).expand(release=releases())


@task
def releases() -> list[dict[str, str]]:
    """Which releases the run is for: what the events (or the person) named, each once, in the order of the events."""
    context: Any = get_current_context()
    events = [event for several in context["triggering_asset_events"].values() for event in several]
    return chosen(events, context["params"])


kar_downstream_example()
