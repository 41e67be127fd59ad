"""What a benchmark says: rows of name, system, figure, unit and the ratio to a named baseline; printed, and written as JSON."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        name: what was measured; it names the baseline of `ratio` where there is one ("… (ratio to aiohttp)").
        system: whose figure this is.
        figure: the median where there were repetitions.
        unit: of the figure.
        ratio: figure / the baseline's figure; None where there is no baseline.
    """

    name: str
    system: str
    figure: float
    unit: str
    ratio: float | None = None


def median_row(name: str, system: str, figures: Sequence[float], unit: str, baseline: Sequence[float] | None = None) -> Row:
    """A row of the median, and of the ratio of the two medians if there is a baseline."""
    figure = statistics.median(figures)
    ratio = round(figure / statistics.median(baseline), 3) if baseline else None
    return Row(name, system, rounded(figure), unit, ratio)


def rounded(figure: float) -> float:
    """Four digits are more than a measurement gives; whole numbers stay whole."""
    return float(f"{figure:.4g}") if abs(figure) < 1000 else float(round(figure))


def text(rows: Iterable[Row]) -> str:
    """The table as it is printed."""
    cells = [("name", "system", "figure", "unit", "ratio")]
    cells += [(r.name, r.system, f"{r.figure:,.10g}", r.unit, "" if r.ratio is None else f"{r.ratio:.3f}") for r in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    lines = []
    for name, system, figure, unit, ratio in cells:
        numbers = f"{figure:>{widths[2]}}  {unit:<{widths[3]}}  {ratio:>{widths[4]}}"
        lines.append(f"{name:<{widths[0]}}  {system:<{widths[1]}}  {numbers}".rstrip())
    return "\n".join(lines)


def write(rows: Iterable[Row], path: Path) -> None:
    """Write the rows as a JSON list, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False, encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in rows) + "\n]\n")
    os.chmod(file.name, 0o644)  # noqa: PTH101  # a temporary file is the writer's alone
    Path(file.name).replace(path)
