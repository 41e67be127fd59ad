"""Every day, when no night and no training runs: keep what kar keeps in order, and forget whom it is asked to forget.

    nights_are_over → forget
                    → compact → verify_ledger
                    → collect → verify_release

* `forget`: takes the ids in `KAR_FORGET_REQUESTS` (user.txt, item.txt) out of every table, release and answer; first in the queue.
* `compact`: folds the ledger's parts; `collect`: removes releases that nobody can need; then both are verified, byte by byte.

One at a time (pool kar_publish, which publishing holds too), and never beside a night: the first task waits without holding a worker, and if
a night begins all the same, kar refuses (another process is at work) and the task is tried again for hours. Each may fail alone.

Schedule: `KAR_MAINTENANCE_SCHEDULE` (12:00 UTC).
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path
from typing import Any

from airflow.sdk import dag

# The folder of the DAG files is on the path of Airflow's processes, but not of everything that parses a DAG file.
sys.path.insert(0, str(Path(__file__).parent))
from defaults import SETTINGS_PARAMS, task_defaults
from deployment import Deployment
from partition import MACROS
from runner import stage_task
from server import Wait

HERE = Deployment.from_environment()
BUSY = ("kar_nightly", "kar_train")


class NothingRuns(Wait):
    """Waits until no run of these DAGs is at work."""

    def __init__(self, *, dag_ids: tuple[str, ...], **rest: Any) -> None:
        super().__init__(**rest)
        self.dag_ids = dag_ids

    def missing(self, context: Any) -> str:
        """Which of them runs, as a sentence. A queued run does not count: one of a paused DAG stays queued for good."""
        running = {dag_id: context["ti"].get_dr_count(dag_id=dag_id, states=["running"]) for dag_id in self.dag_ids}
        return ", ".join(f"{count} run{'s' if count > 1 else ''} of {dag_id} at work" for dag_id, count in running.items() if count)


@dag(
    dag_id="kar_maintenance",
    schedule=os.environ.get("KAR_MAINTENANCE_SCHEDULE") or "0 12 * * *",
    # no start_date: a scheduler that begins now waits for the next time, and does not make up for the one that was
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["kar"],
    user_defined_macros=MACROS,
    params=dict(SETTINGS_PARAMS),
    default_args=task_defaults(
        HERE,
        retries=8,  # a night that begins meanwhile is waited for: about five hours
        retry_delay=HERE.retry_delay * 2,
        retry_exponential_backoff=True,
        max_retry_delay=dt.timedelta(hours=1),
        pool="kar_publish",
        execution_timeout=dt.timedelta(hours=2),
    ),
)
def kar_maintenance() -> None:
    over = NothingRuns(task_id="nights_are_over", dag_ids=BUSY, every=dt.timedelta(minutes=5), at_most=dt.timedelta(hours=10), pool="kar")
    jobs = {
        "compact": ["ledger", "compact"],
        "verify_ledger": ["ledger", "verify"],
        "collect": ["release", "collect"],
        "verify_release": ["release", "verify"],
    }
    made = {name: stage_task(name, arguments, deployment=HERE, pool="kar_publish") for name, arguments in jobs.items()}
    over >> made["compact"] >> made["verify_ledger"]
    over >> made["collect"] >> made["verify_release"]
    if HERE.forget_requests:
        # nobody who asked to be forgotten waits for the rest
        over >> stage_task("forget", ["forget", "requests", HERE.forget_requests], deployment=HERE, pool="kar_publish", priority_weight=10)


kar_maintenance()
