"""What `kar rerank` prints: the lists, each model's and arm's MAP and NDCG, the differences of arms, and a sentence per model."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow.parquet as pq

from kar.rank_metrics import CUTS
from kar.show import aligned
from kar.store import Home, Manifest
from kar.verdict import AGAINST, signed

_SENTENCE_ON = ("ndcg", 5)
_SHOWN = ("map", "ndcg")
_AGAINST = {**AGAINST, "first_stage": "the initial list"}
Row = dict[str, Any]


def told(home: Home, date: dt.date) -> str:
    """The partition of that date in words and tables, on the test lists."""
    partition = home.partition("rerank", date)
    figures = Manifest.read(partition.manifest_path).figures
    metric = [row for row in pq.read_table(partition.table("rerank_metric")).to_pylist() if row["split"] == "test"]
    comparison = pq.read_table(partition.table("rerank_comparison")).to_pylist()
    parts = [_lists(figures), "\n".join(aligned(_metrics(metric))), "\n".join(aligned(_differences(comparison)))]
    return "\n\n".join([*parts, "\n".join(sentences(comparison))])


def _lists(figures: dict[str, Any]) -> str:
    counts = figures["list_counts"]
    return (
        f"{counts['test']:,} test lists of {figures['test_user_count']:,} users, {figures['positives_per_test_list']:.2f} positives each "
        f"(train {counts['train']:,}, valid {counts['valid']:,}); first stage: {figures['first_stage']}; negatives: {figures['negatives']}; "
        f"epochs chosen on {figures['chosen_on']}"
    )


def _metrics(rows: list[Row]) -> list[tuple[str, ...]]:
    """One line per model and arm, seeds averaged; KAR's own AP at the last cut beside the standard one."""
    columns = [(metric, k) for metric in _SHOWN for k in CUTS] + [("kar_map", CUTS[-1])]
    table = [("model", "arm", *(f"{_name(metric)}@{k}" for metric, k in columns))]
    for model, arm in dict.fromkeys((row["model"], row["arm"]) for row in sorted(rows, key=_place)):
        values = {}
        for column in columns:
            of_seeds = [row["value"] for row in rows if (row["model"], row["arm"], row["metric"], row["k"]) == (model, arm, *column)]
            values[column] = sum(of_seeds) / len(of_seeds)
        table.append((model, arm, *(f"{values[column]:.4f}" for column in columns)))
    return table


def _name(metric: str) -> str:
    return {"map": "MAP", "ndcg": "NDCG", "kar_map": "KAR's MAP"}[metric]


def _place(row: Row) -> tuple[bool, str, int]:
    """The initial list first, then model by model, the arms as they are usually told."""
    order = ("base", "text", "knowledge", "permuted")
    return row["model"] != "initial", row["model"], order.index(row["arm"]) if row["arm"] in order else len(order)


def _differences(rows: list[Row]) -> list[tuple[str, ...]]:
    metric, k = _SENTENCE_ON
    table: list[tuple[str, ...]] = [("model", "pair", f"{_name(metric)}@{k}", "95 % from", "to")]
    for row in rows:
        if (row["metric"], row["k"]) == _SENTENCE_ON:
            numbers = (signed(row[name]) for name in ("difference", "low", "high"))
            table.append((row["model"], f"{row['arm_a']} − {row['arm_b']}", *numbers))
    return table


def sentences(comparison: list[Row]) -> list[str]:
    """One sentence per model: what knowledge beats on the test lists, and what it does not.

    Args:
        comparison: rows of the table rerank_comparison.
    """
    chosen = [row for row in comparison if (row["metric"], row["k"]) == _SENTENCE_ON and row["arm_a"] == "knowledge"]
    return [_sentence(model, [row for row in chosen if row["model"] == model]) for model in dict.fromkeys(row["model"] for row in chosen)]


def _sentence(model: str, rows: list[Row]) -> str:
    metric, k = _SENTENCE_ON
    words = []
    for row in rows:
        verb = "beats" if row["low"] > 0 else "loses to" if row["high"] < 0 else "cannot be told from"
        interval = f"{signed(row['difference'])} {_name(metric)}@{k} (95 % {signed(row['low'])} … {signed(row['high'])})"
        words.append(
            f"{verb} {_AGAINST[row['arm_b']]} by {interval}" if verb == "beats" else f"{verb} {_AGAINST[row['arm_b']]}: {interval}"
        )
    return f"{model}: knowledge {'; '.join(words)}."
