"""Calibration: what each arm predicts, over what happened, by decile of its predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kar.page.figures import ARMS, ArmFigures, spread
from kar.page.marks import Scale, Tick, scale_of, series
from kar.page.numbers import fixed


@dataclass(frozen=True)
class Fit:
    """One arm, mean over seeds. `ticks` are of the vertical axis, the same for all arms of a backbone."""

    arm: str
    plot: Markup
    ece: float
    ticks: list[Tick]


def fits(calibration: list[dict[str, Any]], arms: list[ArmFigures]) -> list[Fit]:
    """One plot for each of the four main arms that has deciles."""
    ratios = {arm.arm: _ratios(calibration, arm.arm) for arm in arms if arm.arm in ARMS}
    ratios = {arm: of for arm, of in ratios.items() if any(math.isfinite(value) for value in of)}
    scale = scale_of([*(value for of in ratios.values() for value in of), 1.0], least=0.1)
    eces = {arm.arm: arm.metrics["ece"].mean for arm in arms}
    return [_fit(arm, of, eces[arm], scale) for arm, of in ratios.items()]


def _ratios(calibration: list[dict[str, Any]], arm: str) -> list[float]:
    """predicted / actual of each decile, mean over seeds."""
    deciles = sorted({row["decile"] for row in calibration})
    return [spread([r["ratio"] for r in calibration if (r["arm"], r["decile"]) == (arm, decile)]).mean for decile in deciles]


def _fit(arm: str, ratios: list[float], ece: float, scale: Scale) -> Fit:
    label = f"{arm}: predicted over actual by decile, lowest predictions first: {', '.join(fixed(v, 2) for v in ratios)}"
    return Fit(arm, series([(v, v, v) for v in ratios], scale, 1.0, arm, label), ece, scale.ticks(4))
