"""The nearest subjects by vector: every row is looked at, none is guessed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kar.release import Release
from kar.release.layout import Kind, side_of, table_name

COUNT = 10
_ROWS_AT_ONCE = 2_048  # of 384 floats: three megabytes, which stay in the processor's cache


@dataclass(frozen=True)
class Near:
    """One neighbour.

    Args:
        row: in the release's order of ids.
        cosine: of the two vectors.
    """

    row: int
    cosine: float


def kind_of(release: Release, view: str) -> Kind:
    """Which vectors say what is near: the encoder's; of a pooled view, which has none, the adapted ones."""
    return "adapted" if release.is_pooled(view) else "knowledge"


def nearest(release: Release, view: str, row: int, count: int = COUNT, rows_at_once: int = _ROWS_AT_ONCE) -> list[Near] | None:
    """The `count` rows of the largest cosine with one row's vector, exact, the row itself left out; equal ones by row.

    The matrix is walked in parts, so what is held is one part and the best so far.

    Returns:
        None if the row has no vector of the view.
    """
    side, kind = side_of(view), kind_of(release, view)
    is_missing = release.is_missing(side, view)
    if row < 0 or is_missing[row]:
        return None
    wanted_W = _unit(release.vectors_at(view, np.array([row]), kind)[0][0])
    is_unit = kind == "knowledge" and release.manifest["space"].get("normalisation") == "l2"
    rows, cosines = np.empty(0, np.int64), np.empty(0, np.float32)
    for first in range(0, len(is_missing), rows_at_once):
        numbers = np.arange(first, min(first + rows_at_once, len(is_missing)))
        part_NW = _part(release, view, numbers, kind)
        # one pass of one thread: as fast as memory gives; BLAS would start threads for each part, which fight on a busy machine
        found_N = np.einsum("nw,w->n", part_NW, wanted_W)
        if not is_unit:
            found_N = found_N / np.maximum(np.sqrt(np.einsum("nw,nw->n", part_NW, part_NW)), np.finfo(np.float32).tiny)
        found_N = np.where(is_missing[numbers] | (numbers == row), -np.inf, found_N)
        rows, cosines = _best(rows, cosines, numbers, found_N, count)
    return [Near(int(r), float(np.clip(c, -1, 1))) for r, c in zip(rows, cosines, strict=True) if np.isfinite(c)]


def _part(release: Release, view: str, numbers: np.ndarray, kind: Kind) -> np.ndarray:
    """float32 [N, W] of consecutive rows: a piece of the map where one file holds them all, else gathered."""
    if len(release.manifest["tables"][table_name(side_of(view))]["files"]) == 1:
        return np.asarray(release.matrix(view, kind)[numbers[0] : numbers[-1] + 1])
    return release.vectors_at(view, numbers, kind)[0]


def cosine(one_W: np.ndarray, other_W: np.ndarray) -> float | None:
    """The cosine of two vectors; None if their lengths differ or one of them is zero."""
    if one_W.shape != other_W.shape or not one_W.any() or not other_W.any():
        return None
    return float(np.clip(_unit(one_W) @ _unit(other_W), -1, 1))


def _best(
    rows: np.ndarray, cosines: np.ndarray, more_rows: np.ndarray, more_cosines: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best `count` of what was kept and what is new, largest first, equal ones by row."""
    if len(more_cosines) > count:
        # at the edge equal ones stay in, so that the order by row decides between them
        edge = np.partition(more_cosines, -count)[-count]
        kept = np.flatnonzero(more_cosines >= edge)
        more_rows, more_cosines = more_rows[kept], more_cosines[kept]
    rows, cosines = np.concatenate([rows, more_rows]), np.concatenate([cosines, more_cosines])
    order = np.lexsort((rows, -cosines))[:count]
    return rows[order], cosines[order]


def _unit(vector_W: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(vector_W))
    return vector_W / norm if norm else vector_W
