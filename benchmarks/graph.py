"""Neighbours of items, in rows of name, system, figure, unit, ratio: Personalized PageRank and the nearest vectors, beside their peers.

    python -m benchmarks.graph [--out file.json] [--only million twenty …] [--scale 0.1]

    million   every item's three neighbours in MovieLens-1M's shape (6,040 users, 3,706 items, 1 M events): kar as it chooses, by solving,
              by walking, beside local push, networkx, scikit-network and fast-pagerank, which are asked for some items and reckoned
              for all, and the arithmetic floor: LAPACK's factor and inverse of a matrix of that size alone
    twenty    kar in MovieLens-20M's shape (138,493 users, 26,744 items, 20 M events): seconds and highest memory; the same floor
    wide      kar in a shop's shape (200,000 users, 60,000 items, 1 M events), where no matrix fits: some items, reckoned for all
    edges     the ten nearest of 50,000 vectors × 384 by cosine: kar, its index and that one's recall, beside faiss' and scikit-learn's
              exact search, and the floor: the products alone
    catalogue the same of 200,000 vectors, kar and the floor

A scale is of users, items, events and vectors alike. Everything is drawn from seeds; each system runs in a process of its own and
is timed after its imports and the drawing. Seconds by the clock and of the processor (user and system, all threads).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from benchmarks import sections, table
from benchmarks.child import Measured, measure
from benchmarks.graph_systems import Task
from benchmarks.table import Row

_MILLION, _TWENTY, _WIDE = (6_040, 3_706, 1_000_000), (138_493, 26_744, 20_000_000), (200_000, 60_000, 1_000_000)
_PEERS = {"push": "local push in NumPy", "networkx": "networkx", "sknetwork": "scikit-network", "fast_pagerank": "fast-pagerank"}


def _run(task: Task) -> Measured | None:
    """None: the system is not installed."""
    done = measure("benchmarks.graph_systems", asdict(task))
    if "missing" in done.said:
        print(f"  left out: {task.system} ({done.said['missing']} is not installed)", file=sys.stderr)
        return None
    print(f"  {task.system} {done.said}, {done.peak_mb:.0f} MB", file=sys.stderr)
    return done


def _seconds(name: str, system: str, said: dict[str, Any], base: dict[str, Any]) -> Iterator[Row]:
    """Of all items; where only some were asked, as many times more."""
    for key, unit in (("wall_s", "s"), ("cpu_s", "CPU-s")):
        yield Row(name, system, table.rounded(said[key]), unit, round(said[key] / base[key], 3))


def _pagerank(scale: float, shape: tuple[int, int, int], others: dict[str, str], asked: int = 0) -> Iterator[Row]:
    users, items, events = (max(50, round(count * scale)) for count in shape)
    what = f"three neighbours of {items:,} items, {users:,} users, {events:,} events"
    ours = _run(Task("kar", users, items, events, asked=asked))
    assert ours is not None
    reckoned = f"{what}, of {asked} asked" if asked else what
    yield from _seconds(f"{reckoned} (ratio to kar)", "kar", ours.said, ours.said)
    yield Row(f"{what}: highest memory, events and imports included", "kar", table.rounded(ours.peak_mb), "MB")
    for system, called in others.items():
        is_some = system in _PEERS
        if done := _run(Task(system, users, items, events, asked=5 if is_some else 0)):
            yield from _seconds(f"{what}{', of 5 asked' if is_some else ''} (ratio to kar)", called, done.said, ours.said)


def _million(scale: float) -> Iterator[Row]:
    own = {"floor": "floor: LAPACK alone", "solve": "kar, solving", "walk": "kar, walking", "walk in doubles": "kar, walking in doubles"}
    yield from _pagerank(scale, _MILLION, own | _PEERS)


def _twenty(scale: float) -> Iterator[Row]:
    yield from _pagerank(scale, _TWENTY, {"floor": "floor: LAPACK alone"})


def _wide(scale: float) -> Iterator[Row]:
    yield from _pagerank(scale, _WIDE, {"push": _PEERS["push"]}, asked=256)


def _nearest(scale: float, vectors: int, others: dict[str, str]) -> Iterator[Row]:
    items = max(200, round(vectors * scale))
    what = f"the ten nearest of {items:,} vectors × 384"
    floor = _run(Task("products", 0, items, 0))
    assert floor is not None
    yield from _seconds(f"{what} (ratio to the products alone)", "floor: the products alone", floor.said, floor.said)
    for system, called in others.items():
        if done := _run(Task(system, 0, items, 0)):
            yield from _seconds(f"{what} (ratio to the products alone)", called, done.said, floor.said)
            yield Row(f"{what}: highest memory, vectors and imports included", called, table.rounded(done.peak_mb), "MB")
            if "recall" in done.said:
                yield Row(f"{what}: share of the exact ones that it finds", called, table.rounded(done.said["recall"]), "share")


def _edges(scale: float) -> Iterator[Row]:
    named = {"nearest": "kar, exact", "indexed": "kar, by its index", "faiss": "faiss, exact", "sklearn": "scikit-learn, exact"}
    yield from _nearest(scale, 50_000, named)


def _catalogue(scale: float) -> Iterator[Row]:
    yield from _nearest(scale, 200_000, {"nearest": "kar, exact"})


_SECTIONS = {"million": _million, "twenty": _twenty, "wide": _wide, "edges": _edges, "catalogue": _catalogue}


def main() -> None:
    parser = sections.parser(__doc__, list(_SECTIONS))
    parser.add_argument("--scale", type=float, default=1.0, help="of users, items, events and vectors")
    given = parser.parse_args()
    sections.run(_SECTIONS, given.only, given.scale, given.out)


if __name__ == "__main__":
    main()
