from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kar.store.reorder import Reorder


def rows(places: np.ndarray) -> pa.Table:
    lists = pa.array([[str(n)] * (n % 3) for n in places.tolist()], pa.list_(pa.string()))
    return pa.table({"number": places, "text": pa.array([f"row {n}" * 5 for n in places.tolist()], pa.string()), "list": lists})


@given(st.permutations(range(40)), st.integers(1, 40), st.integers(1, 50), st.sampled_from([0, 500, 10**9]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_rows_come_back_in_the_order_of_their_places_however_they_came(
    tmp_path: Path, order: list[int], cut: int, bucket_rows: int, held_bytes: int
) -> None:
    places = np.array(order)
    with Reorder(tmp_path, len(order), bucket_rows, held_bytes) as reorder:
        for at in range(0, len(order), cut):
            reorder.add(rows(places[at : at + cut]), places[at : at + cut])
        assert (held_bytes < 10**9) == any(tmp_path.iterdir()), "few bytes stay in memory"
        back = pa.concat_tables(reorder.parts())
    assert back.equals(rows(np.arange(len(order))))
    assert list(tmp_path.iterdir()) == []


def test_a_part_holds_no_more_rows_than_a_bucket_and_there_are_at_most_256(tmp_path: Path) -> None:
    for count, bucket_rows, parts in ((100, 30, 4), (1000, 1, 250)):
        with Reorder(tmp_path, count, bucket_rows) as reorder:
            reorder.add(rows(np.arange(count)), np.arange(count))
            assert len(list(reorder.parts())) == parts


def test_no_rows_are_no_parts(tmp_path: Path) -> None:
    with Reorder(tmp_path, 0, 10) as reorder:
        reorder.add(rows(np.zeros(0, np.int64)), np.zeros(0, np.int64))
        assert list(reorder.parts()) == []


def test_the_files_are_gone_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half-way"):
        _fail_half_way(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _fail_half_way(folder: Path) -> None:
    with Reorder(folder, 10, 2, held_bytes=0) as reorder:
        reorder.add(rows(np.arange(5)), np.arange(5))
        assert list(folder.iterdir()) != []
        raise RuntimeError("half-way")
