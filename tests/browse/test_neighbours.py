from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.browse.neighbours import cosine, nearest


@dataclass
class Vectors:
    """A release as far as `nearest` asks it."""

    vectors: np.ndarray
    missing: np.ndarray
    files: int = 1

    @property
    def manifest(self) -> dict[str, Any]:
        return {"space": {"normalisation": "none"}, "tables": {"item_knowledge": {"files": [{}] * self.files}}}

    def matrix(self, view: str, kind: str) -> np.ndarray:
        assert self.files == 1, "several files make no map"
        return self.vectors

    def is_pooled(self, view: str) -> bool:
        return False

    def is_missing(self, side: str, view: str) -> np.ndarray:
        return self.missing

    def vectors_at(self, view: str, rows: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
        return self.vectors[rows], self.missing[rows]


def plainly(vectors: np.ndarray, missing: np.ndarray, row: int, count: int) -> list[int]:
    lengths = np.linalg.norm(vectors, axis=1)
    found = vectors @ vectors[row] / (lengths * lengths[row])
    fitting = [n for n in range(len(vectors)) if n != row and not missing[n]]
    return sorted(fitting, key=lambda n: (-round(float(found[n]), 5), n))[:count]


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 90), count=st.integers(1, 12), seed=st.integers(0, 1000))
def test_the_nearest_are_those_of_a_plain_sort_however_the_rows_are_cut(rows: int, count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(rows, 5)).astype(np.float32) * draw.uniform(0.5, 3, (rows, 1)).astype(np.float32)
    missing = draw.random(rows) < 0.3
    row = int(draw.integers(rows))
    missing[row] = False
    release: Any = Vectors(vectors, missing, files=1 + seed % 2)
    whole = nearest(release, "item.facts", row, count)
    cut = nearest(release, "item.facts", row, count, rows_at_once=7)
    assert whole is not None
    assert cut is not None
    assert [near.row for near in whole] == [near.row for near in cut] == plainly(vectors, missing, row, count)


def test_equal_cosines_are_ordered_by_row_across_parts() -> None:
    vectors = np.tile(np.array([[3.0, 4.0]], np.float32), (40_000, 1))
    release: Any = Vectors(vectors, np.zeros(40_000, bool))
    found = nearest(release, "item.facts", 20_000, 4)
    assert found is not None
    assert [near.row for near in found] == [0, 1, 2, 3]
    assert [near.cosine for near in found] == [1.0] * 4


def test_a_row_without_a_vector_has_no_neighbours() -> None:
    release: Any = Vectors(np.eye(3, dtype=np.float32), np.array([True, False, False]))
    assert nearest(release, "item.facts", 0) is None
    assert nearest(release, "item.facts", -1) is None


def test_a_cosine_is_of_two_vectors_of_one_width_that_are_not_zero() -> None:
    one, other = np.array([1, 0], np.float32), np.array([2, 2], np.float32)
    assert abs((cosine(one, other) or 0) - 0.5**0.5) < 1e-6
    assert cosine(one, np.zeros(2, np.float32)) is None
    assert cosine(one, np.ones(3, np.float32)) is None
