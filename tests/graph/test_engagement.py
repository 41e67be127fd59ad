"""Personalized PageRank of items: against networkx, by hand, under permutation, at the edges of what a graph can be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.graph.bipartite import Bipartite
from kar.graph.engagement import Neighbours, neighbours
from kar.graph.solve import solve
from kar.graph.walk import walk

WAYS = [solve, walk]


def graphs(most: int = 9) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, most - 1), st.integers(0, most - 1)), min_size=1, max_size=40)


def pagerank(events: list[tuple[int, int]], item: int, restart: float) -> dict[int, float]:
    """networkx's scores of the items in walks from this one, without itself and what it never reaches."""
    graph = nx.Graph()
    for user, other in events:
        graph.add_edge(("user", user), ("item", other))
    found = nx.pagerank(graph, alpha=1 - restart, personalization={("item", item): 1.0}, tol=1e-13, max_iter=2000)
    return {code: score for (kind, code), score in found.items() if kind == "item" and code != item and score > 1e-9}


def asked(events: list[tuple[int, int]], count: int, restart: float = 0.15, size: int = 9) -> Neighbours:
    user_E, item_E = np.array(events, dtype=np.int64).reshape(-1, 2).T
    return neighbours(user_E, item_E, size, size, count=count, restart=restart, threads=1)


def drawn(seed: int, users: int, items: int, events: int) -> tuple[np.ndarray, np.ndarray]:
    """Lopsided: few items have most of the events."""
    random = np.random.default_rng(seed)
    return random.integers(0, users, events), (items * random.random(events) ** 3).astype(np.int64)


def found_by(
    way: Callable,
    user_E: np.ndarray,
    item_E: np.ndarray,
    restart: float,
    tolerance: float,
    memory_bytes: int = 10**9,
    discount: float = 0.0,
):
    """Whole rows of scores by one of the two ways, over the items that have events."""
    pairs_IU = sp.coo_matrix((np.ones(len(item_E)), (item_E, user_E))).tocsr()
    pairs_IU = pairs_IU[np.flatnonzero(np.diff(pairs_IU.indptr))]
    pairs_IU.data[:] = 1.0
    graph = Bipartite.of(pairs_IU)
    score_II = np.zeros((graph.item_count, graph.item_count))
    for block, item_BT, score_BT in way(graph, graph.item_count - 1, restart, discount, tolerance, 2, memory_bytes):
        np.put_along_axis(score_II[block], item_BT, score_BT, axis=1)
    return score_II


@settings(max_examples=40, deadline=None)
@given(events=graphs(), restart=st.sampled_from([0.05, 0.15, 0.5, 0.9]))
def test_scores_are_those_of_networkx(events: list[tuple[int, int]], restart: float) -> None:
    found = asked(events, 8, restart)
    for item in {item for _, item in events}:
        known = pagerank(events, item, restart)
        listed = {int(code): float(score) for code, score in zip(found.item_IT[item], found.score_IT[item], strict=True) if code >= 0}
        assert listed == pytest.approx(known, rel=1e-5, abs=1e-10)
        scores = [known[code] for code in listed]
        assert all(after <= before * (1 + 1e-4) for before, after in pairwise(scores)), "best first"


@settings(max_examples=40, deadline=None)
@given(events=graphs(), restart=st.sampled_from([0.05, 0.15, 0.6]), tolerance=st.sampled_from([1e-8, 5e-5]))
def test_walking_says_what_solving_says(events: list[tuple[int, int]], restart: float, tolerance: float) -> None:
    # one user joins all, so that no item is alone
    events = [*events, *((9, item) for item in range(9)), (9, 9)]
    user_E, item_E = np.array(events).T
    exact = found_by(solve, user_E, item_E, restart, 1e-9)
    walked = found_by(walk, user_E, item_E, restart, tolerance)
    assert np.all(np.abs(walked - exact).max(axis=1) <= 2 * tolerance * exact.max(axis=1))


@pytest.mark.parametrize("way", WAYS)
def test_a_graph_solved_by_hand(way: Callable) -> None:
    """User 0 met items 0 and 1, user 1 items 1 and 2. From item 0, with a = 0.85² and walks counted at items only:

    Q = [[½ ¼ 0] [½ ½ ½] [0 ¼ ½]] has the eigenvalues 1, ½, 0 with e0 = ¼(1 2 1) + ½(1 0 -1) + ¼(1 -2 1).
    """
    score = found_by(way, np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), 0.15, 1e-9)
    a = 0.85**2
    whole, half, none = 0.15 / (1 - a) / 4, 0.15 / (1 - a / 2) / 2, 0.15 / 4
    assert score[0, 1] == pytest.approx(2 * whole - 2 * none)
    assert score[0, 2] == pytest.approx(whole - half + none)
    assert score[1, [0, 2]] == pytest.approx(score[0, 1] / 2), "degrees times scores are symmetric"


@pytest.mark.parametrize("items", [40, 521])
def test_both_ways_agree_over_several_blocks_and_odd_counts(items: int) -> None:
    user_E, item_E = drawn(items, 90, items, items * 12)
    user_E, item_E = np.append(user_E, np.full(items, 90)), np.append(item_E, np.arange(items))
    exact = found_by(solve, user_E, item_E, 0.15, 1e-9)
    assert exact.shape == (items, items)
    degrees = np.array([len(set(user_E[item_E == item])) for item in range(items)])
    assert exact * degrees[:, None] == pytest.approx((exact * degrees[:, None]).T, rel=1e-9, abs=1e-13)
    narrow = 30 * (6 * items + 91) * 4 * 2  # thirty columns of floats a block, fifteen of doubles
    for tolerance in (1e-7, 5e-5):
        walked = found_by(walk, user_E, item_E, 0.15, tolerance, narrow)
        assert np.all(np.abs(walked - exact).max(axis=1) <= tolerance * exact.max(axis=1))


@pytest.mark.parametrize("way", WAYS)
def test_a_discount_divides_by_a_power_of_the_neighbours_degree(way: Callable) -> None:
    user_E, item_E = drawn(5, 40, 25, 500)
    degrees = np.array([len(set(user_E[item_E == item])) for item in np.unique(item_E)])
    plain = found_by(way, user_E, item_E, 0.15, 1e-9)
    half = found_by(way, user_E, item_E, 0.15, 1e-9, discount=0.5)
    assert half == pytest.approx(plain / np.sqrt(degrees), rel=1e-6)


def test_scores_and_returns_add_up_to_one() -> None:
    """Items hold restart / (1 - a) of the walk's time: what is not elsewhere is at the start."""
    user_E, item_E = drawn(3, 50, 20, 400)
    exact = found_by(solve, user_E, item_E, 0.3, 1e-9)
    at_start = 0.3 / (1 - 0.49) - exact.sum(axis=1)
    assert np.all(at_start > 0.3)
    assert np.all(at_start < 0.3 / (1 - 0.49))


@settings(max_examples=20, deadline=None)
@given(events=graphs(), seed=st.integers(0, 1000))
def test_renaming_items_and_users_renames_the_answer(events: list[tuple[int, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    new_user, new_item = random.permutation(9), random.permutation(9)
    first = asked(events, 8)
    second = asked([(int(new_user[user]), int(new_item[item])) for user, item in random.permutation(events)], 8)
    for item in range(9):
        one = {int(new_item[code]): score for code, score in zip(first.item_IT[item], first.score_IT[item], strict=True) if code >= 0}
        row = new_item[item]
        two = {int(code): score for code, score in zip(second.item_IT[row], second.score_IT[row], strict=True) if code >= 0}
        assert two == pytest.approx(one, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(left=graphs(5), right=graphs(5))
def test_parts_that_no_path_joins_never_mix(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    apart = [*left, *((user + 5, item + 5) for user, item in right)]
    found = asked(apart, 9, size=10)
    for item, row in enumerate(found.item_IT):
        assert all((code < 5) == (item < 5) for code in row if code >= 0)
    assert np.array_equal(found.item_IT[:5], asked(left, 9, size=10).item_IT[:5])


def test_a_pair_told_again_changes_nothing() -> None:
    once = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)]
    again = [*once, (0, 1), (0, 1), (2, 3)]
    one, two = asked(once, 4), asked(again, 4)
    assert np.array_equal(one.item_IT, two.item_IT)
    assert np.array_equal(one.score_IT, two.score_IT)


def test_an_item_alone_or_without_events_has_no_neighbours() -> None:
    found = asked([(0, 0), (0, 1), (1, 4)], 2)
    assert found.item_IT[0].tolist() == [1, -1]
    assert found.item_IT[1].tolist() == [0, -1]
    assert np.all(found.item_IT[2:] == -1)
    assert np.all(found.score_IT[2:] == 0.0)
    assert found.item_IT.shape == found.score_IT.shape == (9, 2)
    assert (found.item_IT.dtype, found.score_IT.dtype) == (np.int32, np.float32)


def test_equal_scores_are_ordered_by_code() -> None:
    """One user met all; by symmetry all other items score the same, and rounding must not order them."""
    found = asked([(0, item) for item in (7, 2, 8, 4, 0, 6)], 4)
    assert found.item_IT[7].tolist() == [0, 2, 4, 6]
    assert found.item_IT[0].tolist() == [2, 4, 6, 7]
    assert len(set(found.score_IT[7].tolist())) == 1


@pytest.mark.parametrize("memory_bytes", [1_000_000, 10**9])
def test_threads_and_memory_change_no_neighbour(memory_bytes: int) -> None:
    user_E, item_E = drawn(1, 300, 400, 9000)
    answers = [
        neighbours(user_E, item_E, 300, 400, count=5, threads=threads, memory_bytes=given)
        for threads, given in ((1, 10**9), (2, memory_bytes), (3, memory_bytes))
    ]
    for other in answers[1:]:
        assert np.array_equal(answers[0].item_IT, other.item_IT)
        assert answers[0].score_IT == pytest.approx(other.score_IT, rel=1e-4)


def test_no_events_and_more_neighbours_than_items_are_fine() -> None:
    empty = neighbours(np.zeros(0, np.int64), np.zeros(0, np.int64), 0, 3, count=2)
    assert empty.item_IT.tolist() == [[-1, -1]] * 3
    assert asked([(0, 0), (0, 1)], 20).item_IT[0].tolist() == [1] + [-1] * 19


@pytest.mark.parametrize(
    ("user", "item", "more"),
    [([0, 9], [0, 1], {}), ([0, 1], [0, -1], {}), ([0], [0, 1], {}), ([0], [0], {"restart": 0.0}), ([0], [0], {"count": 0})],
)
def test_what_cannot_be_meant_is_refused(user: list[int], item: list[int], more: dict) -> None:
    with pytest.raises(ValueError, match="wanted"):
        neighbours(np.array(user), np.array(item), 9, 9, **{"count": 1, **more})
