"""How far a release has moved from the one before it: who came and went, whose text changed, and how far their vectors went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from kar.page.marks import bars
from kar.release.layout import SIDES
from kar.release.likeness import cosines, shared, spaced, texts
from kar.release.reader import Release

_BINS = 20


@dataclass(frozen=True)
class SideDrift:
    """Users or items of the two releases."""

    side: str
    kept_count: int
    added_count: int
    lost_count: int


@dataclass(frozen=True)
class ViewDrift:
    """One view.

    Args:
        same_count: subjects whose text is the same in both.
        changed_count: subjects with another text (of a pooled view: with a mean in both).
        gained_count, dropped_count: subjects of both releases that only the newer, or only the older one has knowledge of.
        median, lowest: cosine of a changed subject's two vectors; None: none changed, or two spaces.
        plot: how many changed subjects have which cosine, from 0 and below to 1; empty where there is none.
    """

    view: str
    same_count: int
    changed_count: int
    gained_count: int
    dropped_count: int
    median: float | None
    lowest: float | None
    plot: Markup


@dataclass(frozen=True)
class Drift:
    """From the release `before` to that of this date."""

    before: str
    is_same_space: bool
    sides: list[SideDrift]
    views: list[ViewDrift]


def measure(new: Release, before: Release) -> Drift:
    """Compare two releases; the cosines of a view are those of at most 65,536 subjects."""
    sides, views = [], []
    for side in SIDES:
        both = shared(new, before, side)
        sides.append(SideDrift(side, len(both.new_N), both.added_count, both.lost_count))
        for view in (v for v in new.views(side) if v in before.views(side)):
            told = texts(new, before, view, both)
            changed = told.changed()
            is_new = ~new.is_missing(side, view)[both.new_N] & ~told.is_told_N
            is_old = ~before.is_missing(side, view)[both.before_N] & ~told.is_told_N
            some = spaced(changed) if new.space_id == before.space_id else changed[:0]
            found = cosines(new, before, view, "adapted", both.new_N[some], both.before_N[some])
            views.append(
                ViewDrift(
                    view,
                    same_count=int(told.is_same_N.sum()),
                    changed_count=len(changed),
                    gained_count=int(is_new.sum()),
                    dropped_count=int(is_old.sum()),
                    median=float(np.median(found)) if len(found) else None,
                    lowest=float(found.min()) if len(found) else None,
                    plot=_plot(view, found),
                )
            )
    return Drift(before.id, new.space_id == before.space_id, sides, views)


def _plot(view: str, found: np.ndarray) -> Markup:
    if not len(found):
        return Markup("")
    counts, _ = np.histogram(np.clip(found, 0.0, 1.0), bins=_BINS, range=(0.0, 1.0))
    label = f"{view}: cosine to the last release of {len(found)} subjects; median {np.median(found):.3f}, lowest {found.min():.3f}"
    return bars([float(count) / counts.max() for count in counts], None, label)
