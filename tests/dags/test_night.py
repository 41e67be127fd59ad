"""dags/night.py: shards, the due time, who serves, who trains."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from night import due_at, is_served, shard_arguments, trainings

SIX = dt.time(6)


def run(run_type: str, after: str = "2026-11-20T01:00:00+00:00") -> SimpleNamespace:
    return SimpleNamespace(run_type=SimpleNamespace(value=run_type), run_after=dt.datetime.fromisoformat(after))


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@given(requests=st.integers(0, 100_000), most=st.integers(1, 50), per_shard=st.integers(1, 2000))
def test_there_are_as_many_shards_as_the_requests_need_at_least_one_and_not_too_many(requests: int, most: int, per_shard: int) -> None:
    lines = shard_arguments(requests, "2026-11-19", most=most, per_shard=per_shard)
    count = len(lines)
    assert 1 <= count <= most
    assert [line[line.index("--shard") + 1] for line in lines] == [f"{index}/{count}" for index in range(count)]
    assert count == most or (count - 1) * per_shard < max(requests, 1) <= count * per_shard


def test_a_shard_is_told_until_when_it_may_ask() -> None:
    line = shard_arguments(1, "2026-11-19", most=3, per_shard=5, until=at("2026-11-20T05:15"))[0]
    assert line == ["ask", "--date", "2026-11-19", "--shard", "0/1", "--stop-in", "until 2026-11-20T05:15:00+00:00", "--json"]


def test_the_scheduled_run_of_a_current_night_is_due_the_next_time_that_it_is_six() -> None:
    assert due_at(run("scheduled"), SIX, at("2026-11-20T02:00")) == at("2026-11-20T06:00")
    assert due_at(run("scheduled"), SIX, at("2026-11-20T09:00")) == at("2026-11-20T06:00")  # it is late, and due all the same
    assert due_at(run("scheduled", "2026-11-19T22:00:00+00:00"), SIX, at("2026-11-19T23:00")) == at("2026-11-20T06:00")


@pytest.mark.parametrize("kind", ["manual", "backfill", "asset_triggered"])
def test_a_run_that_nobody_waits_for_is_never_due(kind: str) -> None:
    assert due_at(run(kind), SIX, at("2026-11-20T02:00")) is None


def test_a_night_that_is_run_again_on_a_later_day_is_not_due() -> None:
    assert due_at(run("scheduled"), SIX, at("2026-11-21T02:00")) is None


def test_without_a_publish_time_nothing_is_due() -> None:
    assert due_at(run("scheduled"), None, at("2026-11-20T02:00")) is None


@pytest.mark.parametrize(
    ("kind", "said", "serves"),
    [
        ("scheduled", None, True),
        ("manual", None, True),
        ("backfill", None, False),
        ("backfill", True, True),
        ("scheduled", False, False),
        ("manual", False, False),
    ],
)
def test_every_run_serves_its_release_but_a_backfill_unless_somebody_says_otherwise(kind: str, said: bool | None, serves: bool) -> None:
    assert is_served(run(kind), {"promote": said}) is serves


@pytest.mark.parametrize(
    ("kind", "due", "followed"),
    [
        ("scheduled", {"due": True, "training": "", "why": "no training yet"}, ["examples"]),
        ("scheduled", {"due": True, "training": "2026-11-01-a", "why": "older than 7 days"}, ["train", "features"]),
        ("scheduled", {"due": False, "training": "2026-11-01-a", "why": "trained yesterday"}, ["features"]),
        ("manual", {}, ["features"]),
        ("backfill", {"due": True, "training": "2026-11-01-a", "why": "another encoder"}, ["features"]),
        ("backfill", {"due": True, "training": "", "why": "no training yet"}, []),
    ],
)
def test_the_first_night_trains_a_later_one_starts_a_training_and_a_backfill_does_neither(
    kind: str, due: dict[str, object], followed: list[str]
) -> None:
    assert trainings(run(kind), due) == followed
