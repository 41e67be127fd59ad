"""sources: map, cast and validate the user's tables as of the partition date.

reads   the user's files, as settings.sources describes them
writes  user, item, user_attribute, item_attribute, interaction
rejects missing_id         a row without a user or item id
        id_not_a_number    an id that is not a whole number although the settings say int
        id_out_of_range    an integer id beyond 64 bits
        duplicate_key      a second row with the same key (users, items: the id; interactions: user, item, time)
        unknown_user       an interaction of a user who is not in the users table
        unknown_item       an interaction with an item that is not in the items table
        bad_time           a time that cannot be read in the declared unit
        after_cutoff       an event at or after the end of the partition date
        bad_rating         a rating that is missing, not a finite number, or outside the declared range; a click that is neither 0 nor 1
        bad_row            a line that the file's format cannot parse
        forgotten          a row of a user or item that kar forget took away; shown nowhere

One user's events are ordered by (event_at, tie_key, item_id) everywhere. `tie_key` = (second * 2654435761 + item * 40503) mod
1000003, where item is the id, or for text ids the first 60 bits of its md5: ties within a second are broken by a hash,
because an order by item id can be read off the ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from kar import flow
from kar.errors import SourceError
from kar.settings import Settings, SourcesSettings, SourceTable
from kar.source import INTERACTIONS, ITEMS, USERS, Kind, find, load
from kar.store import Forgotten, Inputs, Output, read_forgotten
from kar.store.forgotten import list_path
from kar.warehouse import Warehouse

_SHOWN_ROWS = 20
_DO = {
    "missing_id": "check that the id columns are mapped to the right columns",
    "id_not_a_number": 'set scenario.user_id or scenario.item_id to "string"',
    "id_out_of_range": 'set scenario.user_id or scenario.item_id to "string"',
    "duplicate_key": "check that the id and time columns are mapped to the right columns",
    "unknown_user": "check that users and interactions write the ids the same way, or leave sources.users out",
    "unknown_item": "check that items and interactions write the ids the same way, or leave sources.items out",
    "bad_time": "check sources.time_unit and the column mapped to event_at",
    "bad_rating": "check sources.rating_range and the column mapped to rating or click",
    "bad_row": "check format, header and names of this table",
}


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    sources = settings.sources
    forgotten = read_forgotten(inputs.home)
    with Warehouse(inputs.ids) as warehouse:
        _read(warehouse, sources, forgotten)
        _judge(warehouse, inputs, sources)
        _reject(warehouse, out, sources, forgotten)
        warehouse.check("check_interaction_is_of_known_subjects", "check_interaction_is_before_cutoff", cutoff_at=inputs.cutoff_at)
        _report(warehouse, out)
        for name in inputs.stage.writes:
            out.write(name, warehouse.table(name))


def files(settings: Settings, inputs: Inputs) -> list[Path]:
    """The user's files, and the list of who was forgotten; their digests join the recipe."""
    given = [path for kind, table in _given(settings.sources) if table is not None for path in find(kind.name, table, settings.sources)]
    return given + [path for path in (list_path(inputs.home),) if path.is_file()]


def _given(sources: SourcesSettings) -> list[tuple[Kind, SourceTable | None]]:
    return [(USERS, sources.users), (ITEMS, sources.items), (INTERACTIONS, sources.interactions)]


def _read(warehouse: Warehouse, sources: SourcesSettings, forgotten: Forgotten) -> None:
    for kind, table in _given(sources):
        paths = [] if table is None else find(kind.name, table, sources)
        load(warehouse.connection, kind, table, paths, Path(sources.folder), sources.time_unit)
    listed = sorted(forgotten.users | forgotten.items)
    warehouse.view("raw_forgotten", pa.table({"digest": pa.array(listed, pa.string())}))
    warehouse.make("stg_forgotten", salt=forgotten.salt, has_forgotten=bool(forgotten))


def _judge(warehouse: Warehouse, inputs: Inputs, sources: SourcesSettings) -> None:
    """Every row gets its verdict; the rows without one become the declared tables."""
    low, high = sources.rating_range or (None, None)
    warehouse.make("stg_user", "stg_item")
    warehouse.make(
        "stg_interaction",
        time_unit=sources.time_unit,
        cutoff_at=inputs.cutoff_at,
        has_rating=sources.interactions.columns.rating is not None,
        lowest_rating=low,
        highest_rating=high,
    )
    has = {"has_users": sources.users is not None, "has_items": sources.items is not None}
    warehouse.make("core_interaction", "user", "item", "user_attribute", "item_attribute", "interaction", **has)


def _reject(warehouse: Warehouse, out: Output, sources: SourcesSettings, forgotten: Forgotten) -> None:
    """Count what was left out, and raise if so much of a table was that the settings must be wrong."""
    rejected = warehouse.run("report_rejected", shown_count=_SHOWN_ROWS).to_pylist()
    for row in rejected:
        shown = [
            {"table": row["source"], "row": at, **json.loads(text)}
            for at, text in zip(row["source_rows"], row["shown_rows"], strict=True)
            if not forgotten.names_one(text)
        ]
        out.reject(row["reason"], row["row_count"], shown)
    for kind, table in _given(sources):
        if table is not None:
            _check_share(warehouse, kind, table, [row for row in rejected if row["source"] == kind.name], sources)


def _check_share(warehouse: Warehouse, kind: Kind, table: SourceTable, rejected: list[dict[str, Any]], sources: SourcesSettings) -> None:
    """A table must have rows, and most of them must be usable. Events after the cutoff are no fault: a backfill has many."""
    bad_rows = sum(row["row_count"] for row in rejected if row["reason"] == "bad_row")
    total = warehouse.count(kind.raw) + bad_rows
    if total == 0:
        raise SourceError(f"sources.{kind.name}: {table.path} holds no rows", "export the table again, or name another file")
    faulty = [row for row in rejected if row["reason"] not in ("after_cutoff", "forgotten")]
    share = sum(row["row_count"] for row in faulty) / total
    if faulty and share > sources.max_rejected_share:
        worst = max(faulty, key=lambda row: row["row_count"])
        reason, example = worst["reason"], worst["shown_rows"][0]
        raise SourceError(
            f"sources.{kind.name}: {share:.0%} of the {total} rows of {table.path} are rejected, more than sources.max_rejected_share = "
            f"{sources.max_rejected_share:g}; most for {reason} ({worst['row_count']} rows: {flow.SOURCES.rejects[reason]}), "
            f"as row {worst['source_rows'][0]}: {example}",
            _DO[reason],
        )
    if kind is INTERACTIONS and warehouse.count("interaction") == 0:
        after = sum(row["row_count"] for row in rejected if row["reason"] == "after_cutoff")
        raise SourceError(
            f"sources.interactions: none of the {total} rows of {table.path} is a valid event before the cutoff; {after} are after it",
            "run a later date",
        )


def _report(warehouse: Warehouse, out: Output) -> None:
    figures = warehouse.run("report_interaction").to_pylist()[0]
    out.record(
        tie_share=figures["tie_share"],
        first_event_at=figures["first_event_at"].isoformat(),
        last_event_at=figures["last_event_at"].isoformat(),
        source_rows={kind.name: warehouse.count(kind.raw) for kind in (USERS, ITEMS, INTERACTIONS)},
    )
