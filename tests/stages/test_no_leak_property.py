"""For all worlds: no prompt event is labelled, and what happens after the cutoff changes no byte of what prompts see."""

from __future__ import annotations

import datetime as dt
import io

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.tables import TABLES, IdTypes, conform
from kar.warehouse import Warehouse
from tests.warehouse.filled import PARAMETERS, knowledge

FIRST = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
# few items and instants, so that ties, repeats and empty histories are common; many users, so that one warehouse tries much
EVENT = st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(0, 12), st.integers(1, 5))
EVENTS = st.lists(EVENT, min_size=1, max_size=100, unique_by=lambda event: event[:3])
MODELS = ("core_event", "core_history_event", "history", "item_profile")


def at(hours: int) -> dt.datetime:
    return FIRST + dt.timedelta(hours=hours)


def interaction(events: list[tuple[int, int, int, int]]) -> pa.Table:
    rows = [
        {
            "user_id": user,
            "item_id": item,
            "event_at": at(hours),
            "tie_key": (int(at(hours).timestamp()) * 2654435761 + item * 40503) % 1000003,
            "rating": float(stars),
            "click": None,
            "text": f"{user} on {item} at {hours}",
        }
        for user, item, hours, stars in events
    ]
    schema = pa.schema([(column.name, column.arrow(IdTypes())) for column in TABLES["interaction"].columns])
    return pa.Table.from_pylist(rows, schema=schema)


def warehouse_of(events: list[tuple[int, int, int, int]]) -> Warehouse:
    warehouse = Warehouse()
    warehouse.view("user", pa.table({"user_id": list(range(1, 9))}))
    titles = pa.array(["One", "Two", None, None])  # items 3 and 4 are described by reviews
    warehouse.view("item", pa.table({"item_id": [1, 2, 3, 4], "title": titles, "description": pa.nulls(4, pa.string())}))
    columns = {"item_id": pa.array([1], pa.int64()), "name": ["genre"], "value": ["a"], "place": pa.array([0], pa.int32())}
    warehouse.view("item_attribute", pa.table(columns))
    warehouse.view("interaction", interaction(events))
    return warehouse


def file_bytes(name: str, table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(conform(name, table, IdTypes()), stream)
    return stream.getvalue()


@settings(max_examples=8, deadline=None)
@given(EVENTS, st.sampled_from(["per_user", "time"]), st.integers(0, 12), st.integers(1, 6))
def test_prompt_events_and_labelled_events_share_nothing(events: list[tuple[int, int, int, int]], mode: str, hours: int, cap: int) -> None:
    # time mode: the snapshot's history is cut `hours` in; the examples are of everything after
    given_parameters = PARAMETERS | {"mode": mode, "cap": cap, "snapshot_at": at(hours)}
    cut = given_parameters | ({"cutoff_at": at(hours)} if mode == "time" else {})
    with warehouse_of(events) as snapshot:
        snapshot.make(*MODELS, **cut)
        history, profiles = snapshot.table("history"), snapshot.table("item_profile")
        shown = {
            (row["user_id"], item, when)
            for row in history.to_pylist()
            for item, when in zip(row["item_ids"], row["event_ats"], strict=True)
        }
        known = {(row["user_id"], row["item_id"], row["event_at"]) for row in snapshot.table("core_history_event").to_pylist()}
    seen = [
        {
            "view": "user.preference",
            "subject_id": row["subject_id"],
            "evidence_users": [row["subject_id"]] * len(row["item_ids"]),
            "evidence_items": [str(item) for item in row["item_ids"]],
            "evidence_newest_at": row["newest_event_at"],
        }
        for row in history.to_pylist()
    ]
    with warehouse_of(events) as now:
        now.view("history", history)
        now.view("item_profile", profiles)
        now.view("knowledge", knowledge(seen))
        now.make(
            "core_event", "core_label", "core_candidate", "core_evidence", "core_seen", "core_leak", "core_example", **given_parameters
        )
        now.make("example_item", "core_split", "example", **given_parameters)
        labelled = {(row["user_id"], row["item_id"], row["event_at"]) for row in now.table("example").to_pylist()}
        candidates = {(row["user_id"], row["item_id"], row["event_at"]) for row in now.table("core_candidate").to_pylist()}
        now.check("check_no_history_event_is_labelled", "check_no_example_is_in_evidence", **given_parameters)
        assert now.run("report_fault").num_rows == 0
    assert shown <= known
    assert not labelled & known
    assert not candidates & known
    assert len(candidates) + len(known) == len(events)
    newest = {row["user_id"]: row["newest_event_at"] for row in history.to_pylist()}
    assert all(when >= newest.get(user, when) for user, _, when in labelled)


@settings(max_examples=5, deadline=None)
@given(EVENTS, EVENTS, st.integers(1, 12))
def test_in_time_mode_events_after_the_cutoff_change_no_byte(
    before: list[tuple[int, int, int, int]], after: list[tuple[int, int, int, int]], hours: int
) -> None:
    parameters = PARAMETERS | {"mode": "time", "cutoff_at": at(hours)}
    early = [(user, item, when % hours, stars) for user, item, when, stars in before]
    early = list({event[:3]: event for event in early}.values())
    late = [(user, item, when + hours, stars) for user, item, when, stars in after]
    found = []
    for events in (early, early + late, late[::-1] + early[::-1]):
        with warehouse_of(events) as warehouse:
            warehouse.make(*MODELS, **parameters)
            found.append([file_bytes(name, warehouse.table(name)) for name in ("history", "item_profile")])
    assert found[0] == found[1] == found[2]
