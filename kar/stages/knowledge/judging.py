"""Tonight's answers, read back from the ledger in the plan's order and judged one by one."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kar.llm.ask import Asked
from kar.llm.ledger import Answer, Ledger
from kar.settings import Settings
from kar.stages.knowledge.choosing import Accepted, choose, counting
from kar.stages.knowledge.keyed import Key
from kar.stages.knowledge.scoring import Judge, judge_of
from kar.stages.knowledge.spool import Spool
from kar.store import Inputs
from kar.tables import TABLES, IdTypes
from kar.text import structured
from kar.text.factors import load_factors
from kar.text.quality import Candidate, QualityGate, Refusal, load_domain_words
from kar.text.variants import load_splits

FACTORS = TABLES["factor_knowledge"].schema(IdTypes())  # no id column in this table
_SHOWN_CHARS = 2_000
_ROWS = 2_048
_REMEMBERED = 20_000
_PLANNED = ("template_version", "evidence_sha", "cutoff_at", "evidence_users", "evidence_items", "evidence_newest_at", "neighbour_items")


@dataclass
class Judged:
    """What the answers came to.

    Args:
        unanswered: view → requests without any answer: a budget or the deadline came first.
        examples: a few of them.
        duplicates: accepted at first, but like too many others.
        likelihood: figures of the optional judge; empty where it is off.
        scored: what its scores took.
    """

    unanswered: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)
    duplicates: dict[Key, Refusal] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    likelihood: dict[str, Any] = field(default_factory=dict)
    scored: Asked = field(default_factory=Asked)
    warnings: list[str] = field(default_factory=list)


def quality_gate(inputs: Inputs, settings: Settings, titles: Mapping[str, str]) -> QualityGate:
    """The gate for the asked views. A template may ask for more words than the settings do.

    Some of the last night's texts are remembered too: on a night with few questions a generic answer would else have
    no company to be known by.
    """
    folder, domain, least = Path(settings.prompts.folder), settings.scenario.domain, {}
    for split in load_splits(settings):
        least[split.view] = min(template.output.min_words for template in split.templates)
    gate = QualityGate(settings.knowledge, titles.values(), least, load_domain_words(folder, domain))
    for row in _remembered(inputs, list(least)):
        gate.remember(row, is_new=False)
    return gate


def _remembered(inputs: Inputs, views: list[str]) -> Iterator[Candidate]:
    """Texts of the last night, the first `_REMEMBERED` of each view; factors without their names, as tonight's are judged."""
    if inputs.path("factor_knowledge") is None:
        return
    left = dict.fromkeys(views, _REMEMBERED)
    for (view, subject), told in itertools.groupby(_told(inputs, left), key=lambda row: row[:2]):
        if left.get(view, 0) > 0:
            left[view] -= 1
            yield Candidate(view, subject, structured.spoken({factor: text for _, _, factor, text in told}))


def _told(inputs: Inputs, left: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """View, subject, factor and text of the last night, of views of which more is wanted at the time."""
    columns = ["view", "subject_id", "factor", "text"]
    for part in inputs.stream("factor_knowledge", columns):
        wanted = [view for view, count in left.items() if count > 0]
        if not wanted:
            return
        rows = part.filter(pc.is_in(part.column("view"), value_set=pa.array(wanted, pa.string())))
        yield from zip(*(rows.column(name).to_pylist() for name in columns), strict=True)


def titles_of(inputs: Inputs) -> dict[str, str]:
    """Item → its title, for those that have one."""
    profile = inputs.table("item_profile")
    pairs = zip(profile.column("subject_id").to_pylist(), profile.column("title").to_pylist(), strict=True)
    return {subject: title for subject, title in pairs if title}


def judge_asked(inputs: Inputs, settings: Settings, spool: Mapping[str, Spool], asked: Asked, revision: str) -> Judged:
    """Judge what the ledger holds for each planned request; it goes to the spools accepted, factors and refused, in key order.

    Args:
        asked: what the asking has spent of the night's budget; the optional judge has the rest.
        revision: of the model, in the request keys.
    """
    titles = titles_of(inputs)
    gate, judged = quality_gate(inputs, settings, titles), Judged()
    clocks = None if settings.llm.provider == "batch" else asked.clocks | {inputs.as_of}
    names = structured.factor_keys(load_factors(Path(settings.prompts.folder), settings.scenario.domain))
    with Ledger.open(inputs.home.ledger) as ledger, judge_of(inputs, settings, revision, asked, ledger) as judge:
        for rows in _asked_parts(inputs):
            good, bad = _judge_part(rows, ledger, gate, titles, clocks, settings, judged, names, judge)
            spool["accepted"].add(_accepted(rows, good, settings.llm.model))
            spool["factors"].add(_factor_rows(rows, good))
            spool["refused"].add(bad)
        if judge is not None:
            judged.scored, judged.likelihood, judged.warnings = judge.end(), judge.figures(), judge.warnings
        ledger.compact()  # after the last look: what is in Parquet is slower to find one by one
    judged.duplicates = gate.duplicates()
    judged.quality = gate.figures()
    return judged


def _asked_parts(inputs: Inputs) -> Iterator[pa.Table]:
    """The rows of the plan that are asked, many at once: looking into the ledger costs by the look."""
    held = []
    for part in inputs.stream("plan", ["view", "subject_id", "decision", "request_key", *_PLANNED], rows=_ROWS):
        held.append(part.filter(pc.equal(part.column("decision"), "ask")))
        if sum(rows.num_rows for rows in held) >= _ROWS:
            yield pa.concat_tables(held)
            held = []
    if any(rows.num_rows for rows in held):
        yield pa.concat_tables(held)


def _judge_part(
    rows: pa.Table,
    ledger: Ledger,
    gate: QualityGate,
    titles: Mapping[str, str],
    clocks: Set[dt.datetime] | None,
    settings: Settings,
    judged: Judged,
    names: Mapping[str, str],
    judge: Judge | None,
) -> tuple[dict[int, tuple[Accepted, Answer]], list[dict[str, Any]]]:
    """Judge the answers to these rows of the plan: place → what is accepted, and the refused rows."""
    columns = [rows.column(c).to_pylist() for c in ("view", "subject_id", "request_key", "evidence_items")]
    found = ledger.find(columns[2])
    good: dict[int, tuple[Accepted, Answer]] = {}
    bad: dict[int, dict[str, Any]] = {}
    for place, (view, subject, key, evidence) in enumerate(zip(*columns, strict=True)):
        answers = counting(found.get(key, []), clocks)
        if not answers:
            judged.unanswered[view] += 1
            if len(judged.examples) < 20:
                judged.examples.append({"view": view, "subject_id": subject})
            continue
        about = [subject] if view.startswith("item.") else evidence
        own = Candidate(view, subject, "", "", "", tuple(titles[item] for item in about if item in titles))
        kept, answer, refusal = choose(answers, own, gate, settings.knowledge, names)
        if refusal is None:
            good[place] = kept, answer
        else:
            bad[place] = refused_row(view, subject, refusal, answer.text, key)
    unlikely = judge.unlikely(good, columns[0]) if judge is not None else {}
    for place, (kept, _) in list(good.items()):
        assert kept.candidate is not None
        if (refusal := unlikely.get(place)) is None:
            gate.remember(kept.candidate)
        else:
            gate.refuse(kept.candidate, refusal.reason)
            del good[place]
            view, subject, key = (column[place] for column in columns[:3])
            bad[place] = refused_row(view, subject, refusal, kept.text, key)
    return good, [bad[place] for place in sorted(bad)]


def refused_row(view: str, subject_id: str, refusal: Refusal, answer: str, key: str) -> dict[str, Any]:
    """A row of table refused, `has_fallback` still to come."""
    return {
        "view": view,
        "subject_id": subject_id,
        "reason": refusal.reason,
        "detail": refusal.detail,
        "answer": answer[:_SHOWN_CHARS],
        "request_key": key,
    }


def _factor_rows(rows: pa.Table, good: Mapping[int, tuple[Accepted, Answer]]) -> pa.Table:
    """Rows of table factor_knowledge for the answers that have factors, sorted by key."""
    views, subjects = rows.column("view").to_pylist(), rows.column("subject_id").to_pylist()
    found = [(views[p], subjects[p], factor, text) for p, (kept, _) in good.items() for factor, text in sorted(kept.factors.items())]
    columns = [list(column) for column in zip(*found, strict=True)] if found else [[], [], [], []]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=FACTORS)


def _accepted(rows: pa.Table, good: Mapping[int, tuple[Accepted, Answer]], model: str) -> pa.Table:
    """Knowledge rows of tonight: what the plan knows of the subject, and what the answer brought."""
    taken = rows.take(pa.array(list(good), pa.int64()))
    answers = [answer for _, answer in good.values()]
    schema = TABLES["knowledge"].schema(IdTypes())  # no id column in this table
    columns: dict[str, Any] = {
        "text": [kept.text for kept, _ in good.values()],
        "origin": ["tonight"] * len(good),
        "model": [model] * len(good),
        "model_revision": [answer.revision for answer in answers],
        "request_key": [answer.key for answer in answers],
        "asked_at": [answer.asked_at for answer in answers],
        "prompt_tokens": [answer.prompt_tokens for answer in answers],
        "completion_tokens": [answer.completion_tokens for answer in answers],
    }
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else taken.column(f.name).cast(f.type) for f in schema]
    return pa.table(arrays, schema=schema)
