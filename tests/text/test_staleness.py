from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.errors import SettingsError
from kar.tables import TABLES, IdTypes
from kar.text.drift import Mixtures
from kar.text.staleness import COLUMNS, Last, Standing, Tonight, is_same_model, new_events, standing_of_items, standing_of_users

CUTOFF = dt.datetime(2026, 3, 11, tzinfo=dt.UTC)
TONIGHT = Tonight("t@1:aaa", "m", "r1", CUTOFF, max_age_days=30, min_new_events=2)
LAST = pa.schema([f for f in TABLES["knowledge"].schema(IdTypes()) if f.name in COLUMNS])


def day(number: int) -> dt.datetime:
    return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)


def last(seen: list[str], newest: dt.datetime | None, subject: str = "7", **changes: Any) -> Last:
    """What was known of one subject: asked three days ago, but for the changes."""
    row = {"subject_id": subject, "evidence_sha": "sha", "template_version": "t@1:aaa", "model": "m", "model_revision": "r1"}
    row |= {"asked_at": us_time(us(3)), "evidence_items": seen, "evidence_newest_at": newest} | changes
    return Last(pa.Table.from_pylist([row], schema=LAST))


def due(found: Standing) -> tuple[str, float]:
    """The verdict on the only subject."""
    return found.reason.item(), float(found.staleness.item())


def us_time(us: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)


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
    "just not too old": (["a", "b", "c"], [0, 1, 2], "sha", {"asked_at": us_time(us(30))}, ("", 0.0)),
    "too old": (["a", "b", "c"], [0, 1, 2], "sha", {"asked_at": us_time(us(30.01))}, ("age", 0.25)),
    "asked after the cutoff, in a backfill": (["a", "b", "c"], [0, 1, 2], "sha", {"asked_at": us_time(us(-400))}, ("", 0.0)),
    "evidence goes before template": (["a", "b", "c", "d", "e"], [0, 1, 2, 3, 4], "sha2", {"template_version": "u"}, ("evidence", 2 / 5)),
    "template goes before model and age": (
        ["a", "b", "c"],
        [0, 1, 2],
        "sha",
        {"template_version": "u", "model": "o", "asked_at": us_time(0)},
        ("template", 0.5),
    ),
    "too few new events, but another template": (["a", "b", "c", "d"], [0, 1, 2, 3], "sha2", {"template_version": "u"}, ("template", 0.5)),
}


@pytest.mark.parametrize(("items", "days", "sha", "changes", "expected"), USERS.values(), ids=USERS.keys())
def test_a_user_is_due_for_the_first_reason_that_holds(
    items: list[str], days: list[int], sha: str, changes: dict[str, Any], expected: tuple[str, float]
) -> None:
    history = pa.table({"subject_id": ["7"], "item_ids": [items], "event_ats": [[day(d) for d in days]]})
    reason, staleness = due(standing_of_users(history, [sha], last(["a", "b", "c"], day(2), **changes), TONIGHT))
    assert (reason, staleness) == (expected[0], pytest.approx(expected[1]))


def test_who_has_no_knowledge_is_new() -> None:
    history = pa.table({"subject_id": ["7"], "item_ids": [["a"]], "event_ats": [[day(0)]]})
    user = standing_of_users(history, ["sha"], last(["a"], day(0), subject="8"), TONIGHT)
    item = standing_of_items(pa.array(["7"]), ["sha"], None, TONIGHT)
    assert [due(user), due(item)] == [("new", 1.0)] * 2


@pytest.mark.parametrize(
    ("sha", "changes", "expected"),
    [
        ("sha", {}, ("", 0.0)),
        ("sha2", {}, ("evidence", 0.5)),
        ("sha", {"template_version": "u"}, ("template", 0.5)),
        ("sha", {"model_revision": "r0"}, ("model", 0.5)),
        ("sha", {"asked_at": us_time(us(31))}, ("age", 0.25)),
    ],
)
def test_an_item_is_due_when_its_text_changed_or_what_asks_about_it(sha: str, changes: dict[str, Any], expected: tuple[str, float]) -> None:
    assert due(standing_of_items(pa.array(["7"]), [sha], last([], None, **changes), TONIGHT)) == expected


def test_an_unknown_revision_is_not_another_revision() -> None:
    unknown = dataclasses.replace(TONIGHT, model_revision="")
    subject = pa.array(["7"])
    assert due(standing_of_items(subject, ["sha"], last([], None, model_revision="r0"), unknown)) == ("", 0.0)
    assert due(standing_of_items(subject, ["sha"], last([], None, model_revision=""), TONIGHT)) == ("", 0.0)


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
    rows: dict[str, Any] = {
        "view": ["user.preference", "item.facts"],
        "subject_id": ["1", "1"],
        "evidence_sha": ["u", "i"],
        "template_version": ["t", "t"],
        "model": ["m", "m"],
        "model_revision": ["", ""],
        "asked_at": pa.array([CUTOFF, CUTOFF], pa.timestamp("us", tz="UTC")),
        "evidence_items": [["9"], []],
        "neighbour_items": pa.array([[], []], pa.list_(pa.string())),
    }
    rows["evidence_newest_at"] = pa.array([day(1), None], pa.timestamp("us", tz="UTC"))
    found = Last.of(pa.table(rows), "item.facts")
    assert found.rows(pa.array(["2", "1"])).tolist() == [-1, 0]
    assert found.table.column("evidence_sha").to_pylist() == ["i"]
    assert found.evidence(0) == ([], None)


# ---- drift

GENRES = Mixtures({"a": ("war",), "b": ("war",), "c": ("war", "love"), "x": ("love",), "y": ("love",)})


@pytest.mark.parametrize(
    ("seen", "tonight", "distance"),
    [
        (["a", "b"], ["b", "a"], 0.0),
        (["a", "b"], ["x", "y"], 1.0),
        (["a", "b"], ["a", "b", "x", "y"], 0.5),
        (["a", "c"], ["x", "y"], 0.75),  # ¾ war and ¼ love against love
        (["a"], ["unknown"], 1.0),
        (["unknown"], ["also unknown"], 0.0),
        (["a"], [], 1.0),
        ([], [], 0.0),
    ],
)
def test_drift_is_the_total_variation_distance_of_two_mixtures(seen: list[str], tonight: list[str], distance: float) -> None:
    assert GENRES.drift(seen, tonight) == pytest.approx(distance)
    assert GENRES.drift(tonight, seen) == pytest.approx(distance)


ITEMS = st.lists(st.sampled_from(["a", "b", "c", "x", "y", "unknown"]), min_size=1, max_size=8)


@given(ITEMS, ITEMS, ITEMS)
def test_drift_is_a_distance_between_0_and_1(one: list[str], two: list[str], three: list[str]) -> None:
    assert 0.0 <= GENRES.drift(one, two) <= 1.0 + 1e-9
    assert GENRES.drift(one, [*one, *one]) == pytest.approx(0.0, abs=1e-9)
    assert GENRES.drift(one, three) <= GENRES.drift(one, two) + GENRES.drift(two, three) + 1e-9


# the last prompt saw a, b (war, war) on days 0 and 1; tonight's history, k = 3 → reason and staleness at the most allowed drift
DRIFTS: dict[str, tuple[list[str], list[int], float, tuple[str, float]]] = {
    "one event of the other kind is a third of the history": (["a", "b", "x"], [0, 1, 2], 0.3, ("drift", 1 / 3)),
    "which is less than a half": (["a", "b", "x"], [0, 1, 2], 0.5, ("", 0.0)),
    "one event of the same kind": (["a", "b", "a"], [0, 1, 2], 0.1, ("", 0.0)),
    "older ones of another kind, which the prompt had dropped": (["x", "y", "a", "b"], [-2, -1, 0, 1], 0.1, ("", 0.0)),
    "three new events are evidence before they are drift": (["a", "b", "x", "x", "y"], [0, 1, 2, 3, 4], 0.1, ("evidence", 3 / 5)),
}


@pytest.mark.parametrize(("items", "days", "most", "expected"), DRIFTS.values(), ids=DRIFTS.keys())
def test_a_user_whose_tastes_moved_is_due_before_k_events_are_new(
    items: list[str], days: list[int], most: float, expected: tuple[str, float]
) -> None:
    tonight = dataclasses.replace(TONIGHT, min_new_events=3, max_drift=most, mixtures=GENRES)
    history = pa.table({"subject_id": ["7"], "item_ids": [items], "event_ats": [[day(d) for d in days]]})
    reason, staleness = due(standing_of_users(history, ["sha2"], last(["a", "b"], day(1)), tonight))
    assert (reason, staleness) == (expected[0], pytest.approx(expected[1]))


def test_an_attribute_that_no_item_has_is_named_with_those_that_there_are() -> None:
    rows = pa.table({"item_id": [1, 1], "name": ["genre", "year"], "value": ["war", "1990"], "place": pa.array([0, 0], pa.int32())})
    assert Mixtures.of(rows, "genre").drift(["1"], ["2"]) == 1.0
    with pytest.raises(SettingsError, match=r"'mood', which no item has\n  do: items have: genre, year"):
        Mixtures.of(rows, "mood")
