"""How the asking went over time: the window and what filled it, the server's queue, tokens per second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc
from markupsafe import Markup

from kar.page.facts import Facts
from kar.page.marks import steps


@dataclass(frozen=True)
class Course:
    """One figure of one server over time. Units are in the name."""

    name: str
    plot: Markup
    most: float
    last: float


@dataclass(frozen=True)
class Server:
    """One server's course.

    Args:
        place: in llm.endpoints, 1 first.
        seconds: from first to last look.
        has_metrics: whether it told its queue.
        preemptions: requests that it threw out of its cache and began again; None: it does not say.
        prefix_hit_share: of prompt tokens, mean over the looks; None: it does not say.
    """

    place: int
    seconds: float
    has_metrics: bool
    answered: int
    preemptions: int | None
    prefix_hit_share: float | None
    courses: list[Course]


def servers(facts: Facts) -> list[Server]:
    """Every server that was asked tonight; none on a night without a question."""
    places = sorted(pc.unique(facts.pace.column("endpoint")).to_pylist())
    return [_server(facts, place) for place in places]


def _server(facts: Facts, place: int) -> Server:
    rows = facts.pace.filter(pc.equal(facts.pace.column("endpoint"), place)).sort_by("second").to_pydict()
    has_metrics = max(rows["waiting"]) >= 0
    hits = [share for share in rows["prefix_hit_share"] if math.isfinite(share)]
    courses = [
        _course("in flight (dashed: window)", "in flight", rows["second"], rows["in_flight"], rows["window"], "the window they may fill"),
        _course("answer tokens/s", "tokens", rows["second"], rows["tokens_per_s"]),
    ]
    if has_metrics:
        courses.insert(1, _course("waiting at the server", "waiting", rows["second"], [max(n, 0) for n in rows["waiting"]]))
    return Server(
        place=place + 1,
        seconds=rows["second"][-1],
        has_metrics=has_metrics,
        answered=rows["answered"][-1],
        preemptions=max(rows["preemptions"]) if max(rows["preemptions"]) >= 0 else None,
        prefix_hit_share=sum(hits) / len(hits) if hits else None,
        courses=courses,
    )


def _course(
    name: str, unit: str, seconds: Sequence[float], values: Sequence[float], limit: Sequence[float] | None = None, limit_name: str = ""
) -> Course:
    drawn = [v if math.isfinite(v) else 0.0 for v in values]
    most = max([*drawn, *(limit or [])], default=0.0)
    label = f"{name} over {seconds[-1]:.0f} s, at most {max(drawn, default=0):.0f}" + (f"; dashed: {limit_name}" if limit else "")
    return Course(name, steps(seconds, drawn, limit, most, label), max(drawn, default=0.0), drawn[-1] if drawn else 0.0)
