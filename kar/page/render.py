"""Facts in, one HTML page out. No network, no script; everything the page needs is in the page."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kar.page import arms, cost, coverage, factors, numbers, pace, promotion, protocol, provenance, reading, templates, turned_away
from kar.page.facts import Facts
from kar.untrusted import shown
from kar.verdict import Verdict, verdict

_FILTERS: dict[str, Callable[..., str]] = {
    "fixed": numbers.fixed,
    "signed": numbers.signed,
    "p": numbers.p_value,
    "count": numbers.count,
    "percent": numbers.share,
    "percent_signed": numbers.signed_share,
    "duration": numbers.seconds,
    "usd": numbers.usd,
    "size": numbers.size,
    "unbroken": numbers.unbroken,
}


_MOST_CHARS = 8_000
"""No single text is longer on the page, whatever the sections have let through."""


def judge(facts: Facts) -> Verdict:
    """The verdict on the published backbone."""
    return verdict(
        facts.comparison.to_pylist(),
        facts.ran_with("adaptor", "adaptor", "published_backbone"),
        facts.ran_with("adaptor", "adaptor", "published_base"),
        provenance.both_saw(facts),
    )


def render(facts: Facts) -> str:
    """The whole page as one HTML document."""
    environment = _environment()
    style = resources.files("kar.page").joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(style=Markup(style), **_sections(facts))


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("kar.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment


def _finalize(value: object) -> object:
    """Every value that is printed passes here before it is escaped, so no text can be forgotten."""
    if value is None:
        return numbers.DASH
    return shown(value, _MOST_CHARS) if isinstance(value, str) and not isinstance(value, Markup) else value


def _sections(facts: Facts) -> dict[str, Any]:
    backbones, checks = arms.backbones(facts), promotion.checks(facts)
    return {
        "facts": facts,
        "verdict": judge(facts),
        "text_tokens": cost.text_tokens(facts),
        "backbones": backbones,
        "published": next((b for b in backbones if b.is_published), None),
        "published_title": arms.TITLES.get(name := facts.ran_with("adaptor", "adaptor", "published_backbone"), name),
        "slices": arms.SLICES,
        "cold_count": facts.ran_with("adaptor", "adaptor", "cold_count"),
        "views": coverage.views(facts),
        "known": coverage.KNOWN,
        "unknown": coverage.UNKNOWN,
        "by_factor": facts.by_factor,
        "factors_sampled": factors.SAMPLED,
        "stages": cost.stages(facts),
        "total_seconds": cost.total_seconds(facts),
        "asking": cost.asking(facts),
        "servers": pace.servers(facts),
        "templates": templates.templates(facts),
        "rejected": turned_away.rejected(facts),
        "clean_stages": turned_away.clean_stages(facts),
        "refused": turned_away.refused(facts),
        "readings": reading.readings(facts),
        "splits": protocol.splits(facts),
        "label_rule": facts.ran_with("examples", "examples", "label"),
        "split_rule": facts.ran_with("examples", "examples", "split"),
        "leaks": protocol.leak_check(facts),
        "tie_share": next((n for stage in ("examples", "sources") if (n := facts.number(stage, "tie_share")) is not None), None),
        "training": protocol.training(facts),
        "encoded": protocol.encoded(facts),
        "writers": provenance.writers(facts),
        "is_stand_in": provenance.is_stand_in(facts),
        "provider": facts.ran_with("knowledge", "llm", "provider"),
        "evidence": provenance.evidence(facts),
        "release": provenance.released(facts),
        "checks": checks,
        "failed": promotion.failed(checks),
        "drift": facts.drift,
        "nights": facts.nights,
        "item_map": facts.item_map,
        "records": provenance.records(facts),
        "warnings": provenance.warnings(facts),
    }
