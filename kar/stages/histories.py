"""histories: cut each user's history in time, and describe each item with what exists before the cutoff.

reads   sources.user, sources.item, sources.item_attribute, sources.interaction, item_edge (previous)
writes  history, item_profile, item_neighbour
rejects empty_history      the user did nothing before the cutoff

mode time: everything before the end of the date is history, its newest `cap` events may be shown. mode per_user (KAR's
protocol for a static data set): a user's first min((n + 1) // 2, cap) events are history, and items are described and counted by
those events of all users only. The items that stand beside an item (`[histories.neighbours]`) follow from the same events, or from the texts of the
night before.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.graph import engagement
from kar.settings import Settings
from kar.settings.schema import NeighbourSettings
from kar.store import Inputs, Output
from kar.tables import TABLES
from kar.warehouse import Warehouse

_SHOWN_ROWS = 20


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    chosen = settings.histories
    parameters = {
        "cutoff_at": inputs.cutoff_at,
        "mode": chosen.mode,
        "cap": chosen.cap,
        "review_count": chosen.review_count,
        "review_chars": chosen.review_chars,
    }
    with Warehouse(inputs.ids) as warehouse:
        warehouse.read(inputs, "user", "item", "item_attribute", "interaction")
        warehouse.make("core_event", "core_history_event", "history", "item_profile", **parameters)
        warehouse.check("check_history_is_before_cutoff", "check_history_is_in_order", "check_item_evidence_is_history", **parameters)
        _report(warehouse, out)
        out.write("history", warehouse.table("history"))
        out.write("item_profile", warehouse.table("item_profile"))
        out.write("item_neighbour", _neighbours(warehouse, inputs, out, settings))


def _neighbours(warehouse: Warehouse, inputs: Inputs, out: Output, settings: Settings) -> pa.Table:
    """The table item_neighbour, from each (user, item) of an event that a prompt may know of."""
    chosen, schema = settings.histories.neighbours, TABLES["item_neighbour"].schema(inputs.ids)
    if chosen.source == "none":
        return schema.empty_table()
    started = time.perf_counter()
    if chosen.source == "engagement":
        table = neighbour_rows(warehouse.run("core_engagement"), chosen, schema, settings.histories.mode == "time")
    elif (edges := inputs.maybe_table("item_edge")) is not None:
        warehouse.view("item_edge", edges)
        table = warehouse.run("core_near_item", relation=chosen.relation, neighbour_count=chosen.count).cast(schema)
    else:
        table = schema.empty_table()
        out.warn("no night before has edges, so no item has neighbours: those by text come from the vectors of the night before")
    with_any = pc.count_distinct(table.column("item_id")).as_py()
    out.record(neighbours={"edges": table.num_rows, "items": with_any, "seconds": round(time.perf_counter() - started, 3)})
    return table


def neighbour_rows(engaged: pa.Table, settings: NeighbourSettings, schema: pa.Schema, is_cut_in_time: bool) -> pa.Table:
    """Who stands beside whom.

    Args:
        engaged: rows of core_engagement.
        is_cut_in_time: whether every event lies before one cutoff; the newest is then told with each row.
    """
    users, items = (pc.dictionary_encode(engaged.column(name).combine_chunks()) for name in ("user_id", "item_id"))
    found = engagement.neighbours(
        users.indices.to_numpy(),
        items.indices.to_numpy(),
        len(users.dictionary),
        len(items.dictionary),
        count=settings.count,
        restart=settings.restart,
        discount=settings.discount,
    )
    item, rank = np.nonzero(found.item_IT >= 0)
    newest = pc.max(engaged.column("newest_event_at")) if is_cut_in_time else pa.scalar(None)
    columns = {
        "item_id": items.dictionary.take(pa.array(item)),
        "rank": pa.array(rank),
        "neighbour_id": items.dictionary.take(pa.array(found.item_IT[item, rank])),
        "score": pa.array(found.score_IT[item, rank].astype(np.float64)),
        "evidence_newest_at": pa.repeat(newest.cast(schema.field("evidence_newest_at").type), len(item)),
    }
    return pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


def _report(warehouse: Warehouse, out: Output) -> None:
    empty = warehouse.run("report_empty_history", shown_count=_SHOWN_ROWS).to_pylist()[0]
    if empty["user_count"]:
        out.reject("empty_history", empty["user_count"], [{"user_id": user_id} for user_id in empty["user_ids"]])
    out.record(**warehouse.run("report_history").to_pylist()[0])
