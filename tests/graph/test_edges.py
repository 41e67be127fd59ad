"""Edges by vectors: exact against all pairs at once, recall of the index, mutual edges by hand, random edges of the same degrees."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from kar.errors import ModelError
from kar.graph.edges import Edges, mutual, nearest, random_edges
from kar.graph.ranking import Neighbours


def drawn(items: int, width: int = 16, seed: int = 0) -> np.ndarray:
    """Lopsided clusters, as texts have them; lengths differ."""
    random = np.random.default_rng(seed)
    middle = random.normal(size=(12, width))
    cluster = (12 * random.random(items) ** 2).astype(int)
    vector = middle[cluster] + 0.7 * random.normal(size=(items, width))
    return (vector * random.uniform(0.1, 9, size=(items, 1))).astype(np.float32)


def near(rows: list[list[int]], scores: list[list[float]] | None = None) -> Neighbours:
    item_IT = np.array(rows, np.int32)
    return Neighbours(item_IT, np.where(item_IT < 0, 0, 0.5).astype(np.float32) if scores is None else np.array(scores, np.float32))


def pairs(edges: Edges) -> list[tuple[int, int]]:
    return list(zip(edges.low_E.tolist(), edges.high_E.tolist(), strict=True))


@settings(max_examples=25, deadline=None)
@given(items=st.integers(2, 60), count=st.integers(1, 12), block_rows=st.sampled_from([1, 7, 64]), seed=st.integers(0, 9))
def test_the_nearest_are_those_of_scikit_learn(items: int, count: int, block_rows: int, seed: int) -> None:
    vectors = drawn(items, seed=seed)
    found = nearest(vectors, count=count, block_rows=block_rows)
    kept = min(count, items - 1)
    distance, item = NearestNeighbors(n_neighbors=kept, metric="cosine").fit(vectors.astype(np.float64)).kneighbors()
    assert np.array_equal(found.item_IT[:, :kept], item)
    assert found.score_IT[:, :kept] == pytest.approx(1 - distance, abs=1e-5)
    assert np.all(found.item_IT[:, kept:] == -1)
    assert np.all(found.score_IT[:, kept:] == 0)


def test_several_tiles_find_what_one_would() -> None:
    vectors = drawn(8300, width=8)
    found = nearest(vectors, count=3)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in range(0, 8300, 500):
        cosine = unit.astype(np.float64) @ unit[row].astype(np.float64)
        cosine[row] = -2
        assert found.item_IT[row].tolist() == np.argsort(-cosine)[:3].tolist()


def test_missing_and_zero_vectors_have_no_edge() -> None:
    vectors = drawn(20)
    vectors[3] = 0
    vectors[5] = np.nan  # what a missing vector holds is not read
    has_vector = np.ones(20, bool)
    has_vector[[5, 6]] = False
    found = nearest(vectors, count=19, has_vector_N=has_vector)
    assert np.all(found.item_IT[[3, 5, 6]] == -1)
    assert not np.isin(found.item_IT, [3, 5, 6]).any()
    assert np.all((found.item_IT >= 0).sum(axis=1)[[0, 1, 2, 4]] == 16)
    assert has_vector[3], "what was given stays as it was"
    assert np.all(nearest(vectors[:1], count=2).item_IT == -1)


def test_the_same_vector_is_nearest_and_the_smaller_code_comes_first() -> None:
    vectors = drawn(50)
    vectors[[4, 17, 30, 41]] = vectors[9] * np.array([[2], [0.5], [1], [3]], np.float32)
    found = nearest(vectors, count=3, block_rows=8)
    assert found.item_IT[9].tolist() == [4, 17, 30]
    assert found.item_IT[4].tolist() == [9, 17, 30]
    assert found.score_IT[9] == pytest.approx(1.0)


def test_a_vector_with_nan_is_refused() -> None:
    vectors = drawn(5)
    vectors[2, 1] = np.inf
    with pytest.raises(ModelError, match="1 of 5 vectors hold NaN or infinity, the first is number 2"):
        nearest(vectors, count=1)


def test_the_length_of_a_vector_changes_nothing() -> None:
    vectors = drawn(40)
    scaled = vectors * np.float32(1e30)
    assert np.array_equal(nearest(vectors, count=4).item_IT, nearest(scaled, count=4).item_IT)


def test_the_index_finds_nine_of_ten_and_says_the_same_twice() -> None:
    pytest.importorskip("faiss")
    vectors = drawn(4000, width=24)
    exact = nearest(vectors, count=5)
    found, again = (nearest(vectors, count=5, exact_most=1000, probes=64) for _ in range(2))
    assert np.array_equal(found.item_IT, again.item_IT)
    hits = (exact.item_IT[:, :, None] == found.item_IT[:, None, :]).any(axis=2)
    assert hits.mean() > 0.9
    assert found.score_IT[hits.all(axis=1)] == pytest.approx(exact.score_IT[hits.all(axis=1)], abs=1e-6)
    poor = nearest(vectors, count=5, exact_most=1000, probes=1)
    assert (exact.item_IT[:, :, None] == poor.item_IT[:, None, :]).any(axis=2).mean() < hits.mean(), "probes matter"


def test_without_an_index_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModelError, match="pip install 'kar\\[index\\]'"):
        nearest(drawn(30), count=2, exact_most=10)


def test_an_edge_is_kept_where_each_is_among_the_others_nearest() -> None:
    found = mutual(near([[1, 2], [0, 3], [1, 3], [1, -1]]))
    assert pairs(found) == [(0, 1), (1, 3)]
    scored = near([[1, 2], [0, 2], [0, 1]], [[0.9, 0.2], [0.9, 0.7], [0.2, 0.7]])
    assert pairs(mutual(scored, least=0.5)) == [(0, 1), (1, 2)]
    assert mutual(scored, least=0.5).score_E == pytest.approx([0.9, 0.7])


@settings(max_examples=15, deadline=None)
@given(items=st.integers(2, 60), count=st.integers(1, 5), seed=st.integers(0, 50))
def test_random_edges_have_the_same_degrees_and_neither_loops_nor_repeats(items: int, count: int, seed: int) -> None:
    edges = mutual(nearest(drawn(items, seed=seed), count=count))
    drawn_edges = random_edges(edges, seed)
    assert np.array_equal(drawn_edges.degrees(items), edges.degrees(items))
    assert np.all(drawn_edges.low_E < drawn_edges.high_E)
    assert len(set(pairs(drawn_edges))) == len(edges.low_E)
    assert np.array_equal(np.sort(drawn_edges.score_E), np.sort(edges.score_E))


def test_random_edges_follow_their_seed_and_forget_the_vectors() -> None:
    edges = mutual(nearest(drawn(500), count=6))
    one, same, other = random_edges(edges, 1), random_edges(edges, 1), random_edges(edges, 2)
    assert pairs(one) == pairs(same)
    assert pairs(one) != pairs(other)
    by_chance = 2 * len(edges.low_E) / 500 / 500  # of all pairs
    assert len(set(pairs(one)) & set(pairs(edges))) < 6 * by_chance * len(edges.low_E)
    assert len(edges.low_E) > 500


def test_edges_that_leave_no_choice_stay() -> None:
    star = Edges(np.zeros(4, np.int32), np.arange(1, 5, dtype=np.int32), np.ones(4, np.float32))
    assert pairs(random_edges(star, 3)) == pairs(star)
    none = Edges(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert pairs(random_edges(none, 3)) == []
