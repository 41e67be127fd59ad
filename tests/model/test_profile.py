"""The rich base's fields against values computed by hand, and for all worlds: none depends on what is at or after the example."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.model.bases import Base
from kar.model.batches import TrainingData
from kar.model.data import ITEM_MEAN, USER_MEAN, load
from kar.model.ranker import build
from kar.model.vocabulary import UNKNOWN
from tests.model.conftest import small_settings

FIRST = dt.datetime(2026, 11, 1, 22, tzinfo=dt.UTC)
RICH = Base("rich", 50, ("genre",), item_lists=("genre",), user_fields=("age",), has_user_id=True, has_hour=True, has_means=True)
Event = tuple[int, int, int, float]
"""user, item, hours since FIRST, rating."""

# user 1 is trained on from place 2, user 2 validates from 1, user 3 tests from 1; item 40 has no genre, item 50 is held out
EVENTS: list[Event] = [
    *((1, 10, 0, 5.0), (1, 20, 2, 2.0), (1, 30, 4, 4.0), (1, 40, 5, 1.0), (1, 10, 6, 5.0)),
    *((2, 30, 1, 3.0), (2, 10, 3, 2.0), (2, 30, 5, 5.0)),
    *((3, 10, 1, 4.0), (3, 50, 2, 4.0), (3, 30, 7, 1.0), (3, 60, 8, 5.0)),
]
CUTS = {1: 2, 2: 1, 3: 1}
SPLITS = {1: "train", 2: "valid", 3: "test"}
GENRES = {10: ["Comedy", "Action"], 20: ["Horror"], 30: ["Action"], 50: ["Action", "War"], 60: ["Western"]}


def tables(events: list[Event], cuts: dict[int, int], splits: dict[int, str], held_out: set[int]) -> dict[str, pa.Table]:
    """The stage's tables: examples are a user's events from his cut on."""
    rows: list[dict[str, Any]] = []
    for user, item, hours, rating in sorted(events, key=lambda event: (event[0], event[2])):
        position = sum(row["user_id"] == user for row in rows)
        at = FIRST + dt.timedelta(hours=hours)
        rows.append({"user_id": user, "position": position, "item_id": item, "event_at": at, "rating": rating, "label": int(rating > 3)})
    example = [
        {**{k: row[k] for k in ("user_id", "item_id", "event_at", "position", "label")}, "split": splits[row["user_id"]]}
        for row in rows
        if row["position"] >= cuts[row["user_id"]] and not (row["item_id"] in held_out and splits[row["user_id"]] == "train")
    ]
    items, users = sorted({row["item_id"] for row in rows}), sorted(cuts)
    genres = [{"item_id": i, "name": "genre", "value": v, "place": n} for i in items for n, v in enumerate(GENRES.get(i, []))]
    return {
        "example": pa.Table.from_pylist([{"example_id": number, **row} for number, row in enumerate(example)]),
        "example_item": pa.table(
            {
                "item_id": items,
                "is_held_out": [item in held_out for item in items],
                "evidence_newest_at": pa.nulls(len(items), pa.timestamp("us", "UTC")),
            }
        ),
        "sequence": pa.Table.from_pylist(rows),
        "user_attribute": pa.table({"user_id": users, "name": ["age"] * len(users), "value": [str(20 + user) for user in users]}),
        "item_attribute": pa.Table.from_pylist(genres),
    }


def shown(data: TrainingData, field: str) -> list[object]:
    """A profile field of every example, as the value that its code means; None: the unknown code."""
    column = len(data.target_fields) + data.profile_fields.index(field)
    return meant(data, field, data.single_ES[:, column].tolist())


def meant(data: TrainingData, field: str, codes: list[int]) -> list[object]:
    values = data.vocabularies[field].values.to_pylist()
    return [None if code - data.fields.offset(field) == UNKNOWN else values[code - data.fields.offset(field) - 1] for code in codes]


def bags(data: TrainingData) -> list[list[object]]:
    """Every example's values of the only multi-valued field."""
    count = len(data.example_id_E)
    listed = data.batch(torch.arange(count)).listed
    assert listed is not None
    ends = [*listed.first_Y.tolist()[1:], len(listed.code_X)]
    return [meant(data, "genre", listed.code_X[first:end].tolist()) for first, end in zip(listed.first_Y.tolist(), ends, strict=True)]


@pytest.fixture
def tiny() -> dict[str, pa.Table]:
    return tables(EVENTS, CUTS, SPLITS, held_out={50})


def test_the_profile_holds_hour_and_means_beside_the_users_own_fields(tiny: dict[str, pa.Table]) -> None:
    data = load(**tiny, base=RICH)
    assert data.target_fields == ("item_id", "genre")
    assert data.profile_fields == ("user_id", "user age", USER_MEAN, "hour of day", ITEM_MEAN)
    assert data.list_fields == ("all genre",)
    # rows: user 1 at 30, 40, 10; user 2 at 10, 30; user 3 at 50, 30, 60
    hours = [2, 3, 4, 1, 3, 0, 5, 6]  # 22 o'clock + hours since FIRST
    assert shown(data, "hour of day") == [hour if hour in (2, 3, 4) else None for hour in hours]  # trained: those of user 1


def test_a_users_mean_is_that_of_his_events_before_his_first_example(tiny: dict[str, pa.Table]) -> None:
    # user 1: (5 + 2) / 2; user 2: 3; user 3: 4. Trained on user 1 alone, so the others' are unknown; with all trained, they are known
    assert shown(load(**tiny, base=RICH), USER_MEAN) == [35, 35, 35, None, None, None, None, None]
    alike = tiny | {"example": _all_trained(tiny["example"])}
    assert shown(load(**alike, base=RICH), USER_MEAN)[:8] == [35, 35, 35, 30, 30, 40, 40, 40]


def test_an_items_mean_is_that_of_older_events_that_no_example_asks_for(tiny: dict[str, pa.Table]) -> None:
    alike = tiny | {"example": _all_trained(tiny["example"])}
    found = shown(load(**alike, base=RICH), ITEM_MEAN)[:8]
    # free events: user 1's 10 at 0 h (5.0) and 20 at 2 h (2.0), user 2's 30 at 1 h (3.0), user 3's 10 at 1 h (4.0)
    assert found == [30, None, 45, 45, 30, None, 30, None]


def test_an_event_of_the_examples_own_instant_is_not_older(tiny: dict[str, pa.Table]) -> None:
    events = [event if event[:2] != (2, 10) else (2, 10, 1, 2.0) for event in EVENTS if event[:2] != (2, 30)]
    made = tables(events, {1: 2, 2: 0, 3: 1}, SPLITS, held_out={50})
    alike = made | {"example": _all_trained(made["example"])}
    at = made["example"]["user_id"].to_pylist().index(2)
    assert shown(load(**alike, base=RICH), ITEM_MEAN)[at] == 50  # user 3 rated item 10 with 4.0 in that same hour


def test_a_held_out_item_has_no_mean(tiny: dict[str, pa.Table]) -> None:
    late = tables([*EVENTS, (1, 50, 0, 5.0)], CUTS | {1: 3}, SPLITS, held_out={50})
    at = late["example"]["item_id"].to_pylist().index(50)
    assert shown(load(**late, base=RICH), ITEM_MEAN)[at] is None
    known = late | {"example_item": late["example_item"].set_column(1, "is_held_out", pa.array([False] * 6))}
    trained = known | {"example": _all_trained(known["example"])}
    assert shown(load(**trained, base=RICH), ITEM_MEAN)[at] == 50


def test_clicks_without_ratings_have_the_mean_of_their_labels(tiny: dict[str, pa.Table]) -> None:
    none = pa.array(np.full(len(EVENTS), np.nan))
    sequence = tiny["sequence"].set_column(tiny["sequence"].column_names.index("rating"), "rating", none)
    clicks = tiny | {"sequence": sequence, "example": _all_trained(tiny["example"])}
    assert shown(load(**clicks, base=RICH), USER_MEAN)[:8] == [5, 5, 5, 0, 0, 10, 10, 10]
    unlabelled = clicks | {"sequence": sequence.set_column(sequence.column_names.index("label"), "label", pa.array([-1] * len(EVENTS)))}
    assert set(shown(load(**unlabelled, base=RICH), USER_MEAN)) == {None}


def test_every_value_of_an_attribute_is_there_and_shares_its_code_with_the_first_one(tiny: dict[str, pa.Table]) -> None:
    data = load(**tiny, base=RICH)
    # trained: items 10, 20, 30 and 40; War and Western are of items that training never shows, item 40 has no genre
    assert data.vocabularies["genre"].values.to_pylist() == ["Action", "Comedy", "Horror"]
    assert bags(data) == [["Action"], [], ["Comedy", "Action"], ["Comedy", "Action"], ["Action"], ["Action", None], ["Action"], [None]]


def test_a_multi_valued_field_is_the_mean_of_its_values_and_counts_as_one_field(tiny: dict[str, pa.Table]) -> None:
    data = load(**tiny, base=RICH)
    ranker = build("fibinet", data, [], 1, small_settings(), seed=1)
    backbone, batch = ranker.backbone, data.batch(torch.arange(8))
    assert backbone.shape.profile_count == 6
    single = backbone.single(batch)
    assert single.shape == (8, 8, 8)
    weight, first = backbone.embedding.weight, data.fields.offset("genre")
    torch.testing.assert_close(single[2, -1], (weight[first + 1] + weight[first + 2]) / 2)
    assert not single[1, -1].any()  # no value: zero
    torch.testing.assert_close(single[:, :-1], backbone.embedding(batch.single_BS))
    assert backbone.fields(batch).shape == (8, backbone.shape.field_count, 8)


def test_the_other_bases_show_none_of_it(tiny: dict[str, pa.Table]) -> None:
    data = load(**tiny, base=Base("same_evidence", 30, ("genre",)))
    assert data.profile_fields == ()
    assert data.lists is None
    assert data.batch(torch.arange(3)).listed is None
    assert data.vocabularies["genre"].values.to_pylist() == ["Action", "Comedy", "Horror"]


def _all_trained(example: pa.Table) -> pa.Table:
    """Every example trained; copies of the first and the last validate and test, for no split may be empty or of one class."""
    first, last = example.slice(0, 1), example.slice(1, 1)
    trained, valid, test = (
        part.set_column(part.column_names.index("split"), "split", pa.array([split] * part.num_rows))
        for part, split in ((example, "train"), (pa.concat_tables([first, last]), "valid"), (last, "test"))
    )
    return pa.concat_tables([trained, valid, test])


MANY = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(0, 40), st.integers(1, 5)), min_size=30, max_size=80)


@settings(max_examples=25, deadline=None)
@given(MANY, st.randoms(use_true_random=False))
def test_no_field_depends_on_any_event_at_or_after_the_example(drawn: list[tuple[int, int, int, int]], random: Any) -> None:
    events = [(user, item * 10, hours, float(rating)) for user, item, hours, rating in drawn]
    events += [(user, 10, 41 + user, float(1 + user % 5)) for user in range(1, 7)]  # every user has an example
    counts = {user: sum(event[0] == user for event in events) for user in range(1, 7)}
    cuts = {user: random.randint(0, count - 1) for user, count in counts.items()}
    splits = dict.fromkeys(counts, "train")
    made = tables(events, cuts, splits, held_out=set())
    made["example"] = _mixed(made["example"])
    example = made["example"].slice(random.randrange(made["example"].num_rows - 4), 1).to_pylist()[0]
    sequence = made["sequence"]
    is_own_past = pc.and_(pc.equal(sequence["user_id"], example["user_id"]), pc.less(sequence["position"], example["position"]))
    is_late = pc.and_not(pc.greater_equal(sequence["event_at"], example["event_at"]), is_own_past).to_numpy()  # one instant has an order
    rating = np.where(is_late, [random.randint(1, 5) for _ in range(len(is_late))], sequence["rating"].to_numpy()).astype(float)
    for name, values in (("rating", rating), ("label", (rating > 3).astype(int))):
        sequence = sequence.set_column(sequence.column_names.index(name), name, pa.array(values))
    changed = made | {"sequence": sequence}
    of_both = [_fields_of(load(**found, base=RICH), example["example_id"]) for found in (made, changed)]
    assert of_both[0] == of_both[1]


def _mixed(example: pa.Table) -> pa.Table:
    """Labels of both classes in every split, whatever was drawn."""
    count = example.num_rows
    more = example.take(pa.array([0, 0, 1 % count, 1 % count]))
    both = pa.concat_tables([example, more])
    label = [number % 2 for number in range(count)] + [0, 1, 0, 1]
    split = ["train"] * count + ["valid", "valid", "test", "test"]
    ids = pa.array(np.arange(count + 4))
    for name, values in (("label", pa.array(label)), ("split", pa.array(split)), ("example_id", ids)):
        both = both.set_column(both.column_names.index(name), name, values)
    return both


def _fields_of(data: TrainingData, row: int) -> list[object]:
    history = data.batch(torch.tensor([row]))
    return [
        *(shown(data, field)[row] for field in data.profile_fields),
        bags(data)[row],
        meant(data, "rating", history.code_KH[-1].tolist()),
        meant(data, "item_id", history.code_KH[0].tolist()),
    ]
