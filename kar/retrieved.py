"""What `kar retrieve` prints: per protocol each arm's P, R and NDCG at 10, mean ± std over splits, and the arms' differences."""

from __future__ import annotations

import datetime as dt
import statistics
from typing import Any

import pyarrow.parquet as pq

from kar.rank_metrics import FOUND
from kar.show import aligned
from kar.store import Home, Manifest
from kar.verdict import signed

Row = dict[str, Any]
_BEFORE, _AFTER = ("popularity", "id", "original"), ("all", "enriched", "noise", "permuted")
_MARK = " *"
_TOLD_ON = FOUND[-1]


def told(home: Home, date: dt.date) -> str:
    """The partition of that date in words and tables."""
    partition = home.partition("retrieval", date)
    figures = Manifest.read(partition.manifest_path).figures
    metric, comparison = (pq.read_table(partition.table(f"retrieval_{name}")).to_pylist() for name in ("metric", "comparison"))
    parts = [
        f"{figures['pairs']:,} pairs of {figures['users']:,} users and {figures['items']:,} items; epochs chosen on {figures['chosen_on']}"
    ]
    for protocol in sorted({row["protocol"] for row in metric}):
        rows = [row for row in metric if row["protocol"] == protocol]
        parts += [_head(protocol, rows), "\n".join(aligned(_metrics(rows)))]
        if differences := [row for row in comparison if row["protocol"] == protocol and row["metric"] == _TOLD_ON]:
            parts.append("\n".join(aligned(_differences(differences))))
    if any(row["has_seen"] for row in metric):
        parts.append("* texts of this arm have seen interactions that the splits ask for: no fair row")
    return "\n\n".join(parts)


def _head(protocol: str, rows: list[Row]) -> str:
    splits = len({row["split"] for row in rows})
    users = sorted({row["user_count"] for row in rows})
    span = f"{users[0]:,}" if len(users) == 1 else f"{users[0]:,} to {users[-1]:,}"
    return f"{protocol}: {splits} split{'s' if splits > 1 else ''}, {span} test users; all items ranked that the user did not meet in train"


def _metrics(rows: list[Row]) -> list[tuple[str, ...]]:
    """One line per arm; a metric that was not written has no column."""
    metrics = [metric for metric in FOUND if any(row["metric"] == metric for row in rows)]
    table = [("arm", *metrics)]
    for arm in sorted({row["arm"] for row in rows}, key=_place):
        of_arm = [row for row in rows if row["arm"] == arm]
        cells = [_cell([row for row in of_arm if row["metric"] == metric]) for metric in metrics]
        table.append((arm + (_MARK if of_arm[0]["has_seen"] else ""), *cells))
    return table


def _cell(rows: list[Row]) -> str:
    """Mean over splits, seeds averaged within each, and the standard deviation between splits where there are several."""
    by_split: dict[int, list[float]] = {}
    for row in rows:
        by_split.setdefault(row["split"], []).append(row["value"])
    values = [statistics.fmean(found) for found in by_split.values()]
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def _place(arm: str) -> tuple[int, int, str]:
    """References first, then the views, then what is made of them."""
    if arm in _BEFORE:
        return 0, _BEFORE.index(arm), arm
    return (2, _AFTER.index(arm), arm) if arm in _AFTER else (1, 0, arm)


def _differences(rows: list[Row]) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("pair", _TOLD_ON, "95 % from", "to")]
    for row in sorted(rows, key=lambda row: (_place(row["arm_a"]), _place(row["arm_b"]))):
        mark = _MARK if row["has_seen"] else ""
        table.append((f"{row['arm_a']} − {row['arm_b']}{mark}", *(signed(row[name]) for name in ("difference", "low", "high"))))
    return table
