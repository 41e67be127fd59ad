"""A warehouse in which every model has run once over a tiny shop, so that its outputs can be looked at."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import pyarrow as pa

from kar.settings import SourceTable
from kar.source import INTERACTIONS, ITEMS, USERS, load
from kar.tables import TABLES, IdTypes
from kar.warehouse import Warehouse

CUTOFF = dt.datetime(2026, 1, 10, tzinfo=dt.UTC)
SNAPSHOT = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
PARAMETERS: dict[str, object] = {
    "time_unit": "s",
    "salt": "",
    "has_forgotten": True,
    "cutoff_at": CUTOFF,
    "snapshot_at": SNAPSHOT,
    "has_rating": True,
    "lowest_rating": 1.0,
    "highest_rating": 5.0,
    "has_users": True,
    "has_items": True,
    "mode": "per_user",
    "cap": 3,
    "review_count": 2,
    "review_chars": 40,
    "label_column": "rating",
    "label_operator": ">",
    "label_threshold": 3.0,
    "min_history": 0,
    "split": "by_user",
    "seed": "1",
    "valid_share": 0.2,
    "test_share": 0.2,
    "held_out_items": 0.0,
    "history_events": 3,
    "test_users": [],
    "shown_count": 20,
    "relation": "item.raw",
    "neighbour_count": 2,
}
ORDER = (
    *("stg_forgotten", "stg_user", "stg_item", "stg_interaction"),
    *("core_interaction", "user", "item", "user_attribute", "item_attribute", "interaction"),
    *("core_event", "core_history_event", "core_engagement", "core_near_item", "history", "item_profile"),
    *("core_label", "core_pooled_event", "sequence", "core_candidate", "core_evidence", "core_seen", "core_leak", "core_example"),
    *("example_item", "core_split", "example"),
    *("report_rejected", "report_interaction", "report_empty_history", "report_history"),
    *("report_fault", "report_left_out", "report_example", "report_leak"),
)


def knowledge(rows: list[dict[str, object]], ids: IdTypes | None = None) -> pa.Table:
    """Knowledge rows; what a test does not say is filled in."""
    usual: dict[str, object] = dict.fromkeys([c.name for c in TABLES["knowledge"].columns], "")
    usual |= {"origin": "tonight", "cutoff_at": CUTOFF, "asked_at": CUTOFF, "prompt_tokens": 0, "completion_tokens": 0}
    usual |= {"evidence_users": [], "evidence_items": [], "evidence_newest_at": None, "neighbour_items": []}
    schema = pa.schema([(c.name, c.arrow(ids or IdTypes())) for c in TABLES["knowledge"].columns])
    return pa.Table.from_pylist([usual | row for row in rows], schema=schema)


def edges(rows: list[tuple[str, int, int, float]]) -> pa.Table:
    """Rows of item_edge: relation, item, the item near it, score."""
    names = ("relation", "item_id", "near_item_id", "score")
    usual = {"encoder_id": "e", "evidence_newest_at": None, "cutoff_at": CUTOFF}
    return pa.Table.from_pylist([usual | dict(zip(names, row, strict=True)) for row in rows], schema=TABLES["item_edge"].schema(IdTypes()))


def filled(folder: Path) -> Warehouse:
    """Three users, three items (one described by reviews alone), events over nine days; some rows of each file are bad."""
    (folder / "u.csv").write_text("id,age\n1,20\n2,30\n3,40\n3,41\n,1\n9,9\n")
    (folder / "i.csv").write_text("id,title,genres\n10,Ten,a|b\n20,Twenty,b\n30,,\nx,X,a\n")
    day = int(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp())
    events = [
        f"{user},{(place * user) % 3 * 10 + 10},{day + 86_400 * place + user},{1 + (place + user) % 5},said {place}"
        for user in (1, 2, 3)
        for place in range(8)
    ]
    (folder / "e.csv").write_text(
        "u,i,t,r,w\n" + "\n".join([*events, events[0], f"1,10,{day},7,", "1,10,soon,3,", f"4,10,{day},3,", "1,10"]) + "\n"
    )
    tables = {
        USERS: {"path": "u.csv", "format": "csv", "columns": {"user_id": "id", "attributes": {"age": "age"}}},
        ITEMS: {
            "path": "i.csv",
            "format": "csv",
            "columns": {"item_id": "id", "title": "title", "attributes": {"genre": "genres"}},
            "lists": {"genre": "|"},
        },
        INTERACTIONS: {
            "path": "e.csv",
            "format": "csv",
            "columns": {"user_id": "u", "item_id": "i", "event_at": "t", "rating": "r", "text": "w"},
        },
    }
    warehouse = Warehouse()
    for kind, table in tables.items():
        load(warehouse.connection, kind, SourceTable.model_validate(table), [folder / str(table["path"])], folder, "s")
    warehouse.view(
        "knowledge", knowledge([{"view": "user.preference", "subject_id": "1", "evidence_users": ["1"], "evidence_items": ["10"]}])
    )
    near = [(10, 20, 0.9), (20, 10, 0.9), (10, 30, 0.4), (30, 10, 0.4), (10, 99, 0.95), (99, 10, 0.95)]
    warehouse.view("item_edge", edges([("item.raw", *edge) for edge in near] + [("item.facts", 20, 30, 1.0)]))
    warehouse.view("raw_forgotten", pa.table({"digest": [hashlib.sha256(b":user:3").hexdigest()]}))
    warehouse.make(*ORDER, **PARAMETERS)
    return warehouse
