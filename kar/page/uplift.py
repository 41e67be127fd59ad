"""The uplift against the training count: is knowledge worth more where a ranker has seen less?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kar.page import figures
from kar.page.figures import Point
from kar.page.marks import Tick, scale_of, series
from kar.page.numbers import count, signed

_SIDES = {"item": "the item’s training examples", "user": "the user’s training examples"}
_LEAST_POINTS = 2
_WIDEST = 3.0  # an interval reaches at most so many times as far as the widest difference; beyond, it is cut


@dataclass(frozen=True)
class Curve:
    """One pair of arms. Below the plot stand the training counts, and how many test examples have each."""

    arm_a: str
    arm_b: str
    plot: Markup
    points: list[Point]

    @property
    def labels(self) -> list[str]:
        return [point.count.replace("-", "–") for point in self.points]

    @property
    def below(self) -> list[str]:
        return [count(point.example_count) for point in self.points]


@dataclass(frozen=True)
class Course:
    """The curves of one side, on one scale. `ticks` are of the vertical axis, from below."""

    title: str
    ticks: list[Tick]
    curves: list[Curve]


def courses(comparisons: list[dict[str, Any]], pairs: Sequence[tuple[str, str]]) -> list[Course]:
    """A course for each side whose test examples have several training counts."""
    found = []
    for side, title in _SIDES.items():
        points = {pair: figures.curve(comparisons, side, pair) for pair in pairs}
        if all(len(of) < _LEAST_POINTS for of in points.values()):
            continue
        every = [point for of in points.values() for point in of if math.isfinite(point.difference)]
        most = _WIDEST * max((abs(point.difference) for point in every), default=1.0)
        ends = [min(max(end, -most), most) for p in every for end in (p.low, p.high)]
        scale = scale_of([*ends, *(point.difference for point in every)], zero=True)
        curves = [
            Curve(*pair, series([(p.difference, p.low, p.high) for p in of], scale, 0.0, "knowledge", _label(pair, side, of)), of)
            for pair, of in points.items()
            if of
        ]
        found.append(Course(title, scale.ticks(5, is_signed=True), curves))
    return found


def _label(pair: tuple[str, str], side: str, points: list[Point]) -> str:
    told = ", ".join(f"{p.count}: {signed(p.difference)} ({signed(p.low)} to {signed(p.high)})" for p in points)
    return f"{pair[0]} less {pair[1]} in test AUC by training examples of the {side}: {told}"
