"""How much two releases are alike: the subjects that both know, whose text is the same, and the cosines of their vectors.

Row numbers are those of `Release.rows`. What is counted exactly is walked in parts, so that nothing of the size of a
matrix is ever in memory; a mean over very many subjects is taken over a sample of them, evenly spaced in id order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.release import layout
from kar.release.layout import Kind, Side
from kar.release.reader import Release

SAMPLE = 65_536
_PART = 8_192


@dataclass(frozen=True)
class Shared:
    """The subjects of one side that two releases know; N of them, in id order.

    Args:
        new_N: int64, their rows in the newer one.
        before_N: int64, their rows in the older one.
        added_count: only in the newer one.
        lost_count: only in the older one.
    """

    side: Side
    new_N: np.ndarray
    before_N: np.ndarray
    added_count: int
    lost_count: int


def shared(new: Release, before: Release, side: Side) -> Shared:
    """Match the two tables by id; ids of different types are different ids."""
    ids, earlier = new.ids(side), before.ids(side)
    rows = before.rows(side, ids) if ids.type == earlier.type else np.full(len(ids), -1, np.int64)
    new_N = np.flatnonzero(rows >= 0)
    return Shared(side, new_N, rows[new_N], len(ids) - len(new_N), len(earlier) - len(new_N))


@dataclass(frozen=True)
class Texts:
    """What became of one view's texts between two releases; N subjects of `Shared`, bool masks.

    Args:
        is_told_N: both releases have knowledge of the subject.
        is_same_N: and it is the same text: asked at the same instant, of the same model, of the same evidence. A pooled view has no texts: all false.
    """

    is_told_N: np.ndarray
    is_same_N: np.ndarray

    def changed(self) -> np.ndarray:
        """int64: the places among the N whose text is another."""
        return np.flatnonzero(self.is_told_N & ~self.is_same_N)


def texts(new: Release, before: Release, view: str, both: Shared) -> Texts:
    """Whose text of a view is the same in both releases; both must have the view."""
    is_told = ~new.is_missing(both.side, view)[both.new_N] & ~before.is_missing(both.side, view)[both.before_N]
    if new.is_pooled(view):
        return Texts(is_told, np.zeros_like(is_told))
    is_same = is_told
    for name, kind in (("asked_at", pa.int64()), ("evidence_newest_at", pa.int64()), ("model", None)):
        column = layout.column(view, name)
        ours, theirs = (
            _column(release, both.side, column, kind).take(pa.array(rows)) for release, rows in ((new, both.new_N), (before, both.before_N))
        )
        is_equal = pc.equal(ours, theirs).fill_null(False)
        if name == "evidence_newest_at":  # null where the prompt saw no interaction
            is_equal = pc.or_(is_equal, pc.and_(ours.is_null(), theirs.is_null()))
        is_same = is_same & is_equal.to_numpy(zero_copy_only=False)
    return Texts(is_told, is_same)


def _column(release: Release, side: Side, name: str, kind: pa.DataType | None) -> pa.Array:
    values = release.table(side, [name]).column(0).combine_chunks()
    return values.cast(kind) if kind is not None else values


def cosines(new: Release, before: Release, view: str, kind: Kind, new_N: np.ndarray, before_N: np.ndarray) -> np.ndarray:
    """float64 [N]: cosine of each subject's two vectors; 1 for equal vectors, also of length zero, 0 where one is not finite."""
    found = np.ones(len(new_N))
    for part in _parts(len(new_N)):
        ours_NW, theirs_NW = new.gather(view, new_N[part], kind), before.gather(view, before_N[part], kind)
        differs = np.flatnonzero(~(ours_NW == theirs_NW).all(axis=1))
        if len(differs):
            found[part.start + differs] = cosine(ours_NW[differs], theirs_NW[differs])
    return found


def cosine(ours_NW: np.ndarray, theirs_NW: np.ndarray) -> np.ndarray:
    """float64 [N]: cosine of each pair; 0 where a vector is of length zero, and where one is not finite."""
    ours_NW, theirs_NW = ours_NW.astype(np.float64), theirs_NW.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.einsum("nw,nw->n", ours_NW, theirs_NW)
        lengths = np.linalg.norm(ours_NW, axis=1) * np.linalg.norm(theirs_NW, axis=1)
        found = np.divide(product, lengths, out=np.zeros_like(product), where=lengths > 0)
    clean: np.ndarray = np.nan_to_num(np.clip(found, -1.0, 1.0), nan=0.0)
    return clean


def norms(release: Release, view: str, kind: Kind, rows_N: np.ndarray) -> np.ndarray:
    """float64 [N]: length of each vector; NaN for one that is not finite."""
    found = np.empty(len(rows_N))
    for part in _parts(len(rows_N)):
        vectors_NW = release.gather(view, rows_N[part], kind)
        with np.errstate(invalid="ignore", over="ignore"):
            found[part] = np.sqrt(np.einsum("nw,nw->n", vectors_NW, vectors_NW))
        odd = np.flatnonzero(~np.isfinite(found[part]))  # not finite, or too long for the square of a float32
        if len(odd):
            wide_NW = vectors_NW[odd].astype(np.float64)
            lengths = np.linalg.norm(np.nan_to_num(wide_NW, posinf=0.0, neginf=0.0), axis=1)
            found[part.start + odd] = np.where(np.isfinite(wide_NW).all(axis=1), lengths, np.nan)
    return found


def spaced(rows: np.ndarray, most: int = SAMPLE) -> np.ndarray:
    """At most so many of the rows, evenly spaced."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _parts(count: int) -> Iterator[slice]:
    for first in range(0, count, _PART):
        yield slice(first, min(first + _PART, count))
