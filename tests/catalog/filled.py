"""A home with every stage's partitions, a ledger in SQLite and in Parquet, and a published release; its answers are known."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.llm.key import request_key
from kar.llm.ledger import Answer, Ledger
from kar.release.publish import publish
from kar.release.rows import SideRows, ViewRows
from kar.settings import Settings
from kar.store import Home
from tests.page import fake_home
from tests.release import world

HOSTILE = "Film \x1b[2J\x1b]0;owned\x07\u202egnp.exe\n999 rows | DROP"
PLAN = fake_home.Plan(settings={"llm": {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 10.0}})
OLDEST_USER, DEAREST_ITEM = 4, 8


def build(root: Path) -> tuple[Settings, Home]:
    """Item 1 has a hostile title and text; item 8's request was asked three times; user 4's text is the oldest that is served."""
    keys = {
        row["request_key"]: request_key(row["body"].encode(), row["revision"]) for row in fake_home._World(PLAN).request()
    }  # the fake home's are no keys of its bodies, which the ledger would refuse

    def keyed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"request_key": keys.get(row["request_key"], row["request_key"])} for row in rows]

    def hostile(name: str) -> Any:
        return lambda rows: [row | ({name: HOSTILE} if row.get("item_id") == 1 else {}) for row in rows]

    def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = keyed(rows)
        return [row | ({"text": HOSTILE} if (row["view"], row["subject_id"]) == ("item.facts", "1") else {}) for row in found]

    edit = {"plan": keyed, "request": keyed, "refused": keyed, "knowledge": told, "item": hostile("title")}
    settings, home = fake_home.build(root, replace(PLAN, edit=edit))
    _pay(home)
    _publish(home)
    return settings, home


def _pay(home: Home) -> None:
    """An answer to every request: the users' in a part, the items' still in SQLite."""
    rows = pq.read_table(home.partition("prompts", fake_home.DATE).table("request")).to_pylist()
    with Ledger.open(home.ledger) as ledger:
        for row in rows:
            if row["view"] == "user.preference":
                ledger.put(_answer(row))
        ledger.flush()
        ledger.compact()
        for row in rows:
            if row["view"] == "item.facts":
                ledger.put(_answer(row))
                if int(row["subject_id"]) == DEAREST_ITEM:
                    failed = _answer(row, text="", completion_tokens=0, status="exhausted", lost_tokens=400, detail="503")
                    ledger.put(replace(failed, ended_at=failed.ended_at - dt.timedelta(minutes=5)))
        ledger.flush()


def _answer(row: dict[str, Any], **changed: Any) -> Answer:
    at = fake_home.AS_OF
    values: dict[str, Any] = {
        "key": row["request_key"],
        "body": row["body"],
        "text": f"an answer about {row['subject_id']}",
        "finish_reason": "stop",
        "prompt_tokens": 400,
        "cached_tokens": 100,
        "completion_tokens": 100 + int(row["subject_id"]),
        "reasoning_tokens": 0,
        "lost_tokens": 0,
        "model": "smollm2-135m-instruct",
        "revision": row["revision"],
        "template_version": row["template_version"],
        "attempts": 1,
        "status": "ok",
        "detail": "",
        "asked_at": at,
        "started_at": at,
        "ended_at": at + dt.timedelta(seconds=int(row["subject_id"])),
    }
    return Answer(**{**values, **changed})


def _publish(home: Home) -> None:
    known = pq.read_table(home.partition("knowledge", fake_home.DATE).table("knowledge"), columns=["view", "subject_id"])
    sides = tuple(_side(side, view, count, known) for side, view, count in (("user", "user.preference", 24), ("item", "item.facts", 18)))
    facts = world.facts(dt.datetime.combine(fake_home.DATE, dt.time(), dt.UTC), published_at=fake_home.AS_OF, scenario="fake-films")
    publish(home.published, sides, facts)  # type: ignore[arg-type]


def _side(side: Any, view: str, count: int, known: pa.Table) -> SideRows:
    of_view = known.filter(pc.equal(known.column("view"), view)).column("subject_id").to_pylist()
    held = {int(subject) for subject in of_view}
    rows = world.view_rows(view, count, missing={n for n in range(count) if n + 1 not in held}, newest=None)
    days = [0 if n + 1 == OLDEST_USER and side == "user" else 5 + n % 10 for n in range(count)]
    asked = pa.array([None if m else world.day(d) for m, d in zip(rows.is_missing, days, strict=True)], pa.timestamp("us", tz="UTC"))
    return SideRows(side, pa.array(np.arange(1, count + 1)), (_asked(rows, asked),))


def _asked(rows: ViewRows, at: pa.Array) -> ViewRows:
    return replace(rows, asked_at=at)
