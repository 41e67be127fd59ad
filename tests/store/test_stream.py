"""A table written part by part: the same bytes however it was cut, and nothing out of order."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kar import flow
from kar.errors import StageError, TableError
from kar.store import Output
from kar.tables import TABLES, IdTypes

ROWS = 9_000  # two row groups of 4,096 and a rest


def requests(first: int, count: int) -> pa.Table:
    schema = TABLES["request"].schema(IdTypes())
    columns: dict[str, Any] = {f.name: [f"{f.name} {n}" for n in range(first, first + count)] for f in schema if pa.types.is_string(f.type)}
    columns |= {f.name: list(range(first, first + count)) for f in schema if pa.types.is_integer(f.type)}
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names})


def output(folder: Path) -> Output:
    folder.mkdir()
    return Output(flow.PROMPTS, folder, IdTypes())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = output(tmp_path_factory.mktemp("whole") / "p")
    out.write("request", requests(0, ROWS))
    assert pq.ParquetFile(out.folder / "request.parquet").num_row_groups == 3
    return out.tables["request"]


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, ROWS), max_size=6))
def test_the_bytes_do_not_depend_on_how_the_rows_were_cut(
    cuts: list[int], tmp_path_factory: pytest.TempPathFactory, whole: dict[str, Any]
) -> None:
    out = output(tmp_path_factory.mktemp("cut") / "p")
    ends = [0, *sorted(cuts), ROWS]
    out.write_stream("request", (requests(a, b - a) for a, b in itertools.pairwise(ends)))
    assert out.tables["request"] == whole


def test_no_rows_make_an_empty_table_of_the_declared_columns(tmp_path: Path) -> None:
    out = output(tmp_path / "p")
    out.write_stream("request", [])
    assert out.tables["request"]["rows"] == 0
    assert pq.read_schema(tmp_path / "p" / "request.parquet").names == TABLES["request"].column_names


@pytest.mark.parametrize(("first", "second"), [((0, 5), (4, 5)), ((5, 5), (0, 5)), ((0, 5), (3, 1))])
def test_a_part_that_does_not_follow_the_one_before_is_refused(tmp_path: Path, first: tuple[int, int], second: tuple[int, int]) -> None:
    out = output(tmp_path / "p")
    with pytest.raises(TableError, match="repeats, or comes in a later part"):
        out.write_stream("request", [requests(*first), requests(*second)])
    assert "request" not in out.tables


def test_a_table_is_written_once_and_only_if_it_is_declared(tmp_path: Path) -> None:
    out = output(tmp_path / "p")
    out.write("request", requests(0, 1))
    with pytest.raises(StageError, match="each once"):
        out.write_stream("request", [])
    with pytest.raises(StageError, match="each once"), out.writer("knowledge"):
        pass
