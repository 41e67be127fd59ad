"""kar, when a night's release is due (`KAR_PUBLISH_BY`): one look whether it is served, and a message if not.

It looks at the asset `kar_release`, so it tells of a night that failed, hangs, or never began. Without a deadline there is no
such DAG.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Any

from airflow.sdk import CronTriggerTimetable, dag, get_current_context, task

sys.path.insert(0, str(Path(__file__).parent))
from assets import RELEASE
from deployment import Deployment
from notices import absence, send
from partition import partition_date

HERE = Deployment.from_environment()


def kar_deadline(publish_by: dt.time) -> None:
    """The DAG, at that time of each day."""

    @dag(
        dag_id="kar_deadline",
        schedule=CronTriggerTimetable(f"{publish_by.minute} {publish_by.hour} * * *", timezone="UTC"),
        start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        catchup=False,
        max_active_runs=1,
        doc_md=__doc__,
        tags=["kar"],
        default_args={"owner": "kar", "retries": 2, "retry_delay": HERE.retry_delay, "pool": "kar"},
    )
    def kar_deadline() -> None:
        @task(inlets=[RELEASE], execution_timeout=dt.timedelta(minutes=5))
        def look() -> bool:
            """Whether the last night's release is served."""
            context: Any = get_current_context()
            now = dt.datetime.now(dt.UTC)
            date = partition_date(context, now)
            events = context["inlet_events"][RELEASE].after((now - dt.timedelta(days=2)).isoformat())
            is_served = any((event.extra or {}).get("date") == date for event in events)
            if not is_served:
                send(absence(date, HERE), HERE)
            return is_served

        look()

    kar_deadline()


if HERE.publish_by is not None:
    kar_deadline(HERE.publish_by)
