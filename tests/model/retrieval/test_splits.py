"""The cuts of the interactions."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.errors import ModelError
from kar.model.retrieval.splits import Pairs, cut

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def table_of(rows: list[tuple[int, int, int, int]]) -> pa.Table:
    """user, item, hour, label; sorted as the table sequence is."""
    rows = sorted(rows, key=lambda row: (row[0], row[2], row[1]))
    columns = list(zip(*rows, strict=True))
    at = pa.array([AT + dt.timedelta(hours=hour) for hour in columns[2]], pa.timestamp("us", "UTC"))
    return pa.table({"user_id": columns[0], "item_id": columns[1], "event_at": at, "label": pa.array(columns[3], pa.int32())})


def test_a_pair_counts_once_by_its_first_event() -> None:
    pairs = Pairs.of(table_of([(5, 8, 3, 1), (5, 8, 1, 0), (5, 9, 2, 1), (4, 8, 9, 1)]))
    found = {
        (pairs.user_ids[u].as_py(), pairs.item_ids[i].as_py()): (bool(p), int(at))
        for u, i, p, at in zip(pairs.user_P, pairs.item_P, pairs.is_positive_P, pairs.at_P, strict=True)
    }
    hour = 3_600_000_000
    start = int(AT.timestamp()) * 1_000_000
    assert found == {("5", "8"): (False, start + hour), ("5", "9"): (True, start + 2 * hour), ("4", "8"): (True, start + 9 * hour)}
    assert (np.diff(pairs.key_P) > 0).all()


def test_a_random_split_takes_a_tenth_of_every_user_for_test_and_another_for_valid(pairs: Pairs) -> None:
    split = cut(pairs, "random", 0, 1)
    for user in range(len(pairs.user_ids)):
        count = int((pairs.user_P == user).sum())
        held = int((pairs.user_P[split.held_P] == user).sum())
        assert held == 2 * max(1, round(count / 10))
        assert int((pairs.user_P[split.train_P] == user).sum()) == count - held


@pytest.mark.parametrize("protocol", ["random", "temporal"])
def test_parts_are_apart_and_only_positives_are_looked_for(pairs: Pairs, protocol: Any) -> None:
    split = cut(pairs, protocol, 0, 1)
    parts = [set(rows.tolist()) for rows in (split.train_P, split.valid_P, split.test_P)]
    assert parts[0] | set(split.held_P.tolist()) == set(range(len(pairs.user_P)))
    assert not parts[0] & set(split.held_P.tolist())
    assert not parts[1] & parts[2]
    assert parts[1] | parts[2] <= set(split.held_P.tolist())
    assert pairs.is_positive_P[[*parts[1], *parts[2]]].all()


def test_splits_of_another_number_are_others_and_the_same_number_is_the_same(pairs: Pairs) -> None:
    one, two, again = (cut(pairs, "random", number, 1) for number in (0, 1, 0))
    assert one.test_P.tolist() == again.test_P.tolist() != two.test_P.tolist()


def test_in_time_nothing_of_train_is_younger_than_what_is_asked(pairs: Pairs) -> None:
    split = cut(pairs, "temporal", 0, 1)
    assert pairs.at_P[split.train_P].max() < split.held_at == pairs.at_P[split.held_P].min()
    assert pairs.at_P[split.valid_P].max() < pairs.at_P[split.test_P].min()
    assert 0.1 <= (pairs.at_P >= pairs.at_P[split.test_P].min()).mean() <= 0.2


def test_in_time_users_and_items_without_train_are_left_out_and_counted() -> None:
    old = [(user, item, item, 1) for user in (1, 2) for item in range(1, 9)]
    # 20 pairs: valid begins at the 17th, test at the 19th; item 50 and user 3 are new, item 7's pair of user 4 is to be found by nobody
    new = [(1, 50, 100, 1), (4, 7, 101, 1), (1, 51, 200, 1), (3, 2, 201, 1)]
    with pytest.raises(ModelError, match="temporal split 0 has no positive pair in valid"):
        cut(Pairs.of(table_of([*old, *new])), "temporal", 0, 1)
    known = [(5, item, 0, 1) for item in (20, 21)] + [(1, 20, 100, 1), (2, 20, 200, 1)]
    split = cut(pairs := Pairs.of(table_of([*old, *known, *new])), "temporal", 0, 1)
    asked = {
        (pairs.user_ids[pairs.user_P[row]].as_py(), pairs.item_ids[pairs.item_P[row]].as_py()) for row in (*split.valid_P, *split.test_P)
    }
    assert asked == {("1", "20"), ("2", "20")}
    assert split.left_out == 4
    assert {pairs.item_ids[i].as_py() for i in np.flatnonzero(~split.is_candidate_I)} == {"50", "51"}


def test_a_user_who_liked_nothing_in_train_is_not_asked() -> None:
    rows = [(user, item, item, 1) for user in (1, 2) for item in range(20)] + [(3, item, item, 0) for item in range(10)] + [(3, 30, 31, 1)]
    for number in range(8):
        pairs = Pairs.of(table_of(rows))
        split = cut(pairs, "random", number, 1)
        is_liked_held = 30 in {int(pairs.item_ids[pairs.item_P[row]].as_py()) for row in split.held_P if pairs.user_P[row] == 2}
        assert split.left_out == is_liked_held


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(0, 50), st.integers(0, 1)), min_size=30, max_size=120))
def test_no_split_asks_what_train_holds(rows: list[tuple[int, int, int, int]]) -> None:
    pairs = Pairs.of(table_of(rows))
    try:
        split = cut(pairs, "temporal", 0, 1)
    except ModelError:
        return
    assert not set(split.train_P.tolist()) & {*split.valid_P.tolist(), *split.test_P.tolist()}
    assert pairs.at_P[split.train_P].max(initial=-1) < pairs.at_P[split.test_P].min()


def test_nothing_to_split_is_a_named_error() -> None:
    with pytest.raises(ModelError, match="no positive pair in valid"):
        cut(Pairs.of(table_of([(1, 1, 1, 1)])), "random", 0, 1)
