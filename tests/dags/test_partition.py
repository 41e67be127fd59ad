"""dags/partition.py: whatever starts a run, its date is resolved the same way."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "dags"))
from partition import partition_date

NIGHT = dt.datetime(2026, 11, 20, 1, 0, tzinfo=dt.UTC)


def context(**run: object) -> dict[str, object]:
    return {"dag_run": SimpleNamespace(**{"conf": None, "partition_key": None, "logical_date": None, "run_after": None, **run})}


@pytest.mark.parametrize(
    ("run", "date"),
    [
        ({"logical_date": NIGHT, "run_after": NIGHT}, "2026-11-19"),  # scheduled, and backfilled
        ({"run_after": NIGHT + dt.timedelta(hours=9)}, "2026-11-19"),  # manual without a date, asset-triggered
        ({"conf": {"date": "2026-11-03"}, "logical_date": NIGHT}, "2026-11-03"),  # said by a person
        ({"partition_key": "2026-11-05", "run_after": NIGHT}, "2026-11-05"),
        ({"partition_key": "2026-11-05T01:00:00", "run_after": NIGHT}, "2026-11-05"),
        ({"logical_date": dt.datetime(2026, 11, 20, 0, 30, tzinfo=dt.timezone(dt.timedelta(hours=2)))}, "2026-11-18"),  # 19th, 22:30 UTC
    ],
)
def test_the_partition_date_is_resolved_for_every_kind_of_run(run: dict[str, object], date: str) -> None:
    assert partition_date(context(**run)) == date


def test_a_run_without_any_date_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="start it with conf"):
        partition_date(context(run_id="manual__1"))


def test_a_date_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid isoformat"):
        partition_date(context(conf={"date": "yesterday"}))
