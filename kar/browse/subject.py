"""What one night knows of one user or item: what they did, what was asked, what was answered, and what came of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from kar import flow
from kar.browse.tables import Tables
from kar.errors import LedgerError
from kar.llm.ledger import Answer, look_up
from kar.page.reading import Message, messages, stars
from kar.release.layout import Side
from kar.settings import Settings
from kar.store import Home, Partition

_INT64 = 1 << 63
_MEANINGS = {**flow.PROMPTS.rejects, **flow.KNOWLEDGE.rejects}
_NO_ANSWER = {"over_budget", "exhausted", "bad_request", "awaits_batch"}  # reasons of what was never judged
_DUE = {
    "new": "it had never been asked",
    "evidence": "enough new events had come since",
    "drift": "the mixture of its history had moved",
    "template": "the template had changed",
    "model": "the model had changed",
    "age": "its knowledge had grown too old",
}
_ORIGINS = {
    "tonight": "Accepted. It was asked and answered on this night.",
    "last_good": "Accepted on an earlier night, and still the last good text.",
    "import": "Accepted. It was imported.",
}
_KNOWN = ["view", "text", "origin", "model", "model_revision", "template_version", "request_key", "asked_at", "cutoff_at"]
_COUNTS = ["prompt_tokens", "completion_tokens", "len(evidence_items) AS evidence_count", "evidence_newest_at"]
_PLANNED = ["view", "decision", "reason", "rank", "history_shown", "history_dropped", "request_key", "template_version"]


@dataclass(frozen=True)
class Event:
    """One event of a history. `stars` is empty where the source has no rating."""

    at: dt.datetime
    item_id: str
    title: str
    stars: str


@dataclass(frozen=True)
class Refusal:
    """One answer that was not accepted, or that never came."""

    reason: str
    meaning: str
    detail: str
    answer: str
    has_fallback: bool

    @property
    def was_judged(self) -> bool:
        return self.reason not in _NO_ANSWER


@dataclass(frozen=True)
class ViewOf:
    """What one view says of the subject on this night.

    Args:
        state: accepted · refused · none: what a mark shows beside the name.
        verdict: one sentence.
        planned: one sentence on tonight's plan; empty without one.
        known: the knowledge row; None: no text.
        factors: (factor, text), where the text has factors.
        messages: the prompt that made the text (or the refused answer); empty if nobody has it.
        answer: as it came, where it is not the text itself.
    """

    view: str
    state: str
    verdict: str
    planned: str
    known: dict[str, Any] | None
    factors: list[tuple[str, str]]
    refusals: list[Refusal]
    messages: list[Message]
    answer: str


@dataclass(frozen=True)
class Subject:
    """One user or item on one night.

    Args:
        id: as the source writes it, in its own type; `subject_id` is the same as text.
        title: of an item; empty: none.
        line: one line about what there is.
        problems: sentences about what could not be read.
    """

    side: Side
    id: Any
    subject_id: str
    title: str
    line: str
    attributes: list[tuple[str, str]]
    profile: str
    events: list[Event]
    views: list[ViewOf]
    problems: list[str]


def in_source_type(settings: Settings, side: Side, text: str) -> Any:
    """The id as the source's tables hold it; None if it cannot be one of theirs."""
    if (settings.scenario.user_id if side == "user" else settings.scenario.item_id) == "string":
        return text
    try:
        number = int(text) if text.isascii() and text == text.strip() else None
    except ValueError:
        return None
    return number if number is not None and str(number) == text and -_INT64 <= number < _INT64 else None


def read(settings: Settings, tables: Tables, side: Side, text: str, date: dt.date) -> Subject | None:
    """The subject on that night; None if neither the sources nor the histories of the night know the id.

    Args:
        text: the id, as text.

    Raises:
        TableError: a table is damaged.
    """
    home, subject = tables.home, in_source_type(settings, side, text)
    if subject is None:
        return None
    value = {"subject": subject}
    named = tables.ask(home.partition("sources", date), side, ["*"], f"{side}_id = $subject", value)
    table = "history" if side == "user" else "item_profile"
    told = tables.ask(home.partition("histories", date), table, ["*"], f"{side}_id = $subject", value)
    if not named and not told:
        return None
    attributes = tables.ask(
        home.partition("sources", date), f"{side}_attribute", ["name", "value"], f"{side}_id = $subject ORDER BY name, value", value
    )
    row = told[0] if told else {}
    views, problems = _views(tables, side, text, date)
    return Subject(
        side=side,
        id=subject,
        subject_id=text,
        title=((named[0]["title"] if named else row.get("title")) or "") if side == "item" else "",
        line=_line(side, row),
        attributes=[(a["name"], a["value"]) for a in attributes],
        profile=row.get("text") or "",
        events=_events(row, settings) if side == "user" and row else [],
        views=views,
        problems=problems,
    )


def _line(side: Side, row: dict[str, Any]) -> str:
    if not row:
        return "No events before the cutoff of this night."
    if side == "user":
        return (
            f"The {len(row['item_ids'])} newest of {row['position']:,} events before {row['cutoff_at']:%Y-%m-%d %H:%M} UTC, newest first."
        )
    mean = "" if row["rating_mean"] is None else f", rated {row['rating_mean']:.2f} on average"
    return f"{row['event_count']:,} events before {row['cutoff_at']:%Y-%m-%d %H:%M} UTC{mean}."


def _events(row: dict[str, Any], settings: Settings) -> list[Event]:
    highest = settings.sources.rating_range
    rows = zip(row["event_ats"], row["item_ids"], row["titles"], row["ratings"], strict=True)
    return [Event(at, str(item), title, stars(rating, highest)) for at, item, title, rating in rows][::-1]


def _views(tables: Tables, side: Side, text: str, date: dt.date) -> tuple[list[ViewOf], list[str]]:
    """Every view that the night planned, knows, or refused of the subject; and what could not be read."""
    prompts, knowledge = tables.home.partition("prompts", date), tables.home.partition("knowledge", date)
    plan = {row["view"]: row for row in tables.of_subject(prompts, "plan", side, text, _PLANNED)}
    known = {row["view"]: row for row in tables.of_subject(knowledge, "knowledge", side, text, [*_KNOWN, *_COUNTS])}
    factors = tables.of_subject(knowledge, "factor_knowledge", side, text, ["view", "factor", "text"])
    refused = tables.of_subject(knowledge, "refused", side, text, ["view", "reason", "detail", "answer", "request_key", "has_fallback"])
    views = sorted({*plan, *known, *(row["view"] for row in refused)})
    keys = [row["request_key"] for row in [*known.values(), *refused, *plan.values()] if row["request_key"]]
    answers, problems = _answers(tables.home, keys)
    made = []
    for view in views:
        its_refused = [row for row in refused if row["view"] == view]
        its_factors = [(f["factor"].replace("_", " "), f["text"]) for f in factors if f["view"] == view and f["factor"]]
        told = _told(tables, prompts, plan.get(view), known.get(view), its_refused, answers)
        made.append(_view(view, plan.get(view), known.get(view), its_factors, its_refused, told))
    return made, problems


def _view(
    view: str,
    plan: dict[str, Any] | None,
    known: dict[str, Any] | None,
    factors: list[tuple[str, str]],
    refused: list[dict[str, Any]],
    told: tuple[list[Message], str],
) -> ViewOf:
    refusals = [
        Refusal(r["reason"], _MEANINGS.get(r["reason"], ""), r["detail"], r["answer"], r["has_fallback"])
        for r in sorted(refused, key=lambda r: r["reason"])
    ]
    judged = [refusal for refusal in refusals if refusal.was_judged]
    if known is not None:
        state, verdict = "accepted", _ORIGINS.get(known["origin"], f"Accepted ({known['origin']}).")
        if judged:
            verdict += " A newer answer was refused."
    elif judged:
        state, verdict = "refused", "Refused, and there is no earlier text that could stand in."
    else:
        state, verdict = "none", _why_none(plan, refusals)
    return ViewOf(view, state, verdict, _planned(plan), known, factors, refusals, *told)


def _why_none(plan: dict[str, Any] | None, refusals: list[Refusal]) -> str:
    if refusals:
        return f"No answer: {refusals[0].meaning or refusals[0].reason}."
    decision = plan["decision"] if plan else ""
    return {
        "ask": "It was to be asked, and the night has no answer yet.",
        "over_budget": "It lay beyond the night’s budget.",
        "refused": "The same request was refused before, and was not asked again.",
        "empty": "There was nothing to tell from before the cutoff.",
    }.get(decision, "It was not asked.")


def _planned(plan: dict[str, Any] | None) -> str:
    if plan is None:
        return ""
    because = f", because {_DUE.get(plan['reason'], plan['reason'])}" if plan["reason"] else ""
    did = {
        "ask": f"asked, as number {plan['rank'] + 1:,}{because}",
        "fresh": "not asked: what is known was fresh enough",
        "over_budget": f"due{because}, but beyond the budget",
        "refused": f"due{because}, but this very request was refused before",
        "imported": "not asked: the view is imported",
        "empty": "not asked: nothing was known from before the cutoff",
    }.get(plan["decision"], plan["decision"])
    shown = f"; {plan['history_shown']} events in the prompt" if plan["history_shown"] else ""
    left = f", {plan['history_dropped']} older ones left out to fit" if plan["history_dropped"] else ""
    return f"The plan: {did}{shown}{left}."


def _told(
    tables: Tables,
    prompts: Partition,
    plan: dict[str, Any] | None,
    known: dict[str, Any] | None,
    refused: list[dict[str, Any]],
    answers: dict[str, Answer],
) -> tuple[list[Message], str]:
    """The prompt behind the text, or else behind the refusal or the plan; and the answer where it differs from the text."""
    sources = [known] if known else refused or ([plan] if plan else [])
    for key in (row["request_key"] for row in sources if row and row["request_key"]):
        if (answer := answers.get(key)) is not None:
            is_shown = any(answer.text.strip() == shown.strip() for shown in ([known["text"]] if known else []))
            return messages(answer.body), "" if is_shown else answer.text
    if plan and plan["rank"] >= 0 and not (known and known["request_key"] != plan["request_key"]):
        found = tables.ask(prompts, "request", ["body"], "place = $place", {"place": plan["rank"]})
        if found:
            return messages(found[0]["body"]), ""
    return [], ""


def _answers(home: Home, keys: list[str]) -> tuple[dict[str, Answer], list[str]]:
    """The paid answers under these keys; a ledger that cannot be read is a problem to tell, not one to fail of."""
    if not keys or not home.ledger.is_dir():
        return {}, []
    try:
        return look_up(home.ledger, keys), []
    except LedgerError as error:
        return {}, [f"The ledger could not be read, so prompts and answers may be missing: {error.what}."]
