"""The metrics of ranked lists against hand-computed cases, scikit-learn, and what must hold for all lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from kar import rank_metrics as rm

LABELS = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=10).filter(lambda labels: sum(labels) > 0)
CUT = st.sampled_from([1, 3, 5, 7])


def row(*labels: float) -> rm.Float:
    return np.array([labels], dtype=np.float64)


def test_average_precision_of_a_hand_computed_list() -> None:
    relevant = row(0, 1, 0, 1, 0, 0, 1)  # precision at the hits: 1/2, 2/4, 3/7
    assert rm.average_precision(relevant, 1)[0] == 0
    assert rm.average_precision(relevant, 3)[0] == pytest.approx((1 / 2) / 3)
    assert rm.average_precision(relevant, 5)[0] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert rm.average_precision(relevant, 7)[0] == pytest.approx((1 / 2 + 2 / 4 + 3 / 7) / 3)


def test_average_precision_at_k_divides_by_k_where_more_are_relevant() -> None:
    assert rm.average_precision(row(1, 1, 1, 1, 1), 3)[0] == 1
    assert rm.average_precision(row(1, 0, 1, 1, 1), 3)[0] == pytest.approx((1 + 2 / 3) / 3)


def test_kars_average_precision_divides_by_the_hits_inside_k() -> None:
    relevant = row(0, 1, 0, 1, 0, 0, 1)
    assert rm.kar_average_precision(relevant, 1)[0] == 0
    assert rm.kar_average_precision(relevant, 3)[0] == pytest.approx(1 / 2)
    assert rm.kar_average_precision(relevant, 5)[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert rm.kar_average_precision(row(1, 0, 0, 1, 1), 3)[0] == 1, "one hit of three, and it counts as perfect"
    assert rm.average_precision(row(1, 0, 0, 1, 1), 3)[0] == pytest.approx(1 / 3)


def test_ndcg_of_a_hand_computed_list() -> None:
    relevant = row(0, 1, 0, 1)
    assert rm.ndcg(relevant, 1)[0] == 0
    assert rm.ndcg(relevant, 3)[0] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert rm.ndcg(relevant, 7)[0] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3)))


def test_a_list_without_a_relevant_item_has_no_value() -> None:
    assert np.isnan(rm.per_list(row(0, 0, 0))).all()
    assert np.isfinite(rm.per_list(row(0, 0, 1))).all()


def test_equal_scores_leave_the_list_as_it_stood() -> None:
    label = np.array([[0, 1, 0, 1.0]])
    assert rm.ranked(label, np.zeros((1, 4))).tolist() == label.tolist()
    assert rm.ranked(label, [[0, 1, 1, 5.0]]).tolist() == [[1, 1, 0, 0]]


def test_places_without_item_come_last_whatever_their_score() -> None:
    label, score = np.array([[1, 1, 0, 1.0]]), np.array([[9, 1, 2, 8.0]])
    is_item = np.array([[False, True, True, False]])
    assert rm.ranked(label, score, is_item).tolist() == [[0, 1, 0, 0]]


def test_ndcg_is_scikit_learns_where_no_scores_tie() -> None:
    draw = np.random.default_rng(1)
    label = (draw.random((200, 10)) < 0.3).astype(float)
    label[:, 4] = 1
    score = draw.permuted(np.tile(np.arange(10.0), (200, 1)), axis=1)
    relevant = rm.ranked(label, score)
    for k in (1, 3, 5, 7, 10):
        theirs = [ndcg_score(label[[n]], score[[n]], k=k, ignore_ties=True) for n in range(200)]
        np.testing.assert_allclose(rm.ndcg(relevant, k), theirs)


def test_average_precision_over_the_whole_list_is_scikit_learns() -> None:
    draw = np.random.default_rng(2)
    label = (draw.random((200, 10)) < 0.3).astype(float)
    label[:, 4] = 1
    score = draw.permuted(np.tile(np.arange(10.0), (200, 1)), axis=1)
    theirs = [average_precision_score(label[n], score[n]) for n in range(200)]
    np.testing.assert_allclose(rm.average_precision(rm.ranked(label, score), 10), theirs)


@given(LABELS, CUT)
def test_every_metric_lies_between_0_and_1_and_kars_never_below_the_standard_one(labels: list[float], k: int) -> None:
    relevant = row(*labels)
    standard, kars, ndcg = rm.average_precision(relevant, k)[0], rm.kar_average_precision(relevant, k)[0], rm.ndcg(relevant, k)[0]
    assert 0 <= standard <= kars + 1e-12 <= 1 + 2e-12
    assert 0 <= ndcg <= 1 + 1e-12


@given(LABELS, CUT)
def test_only_a_list_that_leads_with_its_relevant_items_is_perfect(labels: list[float], k: int) -> None:
    relevant = row(*labels)
    led = all(labels[: min(k, int(sum(labels)))])
    for value in (rm.average_precision(relevant, k)[0], rm.ndcg(relevant, k)[0]):
        assert (value == pytest.approx(1)) == led


@given(st.integers(0, 9), CUT)
def test_with_one_relevant_item_reciprocal_rank_is_average_precision_and_below_ndcg_and_below_hit(place: int, k: int) -> None:
    relevant = np.zeros((1, 10))
    relevant[0, place] = 1
    reciprocal, hit = rm.reciprocal_rank(relevant, k)[0], float(place < k)
    assert rm.average_precision(relevant, k)[0] == pytest.approx(reciprocal)
    assert reciprocal <= rm.ndcg(relevant, k)[0] + 1e-12 <= hit + 2e-12


@given(LABELS, CUT, st.data())
def test_moving_a_relevant_item_up_never_lowers_a_metric(labels: list[float], k: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(labels) - 1))
    if (labels[place - 1], labels[place]) != (0.0, 1.0):
        return
    better = [*labels[: place - 1], 1.0, 0.0, *labels[place + 1 :]]
    for metric in (rm.average_precision, rm.ndcg):
        assert metric(row(*better), k)[0] >= metric(row(*labels), k)[0] - 1e-12


def test_resampled_means_draw_users_and_weigh_their_lists() -> None:
    user = np.array([7, 7, 7, 9])
    value = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    means = rm.resampled_means(user, value, 500)
    assert means[0].tolist() == [0.75, 0.25]
    assert set(np.unique(means[1:, 0])) == {0.0, 0.75, 1.0}, "both users, or one of them twice"
    np.testing.assert_allclose(means.sum(axis=1), 1)
    assert np.array_equal(means, rm.resampled_means(user, value, 500))
    assert abs((means[1:, 0] == 0.75).mean() - 0.5) < 0.1
    assert not np.array_equal(means, rm.resampled_means(user, value, 500, seed=1))
