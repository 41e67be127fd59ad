"""What the texts say factor by factor: how many subjects have a text, how long and how different the texts are, and how
near a user's preference lies to the items' facts in the same factor, beside how near it lies to their other factors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SAMPLED = 20_000
"""Distinct texts are counted over the first so many subjects of a factor: enough to see a factor that says one thing of all."""

Key = tuple[str, str]  # view, factor
Float64 = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass
class Told:
    """The texts of one view and factor.

    Args:
        count: subjects with a text.
        words: of all texts, parted at blanks.
        sampled: how many of them were held against each other.
        most: so many at the most.
    """

    count: int = 0
    words: int = 0
    sampled: int = 0
    distinct: set[int] = field(default_factory=set)
    most: int = SAMPLED

    def add(self, texts: pa.Array) -> None:
        self.count += len(texts)
        self.words += pc.sum(pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts)))).as_py() or 0
        first = texts.slice(0, self.most - self.sampled).to_pylist()
        self.sampled += len(first)
        self.distinct.update(hash(text) for text in first)


@dataclass(frozen=True)
class Factor:
    """One row of the page.

    Args:
        share: of the view's subjects with any text, those with one in this factor.
        mean_words: of a text.
        distinct_share: different texts among the first `SAMPLED`; 1: all differ.
    """

    view: str
    factor: str
    count: int
    share: float
    mean_words: float
    distinct_share: float


@dataclass(frozen=True)
class Meeting:
    """One factor in which users and items have vectors.

    Args:
        same: mean cosine over all pairs of a user and an item, both in this factor.
        other: the same with the items' other factors, averaged; None: there is no other.
    """

    factor: str
    user_view: str
    item_view: str
    same: float
    other: float | None


@dataclass(frozen=True)
class ByFactor:
    """Both tables; empty where no answer has factors."""

    factors: list[Factor] = field(default_factory=list)
    meetings: list[Meeting] = field(default_factory=list)


def tally(parts: Iterable[pa.Table]) -> dict[Key, Told]:
    """Count table factor_knowledge, given in parts; prose (no factor) is left out."""
    found: dict[Key, Told] = {}
    for part in parts:
        rows = part.filter(pc.not_equal(part.column("factor"), "")).combine_chunks()
        names = pc.binary_join_element_wise(rows.column("view"), rows.column("factor"), ":")
        for name in pc.unique(names).to_pylist():
            view, _, factor = name.partition(":")
            own = rows.filter(pc.equal(names, name)).column("text").combine_chunks()
            found.setdefault((view, factor), Told()).add(own)
    return found


def centres(parts: Iterable[pa.Table]) -> dict[str, Float64]:
    """The mean vector of each factor's view (`item.facts:mood`) of table knowledge_vector, given in parts."""
    sums: dict[str, Float64] = {}
    counts: dict[str, int] = {}
    for part in parts:
        views = part.column("view")  # without the control texts: item.facts:mood@noise
        rows = part.filter(pc.and_not(pc.match_substring(views, ":"), pc.match_substring(views, "@"))).combine_chunks()
        for view in pc.unique(rows.column("view")).to_pylist():
            column = rows.filter(pc.equal(rows.column("view"), view)).column("vector").combine_chunks()
            vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float64)
            sums[view] = sums.get(view, 0.0) + vectors.sum(axis=0)
            counts[view] = counts.get(view, 0) + len(vectors)
    return {view: total / counts[view] for view, total in sums.items()}


def by_factor(told: Mapping[Key, Told], subjects: Mapping[str, int], middle: Mapping[str, Float64]) -> ByFactor:
    """What the page shows.

    Args:
        told: `tally`.
        subjects: view → subjects with any text.
        middle: `centres`.
    """
    factors = [
        Factor(view, factor, t.count, t.count / max(subjects.get(view, 0), t.count), t.words / t.count, len(t.distinct) / t.sampled)
        for (view, factor), t in sorted(told.items(), key=lambda entry: entry[0])
    ]
    return ByFactor(factors, list(_meetings(middle)))


def _meetings(middle: Mapping[str, Float64]) -> Iterable[Meeting]:
    """Vectors have length 1, so the mean cosine over all pairs is the product of the two mean vectors."""
    for user, u in sorted(middle.items()):
        user_view, _, factor = user.partition(":")
        for item, i in sorted(middle.items()):
            item_view, _, item_factor = item.partition(":")
            if user_view.startswith("user.") and item_view.startswith("item.") and factor == item_factor:
                others = [float(u @ o) for name, o in middle.items() if name.startswith(f"{item_view}:") and name != item]
                yield Meeting(factor, user_view, item_view, float(u @ i), fmean(others) if others else None)
