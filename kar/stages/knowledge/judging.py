"""Tonight's answers, read back from the ledger in the plan's order and judged one by one."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kar.llm.ledger import Answer, Ledger
from kar.settings import KnowledgeSettings, Settings
from kar.stages.knowledge.asking import prompt_text
from kar.stages.knowledge.keyed import Key
from kar.stages.knowledge.spool import Spool
from kar.store import Inputs
from kar.tables import TABLES, IdTypes
from kar.text.quality import Candidate, QualityGate, Refusal, clean, load_domain_words, tidy
from kar.text.templates import load_template

_SHOWN_CHARS = 2_000
_ROWS = 2_048
_REMEMBERED = 20_000
_PLANNED = ("template_version", "evidence_sha", "cutoff_at", "evidence_users", "evidence_items", "evidence_newest_at")


@dataclass
class Judged:
    """What the answers came to.

    Args:
        unanswered: view → requests without any answer: a budget or the deadline came first.
        examples: a few of them.
        duplicates: accepted at first, but like too many others.
    """

    unanswered: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)
    duplicates: dict[Key, Refusal] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)


def quality_gate(inputs: Inputs, settings: Settings, titles: Mapping[str, str]) -> QualityGate:
    """The gate for the asked views. A template may ask for more words than the settings do.

    Some of the last night's texts are remembered too: on a night with few questions a generic answer would else have
    no company to be known by.
    """
    folder, domain, least = Path(settings.prompts.folder), settings.scenario.domain, {}
    for view in settings.prompts.views:
        if view not in settings.knowledge.imports:
            least[view] = load_template(folder, domain, view).output.min_words
    gate = QualityGate(settings.knowledge, titles.values(), least, load_domain_words(folder, domain))
    for row in _remembered(inputs, list(least)):
        gate.remember(row, is_new=False)
    return gate


def _remembered(inputs: Inputs, views: list[str]) -> Iterator[Candidate]:
    """Texts of the last night, the first `_REMEMBERED` of each view."""
    if inputs.path("knowledge") is None:
        return
    left = dict.fromkeys(views, _REMEMBERED)
    for part in inputs.stream("knowledge", ["view", "subject_id", "text", "origin"]):
        rows = part.filter(pc.not_equal(part.column("origin"), "import")) if any(left.values()) else part.slice(0, 0)
        for view, subject, text in zip(*(rows.column(c).to_pylist() for c in ("view", "subject_id", "text")), strict=True):
            if left.get(view, 0) > 0:
                left[view] -= 1
                yield Candidate(view, subject, text)


def titles_of(inputs: Inputs) -> dict[str, str]:
    """Item → its title, for those that have one."""
    profile = inputs.table("item_profile")
    pairs = zip(profile.column("subject_id").to_pylist(), profile.column("title").to_pylist(), strict=True)
    return {subject: title for subject, title in pairs if title}


def judge_asked(inputs: Inputs, settings: Settings, accepted: Spool, refused: Spool) -> Judged:
    """Judge what the ledger holds for each planned request; good and bad go to their spools, in key order."""
    titles = titles_of(inputs)
    gate, judged = quality_gate(inputs, settings, titles), Judged()
    with Ledger.open(inputs.home.ledger) as ledger:
        for part in inputs.stream("plan", ["view", "subject_id", "decision", "request_key", *_PLANNED], rows=_ROWS):
            rows = part.filter(pc.equal(part.column("decision"), "ask"))
            if rows.num_rows:
                _judge_part(rows, ledger, gate, titles, inputs.as_of, settings, judged, accepted, refused)
    judged.duplicates = gate.duplicates()
    judged.quality = gate.figures()
    return judged


def _judge_part(
    rows: pa.Table,
    ledger: Ledger,
    gate: QualityGate,
    titles: Mapping[str, str],
    as_of: dt.datetime,
    settings: Settings,
    judged: Judged,
    accepted: Spool,
    refused: Spool,
) -> None:
    columns = [rows.column(c).to_pylist() for c in ("view", "subject_id", "request_key", "evidence_items")]
    found = ledger.find(columns[2])
    good: dict[int, tuple[str, Answer]] = {}
    bad: list[dict[str, Any]] = []
    for place, (view, subject, key, evidence) in enumerate(zip(*columns, strict=True)):
        answers = counting(found.get(key, []), as_of)
        if not answers:
            judged.unanswered[view] += 1
            if len(judged.examples) < 20:
                judged.examples.append({"view": view, "subject_id": subject})
            continue
        about = [subject] if view.startswith("item.") else evidence
        own = Candidate(view, subject, "", "", "", tuple(titles[item] for item in about if item in titles))
        text, answer, refusal = choose(answers, own, gate, settings.knowledge)
        if refusal is None:
            good[place] = text, answer
        else:
            bad.append(refused_row(view, subject, refusal, answer.text, answer.key))
    accepted.add(_accepted(rows, good, settings.llm.model))
    refused.add(bad)


def counting(answers: list[Answer], as_of: dt.datetime) -> list[Answer]:
    """The rows of one request that count, newest first: good answers of any night, failures of this run."""
    rows = [a for a in answers if a.status == "ok" or a.asked_at == as_of]
    return sorted(rows, key=lambda a: (a.status == "ok", a.retry_of != "", a.ended_at), reverse=True)


def choose(answers: list[Answer], own: Candidate, gate: QualityGate, settings: KnowledgeSettings) -> tuple[str, Answer, Refusal | None]:
    """The text to accept among one subject's answers, newest first, or why none is.

    Args:
        own: who it is about; the text and the prompt are the answers'.

    Returns:
        (text, its answer, None), or ("", newest answer, why it was refused). Of cut answers the whole sentences may
        do (`accept_truncated_sentences`).
    """
    refusals = []
    for answer in answers:
        candidate = of_answer(own, answer, answer.text, answer.finish_reason)
        refusal = Refusal(answer.status, answer.detail) if answer.status != "ok" else gate.judge(candidate)
        if refusal is None:
            gate.remember(candidate)
            return clean(answer.text, settings.max_words), answer, None
        refusals.append(refusal)
    for answer, refusal in zip(answers, refusals, strict=True):
        if settings.accept_truncated_sentences and refusal.reason == "truncated":
            text = tidy(answer.text, settings.max_words)
            candidate = of_answer(own, answer, text, "stop")
            if gate.judge(candidate) is None:
                gate.remember(candidate)
                return text, answer, None
    return "", answers[0], refusals[0]


def of_answer(own: Candidate, answer: Answer, text: str, finish_reason: str) -> Candidate:
    """What the gate sees of an answer."""
    return Candidate(own.view, own.subject_id, text, finish_reason, prompt_text(answer.body), own.titles)


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


def _accepted(rows: pa.Table, good: dict[int, tuple[str, Answer]], model: str) -> pa.Table:
    """Knowledge rows of tonight: what the plan knows of the subject, and what the answer brought."""
    taken = rows.take(pa.array(list(good), pa.int64()))
    answers = [answer for _, answer in good.values()]
    schema = TABLES["knowledge"].schema(IdTypes())  # no id column in this table
    columns: dict[str, Any] = {
        "text": [text for text, _ in good.values()],
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
