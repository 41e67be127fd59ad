"""Ids to rows: direct table, text table and search find the same, at both ends of what an int64 can be and for texts of one hash."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from kar.release.hashes import hash_ids
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


def test_texts_of_one_hash_are_told_apart_by_a_question_of_any_length() -> None:
    one, other, third = _of_one_hash()
    ids = sorted({one, other, *(f"u{n}" for n in range(500))})
    assert len(set(hash_ids(pa.array([one, other, third])).tolist())) == 1
    index = IdIndex(pa.array(ids), "user")
    asked = [other, third, None, one, "", "u7", "u500", "a text that is longer than the others"]
    expected = [ids.index(other), -1, -1, ids.index(one), -1, ids.index("u7"), -1, -1]
    assert index.rows(pa.array(asked, pa.string())).tolist() == expected  # by the table
    assert index.rows(pa.array(asked * 100, pa.string())).tolist() == expected * 100  # hashed anew


def test_a_long_text_question_is_answered_in_its_blocks() -> None:
    ids = [f"{n:06d}" for n in range(0, 300_000, 2)]
    asked = np.random.default_rng(4).integers(0, 300_000, 140_000)
    rows = IdIndex(pa.array(ids), "user").rows(pa.array([f"{n:06d}" for n in asked.tolist()]))
    assert np.array_equal(rows, np.where(asked % 2, -1, asked // 2))


def _of_one_hash() -> list[str]:
    """Three texts of 16 letters: whatever the first word is, a second one leads back to the same hash."""

    def mixed(word: int) -> int:
        return int(hash_ids(pa.array([word - (word >> 63 << 64)], pa.int64()))[0])

    rng = np.random.default_rng(3)
    told = mixed(16)  # of the length
    goal = mixed(told ^ int.from_bytes(b"aaaaaaaa", "little")) ^ int.from_bytes(b"bbbbbbbb", "little")
    found = ["aaaaaaaabbbbbbbb"]
    while len(found) < 3:
        first = bytes(rng.integers(97, 123, 8).tolist())
        second = (mixed(told ^ int.from_bytes(first, "little")) ^ goal).to_bytes(8, "little")
        if max(second) < 128:
            found.append((first + second).decode())
    return found
