"""How often each combination of values stands in a table."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def counted(table: pa.Table, columns: list[str]) -> list[dict[str, Any]]:
    """A row for each combination in these columns, with its `count`; ordered by the columns."""
    found = table.group_by(columns).aggregate([([], "count_all")]).rename_columns([*columns, "count"])
    rows: list[dict[str, Any]] = found.sort_by([(column, "ascending") for column in columns]).to_pylist()
    return rows


def template_counts(knowledge: pa.Table) -> dict[str, dict[str, int]]:
    """View → template version → texts.

    Args:
        knowledge: with the columns view and template_version.
    """
    found: dict[str, dict[str, int]] = {}
    for row in counted(knowledge, ["view", "template_version"]):
        found.setdefault(row["view"], {})[row["template_version"]] = row["count"]
    return found
