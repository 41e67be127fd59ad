"""The prompts of many subjects of one view: sized for all, written only for those that will be asked.

Shape suffixes: S subjects of the view, in the order given
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import SettingsError
from kar.settings import LLMSettings, Settings
from kar.settings.schema import Form
from kar.text.clean import ATTRIBUTE_CHARS, TEXT_CHARS, TITLE_CHARS, clean
from kar.text.factors import Factors, Message
from kar.text.lines import HistoryLines, history_lines
from kar.text.neighbours import Neighbours, Seen
from kar.text.templates import Template
from kar.text.tokens import TokenCounter

_PLANNED = ("model", "messages", "max_tokens", "stream", "n")  # the plan and the client rely on these; extra_body may not set them
_SWITCHES = "chat_template_kwargs"
_TEXTS = pa.list_(pa.string())


@dataclass(frozen=True)
class Prompts:
    """Prompts of one view, not yet written.

    Args:
        prompt_tokens: int64 [S], the chat template's own tokens included.
        shown, dropped: int64 [S], history events in the prompt and left out; 0 for items.
        fits: bool [S]; False: the prompt does not fit the model's context, also with nothing of the history.
        evidence_users, evidence_items, evidence_newest_at: exactly the events that the prompt shows.
        neighbours: list<string> [S], the items that the prompt shows beside its own.
        write: place in S → messages.
    """

    prompt_tokens: np.ndarray
    shown: np.ndarray
    dropped: np.ndarray
    fits: np.ndarray
    evidence_users: pa.Array
    evidence_items: pa.Array
    evidence_newest_at: pa.Array
    neighbours: pa.Array
    write: Callable[[int], list[Message]]


def served_form(settings: Settings, view: str) -> Form | None:
    """The form in which a view is asked: as the settings say, prose where no schema can be had; None: as its template says."""
    return "prose" if settings.llm.structured_by == "none" else settings.prompts.form.get(view)


def wanted_form(settings: Settings, template: Template) -> Form:
    """The form that the settings or the template's file want, whether the server can give it or not."""
    return settings.prompts.form.get(template.view, template.file.output.form)


def request_body(template: Template, messages: list[Message], settings: LLMSettings, thinking: dict[str, Any]) -> dict[str, Any]:
    """The JSON body of one request. The settings' extra_body wins over the template's, both over everything but the plan's keys.

    Args:
        thinking: keys that switch reasoning off (`kar.text.thinking`); of its chat_template_kwargs those stay that extra_body does not set.

    Raises:
        SettingsError: llm.extra_body sets a key that the plan relies on.
    """
    if taken := sorted(set(_PLANNED) & set(settings.extra_body)):
        raise SettingsError(f"llm.extra_body sets {', '.join(taken)}, which kar sets itself", "remove the key")
    body = {
        "model": settings.model,
        "messages": messages,
        "max_tokens": template.output.max_tokens,
        "temperature": template.output.temperature,
        **thinking,
        **_held_to_schema(template, settings),
        **template.extra_body,
        **settings.extra_body,
    }
    switches = [part.get(_SWITCHES) for part in (thinking, template.extra_body, settings.extra_body)]
    if all(isinstance(part, dict) for part in switches if part is not None) and sum(part is not None for part in switches) > 1:
        body[_SWITCHES] = {name: value for part in switches for name, value in (part or {}).items()}
    return body


def _held_to_schema(template: Template, settings: LLMSettings) -> dict[str, Any]:
    """The part of the body that asks for an object with the template's factors; empty for prose."""
    if template.form == "prose" or settings.structured_by == "none":
        return {}
    if settings.structured_by == "response_format":
        named = {"name": re.sub(r"[^a-zA-Z0-9_-]", "_", template.view)[:64], "strict": True, "schema": template.strict_schema}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    return {"structured_outputs": {"json": template.schema_text}}


def event_line(factors: Factors) -> Callable[[str, float], str]:
    """How one event of a history is written: `- Title: 4 of 5 stars`, without the rating where there is none."""

    def write(title: str, rating: float) -> str:
        rated = factors.rated(rating)
        return f"- {title}: {rated}" if rated else f"- {title}"

    return write


def user_prompts(
    template: Template, history: pa.Table, profiles: dict[str, str], counter: TokenCounter, space_tokens: int, history_tokens: int
) -> Prompts:
    """Size the prompts of these users: newest events kept, oldest dropped first.

    Args:
        history: rows of table history; the order is S.
        profiles: subject → profile line (`profile_lines`); used only if the template asks for attributes.
        space_tokens: most tokens of a prompt: the context less the answer.
        history_tokens: most tokens of the history lines.
    """
    subjects = history.column("subject_id").to_pylist()
    own = [{"profile": profiles.get(s, "")} if template.user_attributes else {} for s in subjects]
    frame_S = _frame_tokens(template, counter, own)
    lines = history_lines(history, event_line(template.factors), counter.many)
    first_S = lines.fit(np.minimum(history_tokens, space_tokens - frame_S))
    end_S = lines.offset[1:]
    items = pc.list_flatten(history.column("item_ids")).cast(pa.string()).combine_chunks()
    shown_S = end_S - first_S

    def write(place: int) -> list[Message]:
        return template.render(history=lines.text(place, int(first_S[place])), **own[place])

    return Prompts(
        prompt_tokens=frame_S + lines.tokens(first_S),
        shown=shown_S,
        dropped=first_S - lines.offset[:-1],
        fits=shown_S > 0,
        evidence_users=_ragged(pa.array(subjects, pa.string()), np.repeat(np.arange(len(subjects)), shown_S), shown_S),
        evidence_items=_ragged(items, _places(lines, first_S), shown_S),
        evidence_newest_at=pc.if_else(pa.array(shown_S > 0), history.column("newest_event_at").combine_chunks(), None),
        neighbours=_nobody(len(subjects)),
        write=write,
    )


def item_prompts(
    template: Template, profile: pa.Table, counter: TokenCounter, space_tokens: int, beside: Neighbours | None = None
) -> Prompts:
    """Size the prompts of these items. A text that does not fit is cut at a word.

    Args:
        profile: rows of table item_profile with a title or a text; the order is S.
        beside: for a template that shows neighbours.
    """
    own, room = [], space_tokens - int(_frame_tokens(template, counter, [{}])[0])
    neighbours = beside.shown(profile.column("subject_id").to_pylist(), template.neighbours) if beside else []
    for title, text in zip(profile.column("title").to_pylist(), profile.column("text").to_pylist(), strict=True):
        title = clean(title or "", TITLE_CHARS)
        own.append({"title": title, "text": clean(text, TEXT_CHARS) or title})
    for values, shown in zip(own, neighbours, strict=False):
        values["neighbours"] = beside.text(shown) if beside else ""
    for values in own:
        if len(values["text"]) + len(values.get("neighbours", "")) > room:  # fewer characters than tokens do not happen; only then count
            _shorten(values, room, counter, sorted({"title", "neighbours"} & template.used))
    tokens_S = _own_tokens(template, counter, own)
    frame = space_tokens - room
    nothing_S = np.zeros(profile.num_rows, np.int64)
    evidence = [profile.column(name).combine_chunks() for name in ("evidence_users", "evidence_items", "evidence_newest_at")]
    if beside:
        evidence = _with_neighbours(evidence, beside, neighbours)
    return Prompts(
        prompt_tokens=frame + tokens_S,
        shown=nothing_S,
        dropped=nothing_S,
        fits=tokens_S <= room,
        evidence_users=evidence[0],
        evidence_items=evidence[1],
        evidence_newest_at=evidence[2],
        neighbours=pa.array(neighbours, _TEXTS) if beside else _nobody(profile.num_rows),
        write=lambda place: template.render(**own[place]),
    )


def _with_neighbours(evidence: list[pa.Array], beside: Neighbours, neighbours: list[list[str]]) -> list[pa.Array]:
    """The items' evidence with that of the neighbours they stand beside."""
    rows = zip(*(column.to_pylist() for column in evidence), neighbours, strict=True)
    found = [beside.evidence(Seen(users, items, newest_at), shown) for users, items, newest_at, shown in rows]
    values = ([one.users for one in found], [one.items for one in found], [one.newest_at for one in found])
    return [pa.array(own, column.type) for own, column in zip(values, evidence, strict=True)]


def _nobody(count: int) -> pa.Array:
    return pa.array([[]] * count, _TEXTS)


def profile_lines(user_attribute: pa.Table, names: tuple[str, ...]) -> dict[str, str]:
    """`age: 24; occupation: technician` by subject, only the attributes named, in that order."""
    chosen = user_attribute.filter(pc.is_in(user_attribute.column("name"), pa.array(names, pa.string())))
    found: dict[str, dict[str, list[str]]] = {}
    subjects = chosen.column("user_id").cast(pa.string()).to_pylist()
    for subject, name, value in zip(subjects, chosen.column("name").to_pylist(), chosen.column("value").to_pylist(), strict=True):
        found.setdefault(subject, {}).setdefault(name, []).append(clean(value, ATTRIBUTE_CHARS))
    return {s: "; ".join(f"{n}: {', '.join(values[n])}" for n in names if n in values) for s, values in found.items()}


def _frame_tokens(template: Template, counter: TokenCounter, own: list[dict[str, str]]) -> np.ndarray:
    """int64 [S]: tokens of the prompt without history or item: constant words, chat template, profile."""
    empty = template.render(**dict.fromkeys(template.variables, ""))
    constant = counter.messages([message["content"] for message in empty])
    return constant + (_own_tokens(template, counter, own) if own else np.zeros(0, np.int64))


def _own_tokens(template: Template, counter: TokenCounter, own: list[dict[str, str]]) -> np.ndarray:
    """int64 [S]: tokens of the subjects' own values, as far as the template names them."""
    total = np.zeros(len(own), np.int64)
    for name in sorted(template.used):
        if own and name in own[0]:
            total += counter.many([values[name] for values in own])
    return total


def _shorten(values: dict[str, str], room: int, counter: TokenCounter, others: list[str]) -> None:
    """Cut the text so that it fits beside the other variables that the template names."""
    room -= sum(counter(values[name]) for name in others)
    while (tokens := counter(values["text"])) > max(room, 0) and len(values["text"]) > 8:
        values["text"] = clean(values["text"], max(8, min(len(values["text"]) - 1, int(0.95 * len(values["text"]) * room / tokens))))


def _places(lines: HistoryLines, first_S: np.ndarray) -> np.ndarray:
    """Places in E of the shown events, user after user."""
    shown_S = lines.offset[1:] - first_S
    skipped = np.repeat(first_S - (np.cumsum(shown_S) - shown_S), shown_S)
    places: np.ndarray = np.arange(int(shown_S.sum())) + skipped
    return places


def _ragged(values: pa.Array, places: np.ndarray, lengths_S: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths_S)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.take(pa.array(places)))
