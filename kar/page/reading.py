"""A few users and items to read in full: what they did, what the model was asked, what it wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import escape

from kar.page.facts import Facts
from kar.untrusted import shown, title

PAGE_BYTES = 700_000
"""What all texts to read may take of the page, escaped; whoever comes after that is left out and counted."""

_PROMPT_CHARS = 5_000
_TEXT_CHARS = 4_000
_EVENTS_SHOWN = 60
_OPENING_CHARS = 110


@dataclass(frozen=True)
class Event:
    """One event of a history. `stars` is empty where the source has no rating."""

    stars: str
    title: str


@dataclass(frozen=True)
class Message:
    """One message of the request."""

    role: str
    content: str


@dataclass(frozen=True)
class Text:
    """What one view says of the subject.

    Args:
        text: the knowledge; empty if there is none.
        source: one line on where it comes from, or why it is missing.
        messages: the rendered prompt; empty if it was not asked tonight.
        refused: (reason, detail, answer) of a refusal tonight, or None.
    """

    view: str
    text: str
    source: str
    messages: list[Message]
    refused: tuple[str, str, str] | None


@dataclass(frozen=True)
class Subject:
    """One user or item."""

    side: str
    subject_id: str
    name: str
    line: str
    events: list[Event]
    description: str
    texts: list[Text]

    @property
    def known_count(self) -> int:
        return sum(bool(text.text) for text in self.texts)

    @property
    def opening(self) -> str:
        """The first words of its knowledge, or why there is none."""
        told = next((text.text for text in self.texts if text.text), "")
        if not told:
            return next((text.source for text in self.texts), "No view speaks of it.")
        line = " ".join(told.split())
        return line if len(line) <= _OPENING_CHARS else line[:_OPENING_CHARS].rsplit(" ", 1)[0] + " …"


@dataclass(frozen=True)
class Readings:
    """Who is printed, and how many were left out to keep the page small."""

    users: list[Subject]
    items: list[Subject]
    left_out: int


def choose(subjects: Sequence[str], known: set[str], count: int, seed: int) -> list[str]:
    """Draw whom to print: half with knowledge and half without, as far as there are such.

    Args:
        subjects: subject ids, in the table's order.
        known: those with knowledge in any view.
        count: how many.
        seed: same seed, same subjects: same choice.
    """
    draw = np.random.default_rng(seed)
    mixed = [subjects[i] for i in draw.permutation(len(subjects))]
    have, lack = [s for s in mixed if s in known], [s for s in mixed if s not in known]
    have_count = min(len(have), max(math.ceil(count / 2), count - len(lack)))
    return [*have[:have_count], *lack[: count - have_count]]


def readings(facts: Facts) -> Readings:
    """The chosen users and items, as many as fit."""
    shelf = _Shelf(facts)
    users = [shelf.user(row) for row in facts.chosen.history.to_pylist()]
    items = [shelf.item(row) for row in facts.chosen.item_profile.to_pylist()]
    everyone = [subject for pair in _zipped(_known_first(users), _known_first(items)) for subject in pair]
    fitting, used = set(), 0
    for subject in everyone:
        used += _bytes(subject)
        if used > PAGE_BYTES:
            break
        fitting.add(id(subject))
    kept = [s for s in everyone if id(s) in fitting]
    return Readings(
        [s for s in kept if s.side == "user"],
        [s for s in kept if s.side == "item"],
        len(everyone) - len(kept),
    )


def _known_first(subjects: list[Subject]) -> list[Subject]:
    return sorted(subjects, key=lambda s: -s.known_count)


def _zipped(users: list[Subject], items: list[Subject]) -> list[list[Subject]]:
    """Users and items in turn, so that neither side crowds out the other."""
    longest = max(len(users), len(items))
    return [[*users[i : i + 1], *items[i : i + 1]] for i in range(longest)]


def _bytes(subject: Subject) -> int:
    return len(str(escape(repr(subject))).encode(errors="replace"))


class _Shelf:
    """The chosen rows by subject."""

    def __init__(self, facts: Facts) -> None:
        views = {row["view"] for table in (facts.plan, facts.knowledge) for row in table.group_by("view").aggregate([]).to_pylist()}
        self.views = sorted(views)
        self.highest = facts.ran_with("sources", "sources", "rating_range")
        self.plan = _by_subject(facts.chosen.plan.to_pylist())
        self.request = _by_subject(facts.chosen.request.to_pylist())
        self.knowledge = _by_subject(facts.chosen.knowledge.to_pylist())
        self.refused = _by_subject(facts.chosen.refused.to_pylist())

    def user(self, row: dict[str, Any]) -> Subject:
        pairs = list(zip(row["ratings"], row["titles"], strict=True))[-_EVENTS_SHOWN:]
        line = f"{len(row['item_ids'])} newest of {row['position']} events before {row['cutoff_at']:%Y-%m-%d %H:%M} UTC"
        events = [Event(stars(rating, self.highest), title(name)) for rating, name in pairs]
        return Subject(
            "user", row["subject_id"], f"User {title(row['subject_id'])}", line, events, "", self._texts("user", row["subject_id"])
        )

    def item(self, row: dict[str, Any]) -> Subject:
        mean = "" if row["rating_mean"] is None else f", rated {row['rating_mean']:.2f} on average"
        line = f"{row['event_count']:,} events before the cutoff{mean}"
        name = title(row["title"] or f"Item {row['subject_id']}")
        return Subject("item", row["subject_id"], name, line, [], shown(row["text"], 1_500), self._texts("item", row["subject_id"]))

    def _texts(self, side: str, subject_id: str) -> list[Text]:
        return [self._text(view, subject_id) for view in self.views if view.startswith(f"{side}.")]

    def _text(self, view: str, subject_id: str) -> Text:
        key = (view, subject_id)
        planned, known, refusal = self.plan.get(key), self.knowledge.get(key), self.refused.get(key)
        request = self.request.get(key)
        return Text(
            view=view,
            text=shown(known["text"], _TEXT_CHARS) if known else "",
            source=_source(known) if known else _why_missing(planned, refusal),
            messages=messages(request["body"]) if request else [],
            refused=(refusal["reason"], shown(refusal["detail"], 300), shown(refusal["answer"], 1_200)) if refusal else None,
        )


def _by_subject(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["view"], row["subject_id"]): row for row in rows}


def stars(rating: float | None, rating_range: Sequence[float] | None) -> str:
    """★★★★☆ where ratings are whole and end at 5, else the number; empty for none."""
    if rating is None or not math.isfinite(rating):
        return ""
    is_stars = bool(rating_range) and rating_range is not None and rating_range[1] == 5 and rating_range[0] >= 0
    if is_stars and rating == int(rating) and 0 <= rating <= 5:
        return "★" * int(rating) + "☆" * (5 - int(rating))
    return f"{rating:g}"


def _source(known: dict[str, Any]) -> str:
    origin = {"tonight": "written tonight", "last_good": "last good text", "import": "imported"}.get(known["origin"], known["origin"])
    evidence = len(known["evidence_items"])
    parts = [
        origin,
        f"by {title(known['model'])}" if known["model"] else "by an unnamed model",
        f"asked {known['asked_at']:%Y-%m-%d}",
        f"{evidence} event{'' if evidence == 1 else 's'} of evidence" if evidence else "from the item’s own data, no events",
    ]
    if known["completion_tokens"]:
        parts.append(f"{known['prompt_tokens']:,} + {known['completion_tokens']:,} tokens")
    return " · ".join(parts)


def _why_missing(planned: dict[str, Any] | None, refusal: dict[str, Any] | None) -> str:
    if refusal and refusal["reason"] != "over_budget":
        return f"The answer was refused: {refusal['reason'].replace('_', ' ')}."
    if refusal or (planned and planned["decision"] == "over_budget"):
        return "It lay beyond tonight’s budget."
    if planned and planned["decision"] == "empty":
        return "There was nothing to tell from before the cutoff."
    return "It was not asked."


def messages(body: str) -> list[Message]:
    """The messages of a request body; a body that holds none is shown as it is."""
    try:
        found = json.loads(body)["messages"]
        return [Message(str(m["role"]), shown(_content(m["content"]), _PROMPT_CHARS)) for m in found]
    except (ValueError, KeyError, TypeError):
        return [Message("body", shown(body, _PROMPT_CHARS))]


def _content(content: object) -> str:
    """A message's text; one in parts is shown as JSON."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2)
