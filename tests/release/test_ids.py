"""Ids to rows: the direct table and the search find the same, at both ends of what an int64 can be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from kar.release.ids import IdIndex

LEAST, MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@pytest.mark.parametrize("low", [LEAST, -70_000, 5, MOST - 200_000])
def test_large_and_small_questions_find_the_same_rows_and_nothing_outside(low: int) -> None:
    rng = np.random.default_rng(2)
    ids = np.sort(rng.choice(200_000, 90_000, replace=False)).astype(np.int64) + np.int64(low)
    index = IdIndex(pa.array(ids), "user")
    asked = np.concatenate(
        [rng.choice(ids, 69_990), ids[:1] - (low > LEAST), ids[-1:] + (ids[-1] < MOST), [LEAST, MOST, 0, -1, 1, 2, 3, 4]]
    )
    row_of = {value: row for row, value in enumerate(ids.tolist())}
    expected = [row_of.get(value, -1) for value in asked.tolist()]
    assert index.rows(asked[-100:]).tolist() == expected[-100:]  # by search
    assert index.rows(asked).tolist() == expected  # by the table, in two blocks
    assert index.rows(asked[-100:]).tolist() == expected[-100:]  # by the table that is there now
    with_null = pa.array([None, int(ids[3])], pa.int64())
    assert index.rows(with_null).tolist() == [-1, 3]
