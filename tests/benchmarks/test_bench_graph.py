"""The machinery of `make bench-graph`: drawn graphs and vectors, and what each system answers on them. No figure is judged."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import graph_systems
from benchmarks.graph_systems import Task


def test_a_drawn_graph_has_each_pair_once_and_popular_items() -> None:
    graph = graph_systems.draw(Task("kar", 80, 50, 1500, asked=5))
    assert len(set(zip(graph.user_E.tolist(), graph.item_E.tolist(), strict=True))) == len(graph.user_E) == 1500
    degrees = np.sort(np.bincount(graph.item_E, minlength=50))
    assert degrees[-10:].sum() > 2 * degrees[:10].sum()
    assert len(set(graph.asked_A.tolist())) == 5
    again = graph_systems.draw(Task("kar", 80, 50, 1500))
    assert np.array_equal(graph.item_E, again.item_E)


@pytest.mark.parametrize(
    ("system", "package"), [("push", "scipy"), ("networkx", "networkx"), ("sknetwork", "sknetwork"), ("fast_pagerank", "fast_pagerank")]
)
def test_every_peer_finds_the_neighbours_that_kar_finds(system: str, package: str) -> None:
    pytest.importorskip(package)
    task = Task(system, 80, 50, 1500, asked=5)
    graph = graph_systems.draw(task)
    theirs = graph_systems.act(task, graph)()
    ours = np.concatenate([item_BT for _, item_BT, _ in graph_systems.act(Task("solve", 80, 50, 1500), graph)()])
    for item, found in zip(graph.asked_A, theirs, strict=True):
        assert sorted(found.tolist()) == sorted(ours[item].tolist())


@pytest.mark.parametrize("system", ["kar", "walk", "walk in doubles", "floor"])
def test_every_way_of_kar_is_timed(system: str) -> None:
    said = graph_systems.run(Task(system, 80, 50, 1500))
    assert said["cpu_s"] >= 0
    assert said["wall_s"] > 0


def test_what_some_items_take_is_reckoned_for_all() -> None:
    assert graph_systems.timed(lambda: None, 1000.0)["wall_s"] > graph_systems.timed(lambda: None)["wall_s"]


@pytest.mark.parametrize("system", ["products", "nearest", "indexed", "faiss", "sklearn"])
def test_every_search_of_vectors_is_timed(system: str) -> None:
    if system in ("indexed", "faiss"):
        pytest.importorskip("faiss")
    said = graph_systems.run(Task(system, 0, 300, 0))
    assert said["wall_s"] > 0
    assert said.get("recall", 1.0) > 0.5
