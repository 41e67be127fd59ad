"""histories: cut each user's history in time, and describe each item with what exists before the cutoff.

reads   sources.user, sources.item, sources.item_attribute, sources.interaction
writes  history, item_profile
rejects empty_history      the user did nothing before the cutoff

mode time: everything before the end of the date is history, its newest `cap` events may be shown. mode per_user (KAR's
protocol for a static data set): a user's first min((n + 1) // 2, cap) events are history, and items are described and counted by
those events of all users only.
"""

from __future__ import annotations

from kar.settings import Settings
from kar.store import Inputs, Output
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


def _report(warehouse: Warehouse, out: Output) -> None:
    empty = warehouse.run("report_empty_history", shown_count=_SHOWN_ROWS).to_pylist()[0]
    if empty["user_count"]:
        out.reject("empty_history", empty["user_count"], [{"user_id": user_id} for user_id in empty["user_ids"]])
    out.record(**warehouse.run("report_history").to_pylist()[0])
