"""prompts: which subjects to ask tonight and why, and the exact request for each. Sends nothing.

reads   history, item_profile, user_attribute, knowledge (previous)
writes  plan, request
rejects empty_history     nothing is known of the user before the cutoff, so there is nothing to ask
rejects empty_item        an item without title or text before the cutoff
rejects over_budget       due, but beyond tonight's token budget; the age of the old knowledge grows
rejects prompt_too_long   the prompt does not fit the model's context even without history

Due subjects of all views are ranked by expected value per token,

    value = (1 + events before the cutoff) × staleness / (prompt tokens + most answer tokens)

(staleness: `kar.text.staleness`; the 1 keeps items that nobody has met yet from being worth nothing) and asked until a
budget, `llm.token_budget` or `llm.usd_budget`, is spent. Of a budget every view has an equal share for its most valuable
subjects; what a view leaves over goes to the most valuable of all. Without the shares one side starves: item prompts
are short and popular items have more events than any user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import SettingsError
from kar.llm.key import body_bytes, request_key
from kar.settings import Settings
from kar.store import Inputs, Output
from kar.tables import TABLES, IdTypes
from kar.text import asking
from kar.text.ranking import rank_views, usd_costs
from kar.text.templates import Template, template_paths
from kar.text.thinking import switch_off, template_files
from kar.text.tokens import token_counter
from kar.text.views import Model, ViewPlan, World, view_plan

_EXAMPLES = 20


@dataclass
class Plan:
    """Both tables of the stage, what was left out and why, and the figures."""

    table: pa.Table
    requests: pa.Table
    rejected: dict[str, tuple[int, list[dict[str, Any]]]]
    figures: dict[str, Any]


def files(settings: Settings, _inputs: Inputs) -> list[Path]:
    """The template and factors files of the views that are asked, and the served model's chat template where it is looked into."""
    asked = _asked_views(settings)
    paths = template_paths(Path(settings.prompts.folder), settings.scenario.domain, asked) if asked else []
    served = Path(settings.llm.tokenizer).expanduser() if settings.llm.tokenizer else None
    return paths + (template_files(served) if served is not None and settings.llm.thinking == "auto" else [])


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    templates = [asking.asked_template(settings, view) for view in _asked_views(settings)]
    world = World(
        inputs.table("history"),
        inputs.table("item_profile"),
        inputs.table("user_attribute"),
        inputs.maybe_table("knowledge"),
        inputs.cutoff_at,
    )
    made = plan(world, templates, _model(settings, inputs) if templates else None, settings, inputs.ids)
    out.write("plan", made.table)
    out.write("request", made.requests)
    for reason, (count, examples) in made.rejected.items():
        out.reject(reason, count, examples)
    out.record(**made.figures)


def _model(settings: Settings, inputs: Inputs) -> Model:
    from kar.llm import local

    folder = local.model_folder(inputs.home, settings.llm.model) if settings.llm.provider == "local" else None
    return Model(local.model_revision(settings.llm, inputs.home), token_counter(settings.llm, folder), switch_off(settings.llm, folder))


def _asked_views(settings: Settings) -> list[str]:
    """Configured views that are not imported. Raises SettingsError for a view of neither users nor items."""
    for view in [*settings.prompts.views, *settings.knowledge.imports]:
        if view.split(".")[0] not in ("user", "item"):
            raise SettingsError(f"view {view!r} is of neither side", "name views user.… or item.…, as their templates are")
    return [view for view in dict.fromkeys(settings.prompts.views) if view not in settings.knowledge.imports]


def plan(world: World, templates: Sequence[Template], model: Model | None, settings: Settings, ids: IdTypes) -> Plan:
    """Decide, rank, cut at the budget, write the requests that will be sent.

    Args:
        templates: of the views that are asked.
        model: None only if no view is asked.
    """
    views = [view_plan(world, template, model, settings) for template in templates if model is not None]
    rank, asked = rank_views(views, settings.llm)
    requests = [_requests(v, r, model, settings) for v, r in zip(views, rank, strict=True) if model is not None]
    parts = [_rows(v, r, a, q) for v, r, a, q in zip(views, rank, asked, requests, strict=True)]
    parts += [_other_rows(v.view, v.template, v.others) for v in views]
    parts += [_other_rows(view, None, {"imported": _subjects(world, view)}) for view in sorted(settings.knowledge.imports)]
    schema = pa.schema([(c.name, c.arrow(ids)) for c in TABLES["plan"].columns])
    rows = pa.concat_tables([part.select(schema.names).cast(schema) for part in parts]) if parts else schema.empty_table()
    at = pa.array([world.cutoff_at], schema.field("cutoff_at").type).take(pa.array(np.zeros(rows.num_rows, np.int64)))
    table = rows.set_column(schema.get_field_index("cutoff_at"), "cutoff_at", at)
    sent = pa.concat_tables(requests) if requests else TABLES["request"].schema(ids).empty_table()
    return Plan(table, sent, _rejected(views, asked, world), _figures(table, views, asked, model, settings))


def _subjects(world: World, view: str) -> list[tuple[str, str]]:
    """Every known subject of a view's side and its evidence digest."""
    table = world.history if view.startswith("user.") else world.item_profile
    return list(zip(table.column("subject_id").to_pylist(), table.column("evidence_sha").to_pylist(), strict=True))


def _requests(view: ViewPlan, rank: np.ndarray, model: Model, settings: Settings) -> pa.Table:
    """The requests of one view, written out; in the order of its subjects."""
    asked = np.flatnonzero(rank >= 0)
    bodies = [
        body_bytes(asking.request_body(view.template, view.prompts.write(s), settings.llm, model.thinking.body)) for s in asked.tolist()
    ]
    schema = TABLES["request"].schema(IdTypes())
    columns = {
        "place": rank[asked],
        "view": [view.view] * len(asked),
        "subject_id": [view.subjects[s] for s in asked],
        "request_key": [request_key(body, model.revision) for body in bodies],
        "revision": [model.revision] * len(asked),
        "family": [view.template.version] * len(asked),
        "body": pa.array(bodies, pa.binary()).cast(pa.string()),
        "prompt_tokens": view.prompts.prompt_tokens[asked],
        "answer_tokens": [view.template.output.max_tokens] * len(asked),
        "template_version": [view.template.version] * len(asked),
        "form": [view.template.form] * len(asked),
    }
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _rows(view: ViewPlan, rank: np.ndarray, asked: np.ndarray, requests: pa.Table) -> pa.Table:
    """The due rows of one view."""
    prompts, count = view.prompts, len(view.subjects)
    decision = np.where(asked, "ask", np.where(prompts.fits, "over_budget", "empty"))
    keys = np.full(count, "", object)
    keys[rank >= 0] = requests.column("request_key").to_pylist()
    columns = {
        **_constant(view.view, view.template, count),
        "subject_id": view.subjects,
        "decision": decision,
        "reason": [due.reason for due in view.due],
        "rank": rank,
        "value": view.value,
        "prompt_tokens": prompts.prompt_tokens,
        "answer_tokens": np.full(count, view.template.output.max_tokens),
        "history_shown": prompts.shown,
        "history_dropped": prompts.dropped,
        "request_key": keys,
        "evidence_sha": view.evidence_shas,
        "evidence_users": prompts.evidence_users,
        "evidence_items": prompts.evidence_items,
        "evidence_newest_at": prompts.evidence_newest_at,
    }
    return _table(columns)


def _other_rows(view: str, template: Template | None, others: dict[str, list[tuple[str, str]]]) -> pa.Table:
    """Rows that are not due: no reason, no request, no evidence of tonight's."""
    flat = [(decision, subject, sha) for decision, rows in others.items() for subject, sha in rows]
    zeros = np.zeros(len(flat), np.int64)
    return _table(
        {
            **_constant(view, template, len(flat)),
            "subject_id": [subject for _, subject, _ in flat],
            "decision": [decision for decision, _, _ in flat],
            "reason": [""] * len(flat),
            "rank": zeros - 1,
            "value": zeros.astype(np.float64),
            "prompt_tokens": zeros,
            "answer_tokens": zeros,
            "history_shown": zeros,
            "history_dropped": zeros,
            "request_key": [""] * len(flat),
            "evidence_sha": [sha for _, _, sha in flat],
            "evidence_users": [[]] * len(flat),
            "evidence_items": [[]] * len(flat),
            "evidence_newest_at": [None] * len(flat),
        }
    )


def _constant(view: str, template: Template | None, count: int) -> dict[str, Any]:
    return {
        "view": [view] * count,
        "template_id": [template.id if template else ""] * count,
        "template_version": [template.version if template else ""] * count,
        "form": [template.form if template else "prose"] * count,
        "cutoff_at": [None] * count,
    }


def _table(columns: dict[str, Any]) -> pa.Table:
    types = {c.name: c.arrow(IdTypes()) for c in TABLES["plan"].columns}
    made = {name: v if isinstance(v, pa.Array | pa.ChunkedArray) else pa.array(v, types[name]) for name, v in columns.items()}
    return pa.table({name: column.cast(types[name]) for name, column in made.items()})


def _rejected(views: list[ViewPlan], asked: list[np.ndarray], world: World) -> dict[str, tuple[int, list[dict[str, Any]]]]:
    found: dict[str, list[dict[str, Any]]] = {"empty_item": [], "prompt_too_long": [], "over_budget": []}
    for view, asks in zip(views, asked, strict=True):
        found["empty_item"] += [{"view": view.view, "subject_id": s} for s, _ in view.others.get("empty", [])]
        for reason, places in (
            ("prompt_too_long", ~view.prompts.fits),
            ("over_budget", view.prompts.fits & ~asks),
        ):
            found[reason] += [
                {"view": view.view, "subject_id": view.subjects[s], "tokens": int(view.tokens[s])} for s in np.flatnonzero(places)
            ]
    no_history = pc.sum(pc.equal(pc.list_value_length(world.history.column("item_ids")), 0)).as_py() or 0
    return {"empty_history": (no_history, []), **{reason: (len(rows), rows[:_EXAMPLES]) for reason, rows in found.items()}}


def _figures(table: pa.Table, views: list[ViewPlan], asked: list[np.ndarray], model: Model | None, settings: Settings) -> dict[str, Any]:
    """What `kar plan` and the report say."""
    pairs = Counter(zip(*(table.column(c).to_pylist() for c in ("view", "decision", "reason")), strict=True))
    decisions: dict[str, dict[str, int]] = {}
    reasons: dict[str, dict[str, int]] = {}
    for (view, decision, reason), count in sorted(pairs.items()):
        decisions.setdefault(view, {})[decision] = decisions.get(view, {}).get(decision, 0) + count
        if decision == "ask":
            reasons.setdefault(view, {})[reason] = count
    prompt_tokens = sum(int(v.prompts.prompt_tokens[a].sum()) for v, a in zip(views, asked, strict=True))
    answer_tokens = sum(int(a.sum()) * v.template.output.max_tokens for v, a in zip(views, asked, strict=True))
    return {
        "asked": sum(int(a.sum()) for a in asked),
        "decisions": decisions,
        "reasons": reasons,
        "planned_prompt_tokens": prompt_tokens,
        "planned_answer_tokens": answer_tokens,
        "planned_usd": round(sum(float(usd_costs(v, settings.llm)[a].sum()) for v, a in zip(views, asked, strict=True)), 6),
        "wanted_tokens": sum(int(v.tokens[v.prompts.fits].sum()) for v in views),
        "budget_tokens": settings.llm.token_budget,
        "history_shown": sum(int(v.prompts.shown[a].sum()) for v, a in zip(views, asked, strict=True)),
        "history_dropped": sum(int(v.prompts.dropped[a].sum()) for v, a in zip(views, asked, strict=True)),
        "token_counts": model.counter.nature if model else "nothing is asked",
        "model_revision": model.revision if model else "",
        "forms": {v.view: {"wanted": asking.wanted_form(settings, v.template), "got": v.template.form} for v in views},
        "structured_by": settings.llm.structured_by,
        "thinking": model.thinking.said if model else "nothing is asked",
    }
