"""What moved from one release to another: subjects added, lost and changed, how far their vectors turned, coverage, the largest movers.

Vectors are compared by what makes them comparable: knowledge vectors if both releases were encoded alike, else adapted ones if both live in one
space, else not at all (then only counts are given). Pooled views have adapted vectors alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from kar.release import layout
from kar.release.layout import Kind, Side
from kar.release.likeness import cosine
from kar.release.reader import Release

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 1.0)
_CHUNK = 131_072  # rows whose vectors are held at once


@dataclass(frozen=True)
class Mover:
    """A subject whose vector turned.

    Args:
        cosine: between its vectors, −1 … 1; 1 is the same direction.
    """

    subject_id: str
    cosine: float


@dataclass(frozen=True)
class ViewDiff:
    """One view over the subjects of both releases.

    Args:
        kind: which vectors were compared; None: `why_not` says why none could be.
        covered_before, covered_after: share of the side's subjects with knowledge, in each release.
        gained, lost: subjects of both releases that have knowledge only after, or only before.
        kept: subjects with knowledge in both; of them `changed` have another vector and `asked_again` another asked_at.
        cosines: quantile → cosine, over the changed ones; empty if none changed.
        cosine_mean: over all kept, the unchanged ones as 1; None: nothing was compared.
        movers: the furthest turned first.
    """

    view: str
    kind: Kind | None
    why_not: str
    covered_before: float
    covered_after: float
    gained: int
    lost: int
    kept: int
    asked_again: int
    changed: int = 0
    cosines: dict[float, float] = field(default_factory=dict)
    cosine_mean: float | None = None
    movers: tuple[Mover, ...] = ()


@dataclass(frozen=True)
class SideDiff:
    """Users, or items. `added_ids`, `lost_ids`: the first ten, as texts."""

    side: Side
    rows_before: int
    rows_after: int
    added: int
    lost: int
    added_ids: tuple[str, ...]
    lost_ids: tuple[str, ...]
    views: tuple[ViewDiff, ...]
    views_added: tuple[str, ...]
    views_lost: tuple[str, ...]


@dataclass(frozen=True)
class Diff:
    before: str
    after: str
    is_same_space: bool
    is_same_encoder: bool
    users: SideDiff
    items: SideDiff

    @property
    def sides(self) -> tuple[SideDiff, SideDiff]:
        return self.users, self.items


def diff(before: Release, after: Release, movers: int = 10) -> Diff:
    """Compare two releases; matrices are read in pieces.

    Args:
        movers: at most so many per view.

    Raises:
        ReleaseError: the ids of a side are of two types.
        ReleaseNotFound, ReleaseCorrupt: a release went away or is damaged.
    """
    users, items = (_side(before, after, side, movers) for side in layout.SIDES)
    return Diff(before.id, after.id, before.space_id == after.space_id, before.encoder_id == after.encoder_id, users, items)


def _side(before: Release, after: Release, side: Side, movers: int) -> SideDiff:
    old_ids, new_ids = before.ids(side), after.ids(side)
    old_rows = before.rows(side, new_ids)  # of each new row; -1: added
    is_lost = after.rows(side, old_ids) < 0
    new_K = np.flatnonzero(old_rows >= 0)  # K subjects of both
    old_K = old_rows[new_K]
    added, lost = np.flatnonzero(old_rows < 0), np.flatnonzero(is_lost)
    held = {"before": before.views(side), "after": after.views(side)}
    both = [view for view in held["after"] if view in held["before"]]
    return SideDiff(
        side=side,
        rows_before=len(old_ids),
        rows_after=len(new_ids),
        added=len(added),
        lost=len(lost),
        added_ids=_texts(new_ids, added[:10]),
        lost_ids=_texts(old_ids, lost[:10]),
        views=tuple(_view(before, after, side, view, old_K, new_K, movers) for view in both),
        views_added=tuple(view for view in held["after"] if view not in both),
        views_lost=tuple(view for view in held["before"] if view not in both),
    )


def _view(before: Release, after: Release, side: Side, view: str, old_K: np.ndarray, new_K: np.ndarray, movers: int) -> ViewDiff:
    has_before, has_after = ~before.is_missing(side, view), ~after.is_missing(side, view)
    had_K, has_K = has_before[old_K], has_after[new_K]
    is_kept = had_K & has_K
    old_C, new_C = old_K[is_kept], new_K[is_kept]  # C subjects with knowledge in both
    kind, why_not = _comparable(before, after, view)
    told: dict[str, Any] = {}
    if kind is not None:
        told = _turned(before, after, side, view, kind, old_C, new_C, movers)
    asked = layout.column(view, "asked_at")
    asked_before, asked_after = (
        release.table(side, [asked]).column(0).cast(pa.int64()).fill_null(0).to_numpy()[rows]
        for release, rows in ((before, old_C), (after, new_C))
    )
    return ViewDiff(
        view=view,
        kind=kind,
        why_not=why_not,
        covered_before=_share(has_before),
        covered_after=_share(has_after),
        gained=int((has_K & ~had_K).sum()),
        lost=int((had_K & ~has_K).sum()),
        kept=len(old_C),
        asked_again=int((asked_before != asked_after).sum()),
        **told,
    )


def _comparable(before: Release, after: Release, view: str) -> tuple[Kind | None, str]:
    """Which vectors of a view may be held against each other, or why none may."""
    if before.is_pooled(view) != after.is_pooled(view):
        return None, "it is pooled in one of the releases only"
    is_pooled = before.is_pooled(view)
    if not is_pooled and before.encoder_id == after.encoder_id and before.width(view, "knowledge") == after.width(view, "knowledge"):
        return "knowledge", ""
    if before.space_id == after.space_id:
        return "adapted", ""
    return None, "another adaptor made its vectors" if is_pooled else "another encoder made its vectors"


def _turned(
    before: Release, after: Release, side: Side, view: str, kind: Kind, old_C: np.ndarray, new_C: np.ndarray, movers: int
) -> dict[str, Any]:
    """The figures of a `ViewDiff` that need vectors."""
    cosine_C, is_changed_C = np.ones(len(old_C)), np.zeros(len(old_C), bool)
    for first in range(0, len(old_C), _CHUNK):
        part = slice(first, first + _CHUNK)
        old_BW, new_BW = before.gather(view, old_C[part], kind), after.gather(view, new_C[part], kind)
        is_changed_C[part] = (old_BW != new_BW).any(axis=1)
        cosine_C[part] = np.where(is_changed_C[part], cosine(old_BW, new_BW), 1.0)
    changed = np.flatnonzero(is_changed_C)
    furthest = changed[np.argsort(cosine_C[changed], kind="stable")[:movers]]
    ids = _texts(after.ids(side), new_C[furthest])
    found = np.quantile(cosine_C[changed], QUANTILES) if len(changed) else np.zeros(0)
    return {
        "changed": len(changed),
        "cosines": {quantile: float(value) for quantile, value in zip(QUANTILES, found, strict=False)},
        "cosine_mean": float(cosine_C.mean()) if len(cosine_C) else None,
        "movers": tuple(Mover(name, float(cosine)) for name, cosine in zip(ids, cosine_C[furthest], strict=True)),
    }


def _share(has: np.ndarray) -> float:
    return float(has.mean()) if len(has) else 0.0


def _texts(ids: pa.Array, rows: np.ndarray) -> tuple[str, ...]:
    return tuple(str(one) for one in ids.take(pa.array(rows)).to_pylist())
