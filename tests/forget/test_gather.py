"""What of others shows somebody who is to be forgotten."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kar.forget.gather import gather
from kar.forget.subjects import Subjects
from kar.store import Home, Manifest
from kar.tables import TABLES, IdTypes

DAY = dt.date(2026, 11, 19)


def planted(folder: Path, rows: list[dict[str, object]]) -> Home:
    """A home with one partition of knowledge."""
    usual = dict.fromkeys([c.name for c in TABLES["knowledge"].columns if c.type == "string"], "x")
    usual |= {
        "cutoff_at": 9,
        "asked_at": 9,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "evidence_users": [],
        "evidence_items": [],
        "neighbour_items": [],
    }
    home = Home.of("small", folder)
    partition = home.partition("knowledge", DAY)
    partition.path.mkdir(parents=True)
    table = pa.Table.from_pylist([usual | row for row in rows], schema=TABLES["knowledge"].schema(IdTypes()))
    pq.write_table(table, partition.table("knowledge"))
    manifest = Manifest("knowledge", DAY.isoformat(), "", {}, {"knowledge": {"sha": "", "rows": table.num_rows, "bytes": 0}})
    manifest.write(partition.path)
    return home


def test_requests_that_showed_a_forgotten_item_beside_another_go_with_it(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"view": "item.engagement", "subject_id": "1", "request_key": "beside", "neighbour_items": ["2", "7"]},
        {"view": "item.engagement", "subject_id": "2", "request_key": "without", "neighbour_items": ["1"]},
        {"view": "item.engagement", "subject_id": "7", "request_key": "own", "neighbour_items": ["1"]},
    ]
    found = gather(planted(tmp_path, rows), Subjects(items=frozenset({"7"})))
    assert found.keys == {"beside", "own"}
    assert found.quoting_keys == {"beside"}
