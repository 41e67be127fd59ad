"""Requests as files: the exact bytes, each once, within the limits, whole or not at all."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.errors import StageError
from kar.llm.batch.export import export
from kar.llm.batch.lines import request_line
from kar.llm.batch.planned import pending
from tests.llm.batch.conftest import write_requests


def lines(path: Path) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_each_request_becomes_a_line_with_the_exact_bytes_that_its_key_names(tmp_path: Path) -> None:
    rows = write_requests(tmp_path / "request.parquet", [f"Film {n}: who likes it\u2028\n“é”?" for n in range(7)])
    made = export(pending(tmp_path / "request.parquet", {}, Counter()), tmp_path / "out", "night")
    assert [part.path.name for part in made.parts] == ["night-0001.jsonl"]
    raw = made.parts[0].path.read_bytes()
    assert raw.count(b"\n") == 7
    for row, line in zip(rows, raw.split(b"\n"), strict=False):
        data = orjson.loads(line)
        assert (data["custom_id"], data["method"], data["url"]) == (row["request_key"], "POST", "/v1/chat/completions")
        body = line[line.index(b'"body":') + 7 : -1]
        assert body == row["body"].encode()
        assert hashlib.sha256(body + b"\x00r1").hexdigest() == data["custom_id"]
    assert (made.requests, made.prompt_tokens, made.answer_tokens) == (7, sum(range(10, 17)), 350)
    assert made.parts[0].size_bytes == len(raw)


@given(key=st.text(), body=st.dictionaries(st.text(), st.text()))
def test_any_key_and_body_make_one_line_of_json(key: str, body: dict[str, str]) -> None:
    key, raw = key.encode("utf-8", "replace").decode(), orjson.dumps(body)
    line = request_line(key, raw)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert orjson.loads(line) == {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}


def test_what_is_answered_and_what_repeats_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = write_requests(tmp_path / "request.parquet", ["a", "b", "a", "c", "d", "a", "c"])
    keys = {row["request_key"] for row in rows if '"b"' in row["body"]}
    counts: Counter[str] = Counter()
    known = {"answered": lambda asked: keys & set(asked), "open": lambda asked: {rows[4]["request_key"]} & set(asked)}
    made = export(pending(tmp_path / "request.parquet", known, counts), tmp_path, "night")
    assert [line["custom_id"] for line in lines(made.parts[0].path)] == [rows[0]["request_key"], rows[3]["request_key"]]
    assert counts == {"answered": 1, "open": 1, "repeated": 3}


def test_no_file_holds_more_requests_or_bytes_than_the_limits(tmp_path: Path) -> None:
    rows = write_requests(tmp_path / "request.parquet", [f"Film {n}" for n in range(10)])
    by_count = export(pending(tmp_path / "request.parquet", {}, Counter()), tmp_path, "count", most_requests=4)
    assert [part.requests for part in by_count.parts] == [4, 4, 2]
    size = len(request_line(rows[0]["request_key"], rows[0]["body"].encode()))
    by_bytes = export(pending(tmp_path / "request.parquet", {}, Counter()), tmp_path, "bytes", most_bytes=3 * size)
    assert [part.requests for part in by_bytes.parts] == [3, 3, 3, 1]
    assert all(part.path.stat().st_size <= 3 * size for part in by_bytes.parts)
    together = [line["custom_id"] for part in by_bytes.parts for line in lines(part.path)]
    assert together == [row["request_key"] for row in rows]


def test_a_request_that_no_file_can_hold_costs_that_request_alone(tmp_path: Path) -> None:
    rows = write_requests(tmp_path / "request.parquet", ["a", "b" * 5_000, "c"])
    made = export(pending(tmp_path / "request.parquet", {}, Counter()), tmp_path, "night", most_bytes=1_000)
    assert made.too_large == [rows[1]["request_key"]]
    assert [line["custom_id"] for line in lines(made.parts[0].path)] == [rows[0]["request_key"], rows[2]["request_key"]]


def test_a_second_export_takes_the_first_one_s_files_away_and_no_other(tmp_path: Path) -> None:
    write_requests(tmp_path / "request.parquet", [f"Film {n}" for n in range(5)])
    (tmp_path / "night-mine.jsonl").write_text("keep")
    (tmp_path / ".night-0007.jsonl.partial").write_text("left by a crash")
    export(pending(tmp_path / "request.parquet", {}, Counter()), tmp_path, "night", most_requests=1)
    export(pending(tmp_path / "request.parquet", {}, Counter()), tmp_path, "night", most_requests=3)
    assert sorted(p.name for p in tmp_path.glob("*.jsonl*")) == ["night-0001.jsonl", "night-0002.jsonl", "night-mine.jsonl"]
    assert list(tmp_path.glob(".*.partial")) == []
    nothing = export([], tmp_path, "night")
    assert nothing.parts == []
    assert sorted(p.name for p in tmp_path.glob("*.jsonl")) == ["night-mine.jsonl"]


def test_an_export_that_fails_half_way_leaves_the_earlier_files_as_they_were(tmp_path: Path) -> None:
    write_requests(tmp_path / "request.parquet", [f"Film {n}" for n in range(9)])
    parts = list(pending(tmp_path / "request.parquet", {}, Counter()))
    before = export(parts, tmp_path, "night").parts[0].path.read_bytes()

    def interrupted() -> object:
        yield parts[0].slice(0, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(interrupted(), tmp_path, "night")  # type: ignore[arg-type]
    assert (tmp_path / "night-0001.jsonl").read_bytes() == before


def test_the_table_beside_a_file_holds_the_file_s_requests(tmp_path: Path) -> None:
    rows = write_requests(tmp_path / "request.parquet", [f"Film {n}" for n in range(8)])
    made = export(pending(tmp_path / "request.parquet", {}, Counter()), tmp_path, "night", most_requests=5, with_tables=True)
    tables = [pq.read_table(part.table) for part in made.parts]
    assert [t.num_rows for t in tables] == [5, 3]
    assert [k for t in tables for k in t.column("request_key").to_pylist()] == [row["request_key"] for row in rows]
    assert [b for t in tables for b in t.column("body").to_pylist()] == [row["body"] for row in rows]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_requests(tmp_path / "request.parquet", ["a"])
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="file cannot be written"):
        export(pending(tmp_path / "request.parquet", {}, Counter()), tmp_path / "file", "night")
