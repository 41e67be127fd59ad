"""Metrics against scikit-learn, against hand-computed cases, and the bootstrap against a slow and obvious one."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from kar import metrics
from kar.metrics import Bootstrap

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


@pytest.mark.parametrize("name", metrics.METRICS)
def test_the_bootstrap_equals_resampling_the_rows_themselves(name: str) -> None:
    draw = np.random.default_rng(1)
    user = draw.choice([3, 8, 9, 20, 21, 40], 80)
    label = draw.integers(0, 2, 80)
    arms = [[draw.integers(-3, 4, 80) + label for _ in range(2)], [draw.integers(-3, 4, 80) for _ in range(2)]]  # many ties
    one = {"auc": lambda u, y, s: metrics.auc(y, s), "gauc": metrics.gauc, "logloss": lambda u, y, s: metrics.logloss(y, s)}[name]
    bootstrap = Bootstrap(user, label, resamples=60, seed=5)
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


def test_metrics_need_numpy_and_nothing_of_ours() -> None:
    program = (
        "import sys; import kar.metrics; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'pyarrow', 'pydantic', 'sklearn')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "[]\n"
