"""One measured process of `benchmarks.graph`: one system over one drawn graph or one drawn set of vectors; seconds by clock and processor.

    python -m benchmarks.graph_systems '{"system": "networkx", "users": 600, "items": 370, "events": 100000, "asked": 5}'

Shape suffixes: E events · U users · I items · N vectors · D width · A items asked
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.child import main

_RESTART, _TOLERANCE, _COUNT = 0.15, 5e-5, 3
_WIDTH, _NEAREST = 384, 10


@dataclass(frozen=True)
class Task:
    """What one process does.

    Args:
        system: a name of `run`.
        users, items, events: of the graph; vectors need items alone.
        asked: items to answer for; the seconds are multiplied up to all. 0: all.
    """

    system: str
    users: int
    items: int
    events: int
    asked: int = 0


@dataclass(frozen=True)
class _Graph:
    """Drawn events, each pair once, as codes and as CSR [I, U]; and the items asked, evenly over popularity."""

    user_E: NDArray[np.int64]
    item_E: NDArray[np.int64]
    pairs_IU: Any
    asked_A: NDArray[np.int64]


def run(task: Task) -> dict[str, Any]:
    """Wall and processor seconds for all items, and what else the task says."""
    if task.system in ("products", "nearest", "indexed", "faiss", "sklearn"):
        return _vectors(task)
    return timed(act(task, draw(task)), task.items / task.asked if task.asked else 1.0)


def act(task: Task, graph: _Graph) -> Callable[[], Any]:
    """What is timed; its imports and its graph are made before."""
    systems: dict[str, Callable[[Task, _Graph], Callable[[], Any]]] = {
        "kar": _kar,
        "solve": _way,
        "walk": _way,
        "walk in doubles": _way,
        "floor": _floor,
        "push": _push,
        "networkx": _networkx,
        "sknetwork": _sknetwork,
        "fast_pagerank": _fast_pagerank,
    }
    return systems[task.system](task, graph)


def timed(act: Callable[[], object], times: float = 1.0) -> dict[str, Any]:
    """Seconds by the clock and of the processor, so many times."""
    started, cpu_from = time.perf_counter(), _cpu_s()
    act()
    return {"wall_s": (time.perf_counter() - started) * times, "cpu_s": (_cpu_s() - cpu_from) * times}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def draw(task: Task) -> _Graph:
    """Users and items popular by power laws, tastes in common: half of a user's events lie in his tenth of the catalogue."""
    import scipy.sparse as sp

    random = np.random.default_rng(7)
    keys = np.zeros(0, np.int64)
    while len(keys) < task.events:
        more = task.events - len(keys) + task.events // 5
        user = (task.users * random.random(more) ** 1.7).astype(np.int64)
        item = (task.items * random.random(more) ** 2.2).astype(np.int64)
        item = np.where(random.random(more) < 0.5, item - item % 10 + user % 10, item)
        keys = np.unique(np.concatenate([keys, user * task.items + np.minimum(item, task.items - 1)]))
    keys = np.sort(random.choice(keys, task.events, replace=False))
    user, item = keys // task.items, keys % task.items
    pairs = sp.coo_matrix((np.ones(len(keys)), (item, user)), shape=(task.items, task.users)).tocsr()
    met = np.flatnonzero(np.diff(pairs.indptr))
    return _Graph(user, item, pairs, met[np.linspace(0, len(met) - 1, task.asked or 1).astype(int)])


def _kar(task: Task, graph: _Graph) -> Callable[[], Any]:
    from kar.graph.engagement import neighbours

    if task.asked:
        return _walked(graph, slice(0, task.asked), _TOLERANCE)
    return lambda: neighbours(graph.user_E, graph.item_E, task.users, task.items, count=_COUNT, restart=_RESTART, tolerance=_TOLERANCE)


def _way(task: Task, graph: _Graph) -> Callable[[], Any]:
    from kar.graph.solve import solve

    if task.system != "solve":
        return _walked(graph, slice(None), _TOLERANCE if task.system == "walk" else _TOLERANCE / 2)
    return lambda: list(solve(_bipartite(graph), _COUNT, _RESTART, 0.0, _TOLERANCE, os.cpu_count() or 1, 5_000_000_000))


def _walked(graph: _Graph, blocks: slice, tolerance: float) -> Callable[[], Any]:
    from kar.graph.walk import walk

    return lambda: list(walk(_bipartite(graph), _COUNT, _RESTART, 0.0, tolerance, os.cpu_count() or 1, 5_000_000_000, blocks))


def _bipartite(graph: _Graph) -> Any:
    """The items that have events; kar drops the others itself."""
    from kar.graph.bipartite import Bipartite

    return Bipartite.of(graph.pairs_IU[np.flatnonzero(np.diff(graph.pairs_IU.indptr))])


def _floor(task: Task, graph: _Graph) -> Callable[[], Any]:
    """Factor and inverse of any matrix of this size; the walk's floor is its sparse products, which are most of it."""
    from scipy.linalg import lapack

    size = task.items + task.items % 2
    packed = np.zeros((size + 1, size // 2), order="F")
    np.fill_diagonal(packed[1:], 1.0)
    np.fill_diagonal(packed, 1.0)

    def act() -> None:
        flat, _ = lapack.dpftrf(size, packed.reshape(-1, order="F"), transr="N", uplo="L", overwrite_a=1)
        lapack.dpftri(size, flat, transr="N", uplo="L", overwrite_a=1)

    return act


def _push(task: Task, graph: _Graph) -> Callable[[], Any]:
    """Forward push by whole frontiers until no node's residual is over 1e-7 of its degree. Source: Andersen, Chung and Lang (2006)."""
    import scipy.sparse as sp

    both = sp.bmat([[None, graph.pairs_IU], [graph.pairs_IU.T, None]], format="csr")
    degree = np.maximum(np.diff(both.indptr), 1)

    def ranked(item: int) -> NDArray[np.int64]:
        score, left = np.zeros(len(degree)), np.zeros(len(degree))
        left[item] = 1.0
        while len(front := np.flatnonzero(left > 1e-7 * degree)):
            pushed, lengths = left[front], degree[front]
            score[front] += _RESTART * pushed
            left[front] = 0.0
            starts = np.repeat(both.indptr[front] - np.cumsum(lengths) + lengths, lengths)
            onto = both.indices[starts + np.arange(len(starts))]
            left += np.bincount(onto, np.repeat((1 - _RESTART) * pushed / lengths, lengths), len(left))
        return _best(score, item, task.items)

    return lambda: [ranked(int(item)) for item in graph.asked_A]


def _best(score: NDArray[np.float64], item: int, items: int) -> NDArray[np.int64]:
    of_items = score[:items].copy()
    of_items[item] = 0.0
    best: NDArray[np.int64] = np.argpartition(of_items, -_COUNT)[-_COUNT:]
    return best


def _networkx(task: Task, graph: _Graph) -> Callable[[], Any]:
    import networkx as nx

    made = nx.Graph()
    made.add_edges_from(zip(graph.item_E.tolist(), (graph.user_E + task.items).tolist(), strict=True))

    def ranked(item: int) -> NDArray[np.int64]:
        found = nx.pagerank(made, alpha=1 - _RESTART, personalization={item: 1.0}, tol=1e-9)
        return _best(np.array([found.get(code, 0.0) for code in range(task.items)]), item, task.items)

    return lambda: [ranked(int(item)) for item in graph.asked_A]


def _sknetwork(task: Task, graph: _Graph) -> Callable[[], Any]:
    from sknetwork.ranking import PageRank

    def ranked(item: int) -> NDArray[np.int64]:
        ranking = PageRank(1 - _RESTART, solver="piteration", n_iter=60, tol=1e-6)
        return _best(ranking.fit_predict(graph.pairs_IU, weights_row={item: 1.0}), item, task.items)

    return lambda: [ranked(int(item)) for item in graph.asked_A]


def _fast_pagerank(task: Task, graph: _Graph) -> Callable[[], Any]:
    import scipy.sparse as sp
    from fast_pagerank import pagerank_power

    both = sp.bmat([[None, graph.pairs_IU], [graph.pairs_IU.T, None]], format="csr")

    def ranked(item: int) -> NDArray[np.int64]:
        start = np.zeros(both.shape[0])
        start[item] = 1.0
        return _best(pagerank_power(both, p=1 - _RESTART, personalize=start, tol=1e-6), item, task.items)

    return lambda: [ranked(int(item)) for item in graph.asked_A]


def _vectors(task: Task) -> dict[str, Any]:
    """Vectors in 200 clusters, as texts about items have them."""
    random = np.random.default_rng(5)
    middle = random.normal(size=(200, _WIDTH)).astype(np.float32)
    vector_ND = middle[random.integers(0, 200, task.items)] + random.normal(size=(task.items, _WIDTH)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    if task.system == "products":
        blocks = range(0, task.items, 1024)
        return timed(
            lambda: [vector_ND[at : at + 1024] @ vector_ND[to : to + 8192].T for at in blocks for to in range(0, task.items, 8192)]
        )
    if task.system == "faiss":
        import faiss

        exact = faiss.IndexFlatIP(_WIDTH)
        return timed(lambda: (exact.add(vector_ND), exact.search(vector_ND, _NEAREST + 1)))
    if task.system == "sklearn":
        from sklearn.neighbors import NearestNeighbors

        return timed(lambda: NearestNeighbors(n_neighbors=_NEAREST, metric="cosine").fit(vector_ND).kneighbors())
    from kar.graph.edges import nearest

    if task.system == "nearest":
        return timed(lambda: nearest(vector_ND, count=_NEAREST))
    found = []
    said = timed(lambda: found.append(nearest(vector_ND, count=_NEAREST, exact_most=0)))
    exact_IT = nearest(vector_ND, count=_NEAREST).item_IT
    return said | {"recall": float((exact_IT[:, :, None] == found[0].item_IT[:, None, :]).any(axis=2).mean())}


if __name__ == "__main__":
    main(Task, run)
