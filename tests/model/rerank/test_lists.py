"""Candidate lists: what may stand in one, and what must not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kar.errors import ModelError
from kar.model.rerank.lists import build

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def items_of(made: Any, number: int) -> list[int]:
    """A list's items, by id."""
    row = made.lists.item_LN[number]
    return [made.data.item_ids[int(item)].as_py() for item in row[row >= 0]]


def negatives_of(made: Any, number: int) -> list[int]:
    is_negative = made.lists.position_LN[number][made.lists.item_LN[number] >= 0] < 0
    return [item for item, ours in zip(items_of(made, number), is_negative, strict=True) if ours]


def user_of(made: Any, number: int) -> int:
    return made.data.user_ids[int(made.lists.user_L[number])].as_py()  # type: ignore[no-any-return]


def met_by(made: Any) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for row in made.world.sequence.to_pylist():
        found.setdefault(row["user_id"], set()).add(row["item_id"])
    return found


def test_no_negative_is_an_item_that_its_user_ever_met(made: Any) -> None:
    met = met_by(made)
    count = 0
    for number in range(len(made.lists.user_L)):
        negatives = negatives_of(made, number)
        count += len(negatives)
        assert not set(negatives) & met[user_of(made, number)]
    assert count > 100


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(2, 12), real=st.integers(1, 6), seed=st.integers(0, 99), negatives=st.sampled_from(["uniform", "popularity"]))
def test_every_list_is_distinct_mixed_and_of_its_user(made_of: Any, timed: Any, length: int, real: int, seed: int, negatives: str) -> None:
    made = made_of(timed, list_length=max(length, real), real_items=real, draw_seed=seed, negatives=negatives)
    met, found = met_by(made), made.lists
    assert found.item_LN.shape == (len(found.user_L), max(length, real))
    for number in range(len(found.user_L)):
        items, negatives_ = items_of(made, number), negatives_of(made, number)
        assert len(set(items)) == len(items)
        assert not set(negatives_) & met[user_of(made, number)]
        assert set(items) - set(negatives_) <= met[user_of(made, number)]
        labels = found.label_LN[number][: len(items)]
        assert {0, 1} <= set(labels.tolist()), "a positive, and something beside it"
        assert (found.item_LN[number][len(items) :] == -1).all(), "gaps come last"
        assert not found.label_LN[number][len(items) :].any()


def test_the_real_items_are_consecutive_examples_of_one_user_and_split_with_their_labels(made: Any) -> None:
    rows = made.world.example.to_pylist()
    at = {(row["user_id"], row["position"]): (n, row) for n, row in enumerate(rows)}
    split_of = {int(number): split for split, numbers in made.lists.split_rows.items() for number in numbers}
    assert sorted(split_of) == list(range(len(made.lists.user_L)))
    for number in range(len(made.lists.user_L)):
        row = made.lists.item_LN[number] >= 0
        positions = made.lists.position_LN[number][row]
        real = np.sort(positions[positions >= 0])
        assert 1 <= len(real) <= 4
        assert (np.diff(real) == 1).all()
        first, _ = at[user_of(made, number), int(real[0])]
        assert made.lists.example_L[number] == first
        for item, position, label in zip(items_of(made, number), positions, made.lists.label_LN[number][row], strict=True):
            if position >= 0:
                example = at[user_of(made, number), int(position)][1]
                assert (example["item_id"], example["label"], example["split"]) == (item, label, split_of[number])
            else:
                assert label == 0


def test_every_group_becomes_a_list_or_is_counted(made: Any, made_of: Any, timed: Any) -> None:
    groups = sum(-(-len(range(2, 14 - user % 2)) // 4) for user in range(1, 19))
    assert len(made.lists.user_L) + sum(made.left_out.values()) == groups
    assert made.left_out["over_cap"] == 0
    capped = made_of(timed, lists_per_user=1)
    assert len(capped.lists.user_L) + sum(capped.left_out.values()) == groups
    assert capped.left_out["over_cap"] > 0
    assert np.bincount(capped.lists.user_L).max() == 1


def test_equal_seeds_draw_equal_lists(made: Any, made_of: Any, timed: Any) -> None:
    again, other = made_of(timed), made_of(timed, draw_seed=2)
    assert np.array_equal(again.lists.item_LN, made.lists.item_LN)
    assert not np.array_equal(other.lists.item_LN, made.lists.item_LN)


def test_a_user_who_has_met_nearly_every_item_gets_a_shorter_list(made: Any, made_of: Any, timed: Any) -> None:
    long = made_of(timed, list_length=12)
    met = met_by(made)
    sizes = long.lists.is_item_LN.sum(axis=1)
    assert sizes.min() < 12
    for number, size in enumerate(sizes):
        real = size - len(negatives_of(long, number))
        assert size <= real + 20 - len(met[user_of(long, number)])


def test_positives_stand_anywhere_in_a_list_before_it_is_ordered(made_of: Any, timed: Any) -> None:
    places = np.concatenate([made_of(timed, draw_seed=seed, list_length=8).lists.label_LN for seed in range(30)])
    share = places.mean(axis=0)
    assert share.max() - share.min() < 0.08


def test_an_item_held_out_of_training_is_a_candidate_only_where_lists_are_judged(made_of: Any, timed: Any) -> None:
    held_out = timed.example_item.set_column(
        1, "is_held_out", pa.array([item in (4, 5) for item in timed.example_item["item_id"].to_pylist()])
    )
    kept = timed.example.filter(
        pc.invert(pc.and_(pc.equal(timed.example["split"], "train"), pc.is_in(timed.example["item_id"], pa.array([4, 5]))))
    )
    made = made_of(timed.having(example_item=held_out, example=kept))
    found = {split: {item for n in rows for item in items_of(made, n)} for split, rows in made.lists.split_rows.items()}
    assert not found["train"] & {4, 5}
    assert {4, 5} <= found["valid"] | found["test"]


def test_an_item_that_nobody_had_met_when_the_split_ended_is_no_candidate_of_it(made_of: Any, timed: Any) -> None:
    late = pc.equal(timed.sequence["item_id"], 20)  # tested users alone have it; now they meet it after all examples
    at = pc.if_else(late, pa.scalar(START + dt.timedelta(days=9), pa.timestamp("us", "UTC")), timed.sequence["event_at"])
    moved = timed.having(sequence=timed.sequence.set_column(timed.sequence.column_names.index("event_at"), "event_at", at))
    made, before = made_of(moved), made_of(timed)
    assert any(20 in negatives_of(before, n) for n in range(len(before.lists.user_L)))
    assert not any(20 in negatives_of(made, n) for n in range(len(made.lists.user_L)))


def test_an_item_whose_text_has_seen_the_lists_time_is_no_negative_of_it(made_of: Any, timed: Any) -> None:
    newest = START + dt.timedelta(hours=6)
    seen = pa.array([newest if item <= 10 else None for item in timed.example_item["item_id"].to_pylist()], pa.timestamp("us", "UTC"))
    made = made_of(timed.having(example_item=timed.example_item.set_column(2, "evidence_newest_at", seen)))
    positions = made.world.example["position"].to_numpy()[made.lists.example_L]
    early = [n for n, position in enumerate(positions) if position <= 6]
    later = [n for n, position in enumerate(positions) if position > 6]
    assert len(early) > 10
    assert not any(item <= 10 for n in early for item in negatives_of(made, n))
    assert any(item <= 10 for n in later for item in negatives_of(made, n))


def test_popular_negatives_are_drawn_by_their_training_count(made_of: Any, timed: Any) -> None:
    crowd = pc.or_(pc.not_equal(timed.example["split"], "train"), pc.less_equal(timed.example["item_id"], 6))
    world = timed.having(example=timed.example.filter(crowd))  # train examples of six items alone
    drawn = {}
    for way in ("uniform", "popularity"):
        made = made_of(world, negatives=way, list_length=6)
        drawn[way] = np.mean([item <= 6 for n in range(len(made.lists.user_L)) for item in negatives_of(made, n)])
    assert drawn["popularity"] > drawn["uniform"] + 0.1


def test_an_item_that_comes_twice_in_a_group_counts_once(made_of: Any, timed: Any) -> None:
    """User 1 meets at position 3 the item of position 2 again."""
    first = timed.sequence.filter(pc.and_(pc.equal(timed.sequence["user_id"], 1), pc.equal(timed.sequence["position"], 2)))["item_id"][0]

    def repeated(table: pa.Table) -> pa.Table:
        here = pc.and_(pc.equal(table["user_id"], 1), pc.equal(table["position"], 3))
        return table.set_column(table.column_names.index("item_id"), "item_id", pc.if_else(here, first, table["item_id"]))

    made = made_of(timed.having(sequence=repeated(timed.sequence), example=repeated(timed.example)))
    found = [items_of(made, n) for n in range(len(made.lists.user_L)) if user_of(made, n) == 1]
    assert any(first.as_py() in items for items in found)
    assert all(items.count(first.as_py()) <= 1 for items in found)


def test_a_split_without_a_positive_is_a_named_error(made: Any, timed: Any) -> None:
    is_test = pc.equal(timed.example["split"], "test")
    none = timed.having(
        example=timed.example.set_column(timed.example.column_names.index("label"), "label", pc.if_else(is_test, 0, timed.example["label"]))
    )
    with pytest.raises(ModelError, match="no test list"):
        build(none.load(made.adaptor), none.example, none.example_item, none.sequence, made.settings)


def test_a_group_that_nothing_can_stand_beside_is_left_out(made_of: Callable[..., Any], timed: Any) -> None:
    """One list of the user 2 alone: the others' items are all met by it."""
    everything = sorted(set(timed.sequence["item_id"].to_pylist()))
    last = max(row["position"] for row in timed.sequence.to_pylist() if row["user_id"] == 2)
    more = [
        {"user_id": 2, "position": last + 1 + n, "item_id": item, "rating": 5.0, "event_at": START + dt.timedelta(hours=30 + n), "label": 1}
        for n, item in enumerate(everything)
    ]
    sequence = pa.concat_tables([timed.sequence, pa.Table.from_pylist(more, schema=timed.sequence.schema)]).sort_by(
        [("user_id", "ascending"), ("position", "ascending")]
    )
    example = timed.example.set_column(
        timed.example.column_names.index("label"), "label", pc.if_else(pc.equal(timed.example["user_id"], 2), 1, timed.example["label"])
    )
    made = made_of(timed.having(sequence=sequence, example=example))
    assert made.left_out["no_negative"] == 3
    assert 2 not in {user_of(made, n) for n in range(len(made.lists.user_L))}
