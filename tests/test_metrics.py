"""Metrics against scikit-learn, against hand-computed cases, and the bootstrap against a slow and obvious one."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score

from kar import metrics
from kar.metrics import Bootstrap, Interval
from kar.metrics.bootstrap import wins
from kar.metrics.calibration import probabilities

SOME = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
        st.lists(st.integers(-4, 4), min_size=n, max_size=n),
        st.lists(st.integers(0, 5), min_size=n, max_size=n),
    )
)


@settings(max_examples=100, deadline=None)
@given(SOME)
def test_auc_with_ties_equals_scikit_learns(rows: tuple[list[int], list[int], list[int]]) -> None:
    label, score, _ = rows
    if 0 < sum(label) < len(label):
        assert metrics.auc(label, np.float32(score)) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    else:
        assert math.isnan(metrics.auc(label, score))


def test_auc_of_hand_computed_cases() -> None:
    assert metrics.auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75  # 3 of 4 pairs in order
    assert metrics.auc([1, 0], [2.0, 2.0]) == 0.5
    assert metrics.auc([1, 1, 0], [1.0, 2.0, 2.0]) == 0.25  # one pair lost, one tied
    assert math.isnan(metrics.auc([], []))


def test_auc_ranks_close_float32_scores_in_float64() -> None:
    score = np.arange(200_000, dtype=np.float32) * np.float32(1e-7) + np.float32(1.0)
    label = np.arange(200_000) % 2
    assert metrics.auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(SOME)
def test_gauc_is_the_row_weighted_auc_of_users_with_both_classes(rows: tuple[list[int], list[int], list[int]]) -> None:
    label, score, user = (np.array(column) for column in rows)
    parts = [(metrics.auc(label[user == u], score[user == u]), (user == u).sum()) for u in np.unique(user)]
    both = [(value, rows_of) for value, rows_of in parts if not math.isnan(value)]
    found = metrics.gauc(user, label, score)
    if both:
        assert found == pytest.approx(sum(v * n for v, n in both) / sum(n for _, n in both))
    else:
        assert math.isnan(found)


def test_gauc_of_a_hand_computed_case() -> None:
    user = [7, 7, 7, 2, 2, 5]  # user 5 has one class only
    assert metrics.gauc(user, [1, 0, 0, 1, 0, 1], [3.0, 1.0, 4.0, 0.0, 1.0, 9.0]) == pytest.approx((3 * 0.5 + 2 * 0.0) / 5)


def test_logloss_equals_scikit_learns_and_stays_finite() -> None:
    draw = np.random.default_rng(0)
    label, logit = draw.integers(0, 2, 500), draw.normal(0, 3, 500)
    assert metrics.logloss(label, logit) == pytest.approx(log_loss(label, 1 / (1 + np.exp(-logit))))
    assert metrics.logloss([1, 0], np.float32([1000, 1000])) == 500.0
    assert metrics.logloss([1, 0], [0.0, 0.0]) == pytest.approx(math.log(2))


def test_relative_improvement_is_over_the_half_that_chance_gives() -> None:
    assert metrics.relative_improvement(0.7961, 0.7863) == pytest.approx(0.0098 / 0.2863)
    assert math.isnan(metrics.relative_improvement(0.7, 0.5))


def slow_bootstrap(
    user: Any, label: Any, arm_a: list[Any], arm_b: list[Any], resamples: int, seed: int, metric: Any
) -> tuple[float, float]:
    """Build every resample's rows, compute the metric per seed on them, average, subtract."""
    ids = np.unique(user)
    draw, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = ids[draw.integers(0, len(ids), size=len(ids))]
        rows = np.concatenate([np.flatnonzero(user == u) for u in drawn])
        owner = np.concatenate([np.full((user == u).sum(), n) for n, u in enumerate(drawn)])  # a user drawn twice is two users
        values = [np.mean([metric(owner, label[rows], score[rows]) for score in arm]) for arm in (arm_a, arm_b)]
        found.append(values[0] - values[1])
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("matrix_users", [0, 10])
@pytest.mark.parametrize("name", metrics.COMPARED)
def test_the_bootstrap_equals_resampling_the_rows_themselves(name: str, matrix_users: int) -> None:
    draw = np.random.default_rng(1)
    user = draw.choice([3, 8, 9, 20, 21, 40], 80)
    label = draw.integers(0, 2, 80)
    arms = [[draw.integers(-3, 4, 80) + label for _ in range(2)], [draw.integers(-3, 4, 80) for _ in range(2)]]  # many ties
    one = {"auc": lambda u, y, s: metrics.auc(y, s), "gauc": metrics.gauc, "logloss": lambda u, y, s: metrics.logloss(y, s)}[name]
    bootstrap = Bootstrap(user, label, resamples=60, seed=5, matrix_users=matrix_users)
    interval = bootstrap.difference(*(bootstrap.arm(name, arm) for arm in arms))
    low, high = slow_bootstrap(user, label, arms[0], arms[1], 60, 5, one)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.difference == pytest.approx(
        np.mean([one(user, label, s) for s in arms[0]]) - np.mean([one(user, label, s) for s in arms[1]])
    )


def test_equal_seeds_give_equal_intervals_and_equal_arms_none() -> None:
    draw = np.random.default_rng(2)
    user, label, logit = draw.integers(0, 30, 400), draw.integers(0, 2, 400), draw.normal(size=400)
    first, again = (Bootstrap(user, label, 50).arm("auc", [logit]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    interval = Bootstrap.difference(first, again)
    assert (interval.difference, interval.low, interval.high) == (0.0, 0.0, 0.0)
    other = Bootstrap(user, label, 50, seed=1).arm("auc", [logit])
    assert other[0] == first[0]
    assert (other[1:] != first[1:]).any()


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(3)
    covered = 0
    for number in range(60):
        user = np.repeat(np.arange(40), 5)
        label = draw.integers(0, 2, 200)
        noise = draw.normal(size=(2, 200))  # two equally good arms
        bootstrap = Bootstrap(user, label, 200, seed=number)
        interval = bootstrap.difference(*(bootstrap.arm("auc", [label + arm]) for arm in noise))
        covered += interval.low <= 0 <= interval.high
    assert 52 <= covered <= 60


def test_a_difference_that_one_user_decides_has_no_interval_and_no_p_value() -> None:
    user, label = [1, 1, 2], [0, 1, 1]  # every defined resample holds user 1, whose pair decides
    bootstrap = Bootstrap(user, label, 50)
    interval = bootstrap.difference(bootstrap.arm("auc", [[0.0, 1.0, 2.0]]), bootstrap.arm("auc", [[1.0, 0.0, 2.0]]))
    assert interval.difference == 0.5
    assert math.isnan(interval.low) or interval.low < interval.high
    alone = Bootstrap([1, 1], [0, 1], 50)
    certain = alone.difference(alone.arm("auc", [[0.0, 1.0]]), alone.arm("auc", [[1.0, 0.0]]))
    assert certain.difference == 1.0
    assert all(math.isnan(v) for v in (certain.low, certain.high, certain.se, certain.p, certain.detectable))


def test_a_metric_that_is_not_defined_is_nan_and_so_is_its_interval() -> None:
    for bootstrap in (Bootstrap([], [], 20), Bootstrap([1, 1], [1, 1], 20)):
        values = bootstrap.arm("auc", [np.zeros(len(bootstrap.label))])
        interval = bootstrap.difference(values, values)
        assert math.isnan(interval.difference)
        assert math.isnan(interval.low)


def test_a_thousand_resamples_of_ninety_thousand_rows_take_seconds() -> None:
    draw = np.random.default_rng(4)
    user, label = np.sort(draw.integers(0, 604, 92_000)), draw.integers(0, 2, 92_000)
    bootstrap = Bootstrap(user, label, 1000)
    started = time.process_time()
    for _ in range(4):
        bootstrap.arm("auc", [(label + draw.normal(size=92_000)).astype(np.float32)])
    assert time.process_time() - started < 6


@settings(max_examples=60, deadline=None)
@given(SOME, st.integers(1, 60))
def test_wins_counts_every_pair_of_two_users_once(rows: tuple[list[int], list[int], list[int]], spread: int) -> None:
    label, score, user = (np.array(column * 20) for column in rows)  # more rows than a block, and many of one score
    score = score + np.arange(len(score)) % spread
    positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    expected = np.zeros((6, 6))
    one, other = (grid.ravel() for grid in np.meshgrid(positive, negative, indexing="ij"))
    np.add.at(expected, (user[one], user[other]), (np.sign(score[one] - score[other]) + 1) / 2)
    np.testing.assert_allclose(wins(user, label > 0, score.astype(np.float32), 6), expected)


def test_all_equal_scores_win_half_of_all_pairs_without_comparing_them() -> None:
    label, user = np.arange(60_000) % 2, np.zeros(60_000, np.int64)
    started = time.process_time()
    assert wins(user, label > 0, np.zeros(60_000, np.float32), 1)[0, 0] == 30_000 * 30_000 / 2
    assert time.process_time() - started < 1


def test_many_users_are_resampled_row_by_row_and_few_by_the_matrix() -> None:
    label, logit = np.tile([0, 1, 1], 40), np.random.default_rng(7).normal(size=120).astype(np.float32)
    user = np.repeat(np.arange(40), 3)
    few, many = (Bootstrap(user, label, 30, matrix_users=most).metrics([logit, -logit]) for most in (40, 39))
    assert list(few) == list(metrics.COMPARED)
    for name in few:
        np.testing.assert_allclose(few[name], many[name], rtol=1e-12)


# ---- standard error, p value, power, many comparisons


def test_the_standard_error_is_the_spread_of_the_resamples_and_p_its_normal_tail() -> None:
    values = np.array([0.02, 0.0, 0.01, 0.02, 0.03, 0.04])  # the sample itself, then five resamples
    interval = Bootstrap.difference(values, np.zeros(6))
    assert interval.se == pytest.approx(np.std([0.0, 0.01, 0.02, 0.03, 0.04], ddof=1))
    assert interval.p == pytest.approx(2 * (1 - statistics.NormalDist().cdf(0.02 / interval.se)))
    assert interval.detectable == pytest.approx(2.8 * interval.se)


@pytest.mark.parametrize(("difference", "se", "p"), [(0.0, 0.0, 1.0), (0.1, 0.0, 0.0), (0.0196, 0.01, 0.05), (math.nan, 0.01, math.nan)])
def test_p_of_hand_computed_cases(difference: float, se: float, p: float) -> None:
    assert Interval(difference, 0.0, 0.0, se).p == pytest.approx(p, abs=1e-3, nan_ok=True)


def test_what_is_called_detectable_is_found_in_four_of_five_tests_and_nothing_in_one_of_twenty() -> None:
    draw = np.random.default_rng(8)
    se = 0.001
    for true, share in ((2.8 * se, 0.8), (0.0, 0.05)):
        found = [Interval(true + se * draw.normal(), 0, 0, se).p < 0.05 for _ in range(4_000)]
        assert np.mean(found) == pytest.approx(share, abs=0.02)


def test_p_of_two_equally_good_arms_is_small_as_seldom_as_it_says() -> None:
    draw, small = np.random.default_rng(9), 0
    for number in range(150):
        user, label = np.repeat(np.arange(40), 5), draw.integers(0, 2, 200)
        bootstrap = Bootstrap(user, label, 100, seed=number)
        small += bootstrap.difference(*(bootstrap.arm("auc", [label + arm]) for arm in draw.normal(size=(2, 200)))).p < 0.05
    assert 1 <= small <= 18


def test_holm_of_a_hand_computed_case() -> None:
    np.testing.assert_allclose(metrics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(metrics.holm([0.02, math.nan, 0.9]), [0.04, math.nan, 0.9])
    assert metrics.holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_nor_changes_their_order(given_: list[float]) -> None:
    adjusted = metrics.holm(given_)
    assert (adjusted >= given_).all()
    assert (adjusted <= 1).all()
    order = np.argsort(given_, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    assert adjusted.min() == pytest.approx(min(1, min(given_) * len(given_)))


# ---- calibration


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 400), st.integers(1, 50))
def test_deciles_are_scikit_learns_also_with_ties(seed: int, rows: int, distinct: int) -> None:
    draw = np.random.default_rng(seed)
    logit, label = draw.integers(0, distinct, rows) / 7.0 - 1, draw.integers(0, 2, rows)
    found = metrics.deciles(label, logit)
    actual, predicted = calibration_curve(label, probabilities(logit), n_bins=10, strategy="quantile")
    filled = found.count > 0
    np.testing.assert_allclose(found.actual[filled], actual)
    np.testing.assert_allclose(found.predicted[filled], predicted)
    assert found.count.sum() == rows


def test_probabilities_are_those_of_the_logits_without_overflow() -> None:
    np.testing.assert_allclose(
        probabilities([-900.0, -2.0, 0.0, 2.0, 900.0]), [0.0, 1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-2)), 1.0]
    )


def test_ece_and_the_ratio_by_decile_of_a_hand_computed_case() -> None:
    probability = np.repeat(np.linspace(0.05, 0.95, 10), 4)
    label = np.tile([0, 0, 0, 1], 10)  # a quarter everywhere
    found = metrics.deciles(label, np.log(probability / (1 - probability)))
    assert found.count.tolist() == [4] * 10
    np.testing.assert_allclose(found.ratio, np.linspace(0.05, 0.95, 10) / 0.25)
    assert metrics.ece(label, np.log(probability / (1 - probability))) == pytest.approx(np.mean(np.abs(np.linspace(0.05, 0.95, 10) - 0.25)))


def test_what_is_predicted_as_it_happens_has_no_calibration_error_and_a_ratio_of_one() -> None:
    label, logit = np.array([1, 1, 1, 0, 1, 0, 0, 0]), np.repeat([math.log(3), -math.log(3)], 4)
    found = metrics.deciles(label, logit)
    assert found.ece == pytest.approx(0.0, abs=1e-12)
    assert found.ratio[found.count > 0].tolist() == pytest.approx([1.0, 1.0])


def test_calibration_without_rows_or_without_a_positive_is_not_a_number() -> None:
    assert math.isnan(metrics.ece([], []))
    found = metrics.deciles([0] * 30, np.linspace(-900, 900, 30))
    assert np.isnan(found.ratio).all()
    assert found.ece == pytest.approx(0.5)


# ---- popularity


def test_head_items_are_the_tenth_with_the_most_training_examples_ties_included() -> None:
    assert np.flatnonzero(metrics.head_items([5, 9, 1, 0, 2, 3, 8, 4, 7, 6])).tolist() == [1]
    assert np.flatnonzero(metrics.head_items([5, 9, 1, 0, 2, 3, 8, 4, 7, 9, 6])).tolist() == [1, 9]  # rounded up
    assert np.flatnonzero(metrics.head_items([3, 3, 1])).tolist() == [0, 1]
    assert not metrics.head_items([0, 0]).any()
    assert metrics.head_items([]).tolist() == []


def test_the_head_share_of_a_hand_computed_case() -> None:
    user = [7, 2, 7, 7, 2]
    score = [3.0, 1.0, 1.0, 2.0, 0.0]
    is_head = [True, False, True, False, False]
    assert metrics.head_share(user, score, is_head, top=1) == pytest.approx((1 + 0) / 2)
    assert metrics.head_share(user, score, is_head, top=2) == pytest.approx((1 / 2 + 0) / 2)
    assert metrics.head_share(user, score, is_head) == pytest.approx((2 / 3 + 0) / 2)  # all they have
    assert math.isnan(metrics.head_share([], [], []))


def test_of_equal_scores_the_earlier_example_is_put_first() -> None:
    assert metrics.head_share([1, 1], [0.5, 0.5], [True, False], top=1) == 1.0
    assert metrics.head_share([1, 1], [0.5, 0.5], [False, True], top=1) == 0.0


def test_metrics_need_numpy_and_nothing_of_ours() -> None:
    program = (
        "import sys; import kar.metrics; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'pyarrow', 'pydantic', 'sklearn')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "[]\n"
