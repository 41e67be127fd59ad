"""One subject's answers: what each says, in prose or factor by factor, and which of them becomes knowledge."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Set
from dataclasses import dataclass

from kar.llm.ledger import Answer
from kar.settings import KnowledgeSettings
from kar.stages.knowledge.asking import prompt_text
from kar.text import structured
from kar.text.quality import Candidate, QualityGate, Refusal, clean, tidy


@dataclass(frozen=True)
class Accepted:
    """What becomes knowledge of one answer.

    Args:
        text: the whole of it.
        factors: its factors' own, where it has them.
        candidate: as the gate saw it, to be remembered; None: nothing was accepted.
    """

    text: str
    factors: dict[str, str]
    candidate: Candidate | None = None


@dataclass(frozen=True)
class Heard:
    """What one answer says.

    Args:
        judged: its own words, for the gate.
        text: as it would be stored.
        factors: key → text; empty: it is prose.
        fault: why it cannot even be judged.
    """

    judged: str
    text: str
    factors: dict[str, str]
    finish_reason: str
    fault: Refusal | None = None


def counting(answers: list[Answer], clocks: Set[dt.datetime] | None) -> list[Answer]:
    """The rows of one request that count, newest first: good answers of any night, failures of this one.

    Args:
        clocks: of the runs that asked tonight; None: failures of any time, because a batch comes back before the run.
    """
    rows = [a for a in answers if a.status == "ok" or clocks is None or a.asked_at in clocks]
    return sorted(rows, key=lambda a: (a.status == "ok", a.retry_of != "", a.ended_at), reverse=True)


def choose(
    answers: list[Answer], own: Candidate, gate: QualityGate, settings: KnowledgeSettings, names: Mapping[str, str]
) -> tuple[Accepted, Answer, Refusal | None]:
    """The text to accept among one subject's answers, newest first, or why none is.

    Args:
        own: who it is about; the text and the prompt are the answers'.
        names: factor key → name, as it is written before a factor's text.

    Returns:
        What is accepted, its answer, None; or nothing, the newest answer, and why it was refused. Of cut prose the whole
        sentences may do (`accept_truncated_sentences`).
    """
    refusals, said = [], [heard(answer, names) for answer in answers]
    for answer, words in zip(answers, said, strict=True):
        candidate = of_answer(own, answer, words.judged, words.finish_reason)
        refusal = Refusal(answer.status, answer.detail) if answer.status != "ok" else words.fault or gate.look(candidate)
        if refusal is None:
            gate.count(own.view, None)
            return Accepted(clean(words.text, settings.max_words), words.factors, candidate), answer, None
        refusals.append(refusal)
    for answer, words, refusal in zip(answers, said, refusals, strict=True):
        if settings.accept_truncated_sentences and refusal.reason == "truncated" and words.fault is None:
            text = tidy(answer.text, settings.max_words)
            candidate = of_answer(own, answer, text, "stop")
            if gate.look(candidate) is None:
                gate.count(own.view, None)
                return Accepted(text, {}, candidate), answer, None
    gate.count(own.view, refusals[0])
    return Accepted("", {}), answers[0], refusals[0]


def heard(answer: Answer, names: Mapping[str, str]) -> Heard:
    """An answer's words: read factor by factor if it was asked for factors and gave them, prose otherwise."""
    schema = structured.asked_schema(answer.body)
    read = structured.read_answer(answer.text, schema.keys) if schema is not None else structured.Read("prose")
    if schema is None or read.kind == "prose":  # the server ignored the schema: prose then, as from a server that knows none
        return Heard(answer.text, answer.text, {}, answer.finish_reason)
    if read.kind == "broken":
        if answer.finish_reason == "length":
            return Heard("", "", {}, "length", Refusal("truncated", f"cut at the token limit inside the JSON: …{answer.text[-60:]!r}"))
        return Heard("", "", {}, "stop", Refusal("broken_json", f"begins {answer.text[:60]!r}"))
    factors = structured.whole_words(read.factors, schema.chars)
    labelled = {key: structured.shown(key, names) for key in schema.keys}
    return Heard(structured.spoken(factors), structured.as_text(factors, labelled), factors, "stop")


def of_answer(own: Candidate, answer: Answer, text: str, finish_reason: str) -> Candidate:
    """What the gate sees of an answer."""
    return Candidate(own.view, own.subject_id, text, finish_reason, prompt_text(answer.body), own.titles)
