"""Scoring many vectors: the same values as the adaptor's, to the bit wherever a vector stands, and within a stated distance in bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.errors import ModelError
from kar.model.adaptor import Adaptor
from kar.model.scoring import score

WIDTH = 384
VIEW = "item.facts"


@pytest.fixture(scope="module")
def adaptor() -> Adaptor:
    torch.manual_seed(0)
    return Adaptor((VIEW,), WIDTH, 32, 128, 2, 5).eval()


def vectors(count: int, seed: int = 0) -> Any:
    found = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_scores_are_the_adaptors_own(adaptor: Adaptor) -> None:
    x = vectors(5000)
    np.testing.assert_allclose(score(adaptor, VIEW, x), adaptor(VIEW, torch.from_numpy(x)).detach().numpy(), atol=1e-6)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 99), st.sampled_from(["float32", "bfloat16"]))
def test_a_vectors_score_depends_neither_on_its_place_nor_on_those_beside_it(count: int, seed: int, precision: str) -> None:
    torch.manual_seed(0)
    adaptor = Adaptor((VIEW,), WIDTH, 32, 128, 2, 5).eval()
    x = vectors(count, seed)
    order = np.random.default_rng(seed).permutation(count)
    whole = score(adaptor, VIEW, x, precision)
    np.testing.assert_array_equal(score(adaptor, VIEW, x[order], precision), whole[order])
    np.testing.assert_array_equal(score(adaptor, VIEW, x[count // 2 :], precision), whole[count // 2 :])


def test_bfloat16_stays_within_one_percent_of_a_vectors_length(adaptor: Adaptor) -> None:
    torch.manual_seed(1)
    trained = Adaptor((VIEW,), WIDTH, 32, 128, 2, 5).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(3.0)  # weights grow in training, and with them what rounding does to them
    x = vectors(4000)
    for made in (adaptor, trained):
        exact, rounded = score(made, VIEW, x), score(made, VIEW, x, "bfloat16")
        off = np.linalg.norm(rounded - exact, axis=1) / np.linalg.norm(exact, axis=1)
        assert 0 < off.max() < 0.01


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_one_vector_that_is_not_finite_is_found_among_many(adaptor: Adaptor, precision: str, wrong: float) -> None:
    x = vectors(4500)
    x[4321, 17] = wrong
    with pytest.raises(ModelError, match=r"view item\.facts: vector 4321 is not finite"):
        score(adaptor, VIEW, x, precision)


def test_huge_but_finite_vectors_are_no_error(adaptor: Adaptor) -> None:
    x = np.full((3, WIDTH), 3e38, np.float32)  # their sum is beyond float32
    assert score(adaptor, VIEW, x).shape == (3, 32)


def test_read_only_vectors_and_slices_are_scored_as_they_are(adaptor: Adaptor) -> None:
    x = vectors(100)
    expected = score(adaptor, VIEW, x[::2].copy())
    x.flags.writeable = False
    np.testing.assert_array_equal(score(adaptor, VIEW, x[::2]), expected)
    assert score(adaptor, VIEW, x[:0]).shape == (0, 32)
