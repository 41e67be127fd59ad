"""Metrics of users for whom all items were ranked, from the places of what was to be found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from kar.rank_metrics import found_at


def test_two_users_by_hand() -> None:
    """User 7 has three items at places 1, 3 and 12; user 9 one, at place 2."""
    users, relevant, value = found_at([0, 2, 11, 1], [7, 7, 7, 9], 10)
    assert users.tolist() == [7, 9]
    assert relevant.tolist() == [3, 1]
    discount = 1 / np.log2(np.arange(2, 14))
    assert value[0] == pytest.approx([2 / 10, 2 / 3, (discount[0] + discount[2]) / discount[:3].sum()])
    assert value[1] == pytest.approx([1 / 10, 1.0, discount[1] / discount[0]])


def test_one_relevant_item_makes_precision_a_tenth_of_recall() -> None:
    value = found_at([0, 9, 10, 400], [1, 2, 3, 4], 10)[2]
    assert value[:, 0] == pytest.approx(value[:, 1] / 10)
    assert value[:, 1].tolist() == [1, 1, 0, 0]


def test_more_relevant_items_than_places_can_still_be_perfect() -> None:
    value = found_at(range(14), [1] * 14, 10)[2][0]
    assert value == pytest.approx([1.0, 10 / 14, 1.0])


@given(st.integers(2, 40), st.data())
def test_ndcg_is_scikit_learn_s(items: int, data: st.DataObject) -> None:
    label = data.draw(st.lists(st.integers(0, 1), min_size=items, max_size=items).filter(any))
    score = np.array(data.draw(st.permutations(range(items))), float)
    rank = np.argsort(np.argsort(-score))[np.flatnonzero(label)]
    found = found_at(rank, np.zeros(len(rank), int), 10)[2][0]
    assert found[2] == pytest.approx(ndcg_score([label], [score], k=10))
