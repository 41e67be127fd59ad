"""Where everything comes from: who wrote the knowledge, what the base saw, the release, and each stage's recipe."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kar import flow
from kar.model.bases import seen
from kar.page.facts import Facts
from kar.untrusted import shown
from kar.verdict import Seen

_FIGURES_CHARS = 3_000


@dataclass(frozen=True)
class Writer:
    """One model that wrote texts. `revision` is empty if the server reports none."""

    model: str
    revision: str
    text_count: int
    origins: dict[str, int]


@dataclass(frozen=True)
class Evidence:
    """What the published base saw beside what the prompt saw, in events of a history."""

    base: str
    seen: Seen
    shown_mean: float | None
    dropped_count: int
    mode: str
    knowledge_cutoff: dt.date


@dataclass(frozen=True)
class Released:
    """The published release. `space_id` and the clocks are the contract of its readers.

    `is_promoted`: CURRENT points at it as the page is made; `served_since`: when it was first moved there, empty: it never was.
    """

    release_id: str
    space_id: str
    path: str
    published: str
    data_cutoff: str
    published_at: str
    is_promoted: bool
    served_since: str
    is_reconstructed: bool
    user_count: int
    item_count: int
    user_covered_share: float
    item_covered_share: float
    manifest_sha: str
    example_view: str


@dataclass(frozen=True)
class StageRecord:
    """One stage's manifest, short."""

    name: str
    title: str
    date: str
    made_at: str
    recipe_sha: str
    tables: list[tuple[str, int, int, str]]
    settings: str
    figures: str
    packages: dict[str, str]


def writers(facts: Facts) -> list[Writer]:
    """Which models wrote the accepted texts, the busiest first."""
    if facts.knowledge.num_rows == 0:
        return []
    rows = facts.knowledge.group_by(["model", "model_revision", "origin"]).aggregate([([], "count_all")]).to_pylist()
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        found.setdefault((row["model"], row["model_revision"]), {})[row["origin"]] = row["count_all"]
    made = [Writer(model, revision, sum(origins.values()), origins) for (model, revision), origins in found.items()]
    return sorted(made, key=lambda w: (-w.text_count, w.model))


def is_stand_in(facts: Facts) -> bool:
    """Whether the small local model wrote any of it: fit to show the machinery, not to judge what knowledge is worth."""
    if facts.ran_with("knowledge", "llm", "provider") != "local":
        return False
    origins = pc.unique(facts.knowledge.column("origin")).to_pylist()
    return not origins or any(origin != "import" for origin in origins)


def both_saw(facts: Facts) -> Seen:
    """How much of a history the published base and the prompt saw."""
    settings = facts.adaptor_settings()
    return seen(settings.published_base, settings, facts.ran_with("histories", "histories", "cap"))


def evidence(facts: Facts) -> Evidence:
    """Whether base and prompt were given the same events."""
    mode = facts.ran_with("histories", "histories", "mode")
    trained = facts.manifests.get("examples")
    date = dt.date.fromisoformat(trained.date) if trained else facts.date
    return Evidence(
        base=facts.ran_with("adaptor", "adaptor", "published_base"),
        seen=both_saw(facts),
        shown_mean=_shown_mean(facts.plan),
        dropped_count=pc.sum(facts.plan.column("history_dropped")).as_py() or 0,
        mode=mode,
        knowledge_cutoff=facts.settings.snapshot_date(date),
    )


def _shown_mean(plan: pa.Table) -> float | None:
    users = plan.filter(pc.and_(pc.starts_with(plan.column("view"), "user."), pc.greater(plan.column("history_shown"), 0)))
    mean: float | None = pc.mean(users.column("history_shown")).as_py()
    return mean


def released(facts: Facts) -> Released | None:
    """The release of this date; None if the table holds none."""
    rows = facts.release.to_pylist()
    if not rows:
        return None
    row = rows[0]
    views = [*facts.ran_with("adaptor", "adaptor", "item_views"), *facts.ran_with("adaptor", "adaptor", "user_views")]
    return Released(
        release_id=row["release_id"],
        space_id=row["space_id"],
        path=f"{facts.published}/releases/{row['release_id']}",
        published=str(facts.published),
        data_cutoff=_instant(row["data_cutoff"]),
        published_at=_instant(row["published_at"]),
        is_promoted=facts.service.is_now if facts.service.is_known else row["is_promoted"],
        served_since=_instant(facts.service.since) if facts.service.since else "",
        is_reconstructed=row["is_reconstructed"],
        user_count=row["user_count"],
        item_count=row["item_count"],
        user_covered_share=row["user_covered_share"],
        item_covered_share=row["item_covered_share"],
        manifest_sha=row["manifest_sha"],
        example_view=views[0] if views else "item.facts",
    )


def _instant(at: dt.datetime | None) -> str:
    """A release whose knowledge saw no interaction has no data cutoff."""
    return "none" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def records(facts: Facts) -> list[StageRecord]:
    """Every stage that has a manifest, in flow order."""
    return [_record(facts, stage) for stage in flow.FLOW if stage.name in facts.manifests]


def _record(facts: Facts, stage: flow.Stage) -> StageRecord:
    made = facts.manifests[stage.name]
    return StageRecord(
        name=stage.name,
        title=stage.title,
        date=made.date,
        made_at=made.made_at,
        recipe_sha=made.recipe_sha,
        tables=[(name, t.get("rows", 0), t.get("bytes", 0), str(t.get("sha", ""))) for name, t in sorted(made.tables.items())],
        settings=_json(made.recipe.get("settings", {})),
        figures=_json({name: value for name, value in made.figures.items() if name != "gate"}),  # it has a section of its own
        packages=made.packages,
    )


def _json(value: dict[str, Any]) -> str:
    return shown(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True), _FIGURES_CHARS) if value else ""


def warnings(facts: Facts) -> list[tuple[str, str]]:
    """(stage, sentence) of every warning, in flow order."""
    told = [(stage.name, line) for stage in flow.FLOW if stage.name in facts.manifests for line in facts.manifests[stage.name].warnings]
    return [*(("adaptor", sentence) for sentence in facts.trainings), *told]
