"""Texts that the user already has: JSON lines of {user_id | item_id, text[, evidence]}, read and held against the tables.

A user's evidence are the items whose interactions the text was written from. Each must be among the user's
interactions before the cutoff; the newest of them says from when on the text may serve an example.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from kar.tables import IdTypes

Side = Literal["user", "item"]
_SHOWN_CHARS = 120

SCHEMA = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),  # 1-based
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("line_sha", pa.string(), nullable=False),
        pa.field("evidence", pa.list_(pa.string())),  # item ids as text, in the file's order; null: the line has none
    ]
)


@dataclass
class ImportedLines:
    """The lines of one file.

    Args:
        rows: SCHEMA; one row per readable line.
        rejected: reason → the lines left out, as {"line", "shown"}; reasons bad_row and missing_id.
    """

    rows: pa.Table
    rejected: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class _BadRow(ValueError):
    pass


def side_of(view: str) -> Side:
    """Whom a view is about: user.preference → user, item.facts → item."""
    return "user" if view.startswith("user.") else "item"


def read_imports(path: Path, side: Side, ids: IdTypes) -> ImportedLines:
    """Read a file of imported texts.

    Args:
        path: JSON lines, UTF-8; blank lines are passed over.
        side: which id each line must hold: user_id or item_id.
        ids: the scenario's id types; an int id may be written as a number or in decimal.
    """
    rows: list[dict[str, Any]] = []
    rejected: dict[str, list[dict[str, Any]]] = {}
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = _row(line.strip(), side, ids)
            except _BadRow as error:
                reason = "missing_id" if str(error) == "missing_id" else "bad_row"
                shown = {"file": path.name, "line": number, "fault": str(error), "shown": line[:_SHOWN_CHARS].decode("utf-8", "replace")}
                rejected.setdefault(reason, []).append(shown)
            else:
                rows.append({"line": number, **row})
    return ImportedLines(pa.Table.from_pylist(rows, schema=SCHEMA), rejected)


def _row(line: bytes, side: Side, ids: IdTypes) -> dict[str, Any]:
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _BadRow(f"no JSON: {error}") from error
    if not isinstance(data, dict):
        raise _BadRow("no JSON object")
    if (subject := data.get(f"{side}_id")) is None or subject == "":
        raise _BadRow("missing_id")
    if not isinstance(data.get("text"), str):
        raise _BadRow("no text")
    evidence = data.get("evidence")
    if evidence is not None and not isinstance(evidence, list):
        raise _BadRow("evidence is no list of item ids")
    return {
        "subject_id": _id(subject, ids.user if side == "user" else ids.item),
        "text": data["text"],
        "line_sha": hashlib.sha256(line).hexdigest(),
        "evidence": None if evidence is None else [_id(item, ids.item) for item in evidence],
    }


def _id(value: object, kind: Literal["int", "string"]) -> str:
    """An id as the text that subject_id columns hold."""
    if kind == "string" and isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(value)
        return str(int(value))
    except ValueError as error:
        raise _BadRow(f"id {value!r} is not of type {kind}") from error


def first_of_each(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(the first line of each subject, the later ones)."""
    firsts = rows.group_by("subject_id", use_threads=False).aggregate([("line", "min")]).column("line_min")
    is_first = pc.is_in(rows.column("line"), value_set=firsts.combine_chunks())
    return rows.filter(is_first), rows.filter(pc.invert(is_first))


def newest_evidence(rows: pa.Table, interactions: pa.Table) -> tuple[pa.Array, pa.Array]:
    """When the newest of each row's evidence happened, and how much of it never did.

    Args:
        rows: SCHEMA, about users.
        interactions: of the partition: user_id, item_id, event_at; all before the cutoff.

    Returns:
        (newest event_at per row, null without evidence; how many of its items the user never met), in row order. Of
        several interactions of a user with one item the last one counts: the text may have seen it.
    """
    lists = rows.column("evidence").combine_chunks()
    places = pc.list_parent_indices(lists)
    users = rows.column("subject_id").combine_chunks().take(places)
    pairs = pa.table({"row": places, "user": users, "item": pc.list_flatten(lists)})
    events = pa.table(
        {
            "user": interactions.column("user_id").cast(pa.string()),
            "item": interactions.column("item_id").cast(pa.string()),
            "event_at": interactions.column("event_at"),
        }
    )
    events = events.filter(pc.is_in(events.column("user"), value_set=pc.unique(users)))
    events = events.group_by(["user", "item"]).aggregate([("event_at", "max")])
    met = pairs.join(events, ["user", "item"], join_type="left outer")
    unmet = pc.CountOptions(mode="only_null")
    found = met.group_by("row").aggregate([("event_at_max", "max"), ("event_at_max", "count", unmet)])
    all_rows = pa.table({"row": pa.array(range(rows.num_rows), places.type)})
    per_row = all_rows.join(found, "row", join_type="left outer").sort_by("row")
    newest = per_row.column("event_at_max_max").combine_chunks()
    return newest, pc.fill_null(per_row.column("event_at_max_count"), 0).combine_chunks()
