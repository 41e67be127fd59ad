"""Which partition date a run is for, whatever started it. Standard library only: tested without Airflow.

a person or a tool said so          conf["date"]
the schedule, a backfill            the run's partition key (a night's key is the day that ended)
a logical date (`airflow dags test DAG DATE`, a manual run with one)
                                    that day, once it is over; else the day before
an asset event                      the event's partition key, or the `date` of its extra
a manual run without any of these   the day before it was started
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any


def partition_date(run: Any, now: dt.datetime | None = None) -> str:
    """The partition date of a run, YYYY-MM-DD.

    A manual run without a date and an asset-triggered run have neither logical date nor data interval in their context,
    so nothing here relies on those.

    Args:
        run: a task's context, its `dag_run`, or anything shaped like either.
        now: the time that decides whether a logical date's day is over; None: the clock's.

    Raises:
        ValueError: none of them is there, the date given is none, or the run's asset events are for several dates.
    """
    run = run["dag_run"] if isinstance(run, Mapping) else run
    conf = getattr(run, "conf", None) or {}
    if given := conf.get("date"):
        return dt.date.fromisoformat(str(given)).isoformat()
    if key := getattr(run, "partition_key", None):
        return _day(key)
    if at := getattr(run, "logical_date", None):
        return min(_utc_day(at), _day_before(now or dt.datetime.now(dt.UTC))).isoformat()
    if dates := _dates_of_events(run):
        if len(dates) > 1:
            raise ValueError(f"asset events of several dates started this run: {', '.join(sorted(dates))}")
        return dates.pop()
    if at := getattr(run, "run_after", None):
        return _day_before(at).isoformat()
    raise ValueError(f"no date in this run: start it with conf {{'date': 'YYYY-MM-DD'}} (run {getattr(run, 'run_id', '?')})")


DATE = "{{ kar_date(dag_run) }}"
"""The template of a run's partition date, for arguments of every kind of operator."""

MACROS: dict[str, Callable[..., Any]] = {"kar_date": partition_date}
"""What a DAG takes as `user_defined_macros`."""


def _dates_of_events(run: Any) -> set[str]:
    dates = set()
    for event in getattr(run, "consumed_asset_events", None) or ():
        said = getattr(event, "partition_key", None) or (getattr(event, "extra", None) or {}).get("date")
        if said:
            dates.add(_day(said))
    return dates


def _day(said: object) -> str:
    return dt.date.fromisoformat(str(said)[:10]).isoformat()


def _utc_day(at: dt.datetime) -> dt.date:
    return at.astimezone(dt.UTC).date()


def _day_before(at: dt.datetime) -> dt.date:
    return _utc_day(at) - dt.timedelta(days=1)
