"""Which partition date a run is for, whatever started it. Standard library only: tested without Airflow."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any


def partition_date(context: Mapping[str, Any]) -> str:
    """The partition date of a run, YYYY-MM-DD.

    Tried in this order, because a manual run without a date and an asset-triggered run have neither logical date nor
    data interval in their context: `conf["date"]` (said by a person or a backfill), the partition key, the day before
    the logical date (a night's run is for the day that ended), the day before `run_after`.

    Args:
        context: the task's context, or anything shaped like it.

    Raises:
        ValueError: none of them is there, or the date given is none.
    """
    run = context["dag_run"]
    conf = getattr(run, "conf", None) or {}
    if given := conf.get("date"):
        return dt.date.fromisoformat(str(given)).isoformat()
    if key := getattr(run, "partition_key", None):
        return dt.date.fromisoformat(str(key)[:10]).isoformat()
    for name in ("logical_date", "run_after"):
        if at := getattr(run, name, None):
            return _day_before(at)
    raise ValueError(f"no date in this run: start it with conf {{'date': 'YYYY-MM-DD'}} (run {getattr(run, 'run_id', '?')})")


def _day_before(at: dt.datetime) -> str:
    return (at.astimezone(dt.UTC).date() - dt.timedelta(days=1)).isoformat()
