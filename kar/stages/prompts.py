"""prompts: which subjects to ask tonight and why, and the exact request for each. Sends nothing.

reads   history, item_profile, item_neighbour, user_attribute, item_attribute, knowledge (previous), refused (previous)
writes  plan, request
rejects empty_history     nothing is known of the user before the cutoff, so there is nothing to ask
rejects empty_item        an item without title or text before the cutoff, or without neighbours for a template that shows them
rejects over_budget       due, but beyond tonight's token budget; the age of the old knowledge grows
rejects prompt_too_long   the prompt does not fit the model's context even without history
rejects refused_before    due, but the answer to this very request was refused, and the ledger would give the same again

Due subjects of all views are ranked by expected value per token,

    value = (1 + events before the cutoff) × staleness / (prompt tokens + most answer tokens)

(staleness: `kar.text.staleness`; the 1 keeps items that nobody has met yet from being worth nothing) and asked until a
budget, `llm.token_budget` or `llm.usd_budget`, is spent. Of a budget every view has an equal share for its most valuable
subjects; what a view leaves over goes to the most valuable of all. Without the shares one side starves: item prompts
are short and popular items have more events than any user.

Tables are read and written in parts, twice: once to decide and size, once, when the ranks are known, to write. Between the
two stand some numbers a subject, never its history or its text. Where few are due, these are sized once and kept.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import flow
from kar.llm import local
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger.reading import Reading
from kar.llm.served import served_model
from kar.settings import Settings
from kar.store import Inputs, Manifest, Output, json_sha
from kar.tables import grown
from kar.text import asking, planning
from kar.text.factors import Message
from kar.text.planning import Plan
from kar.text.staleness import COLUMNS, Last
from kar.text.templates import Template, template_paths
from kar.text.thinking import switch_off, template_files
from kar.text.tokens import token_counter
from kar.text.variants import Split, asked_views, load_splits
from kar.text.views import Model, Night, World

PART_ROWS = 2_048
_LOOKED_UP = 1_000
ASKED_AGAIN = frozenset({"bad_request", "exhausted", "over_budget"})
"""Reasons for a refused row that say nothing of an answer: such requests are asked again."""


def files(settings: Settings, _inputs: Inputs) -> list[Path]:
    """The template and factors files of the views that are asked, and the served model's chat template where it is looked into."""
    names = [template.path.stem for split in load_splits(settings) for template in split.templates]
    paths = template_paths(Path(settings.prompts.folder), settings.scenario.domain, names) if names else []
    is_read = bool(names) and settings.llm.thinking == "auto" and settings.llm.tokenizer
    return paths + (template_files(Path(settings.llm.tokenizer).expanduser()) if is_read else [])


def facts(settings: Settings, inputs: Inputs) -> dict[str, object]:
    """Which model is served; whether last night's answers were judged as tonight's would be; what was replayed since."""
    if not asked_views(settings):
        return {}
    served = served_model(settings.llm, inputs.home)
    return {
        "model_revision": served.revision,
        "server_version": served.server_version,
        "judged_alike": _judged_alike(settings, inputs),
        "replayed_sha": replayed_sha(inputs),
    }


def replayed_sha(inputs: Inputs) -> str:
    """Digest over the requests whose refused answers were asked again since last night."""
    return json_sha(sorted(_replayed(inputs, _refused_rows(inputs))))


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    splits = load_splits(settings)
    with plan(night_of(inputs, settings), splits, out.folder) as made:
        out.write_stream("plan", made.rows)
        out.write_stream("request", made.requests)
    for reason, (count, examples) in made.rejected.items():
        out.reject(reason, count, examples)
    out.record(**made.figures, server_version=inputs.facts.get("server_version", ""))


@contextlib.contextmanager
def plan(night: Night, splits: list[Split], folder: Path, kept_due: int = planning.KEPT_DUE) -> Iterator[Plan]:
    """Decide, rank, cut at the budget, write the requests that will be sent.

    Args:
        folder: for rows that wait to be put in order.
        kept_due: as of `planning.planned`.
    """

    def body_of(template: Template, messages: list[Message]) -> bytes:
        return body_bytes(asking.request_body(template, messages, night.settings.llm, night.model.thinking.body))

    with planning.planned(night, splits, body_of, lambda body: request_key(body, night.model.revision), folder, kept_due) as made:
        made.figures.update(_how_asked(night, splits))
        yield made


def _how_asked(night: Night, splits: list[Split]) -> dict[str, Any]:
    """The form that each view's templates want and get, what holds the server to it, and what is done about reasoning."""
    forms = {}
    for split in splits:
        wanted = sorted({asking.wanted_form(night.settings, template) for template in split.templates})
        forms[split.view] = {"wanted": " · ".join(wanted), "got": " · ".join(sorted({template.form for template in split.templates}))}
    return {"forms": forms, "structured_by": night.settings.llm.structured_by, "thinking": night.model.thinking.said}


def night_of(inputs: Inputs, settings: Settings, only: str | None = None) -> Night:
    """Tonight's tables and model, and what last night left.

    Args:
        only: a subject whose past is enough (`kar plan --why` looks at one); None: everybody's.
    """
    views = asked_views(settings)
    world = World(
        history=lambda columns: inputs.stream("history", columns, PART_ROWS),
        item_profile=lambda columns: inputs.stream("item_profile", columns, PART_ROWS),
        user_attribute=lambda: inputs.table("user_attribute"),
        item_attribute=lambda: inputs.table("item_attribute"),
        last=_last(inputs, views, only),
        refused=_refused(inputs) if inputs.facts.get("judged_alike") else {},
        cutoff_at=inputs.cutoff_at,
        item_neighbour=lambda: inputs.table("item_neighbour"),
    )
    return Night(world, _model(settings, inputs), settings)


def _model(settings: Settings, inputs: Inputs) -> Model:
    """The served model; nothing of it is looked up if no view is asked."""
    is_local = settings.llm.provider == "local" and bool(asked_views(settings))
    folder = local.model_folder(inputs.home, settings.llm.model) if is_local else None
    return Model(str(inputs.facts.get("model_revision", "")), token_counter(settings.llm, folder), switch_off(settings.llm, folder))


def _last(inputs: Inputs, views: list[str], only: str | None) -> dict[str, Last]:
    path = inputs.path("knowledge")
    if path is None:
        return {}
    is_wanted = pc.scalar(True) if only is None else pc.field("subject_id") == only
    held = [name for name in COLUMNS if name in pq.read_schema(path).names]
    tables = {view: pq.read_table(path, columns=held, filters=(pc.field("view") == view) & is_wanted) for view in views}
    return {view: Last(grown("knowledge", table, COLUMNS)) for view, table in tables.items() if table.num_rows}


def _refused(inputs: Inputs) -> dict[str, dict[str, frozenset[str]]]:
    """View → subject → keys of its requests whose answers were refused for what they say, and not asked again since."""
    rows = _refused_rows(inputs)
    replayed = _replayed(inputs, rows)
    found: dict[str, dict[str, frozenset[str]]] = {}
    for view, subject, key in zip(*(rows.column(c).to_pylist() for c in rows.column_names), strict=True):
        if key not in replayed:
            own = found.setdefault(view, {})
            own[subject] = own.get(subject, frozenset()) | {key}
    return found


def _refused_rows(inputs: Inputs) -> pa.Table:
    """Last night's refusals for what an answer says: view, subject_id, request_key."""
    path, names = inputs.path("refused"), ["view", "subject_id", "request_key"]
    if path is None:
        return pa.table({name: pa.array([], pa.string()) for name in names})
    return pq.read_table(path, columns=names, filters=~pc.field("reason").isin(pa.array(sorted(ASKED_AGAIN))))


def _replayed(inputs: Inputs, refused: pa.Table) -> set[str]:
    """Of the refused requests those that have a newer answer than last night judged (`kar deadletters replay`)."""
    folder = inputs.folder("knowledge")
    keys = refused.column("request_key").to_pylist()
    if folder is None or not keys:
        return set()
    judged_at = dt.datetime.fromisoformat(Manifest.read(folder / "manifest.json").made_at)
    found: set[str] = set()
    with Reading(inputs.home.ledger) as ledger:
        for start in range(0, len(keys), _LOOKED_UP):
            answers = ledger.every(keys[start : start + _LOOKED_UP])
            found |= {key for key, own in answers.items() if any(a.status == "ok" and a.asked_at > judged_at for a in own)}
    return found


def _judged_alike(settings: Settings, inputs: Inputs) -> bool:
    """Whether last night's gate was tonight's. If it was not, what it refused is judged again, from the ledger."""
    folder = inputs.folder("knowledge")
    if folder is None:
        return True
    made = Manifest.read(folder / "manifest.json").recipe
    then = made.get("version"), _gate(made.get("settings", {}).get("knowledge", {}))
    return then == (flow.KNOWLEDGE.version, _gate(settings.knowledge.recipe()))


def _gate(settings: dict[str, Any]) -> str:
    return json_sha({name: value for name, value in settings.items() if not name.startswith("imports")})
