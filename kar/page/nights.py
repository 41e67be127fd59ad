"""What the nights cost, one after another: tokens, money and coverage, as each night's knowledge stage recorded them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from kar.page.marks import bars
from kar.store import Manifest

MOST = 30
"""The newest nights that are shown."""


@dataclass(frozen=True)
class Night:
    """One date. None: its stage recorded no such figure.

    Args:
        coverage: view → share of its subjects with knowledge.
    """

    date: str
    calls: float | None
    tokens: float | None
    usd: float | None
    coverage: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Nights:
    """The nights, oldest first, and their plots: name, bars, and the most of them."""

    nights: list[Night]
    views: list[str]
    plots: list[tuple[str, Markup, float, str]]


def nights(made: Iterable[Manifest]) -> Nights:
    """From the manifests of the knowledge stage, any order."""
    found = sorted((_night(manifest) for manifest in made), key=lambda night: night.date)[-MOST:]
    views = sorted({view for night in found for view in night.coverage}, key=lambda view: (not view.startswith("user."), view))
    series = [("tokens", "count", [night.tokens for night in found]), ("money", "usd", [night.usd for night in found])]
    series += [(f"coverage of {view}", "share", [night.coverage.get(view) for night in found]) for view in views]
    return Nights(found, views, [_plot(name, kind, values) for name, kind, values in series if any(values)])


def _plot(name: str, kind: str, values: list[float | None]) -> tuple[str, Markup, float, str]:
    drawn = [value or 0.0 for value in values]
    most = max(drawn)
    whole = 1.0 if kind == "share" else most
    return name, bars([value / whole for value in drawn], None, f"{name} of {len(drawn)} nights, at most {most:g}"), most, kind


def _night(manifest: Manifest) -> Night:
    figures: dict[str, Any] = manifest.figures
    spent = [figures.get(name) for name in ("prompt_tokens", "completion_tokens")]
    tokens = sum(float(n) for n in spent if n is not None) if any(n is not None for n in spent) else None
    coverage = figures.get("coverage")
    return Night(manifest.date, figures.get("calls"), tokens, figures.get("usd"), coverage if isinstance(coverage, dict) else {})
