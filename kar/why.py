"""What `kar plan --why user 42` prints: what the plan knows of one subject, the reasons that hold, and what they came to."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import flow, run
from kar.errors import SourceError
from kar.settings import Settings
from kar.show import Side, made, rows_of
from kar.stages import prompts
from kar.store import Home, Inputs, Manifest, Partition
from kar.text.staleness import REASONS, Last, Standing
from kar.text.templates import Template
from kar.text.variants import Split, load_splits
from kar.text.views import Night, is_empty, standing, user_shas

_MEANS = {
    "new": "nothing is known of it in this view",
    "evidence": "what is known of it changed",
    "drift": "the mixture of its history moved",
    "template": "the template or its factors changed",
    "model": "another model, or another revision of it",
    "age": "the knowledge is too old",
}


def why(settings: Settings, home: Home, side: Side, subject_id: str, date: dt.date) -> str:
    """Every view of one user or item: last knowledge, what is new, the reasons that hold, the decision and its worth.

    Raises:
        NotMade: the plan of that date has not been made.
        SourceError: nobody of that id is in the histories.
    """
    partition = made(home, "prompts", date)
    path = made(home, "histories", date).table("history" if side == "user" else "item_profile")
    row = pq.read_table(path, filters=pc.field("subject_id") == subject_id)
    if not row.num_rows:
        raise SourceError(f"{side} {subject_id!r} is not in the histories of {date}", "look the id up as the source writes it")
    facts = Manifest.read(partition.manifest_path).recipe.get("facts", {})
    parts = run.resolve(flow.PROMPTS, settings, home, date)
    inputs = Inputs(flow.PROMPTS, date, run.cutoff_of(date), run.cutoff_of(date), home, run.id_types(settings), parts, facts)
    night = prompts.night_of(inputs, settings, only=subject_id)
    splits = {split.view: split for split in load_splits(settings)}
    lines = [f"{side} {subject_id} on {date}: what is known before {inputs.cutoff_at:%Y-%m-%d %H:%M} UTC"]
    for planned in rows_of(partition, "plan", subject_id, side):
        lines += ["", *_view(planned, row, night, splits.get(planned["view"]), partition, inputs)]
    return "\n".join(lines)


def _view(planned: dict[str, Any], row: pa.Table, night: Night, split: Split | None, partition: Partition, inputs: Inputs) -> list[str]:
    if split is None:
        return [f"{planned['view']}: imported, so it is not asked"]
    template = split.templates[int(split.of(row.column("subject_id"))[0])]
    shas = user_shas(row, template, night) if template.side == "user" else row.column("evidence_sha")
    found, last = standing(row, shas, template, night), night.world.last.get(template.view)
    told = [
        ("last", _last(last, found)),
        ("tonight", _tonight(row, template, night)),
        *(_compared(found, template, night) if found.last_row[0] >= 0 else []),
        ("reasons", _reasons(found)),
        *_worth(planned, row, found, template),
        ("decision", _decision(planned, row, template, partition, inputs)),
    ]
    because = f", because {planned['reason']}" if planned["reason"] else ""
    return [f"{planned['view']}: {planned['decision'].replace('_', ' ')}{because}", *(f"  {name:<11}{text}" for name, text in told)]


def _last(last: Last | None, found: Standing) -> str:
    """The last knowledge: when, by whom, from what."""
    place = int(found.last_row[0])
    if last is None or place < 0:
        return "no knowledge of an earlier night"
    known = last.table.slice(place, 1).to_pylist()[0]
    items, newest = last.evidence(place)
    seen = f"{len(items)} events up to {newest:%Y-%m-%d %H:%M}" if newest else "no events, only its own text"
    model = " ".join(filter(None, (known["model"], known["model_revision"])))
    return f"asked {known['asked_at']:%Y-%m-%d %H:%M} of {model or 'an unnamed model'} by {known['template_version'] or 'an import'}; saw {seen}"


def _tonight(row: pa.Table, template: Template, night: Night) -> str:
    model = " ".join(filter(None, (night.settings.llm.model, night.model.revision)))
    if template.side == "item":
        return f"{row.column('event_count')[0].as_py():,} events before the cutoff; {model} by {template.version}"
    shown, newest = len(row.column("item_ids")[0].as_py()), row.column("newest_event_at")[0].as_py()
    counted = f"{shown} newest of {row.column('position')[0].as_py():,} events, up to {newest:%Y-%m-%d %H:%M}"
    return f"{counted}; {model} by {template.version}"


def _compared(found: Standing, template: Template, night: Night) -> list[tuple[str, str]]:
    """What changed since, beside the measure from which it counts."""
    settings = night.settings.prompts
    if template.side == "user":
        lines = [("new events", f"{found.new_events[0]} since then; due from {settings.min_new_events}")]
        if night.mixtures is not None:
            moved = 0.0 if np.isnan(found.drift[0]) else found.drift[0]
            lines.append(("drift", f"{moved:.3f} in {settings.drift_attribute}; due from {settings.max_drift:g}"))
    else:
        lines = [("text", "changed since then" if found.is_changed[0] else "unchanged")]
    return [*lines, ("age", f"{found.age_days[0]:.1f} days at the cutoff; due after {settings.max_age_days}")]


def _reasons(found: Standing) -> str:
    held = [f"{reason} ({_MEANS[reason]})" for reason in REASONS if found.holds[reason][0]]
    if not held:
        return "none holds: it is fresh"
    return f"{held[0]}" + (f"; also {', '.join(held[1:])}, but the first decides" if held[1:] else "")


def _worth(planned: dict[str, Any], row: pa.Table, found: Standing, template: Template) -> list[tuple[str, str]]:
    """How its value came about."""
    if planned["prompt_tokens"] == 0:
        return []
    traffic = row.column("position" if template.side == "user" else "event_count")[0].as_py()
    tokens = f"({planned['prompt_tokens']:,} prompt + {planned['answer_tokens']:,} answer tokens)"
    return [("value", f"{planned['value']:.6g} = (1 + {traffic:,} events) × staleness {found.staleness[0]:.3g} / {tokens}")]


def _decision(planned: dict[str, Any], row: pa.Table, template: Template, partition: Partition, inputs: Inputs) -> str:
    decision, key = planned["decision"], planned["request_key"]
    if decision == "ask":
        count = Manifest.read(partition.manifest_path).figures["asked"]
        return f"asked as number {planned['rank'] + 1:,} of tonight's {count:,} requests (key {key[:16]})"
    if decision == "fresh":
        return "not asked: its knowledge stays"
    if decision == "over_budget":
        least = pq.read_table(partition.table("plan"), columns=["value"], filters=(pc.field("decision") == "ask"))
        worth = f"; the least valuable that is asked is worth {pc.min(least.column('value')).as_py():.6g}" if least.num_rows else ""
        return f"not asked tonight: others are worth more for their tokens{worth}; what is known stays and grows older"
    if decision == "refused":
        return (
            f"not asked: the answer to this very request (key {key[:16]}) was refused {_refusal(planned, inputs)}; it is asked again when "
            "evidence, template, model, the request's settings or the gate change, or by: kar deadletters replay"
        )
    if template.side == "item" and is_empty(row)[0]:
        return "not asked: it has neither title nor text"
    return "not asked: its prompt does not fit the model's context"


def _refusal(planned: dict[str, Any], inputs: Inputs) -> str:
    path = inputs.path("refused")
    matches = (pc.field("view") == planned["view"]) & (pc.field("subject_id") == planned["subject_id"])
    rows = [] if path is None else pq.read_table(path, columns=["reason", "detail"], filters=matches).to_pylist()
    return f"as {rows[0]['reason'].replace('_', ' ')} ({rows[0]['detail']})" if rows else "before"
