from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from kar.text.staleness import Last, Tonight, due_items, due_users, is_same_model, last_knowledge, new_events

CUTOFF = dt.datetime(2026, 3, 11, tzinfo=dt.UTC)
TONIGHT = Tonight("t@1:aaa", "m", "r1", CUTOFF, max_age_days=30, min_new_events=2)


def day(number: int) -> dt.datetime:
    return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)


def last(seen: list[str], newest: dt.datetime | None, **changes: Any) -> Last:
    evidence = pa.table(
        {"evidence_items": pa.array([seen], pa.list_(pa.string())), "evidence_newest_at": pa.array([newest], pa.timestamp("us", tz="UTC"))}
    )
    asked_us = int((CUTOFF - dt.timedelta(days=3)).timestamp()) * 1_000_000
    plain = Last("sha", "t@1:aaa", "m", "r1", asked_us, 0, evidence)
    return dataclasses.replace(plain, **changes)


def us(days_ago: float) -> int:
    return int((CUTOFF - dt.timedelta(days=days_ago)).timestamp() * 1_000_000)


# what changed since the last knowledge, whose prompt saw items a, b, c on days 0, 1, 2 → reason and staleness
USERS: dict[str, tuple[list[str], list[int], str, dict[str, Any], tuple[str, float]]] = {
    "nothing changed": (["a", "b", "c"], [0, 1, 2], "sha", {}, ("", 0.0)),
    "one new event of two needed": (["a", "b", "c", "d"], [0, 1, 2, 3], "sha2", {}, ("", 0.0)),
    "two new events": (["a", "b", "c", "d", "e"], [0, 1, 2, 3, 4], "sha2", {}, ("evidence", 2 / 5)),
    "two new events and a full window": (["c", "d", "e"], [2, 3, 4], "sha2", {}, ("evidence", 2 / 3)),
    "all turned over": (["x", "y", "z"], [7, 8, 9], "sha2", {}, ("evidence", 1.0)),
    "older ones that the prompt had dropped": (["p", "q", "r", "a", "b", "c"], [-3, -2, -1, 0, 1, 2], "sha2", {}, ("", 0.0)),
    "a late delivery of two": (["a", "l", "m", "b", "c"], [0, 0, 0, 1, 2], "sha2", {}, ("evidence", 2 / 5)),
    "ratings changed, no event new": (["a", "b", "c"], [0, 1, 2], "sha2", {}, ("", 0.0)),
    "events taken away": (["b", "c"], [1, 2], "sha2", {}, ("", 0.0)),
    "template": (["a", "b", "c"], [0, 1, 2], "sha", {"template_version": "t@1:bbb"}, ("template", 0.5)),
    "imported before": (["a", "b", "c"], [0, 1, 2], "sha", {"template_version": ""}, ("template", 0.5)),
    "model": (["a", "b", "c"], [0, 1, 2], "sha", {"model": "other"}, ("model", 0.5)),
    "revision": (["a", "b", "c"], [0, 1, 2], "sha", {"model_revision": "r0"}, ("model", 0.5)),
    "the server adds a revision to the name": (["a", "b", "c"], [0, 1, 2], "sha", {"model": "m@main"}, ("", 0.0)),
    "just not too old": (["a", "b", "c"], [0, 1, 2], "sha", {"asked_us": us(30)}, ("", 0.0)),
    "too old": (["a", "b", "c"], [0, 1, 2], "sha", {"asked_us": us(30.01)}, ("age", 0.25)),
    "asked after the cutoff, in a backfill": (["a", "b", "c"], [0, 1, 2], "sha", {"asked_us": us(-400)}, ("", 0.0)),
    "evidence goes before template": (["a", "b", "c", "d", "e"], [0, 1, 2, 3, 4], "sha2", {"template_version": "u"}, ("evidence", 2 / 5)),
    "template goes before model and age": (
        ["a", "b", "c"],
        [0, 1, 2],
        "sha",
        {"template_version": "u", "model": "o", "asked_us": 0},
        ("template", 0.5),
    ),
    "too few new events, but another template": (["a", "b", "c", "d"], [0, 1, 2, 3], "sha2", {"template_version": "u"}, ("template", 0.5)),
}


@pytest.mark.parametrize(("items", "days", "sha", "changes", "expected"), USERS.values(), ids=USERS.keys())
def test_a_user_is_due_for_the_first_reason_that_holds(
    items: list[str], days: list[int], sha: str, changes: dict[str, Any], expected: tuple[str, float]
) -> None:
    history = pa.table({"subject_id": ["7"], "item_ids": [items], "event_ats": [[day(d) for d in days]]})
    (due,) = due_users(history, [sha], {"7": last(["a", "b", "c"], day(2), **changes)}, TONIGHT)
    assert (due.reason, due.staleness) == pytest.approx(expected)


def test_who_has_no_knowledge_is_new() -> None:
    history = pa.table({"subject_id": ["7"], "item_ids": [["a"]], "event_ats": [[day(0)]]})
    (user,) = due_users(history, ["sha"], {"8": last(["a"], day(0))}, TONIGHT)
    (item,) = due_items(["sha"], ["7"], {}, TONIGHT)
    assert [(due.reason, due.staleness) for due in (user, item)] == [("new", 1.0)] * 2


@pytest.mark.parametrize(
    ("sha", "changes", "expected"),
    [
        ("sha", {}, ("", 0.0)),
        ("sha2", {}, ("evidence", 0.5)),
        ("sha", {"template_version": "u"}, ("template", 0.5)),
        ("sha", {"model_revision": "r0"}, ("model", 0.5)),
        ("sha", {"asked_us": us(31)}, ("age", 0.25)),
    ],
)
def test_an_item_is_due_when_its_text_changed_or_what_asks_about_it(sha: str, changes: dict[str, Any], expected: tuple[str, float]) -> None:
    (due,) = due_items([sha], ["7"], {"7": last([], None, **changes)}, TONIGHT)
    assert (due.reason, due.staleness) == expected


def test_an_unknown_revision_is_not_another_revision() -> None:
    unknown = dataclasses.replace(TONIGHT, model_revision="")
    (due,) = due_items(["sha"], ["7"], {"7": last([], None, model_revision="r0")}, unknown)
    assert due.reason == ""


def test_an_item_met_twice_is_two_events() -> None:
    times = [day(d) for d in range(4)]
    assert new_events(["a", "b", "a", "a"], times, ["b", "a"], day(2)) == 1
    assert new_events(["a", "b", "a", "a"], times, ["b", "a"], None) == 4
    assert new_events(["a", "b", "c", "a"], times, ["c", "a"], day(3)) == 0


@pytest.mark.parametrize(
    ("answered", "asked", "same"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o", True),
        ("gpt-4o-0613", "gpt-4o", True),
        ("gpt-4o-mini", "gpt-4o", False),
        ("gpt-4o-mini-2024-07-18", "gpt-4o", False),
        ("smollm2-135m-instruct@main", "smollm2-135m-instruct", True),
        ("qwen:latest", "qwen", True),
        ("m", "m2", False),
    ],
)
def test_a_model_that_answers_with_its_resolved_name_is_the_same(answered: str, asked: str, same: bool) -> None:
    assert is_same_model(answered, asked) is same


def test_only_the_view_s_own_knowledge_counts() -> None:
    rows = {
        "view": ["user.preference", "item.facts"],
        "subject_id": ["1", "1"],
        "evidence_sha": ["u", "i"],
        "template_version": ["t", "t"],
        "model": ["m", "m"],
        "model_revision": ["", ""],
        "asked_at": pa.array([CUTOFF, CUTOFF], pa.timestamp("us", tz="UTC")),
        "evidence_items": [["9"], []],
        "evidence_newest_at": pa.array([day(1), None], pa.timestamp("us", tz="UTC")),
    }
    found = last_knowledge(pa.table(rows), "item.facts")
    assert found["1"].evidence_sha == "i"
    assert found["1"].evidence() == ([], None)
    assert last_knowledge(None, "item.facts") == {}
