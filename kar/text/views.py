"""One view's due subjects: who they are, why, what their prompts would cost and show.

Shape suffixes: S the view's due subjects
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from kar.settings import Settings
from kar.store import text_sha
from kar.text import asking, staleness
from kar.text.asking import Prompts
from kar.text.clean import clean
from kar.text.staleness import Due, Tonight
from kar.text.templates import Template
from kar.text.thinking import Thinking
from kar.text.tokens import TokenCounter


@dataclass(frozen=True)
class World:
    """What is known before the cutoff, and the last knowledge (None: there is none yet)."""

    history: pa.Table
    item_profile: pa.Table
    user_attribute: pa.Table
    knowledge: pa.Table | None
    cutoff_at: dt.datetime


@dataclass(frozen=True)
class Model:
    """The model to ask: its revision (empty: unknown), how its tokens are counted, and what is done about its reasoning."""

    revision: str
    counter: TokenCounter
    thinking: Thinking = field(default_factory=lambda: Thinking("left alone"))


@dataclass
class ViewPlan:
    """The due subjects of one view, sized.

    Args:
        subjects, due, evidence_shas: one per due subject.
        traffic: int64, events before the cutoff.
        others: rows that are not due, by decision: subject and evidence digest.
    """

    view: str
    template: Template
    subjects: list[str]
    due: list[Due]
    evidence_shas: list[str]
    traffic: np.ndarray
    prompts: Prompts
    others: dict[str, list[tuple[str, str]]]

    @property
    def tokens(self) -> np.ndarray:
        return self.prompts.prompt_tokens + self.template.output.max_tokens

    @property
    def value(self) -> np.ndarray:
        stale = np.array([due.staleness for due in self.due], np.float64)
        worth: np.ndarray = (1 + self.traffic) * stale / self.tokens
        return worth


def view_plan(world: World, template: Template, model: Model, settings: Settings) -> ViewPlan:
    """Decide who is due in one view, and size their prompts."""
    tonight = Tonight(
        template.version,
        settings.llm.model,
        model.revision,
        world.cutoff_at,
        settings.prompts.max_age_days,
        settings.prompts.min_new_events,
    )
    last = staleness.last_knowledge(world.knowledge, template.view)
    make = _user_view if template.side == "user" else _item_view
    return make(world, template, model, settings, last, tonight)


def _user_view(
    world: World, template: Template, model: Model, settings: Settings, last: dict[str, staleness.Last], tonight: Tonight
) -> ViewPlan:
    history = world.history
    profiles = asking.profile_lines(world.user_attribute, template.user_attributes) if template.user_attributes else {}
    subjects, shas = history.column("subject_id").to_pylist(), history.column("evidence_sha").to_pylist()
    if profiles:  # a changed attribute is changed evidence, though no new event
        shas = [text_sha(f"{sha}\n{profiles[s]}") if s in profiles else sha for s, sha in zip(subjects, shas, strict=True)]
    due = list(staleness.due_users(history, shas, last, tonight))
    chosen = [place for place, verdict in enumerate(due) if verdict.reason]
    rows = history.take(pa.array(chosen, pa.int64()))
    space = settings.llm.context_tokens - template.output.max_tokens
    prompts = asking.user_prompts(template, rows, profiles, model.counter, space, settings.prompts.max_history_tokens)
    others = {"fresh": [(subjects[p], shas[p]) for p, verdict in enumerate(due) if not verdict.reason]}
    return _planned(template, subjects, due, shas, chosen, rows.column("position"), prompts, others)


def _item_view(
    world: World, template: Template, model: Model, settings: Settings, last: dict[str, staleness.Last], tonight: Tonight
) -> ViewPlan:
    profile = world.item_profile
    subjects, shas = profile.column("subject_id").to_pylist(), profile.column("evidence_sha").to_pylist()
    empty = [
        not clean(text, 8) and not clean(title or "", 8)
        for title, text in zip(profile.column("title").to_pylist(), profile.column("text").to_pylist(), strict=True)
    ]
    due = list(staleness.due_items(shas, subjects, last, tonight))
    chosen = [place for place, verdict in enumerate(due) if verdict.reason and not empty[place]]
    rows = profile.take(pa.array(chosen, pa.int64()))
    prompts = asking.item_prompts(template, rows, model.counter, settings.llm.context_tokens - template.output.max_tokens)
    others = {
        "fresh": [(subjects[p], shas[p]) for p, verdict in enumerate(due) if not verdict.reason and not empty[p]],
        "empty": [(subjects[p], shas[p]) for p in range(len(subjects)) if empty[p]],
    }
    return _planned(template, subjects, due, shas, chosen, rows.column("event_count"), prompts, others)


def _planned(
    template: Template,
    subjects: list[str],
    due: list[Due],
    shas: list[str],
    chosen: list[int],
    traffic: pa.ChunkedArray,
    prompts: Prompts,
    others: dict[str, list[tuple[str, str]]],
) -> ViewPlan:
    return ViewPlan(
        template.view,
        template,
        [subjects[p] for p in chosen],
        [due[p] for p in chosen],
        [shas[p] for p in chosen],
        traffic.to_numpy().astype(np.int64),
        prompts,
        others,
    )
