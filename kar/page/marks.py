"""The marks of the plots, as inline SVG.

In every plot the words and numbers are HTML and only the marks are SVG: x is a percentage of the lane, so a lane
stretches with the page while the text beside it keeps its size. Marks hold numbers and class names of ours, never text
from a table; a label for those who cannot see may, and is made visible and escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kar.page.numbers import fixed, signed
from kar.untrusted import shown

_APART = 35.0  # % of a narrow lane that one label takes
_INSET = 5.0  # % of the lane kept free at both ends, so that no mark touches the edge


@dataclass(frozen=True)
class Tick:
    """One label of an axis.

    Args:
        at: percent of the lane.
        label: what it says.
        is_main: kept on a narrow screen.
    """

    at: float
    label: str
    is_main: bool = True


@dataclass(frozen=True)
class Scale:
    """A linear scale from values to percent of a lane. `low` < `high`."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Percent of the lane; values beyond the scale lie on its edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(_INSET + share * (100 - 2 * _INSET), 2)

    def ticks(self, most: int = 5, *, is_signed: bool = False) -> list[Tick]:
        """At most `most` + 1 round values within the scale. Main ones: 0 if it is there, and the ends that do not crowd it or each other."""
        step = _round_step((self.high - self.low) / most)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        values = [i * step for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]
        write = signed if is_signed else fixed
        main: list[float] = []
        for value in sorted(values, key=lambda v: (abs(v) >= step / 2, v not in (values[0], values[-1]), -abs(v))):
            if all(abs(self.at(value) - self.at(other)) >= _APART for other in main) and len(main) < 3:
                main.append(value)
        return [Tick(self.at(v), "0" if abs(v) < step / 2 else write(v, digits), v in main) for v in values]


def _round_step(raw: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = math.pow(10, math.floor(math.log10(raw)))
    return next(power * factor for factor in (1.0, 2.0, 5.0, 10.0) if power * factor >= raw * (1 - 1e-9))


def scale_of(values: Sequence[float], *, zero: bool = False, least: float = 1e-3) -> Scale:
    """A scale that holds all finite values, a little air around them, and 0 if asked; `least` wide at least."""
    finite = [v for v in values if math.isfinite(v)] + ([0.0] if zero else [])
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    air = max((high - low) * 0.06, (least - (high - low)) / 2, least / 20)
    return Scale(low - air, high + air)


def _lane(height: int, marks: Sequence[Markup], kind: str) -> Markup:
    return Markup('<svg class="lane {}" width="100%" height="{}" aria-hidden="true" focusable="false">{}</svg>').format(
        kind, height, Markup("").join(marks)
    )


def _line(x1: float, x2: float, y1: str, y2: str, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{}%" x2="{}%" y1="{}" y2="{}"/>').format(kind, x1, x2, y1, y2)


def _dot(x: float, y: str, radius: float, kind: str) -> Markup:
    return Markup('<circle class="{}" cx="{}%" cy="{}" r="{}"/>').format(kind, x, y, radius)


def interval(scale: Scale, difference: float, low: float, high: float) -> Markup:
    """A difference with its interval over a line at 0. Filled: the interval excludes 0. A dashed end goes on beyond the scale."""
    marks = [_line(scale.at(0), scale.at(0), "0", "100%", "zero")]
    if all(math.isfinite(v) for v in (difference, low, high)):
        kind = "sure" if low > 0 or high < 0 else "open"
        marks.append(_line(scale.at(low), scale.at(high), "50%", "50%", f"reach {kind}"))
        for end in (low, high):
            is_cut = not scale.low <= end <= scale.high
            marks.append(_line(scale.at(end), scale.at(end), "32%", "68%", "cut" if is_cut else f"end {kind}"))
        if scale.low <= difference <= scale.high:
            marks.append(_dot(scale.at(difference), "50%", 4.5, f"point {kind}"))
    return _lane(28, marks, "interval")


def seeds(scale: Scale, values: Sequence[float], arm: str) -> Markup:
    """One dot per seed and a bar at their mean."""
    finite = [v for v in values if math.isfinite(v)]
    marks = [_line(_INSET, 100 - _INSET, "50%", "50%", "rail")]
    marks += [_dot(scale.at(v), "50%", 4.5, f"seed arm-{arm}") for v in finite]
    if finite:
        mean = scale.at(sum(finite) / len(finite))
        marks.append(_line(mean, mean, "18%", "82%", f"mean arm-{arm}"))
    return _lane(32, marks, "seeds")


def stack(parts: Sequence[tuple[str, float]], height: int = 22) -> Markup:
    """Shares of one whole side by side: (class name, share from 0 to 1)."""
    marks, start = [], 0.0
    for kind, part in parts:
        if part > 0:
            marks.append(
                Markup('<rect class="part {}" x="{}%" width="{}%" y="0" height="100%"/>').format(
                    kind, round(start, 3), round(part * 100, 3)
                )
            )
            start += part * 100
    return _lane(height, marks, "stack")


def bars(heights: Sequence[float], cut_from: int | None, label: str) -> Markup:
    """A small histogram.

    Args:
        heights: shares of the highest bar.
        cut_from: bars from this place on lie beyond a limit and are marked so.
        label: what it shows, for those who cannot see it.
    """
    width = 100 / max(len(heights), 1)
    marks = [
        Markup('<rect class="{}" x="{}%" width="{}%" y="{}%" height="{}%"/>').format(
            "bar beyond" if cut_from is not None and i >= cut_from else "bar",
            round(i * width + width * 0.06, 3),
            round(width * 0.88, 3),
            round(100 - h * 100, 2),
            round(h * 100, 2),
        )
        for i, h in enumerate(heights)
    ]
    return Markup('<svg class="bars" width="100%" height="56" role="img" aria-label="{}">{}</svg>').format(
        shown(label, 300), Markup("").join(marks)
    )


def steps(seconds: Sequence[float], values: Sequence[float], limit: Sequence[float] | None, most: float, label: str) -> Markup:
    """A course over time as a filled line from 0 to `most`, and the limit above it as a dashed one.

    Args:
        seconds: of the looks, ascending; as many as values.
        limit: as many as values, or None.
        label: what it shows, for those who cannot see it.
    """
    end = max(seconds[-1] if seconds else 1.0, 1e-9)

    def points(series: Sequence[float]) -> str:
        return " ".join(f"{100 * s / end:.2f},{100 - 100 * v / max(most, 1e-9):.2f}" for s, v in zip(seconds, series, strict=True))

    line = points(values)
    marks = [Markup('<polygon class="area" points="0,100 {} 100,100"/><polyline class="course" points="{}"/>').format(line, line)]
    if limit is not None:
        marks.append(Markup('<polyline class="limit" points="{}"/>').format(points(limit)))
    return Markup(
        '<svg class="steps" viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="110" role="img" aria-label="{}">{}</svg>'
    ).format(shown(label, 300), Markup("").join(marks))


def series(points: Sequence[tuple[float, float, float]], scale: Scale, rule: float, arm: str, label: str) -> Markup:
    """Values side by side over a line at `rule`, joined, each with its interval. Filled: the interval excludes the rule.

    Args:
        points: value, low and high of each place, from the left; one that is not finite leaves its place empty.
        scale: of the values, upwards; an interval that goes on beyond it ends dashed.
        label: what it shows, for those who cannot see it.
    """
    at = [round((i + 0.5) * 100 / max(len(points), 1), 2) for i in range(len(points))]
    marks = [_line(0, 100, _up(scale, rule), _up(scale, rule), "zero")]
    drawn = [(x, point) for x, point in zip(at, points, strict=True) if all(math.isfinite(v) for v in point)]
    path = " ".join(f"{x},{100 - scale.at(value)}" for x, (value, _, _) in drawn)
    # percentages are not allowed in `points`, so the line lives in a stretched 100 × 100 box of its own
    marks.append(
        Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">'
               '<polyline class="curve arm-{}" points="{}"/></svg>').format(arm, path)
    )  # fmt: skip
    for x, (value, low, high) in drawn:
        is_sure = low > rule or high < rule
        if low < high:
            is_cut = low < scale.low or high > scale.high
            marks.append(_line(x, x, _up(scale, low), _up(scale, high), f"reach arm-{arm}{' cut' if is_cut else ''}"))
        marks.append(_dot(x, _up(scale, value), 4, f"point {'sure' if is_sure else 'open'} arm-{arm}"))
    return Markup('<svg class="series" width="100%" height="150" role="img" aria-label="{}">{}</svg>').format(
        shown(label, 600), Markup("").join(marks)
    )


def _up(scale: Scale, value: float) -> str:
    """A place on a scale that grows upwards."""
    return f"{round(100 - scale.at(value), 2)}%"


def curves(lines: Sequence[Sequence[float]], chosen: Sequence[int | None], scale: Scale, arm: str, label: str) -> Markup:
    """Training curves, one line per seed over the epochs, a dot at the epoch whose weights were kept.

    Args:
        lines: per seed, values by epoch; values that are not finite break nothing, they are left out.
        chosen: per seed, the chosen epoch.
        scale: of the values; shared by curves that are to be compared.
    """
    last = max((len(line) for line in lines), default=0) - 1
    across = Scale(0, max(last, 1))
    marks = []
    for line, kept in zip(lines, chosen, strict=True):
        points = [(across.at(i), round(100 - scale.at(v), 2)) for i, v in enumerate(line) if math.isfinite(v)]
        path = " ".join(f"{x},{y}" for x, y in points)
        # percentages are not allowed in `points`, so the lines live in a stretched 100 × 100 box of their own
        marks.append(
            Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">'
                   '<polyline class="curve arm-{}" points="{}"/></svg>').format(arm, path)
        )  # fmt: skip
        if kept is not None and kept < len(line) and math.isfinite(line[kept]):
            marks.append(_dot(across.at(kept), f"{round(100 - scale.at(line[kept]), 2)}%", 4, f"seed arm-{arm}"))
    return Markup('<svg class="curves" width="100%" height="110" role="img" aria-label="{}">{}</svg>').format(
        shown(label, 300), Markup("").join(marks)
    )
