"""A shop's three files as a test writes them, and the stages run over them by the real runner."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kar import run
from kar.settings import Settings, parse
from kar.store import Home, Manifest, Partition

DAY = dt.date(2026, 1, 10)
NOW = dt.datetime(2026, 1, 11, 1, tzinfo=dt.UTC)
NOON = int(dt.datetime(2026, 1, 9, 12, tzinfo=dt.UTC).timestamp())

USERS = "user_id,age\n1,20\n2,30\n"
ITEMS = "item_id,title,genres\n10,Ten,a|b\n20,Twenty,b\n"
EVENTS = f"user_id,item_id,at,stars\n1,10,{NOON},5\n1,20,{NOON + 60},2\n2,10,{NOON},4\n2,20,{NOON + 1},3\n"


def settings(folder: Path, sources: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Settings:
    """Settings for users.csv, items.csv and events.csv; `sources` is merged into the section, table by table."""
    tables: dict[str, Any] = {
        "folder": str(folder),
        "rating_range": [1, 5],
        "users": {"path": "users.csv", "format": "csv", "columns": {"user_id": "user_id", "attributes": {"age": "age"}}},
        "items": {
            "path": "items.csv",
            "format": "csv",
            "columns": {"item_id": "item_id", "title": "title", "attributes": {"genre": "genres"}},
            "lists": {"genre": "|"},
        },
        "interactions": {
            "path": "events.csv",
            "format": "csv",
            "columns": {"user_id": "user_id", "item_id": "item_id", "event_at": "at", "rating": "stars"},
        },
    }
    for name, value in (sources or {}).items():
        merged = isinstance(value, dict) and isinstance(tables.get(name), dict)
        tables[name] = {**tables[name], **value} if merged else value
    return parse({"scenario": {"name": "shop", "domain": "products"}, "sources": tables, **sections})


def write(folder: Path, **files: str | bytes | pa.Table | None) -> Path:
    """users, items and events as csv unless a test gives them; other names become files with `__` for the dot; None: no file."""
    folder.mkdir(parents=True, exist_ok=True)
    usual: dict[str, str | bytes | pa.Table | None] = {"users__csv": USERS, "items__csv": ITEMS, "events__csv": EVENTS}
    for name, content in (usual | files).items():
        path = folder / name.replace("__", ".")
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
        elif content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def make(stage: str, chosen: Settings, home: Path, date: dt.date = DAY) -> tuple[Manifest, Partition]:
    """Run one stage; its manifest and its partition."""
    place = Home.of(chosen.scenario.name, home)
    return run.run_stage(stage, chosen, place, date, NOW), place.partition(stage, date)


def rows(partition: Partition, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(partition.table(table)).to_pylist()
    return found
