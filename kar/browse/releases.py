"""What the page of one release shows, taken from its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kar.release import Listed
from kar.release.manifest import files as bound_files

_SHOWN_METRICS = ("auc", "gauc", "logloss")


@dataclass(frozen=True)
class Covered:
    """One view of a release."""

    view: str
    rows: int
    share: float | None
    adapted_width: int
    knowledge_width: int
    is_pooled: bool


@dataclass(frozen=True)
class Uplift:
    """One comparison of the published backbone's arms, on all test examples."""

    arms: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Detail:
    """A release, ready to print.

    Args:
        ages: per view, (lower end of a class in days, texts), youngest first.
        more: what the manifest tells in pairs beside all that (cost, adaptor).
    """

    entry: Listed
    manifest: dict[str, Any]
    covered: list[Covered]
    uplift: list[Uplift]
    gate: list[dict[str, Any]]
    files: list[tuple[str, int]]
    ages: list[tuple[str, list[tuple[str, int]]]]
    more: list[tuple[str, list[tuple[str, Any]]]]

    @property
    def failed_count(self) -> int:
        return sum(not verdict.get("is_passed", True) for verdict in self.gate)


def detail(entry: Listed) -> Detail:
    """The parts of a manifest by what a reader looks for. The entry's manifest must have been readable."""
    manifest = entry.manifest or {}
    gate = manifest.get("gate") or []
    return Detail(
        entry=entry,
        manifest=manifest,
        covered=_covered(manifest),
        uplift=_uplift(manifest),
        gate=[verdict for verdict in gate if isinstance(verdict, dict)],
        files=sorted((path, told["bytes"]) for path, told in bound_files(manifest).items()),
        ages=[
            (view, sorted(classes.items(), key=lambda c: int(c[0]))) for view, classes in sorted(manifest.get("age", {}).items()) if classes
        ],
        more=[(name, pairs) for name in ("cost", "adaptor") if (pairs := _pairs(manifest.get(name)))],
    )


def _covered(manifest: dict[str, Any]) -> list[Covered]:
    found = []
    for table in manifest["tables"].values():
        for view in table["views"]:
            told = manifest["views"][view]
            share = table.get("coverage", {}).get(view)
            found.append(Covered(view, table["rows"], share, told["adapted_width"], told["knowledge_width"], "pooled_from" in told))
    return found


def _uplift(manifest: dict[str, Any]) -> list[Uplift]:
    rows = [row for row in manifest.get("uplift", []) if row.get("slice") == "all" and row.get("metric") in _SHOWN_METRICS]
    rows.sort(
        key=lambda row: (row.get("arm_a") != "knowledge", row.get("arm_a", ""), row.get("arm_b", ""), _SHOWN_METRICS.index(row["metric"]))
    )
    return [
        Uplift(f"{row.get('arm_a')} − {row.get('arm_b')}", row["metric"], row.get("difference"), row.get("low"), row.get("high"))
        for row in rows
    ]


def _pairs(value: object, before: str = "") -> list[tuple[str, Any]]:
    """A nested dict as lines: {"night": {"usd": 1}} → ("night usd", 1). Lists are printed as they are."""
    if not isinstance(value, dict):
        return []
    found: list[tuple[str, Any]] = []
    for name, inner in value.items():
        words = f"{before} {name}".strip()
        found += _pairs(inner, words) if isinstance(inner, dict) else [(words, inner)]
    return found
