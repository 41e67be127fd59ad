"""dags/partition.py: whatever starts a run, its date is resolved the same way."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import pytest
from partition import partition_date

NIGHT = dt.datetime(2026, 11, 20, 1, 0, tzinfo=dt.UTC)
NOON = dt.datetime(2026, 11, 20, 12, 0, tzinfo=dt.UTC)
TOKYO = dt.timezone(dt.timedelta(hours=9))


def run(**said: object) -> SimpleNamespace:
    nothing = {"conf": None, "partition_key": None, "logical_date": None, "run_after": None, "consumed_asset_events": []}
    return SimpleNamespace(**{**nothing, **said})


def event(key: str | None, **extra: object) -> SimpleNamespace:
    return SimpleNamespace(partition_key=key, extra=extra)


@pytest.mark.parametrize(
    ("said", "date"),
    [
        ({"partition_key": "2026-11-19", "run_after": NIGHT}, "2026-11-19"),  # scheduled, backfilled, triggered by a partition of an asset
        ({"partition_key": "2026-11-05T01:00:00", "run_after": NIGHT}, "2026-11-05"),
        ({"run_after": NIGHT + dt.timedelta(hours=9)}, "2026-11-19"),  # started by a person without a date
        ({"conf": {"date": "2026-11-03"}, "partition_key": "2026-11-19", "logical_date": NIGHT}, "2026-11-03"),  # said by a person
        ({"conf": {"date": None}, "partition_key": "2026-11-19"}, "2026-11-19"),
        ({"logical_date": dt.datetime(2026, 11, 19, tzinfo=dt.UTC), "run_after": NIGHT}, "2026-11-19"),  # airflow dags test … 2026-11-19
        ({"logical_date": NOON, "run_after": NOON}, "2026-11-19"),  # started by a person, the logical date being now
        ({"logical_date": dt.datetime(2026, 11, 20, 1, tzinfo=TOKYO)}, "2026-11-19"),  # the 19th, 16:00 UTC
        ({"run_after": dt.datetime(2026, 11, 20, 1, tzinfo=TOKYO)}, "2026-11-18"),
        ({"consumed_asset_events": [event("2026-11-07")], "run_after": NIGHT}, "2026-11-07"),
        ({"consumed_asset_events": [event(None, date="2026-11-08"), event("2026-11-08")], "run_after": NIGHT}, "2026-11-08"),
        ({"consumed_asset_events": [event(None)], "run_after": NIGHT}, "2026-11-19"),
    ],
)
def test_the_partition_date_is_resolved_for_every_kind_of_run(said: dict[str, object], date: str) -> None:
    assert partition_date(run(**said), NOON) == date
    assert partition_date({"dag_run": run(**said)}, NOON) == date


def test_events_of_two_dates_are_not_taken_for_one() -> None:
    with pytest.raises(ValueError, match="several dates started this run: 2026-11-07, 2026-11-08"):
        partition_date(run(consumed_asset_events=[event("2026-11-08"), event("2026-11-07")]))


def test_a_run_without_any_date_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="start it with conf"):
        partition_date(run(run_id="manual__1"))


def test_a_date_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid isoformat"):
        partition_date(run(conf={"date": "yesterday"}))
