"""The items on a plane: their knowledge vectors' first two principal components, and beside whom each stands.

Only so many of the most popular items are shown. The plane is the same for the same vectors: components come in the order
of their variance, each turned so that its largest part is positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kar.untrusted import title

MOST = 300
TEXT_CHARS = 220
_NAMED = 6
_NEAREST = 5


@dataclass(frozen=True)
class Point:
    """One item: its place in percent of the plane, from the left and from the top."""

    left: float
    top: float
    radius: float
    title: str
    text: str


@dataclass(frozen=True)
class Neighbour:
    """One item near another. `is_both`: it is in both lists."""

    title: str
    value: float
    is_both: bool


@dataclass(frozen=True)
class Neighbours:
    """Who is near a named item, by what is written about it and by who met both."""

    title: str
    by_knowledge: list[Neighbour]
    by_events: list[Neighbour]


@dataclass(frozen=True)
class ItemMap:
    """The plane.

    Args:
        view: whose vectors these are; empty: there are none.
        known_count: items with a vector.
        variance_share: of the shown vectors, on the plane.
    """

    view: str = ""
    known_count: int = 0
    variance_share: float = 0.0
    points: list[Point] = field(default_factory=list)
    named: list[Neighbours] = field(default_factory=list)

    @property
    def both_share(self) -> float | None:
        """Of the neighbours by knowledge, how many are neighbours by events too."""
        near = [neighbour for item in self.named for neighbour in item.by_knowledge]
        return sum(neighbour.is_both for neighbour in near) / len(near) if near else None


def item_map(
    view: str,
    known_count: int,
    vectors_NT: np.ndarray,
    events_N: np.ndarray,
    titles: Sequence[str],
    words: Sequence[str],
    met_NN: np.ndarray,
) -> ItemMap:
    """Place N items, the most popular first.

    Args:
        known_count: items with a vector, shown or not.
        vectors_NT: float32, of length 1.
        events_N: how often each was met before the cutoff.
        titles, words: of each item; untrusted.
        met_NN: cosine of who met one and who met the other, for each pair.
    """
    if len(vectors_NT) < 3:
        return ItemMap()
    places_N2, share = _plane(vectors_NT)
    names = [title(name) for name in titles]
    size = np.sqrt(events_N / max(float(events_N.max()), 1.0))
    points = [
        Point(round(float(x), 2), round(float(y), 2), round(4 + 5 * float(s), 1), name, _short(text))
        for (x, y), s, name, text in zip(places_N2, size, names, words, strict=True)
    ]
    return ItemMap(view, known_count, share, points, _named(vectors_NT, met_NN, names))


def _plane(vectors_NT: np.ndarray) -> tuple[np.ndarray, float]:
    """Places in percent, [N, 2], and the share of the variance that they hold."""
    centred = vectors_NT.astype(np.float64) - vectors_NT.mean(axis=0, dtype=np.float64)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    two = axes[:2] * np.sign(axes[:2][np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    flat = centred @ two.T
    spread = np.ptp(flat, axis=0)
    places = 4 + 92 * (flat - flat.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    total = float((singular**2).sum())
    return places, float((singular[:2] ** 2).sum()) / total if total else 0.0


def _named(vectors_NT: np.ndarray, met_NN: np.ndarray, names: Sequence[str]) -> list[Neighbours]:
    found = []
    for place in range(min(_NAMED, len(names))):
        likeness, together = vectors_NT @ vectors_NT[place], met_NN[place]
        near, met = _nearest(likeness, place), _nearest(together, place)
        found.append(
            Neighbours(
                names[place],
                [Neighbour(names[n], float(likeness[n]), n in met) for n in near],
                [Neighbour(names[n], float(together[n]), n in near) for n in met],
            )
        )
    return found


def _nearest(values_N: np.ndarray, but: int) -> list[int]:
    order = np.argsort(-values_N, kind="stable")
    return [int(n) for n in order if n != but and values_N[n] > 0][:_NEAREST]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TEXT_CHARS else line[:TEXT_CHARS].rsplit(" ", 1)[0] + " …"


def met_together(user_E: np.ndarray, item_E: np.ndarray, items: int) -> np.ndarray:
    """float64 [items, items]: users who met both, over the geometric mean of those who met each.

    Args:
        user_E, item_E: events; users as numbers from 0, items as places among those shown.
    """
    pairs = np.unique(np.stack([user_E, item_E], axis=1), axis=0) if len(user_E) else np.zeros((0, 2), np.int64)
    users, codes = np.unique(pairs[:, 0], return_inverse=True)
    counts = np.zeros((items, items))
    for first in range(0, len(users), 4_096):  # a block of users at a time: the table of who met what is never whole
        inside = (codes >= first) & (codes < first + 4_096)
        met_UN = np.zeros((min(4_096, len(users) - first), items), np.float32)
        met_UN[codes[inside] - first, pairs[inside, 1]] = 1.0
        counts += met_UN.T @ met_UN
    own = np.sqrt(np.diag(counts))
    both = np.outer(own, own)
    together: np.ndarray = np.divide(counts, both, out=np.zeros_like(counts), where=both > 0)
    return together
