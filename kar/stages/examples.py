"""examples: label and split the examples, and check that no prompt has seen what they ask about.

reads   sources.interaction; histories.history, histories.item_profile and knowledge.knowledge of the snapshot date
writes  sequence, example_item, example
rejects in_evidence        the (user, item) pair of the example is in the evidence of the knowledge it would meet
        before_evidence    the example is older than the newest evidence of the knowledge it would meet
        no_label           the label column has no value
        short_history      fewer events before the example than examples.min_history
        held_out           a training example of an item that examples.held_out_items keeps out of training

The leak check runs every time, over every text that an example would meet on its user's and on its item's side, the
reviews that describe an item for the text arm included. What imported texts have seen is left out and counted; when our own prompts have seen a
labelled event, the run stops (LeakError).
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from kar.errors import LeakError, SettingsError, StageError
from kar.settings import Settings
from kar.store import Inputs, Output
from kar.warehouse import Warehouse

_SHOWN_ROWS = 20
_SPLITS = ("train", "valid", "test")
_TEST_KEYS = ("test", "test_users", "test_raw_user_ids")


def files(settings: Settings, _inputs: Inputs) -> list[Path]:
    """The file that names the tested users, if there is one. Raises SettingsError as `test_users`."""
    test_users(settings)
    return [Path(settings.examples.test_users)] if settings.examples.test_users else []


def test_users(settings: Settings) -> list[str]:
    """The users that `examples.test_users` names, as text; none: they are drawn.

    Raises:
        SettingsError: the file is not there, is not JSON, or names no users.
    """
    path = settings.examples.test_users
    if not path:
        return []
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        users = found if isinstance(found, list) else next(found[key] for key in _TEST_KEYS if key in found)
        if not isinstance(users, list) or not users:
            raise TypeError("no list of users")
        return sorted({str(user) for user in users})
    except (OSError, ValueError, TypeError, StopIteration) as error:
        raise SettingsError(
            f"examples.test_users: {path} names no users: {error}", "give a JSON list of user ids, or an object with such a list as `test`"
        ) from error


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    column, operator, threshold = settings.examples.label_rule()
    parameters: dict[str, object] = {
        "cutoff_at": inputs.cutoff_at,
        "snapshot_at": _snapshot_at(inputs, settings),
        "mode": settings.histories.mode,
        "label_column": column,
        "label_operator": operator,
        "label_threshold": threshold,
        "min_history": settings.examples.min_history,
        "split": settings.examples.split,
        "seed": str(settings.examples.seed),
        "held_out_items": settings.examples.held_out_items,
        "test_users": test_users(settings),
        "valid_share": settings.examples.valid_share,
        "test_share": settings.examples.test_share,
    }
    with Warehouse(inputs.ids) as warehouse:
        warehouse.read(inputs, "interaction", "history", "item_profile", "knowledge")
        warehouse.make(
            "core_event",
            "core_label",
            "sequence",
            "core_candidate",
            "core_evidence",
            "core_seen",
            "core_leak",
            "core_example",
            **parameters,
        )
        _refuse_leaks(warehouse, settings.examples.max_leaks)
        warehouse.make("example_item", "core_split", "example", **parameters)
        warehouse.check("check_no_history_event_is_labelled", "check_no_example_is_in_evidence", **parameters)
        _report(warehouse, out, settings)
        out.write("sequence", warehouse.table("sequence"))
        out.write("example_item", warehouse.table("example_item"))
        out.write("example", warehouse.table("example"))


def _snapshot_at(inputs: Inputs, settings: Settings) -> dt.datetime:
    """The cutoff of the knowledge that the examples may meet. Raises StageError if the snapshot's history has another."""
    snapshot_at = inputs.cutoff_at - (inputs.date - settings.snapshot_date(inputs.date))
    if settings.histories.mode == "time":
        cutoffs = pc.unique(inputs.table("history").column("cutoff_at")).to_pylist()
        if cutoffs not in ([], [snapshot_at]):
            raise StageError(
                f"examples: the snapshot's history is cut at {cutoffs[0]}, expected {snapshot_at}",
                "run the histories of the snapshot date again",
            )
    return snapshot_at


def _refuse_leaks(warehouse: Warehouse, most: int) -> None:
    """Raise LeakError if more labelled events than `most` were seen by our own prompts."""
    faults = warehouse.run("report_fault")
    if faults.num_rows > most:
        first = faults.slice(0, 1).to_pylist()[0]
        raise LeakError(
            f"examples: the prompts of {faults.num_rows} labelled events have seen them, more than examples.max_leaks = {most}; first user "
            f"{first['user_id']!r} and item {first['item_id']!r} at {first['event_at']:%Y-%m-%d %H:%M:%S} (place {first['position']} in the user's "
            f"order): {first['view']} is {first['reason']}, its newest evidence is of {_shown(first['evidence_newest_at'])}",
            "run histories, prompts and knowledge of the snapshot date again; if it stays, this is a fault in kar: report it",
        )


def _shown(at: dt.datetime | None) -> str:
    return "an unknown time" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def _report(warehouse: Warehouse, out: Output, settings: Settings) -> None:
    for row in warehouse.run("report_left_out", shown_count=_SHOWN_ROWS).to_pylist():
        out.reject(row["reason"], row["row_count"], [json.loads(shown) for shown in row["shown_rows"]])
    splits = {row.pop("split"): row for row in warehouse.run("report_example").to_pylist()}
    total = sum(row["example_count"] for row in splits.values())
    _warn(out, splits, settings)
    out.record(
        splits=splits,
        example_count=total,
        label_mean=_mean(splits, "label_mean", total),
        tie_share=_mean(splits, "tie_share", total),
        has_user_knowledge_share=_mean(splits, "has_user_knowledge_share", total),
        has_item_knowledge_share=_mean(splits, "has_item_knowledge_share", total),
        leaks=warehouse.run("report_leak").to_pylist(),
    )


def _warn(out: Output, splits: dict[str, Any], settings: Settings) -> None:
    """Say what a training run would stumble over. Raises SettingsError if no event has a label at all."""
    if not splits and out.rejected.get("no_label"):
        column = settings.examples.label_rule()[0]
        raise SettingsError(
            f"examples: no event has a value in {column}, on which the label rule {settings.examples.label!r} rests",
            f"map {column} in sources.interactions.columns, or change examples.label",
        )
    for name in _SPLITS:
        if name not in splits:
            out.warn(f"the {name} split is empty")
        elif splits[name]["label_mean"] in (0.0, 1.0):
            out.warn(f"the {name} split has labels of one class only")


def _mean(splits: dict[str, Any], figure: str, total: int) -> float | None:
    return sum(row[figure] * row["example_count"] for row in splits.values()) / total if total else None
