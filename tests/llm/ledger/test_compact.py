"""Compaction: rows move to Parquet, parts grow together, and a kill at any line loses and doubles nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.errors import LedgerError
from kar.llm.ledger import Answer, Ledger, look_up
from kar.llm.ledger.answer import SCHEMA, of_stored, stored, table_of
from kar.llm.ledger.merging import in_key_order
from kar.llm.ledger.places import part_paths
from kar.llm.ledger.reading import Reading
from tests.llm.ledger.rows import ROOT, answer, failed, key


def rows_of(folder: Path) -> list[Answer]:
    """Every row, by key and then oldest first; the same row twice would show."""
    with Reading(folder) as reading, reading.moment() as (shards, parts):
        found = [row for shard in shards for _, row, _ in shard.by_rowid()]
        found += [of_stored(stored_row(row))[0] for part in parts for table in part.stream(SCHEMA.names) for row in table.to_pylist()]
    return sorted(found, key=lambda a: (a.key, a.ended_at, a.text))


def stored_row(row: dict[str, object]) -> list[object]:
    return [v.isoformat() if hasattr(v, "isoformat") else v for v in row.values()]


def test_compaction_moves_the_rows_and_every_reader_sees_what_it_saw_before(tmp_path: Path) -> None:
    put = [answer(f"k{n}", f"text {n}" * 50) for n in range(2_500)]
    put += [failed("k1", after_s=0), answer("r", after_s=9, retry_of=key("k1"))]
    with Ledger.open(tmp_path) as ledger:
        for row in put:
            ledger.put(row)
        keys = [row.key for row in put] + [key("nobody's")]
        before = ledger.held(keys), ledger.get_many(keys), ledger.find(keys), ledger.count()
        size = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert ledger.compact() == 2_502
        assert ledger.compact() == 0
        assert (ledger.held(keys), ledger.get_many(keys), ledger.find(keys), ledger.count()) == before
        assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file()) < size / 10
    assert look_up(tmp_path, keys) == before[1]
    [part] = part_paths(tmp_path)
    metadata = pq.read_metadata(part)
    assert (metadata.num_rows, metadata.num_row_groups) == (2_502, 3)
    found = pq.read_table(part, columns=["key"]).column("key").to_pylist()
    assert found == sorted(row.key for row in put)


def test_small_parts_grow_together_and_no_row_is_lost_or_doubled(tmp_path: Path) -> None:
    put = []
    with Ledger.open(tmp_path) as ledger:
        for night in range(20):
            for n in range(night % 3 + 1):
                put.append(answer(f"{night}-{n}"))
                ledger.put(put[-1])
            ledger.compact()
        assert ledger.count() == len(put)
        assert ledger.get_many(row.key for row in put) == {row.key: row for row in put}
    assert len(part_paths(tmp_path)) < 20 - 7
    assert rows_of(tmp_path) == sorted(put, key=lambda a: a.key)


def test_the_same_rows_make_the_same_part_however_they_came(tmp_path: Path) -> None:
    rows = [answer(f"k{n}", after_s=n % 7) for n in range(1_500)]
    for name, order in (("a", rows), ("b", rows[::-1])):
        with Ledger.open(tmp_path / name) as ledger:
            for row in order:
                ledger.put(row)
            ledger.compact()
    assert [p.name for p in part_paths(tmp_path / "a")] == [p.name for p in part_paths(tmp_path / "b")]


@pytest.fixture(scope="module", params=[pytest.param(step, marks=pytest.mark.slow) for step in ("5", "1")])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Answer]]:
    """Copies of one ledger whose compaction was killed at every 5th line (or every one); eight parts are about to grow together."""
    template, copies = tmp_path_factory.mktemp("template"), tmp_path_factory.mktemp("copies")
    put = [answer(f"k{n}") for n in range(16)] + [answer("last")]
    with Ledger.open(template, shard="nightly") as ledger:
        for start in range(0, 14, 2):
            ledger.put(put[start])
            ledger.put(put[start + 1])
            ledger.compact()
    with Ledger.open(template) as ledger:
        ledger.put(put[14])
        ledger.put(put[15])
    assert len(part_paths(template)) == 7
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "tests.llm.ledger.kill", str(template), str(copies), request.param], check=True, env=environment, timeout=240
    )
    return copies, sorted(put, key=lambda a: a.key)


def test_a_compaction_that_is_killed_at_any_line_loses_and_doubles_nothing(killed: tuple[Path, list[Answer]]) -> None:
    copies, put = killed
    folders = sorted(copies.iterdir())
    assert len(folders) > 40
    half_done = set()
    for folder in folders:
        assert rows_of(folder) == put, folder
        half_done.add((len(part_paths(folder)), len(list((folder / "parts").glob(".*.partial")))))
        with Ledger.open(folder) as ledger:  # the next run
            assert ledger.count() == len(put)
            ledger.compact()
            assert ledger.count() == len(put)
            assert ledger.get_many(a.key for a in put) == {a.key: a for a in put}
        assert rows_of(folder) == put, folder
        assert len(part_paths(folder)) == 1
        assert not list((folder / "parts").glob(".*.partial"))
    assert {parts for parts, _ in half_done} >= {7, 8, 9, 1}  # before, moved, merged, and the small ones gone
    assert {partials for _, partials in half_done} == {0, 1}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)), max_size=12), max_size=5), st.integers(1, 4))
def test_streams_merge_into_one_order_whatever_they_hold_and_however_they_are_cut(streams: list[list[tuple[str, int]]], cut: int) -> None:
    def tables(rows: list[tuple[str, int]]) -> list[pa.Table]:
        ordered = sorted((answer(name, after_s=float(at)) for name, at in rows), key=lambda a: a.key)
        return [table_of([stored(a) for a in ordered[n : n + cut]]) for n in range(0, len(ordered), cut)]

    merged = list(in_key_order([iter(tables(rows)) for rows in streams]))
    found = [(row["key"], row["ended_at"]) for table in merged for row in table.to_pylist()]
    expected = {(key(name), answer(name, after_s=float(at)).ended_at) for rows in streams for name, at in rows}
    assert found == sorted(expected)
    keys = [set(table.column("key").to_pylist()) for table in merged]
    assert sum(len(k) for k in keys) == len(set().union(*keys))  # no key in two tables


@pytest.mark.parametrize("place", [0.01, 0.3, 0.6, 0.9, 0.97, 0.995, 0.9999])
def test_a_damaged_part_is_named_and_never_misread(tmp_path: Path, place: float) -> None:
    put = {key(f"k{n}"): answer(f"k{n}", f"text {n}") for n in range(300)}
    with Ledger.open(tmp_path) as ledger:
        for row in put.values():
            ledger.put(row)
        ledger.compact()
    [part] = part_paths(tmp_path)
    data = bytearray(part.read_bytes())
    data[int(len(data) * place)] ^= 0x10
    part.write_bytes(data)
    with pytest.raises(LedgerError) as caught, Ledger.open(tmp_path) as ledger:
        ledger.find(put)
    assert part.name in caught.value.what
    assert "kar ledger export" in caught.value.do


def test_a_part_that_was_cut_short_is_named(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.put(answer("k"))
        ledger.compact()
    [part] = part_paths(tmp_path)
    whole = part.read_bytes()
    for length in (0, 3, 20, len(whole) // 2, len(whole) - 1):
        part.write_bytes(whole[:length])
        with pytest.raises(LedgerError, match=part.name):
            look_up(tmp_path, [key("k")])
