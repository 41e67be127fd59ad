"""One view's subjects, a part of them at a time: who is due, why, what their prompts would cost and show.

Shape suffixes: S the part's due subjects
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.settings import Settings
from kar.store import text_sha
from kar.tables import TABLES, IdTypes
from kar.text import asking, staleness
from kar.text.asking import Prompts
from kar.text.clean import clean
from kar.text.drift import Mixtures
from kar.text.factors import Message
from kar.text.neighbours import COLUMNS as SPOKEN_OF
from kar.text.neighbours import Neighbours
from kar.text.staleness import Last, Standing, Tonight
from kar.text.templates import Template
from kar.text.thinking import Thinking
from kar.text.tokens import TokenCounter

_SHOWN = "^[A-Za-z0-9]"  # what begins so is never cleaned away
Parts = Callable[[list[str] | None], Iterator[pa.Table]]
"""The named columns (None: all) of a table, in parts of the same cut each time."""
Refusals = Mapping[str, frozenset[str]]
"""Subject → keys of its requests whose answers were refused for what they say."""


@dataclass(frozen=True)
class World:
    """What is known before the cutoff, and what last night left.

    Args:
        user_attribute: read only if a template shows attributes.
        item_attribute: read only if the drift of one is measured.
        item_neighbour: read only if a template shows neighbours.
        last: view → its last knowledge; a view without any is absent.
        refused: view → its refusals of last night.
    """

    history: Parts
    item_profile: Parts
    user_attribute: Callable[[], pa.Table]
    item_attribute: Callable[[], pa.Table]
    last: Mapping[str, Last]
    refused: Mapping[str, Refusals]
    cutoff_at: dt.datetime
    item_neighbour: Callable[[], pa.Table] = TABLES["item_neighbour"].schema(IdTypes()).empty_table

    def parts(self, view: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The table of the view's side."""
        return self.history(columns) if view.startswith("user.") else self.item_profile(columns)


@dataclass(frozen=True)
class Model:
    """The model to ask: its revision (empty: unknown), how its tokens are counted, and what is done about its reasoning."""

    revision: str
    counter: TokenCounter
    thinking: Thinking = field(default_factory=lambda: Thinking("left alone"))


@dataclass
class Night:
    """All that deciding and sizing needs besides the part of a table that it looks at.

    Args:
        key_of: messages of a template → the key of the request that would be sent; set by `kar.text.planning`.
    """

    world: World
    model: Model
    settings: Settings
    key_of: Callable[[Template, list[Message]], str] = lambda template, messages: ""
    mixtures: Mixtures | None = None
    _profiles: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)
    _neighbours: Neighbours | None = None

    def __post_init__(self) -> None:
        if self.mixtures is None and (name := self.settings.prompts.drift_attribute):
            self.mixtures = Mixtures.of(self.world.item_attribute(), name)

    def tonight(self, template: Template) -> Tonight:
        prompts = self.settings.prompts
        return Tonight(
            template.version,
            self.settings.llm.model,
            self.model.revision,
            self.world.cutoff_at,
            prompts.max_age_days,
            prompts.min_new_events,
            prompts.max_drift,
            self.mixtures,
        )

    def profiles(self, template: Template) -> dict[str, str]:
        """Subject → its profile line; empty unless the template shows attributes."""
        names = template.user_attributes
        if names not in self._profiles:
            self._profiles[names] = asking.profile_lines(self.world.user_attribute(), names) if names else {}
        return self._profiles[names]

    def neighbours(self, template: Template) -> Neighbours | None:
        """Who stands beside whom; None unless the template shows neighbours."""
        if template.neighbours and self._neighbours is None:
            self._neighbours = Neighbours.read(self.world.item_neighbour(), self.world.item_profile(SPOKEN_OF))
        return self._neighbours if template.neighbours else None


@dataclass
class ViewPlan:
    """The due subjects of one view in one part, sized.

    Args:
        rows: int64 [S], their rows in the part.
        subjects, reasons, evidence_shas: [S].
        staleness: float64 [S], 0-1.
        traffic: int64 [S], events before the cutoff.
        held_keys: [S], the key of a request whose answer was refused before; empty: it may be asked.
        others: rows of the part that are not due, by decision.
        part_subjects, part_shas: of every row of the part, for those.
    """

    view: str
    template: Template
    rows: np.ndarray
    subjects: list[str]
    reasons: list[str]
    evidence_shas: list[str]
    staleness: np.ndarray
    traffic: np.ndarray
    prompts: Prompts
    held_keys: list[str]
    others: dict[str, np.ndarray]
    part_subjects: pa.ChunkedArray
    part_shas: pa.ChunkedArray

    @property
    def tokens(self) -> np.ndarray:
        """int64 [S]: of the prompt and the longest answer."""
        tokens: np.ndarray = self.prompts.prompt_tokens + self.template.output.max_tokens
        return tokens

    @property
    def value(self) -> np.ndarray:
        worth: np.ndarray = (1 + self.traffic) * self.staleness / self.tokens
        return worth

    @property
    def may_ask(self) -> np.ndarray:
        """bool [S]: the prompt fits, and its answer is not known to be bad."""
        may: np.ndarray = self.prompts.fits & np.array([not key for key in self.held_keys], bool)
        return may


def view_plan(part: pa.Table, template: Template, night: Night, last_row: np.ndarray | None = None) -> ViewPlan:
    """Decide who of a part is due in one view, and size their prompts.

    Args:
        part: rows of table history or item_profile, by the template's side.
        last_row: int64, where the last knowledge of each row stands, as `Last.rows` says; None: it is asked.
    """
    make = _user_view if template.side == "user" else _item_view
    return make(part, template, night, last_row)


def user_shas(part: pa.Table, template: Template, night: Night) -> pa.ChunkedArray:
    """The evidence's digests. A changed attribute that the template shows is changed evidence, though no new event."""
    column, profiles = part.column("evidence_sha"), night.profiles(template)
    if not profiles:
        return column
    rows = zip(part.column("subject_id").to_pylist(), column.to_pylist(), strict=True)
    return pa.chunked_array([pa.array([text_sha(f"{sha}\n{profiles[s]}") if s in profiles else sha for s, sha in rows], pa.string())])


def standing(part: pa.Table, shas: pa.ChunkedArray, template: Template, night: Night, last_row: np.ndarray | None = None) -> Standing:
    """How last night's knowledge stands tonight. `last_row` as of `view_plan`."""
    last, tonight = night.world.last.get(template.view), night.tonight(template)
    if template.side == "user":
        return staleness.standing_of_users(part, shas, last, tonight, last_row)
    beside = night.neighbours(template)
    shown = beside.shown(part.column("subject_id").to_pylist(), template.neighbours) if beside else None
    return staleness.standing_of_items(part.column("subject_id"), shas, last, tonight, last_row, shown)


def is_empty(part: pa.Table) -> np.ndarray:
    """bool: items with nothing to show."""
    columns = part.select(["title", "text"])
    shown = [pc.fill_null(pc.match_substring_regex(column, _SHOWN), False) for column in columns]
    empty: np.ndarray = ~np.asarray(pc.or_(*shown)).astype(bool)
    for place in np.flatnonzero(empty).tolist():
        title, text = (columns.column(name)[place].as_py() for name in ("title", "text"))
        empty[place] = not clean(text, 8) and not clean(title or "", 8)
    return empty


def _user_view(part: pa.Table, template: Template, night: Night, last_row: np.ndarray | None) -> ViewPlan:
    shas = user_shas(part, template, night)
    found = standing(part, shas, template, night, last_row)
    is_due = found.reason != ""
    rows = part.take(pa.array(np.flatnonzero(is_due)))
    settings = night.settings
    space = settings.llm.context_tokens - template.output.max_tokens
    prompts = asking.user_prompts(template, rows, night.profiles(template), night.model.counter, space, settings.prompts.max_history_tokens)
    return _planned(part, template, night, shas, found, is_due, rows.column("position"), prompts, {"fresh": ~is_due})


def _item_view(part: pa.Table, template: Template, night: Night, last_row: np.ndarray | None) -> ViewPlan:
    shas = part.column("evidence_sha")
    beside, empty = night.neighbours(template), is_empty(part)
    if beside:
        empty |= np.array([not shown for shown in beside.shown(part.column("subject_id").to_pylist(), 1)], bool)
    found = standing(part, shas, template, night, last_row)
    is_due = (found.reason != "") & ~empty
    rows = part.take(pa.array(np.flatnonzero(is_due)))
    space = night.settings.llm.context_tokens - template.output.max_tokens
    prompts = asking.item_prompts(template, rows, night.model.counter, space, beside)
    others = {"fresh": ~is_due & ~empty, "empty": empty}
    return _planned(part, template, night, shas, found, is_due, rows.column("event_count"), prompts, others)


def _planned(
    part: pa.Table,
    template: Template,
    night: Night,
    shas: pa.ChunkedArray,
    found: Standing,
    is_due: np.ndarray,
    traffic: pa.ChunkedArray,
    prompts: Prompts,
    others: dict[str, np.ndarray],
) -> ViewPlan:
    chosen = np.flatnonzero(is_due)
    own: list[str] = part.column("subject_id").take(pa.array(chosen)).to_pylist()
    return ViewPlan(
        template.view,
        template,
        chosen,
        own,
        found.reason[chosen].tolist(),
        shas.take(pa.array(chosen)).to_pylist(),
        found.staleness[chosen],
        traffic.to_numpy().astype(np.int64),
        prompts,
        _held_keys(own, template, prompts, night),
        {decision: np.flatnonzero(rows) for decision, rows in others.items()},
        part.column("subject_id"),
        shas,
    )


def _held_keys(subjects: list[str], template: Template, prompts: Prompts, night: Night) -> list[str]:
    """The keys of those whose very request was answered before with something that was refused; empty for the others."""
    refused = night.world.refused.get(template.view, {})
    keys = [""] * len(subjects)
    if refused:
        for place, subject in enumerate(subjects):
            if subject in refused and prompts.fits[place]:
                key = night.key_of(template, prompts.write(place))
                keys[place] = key if key in refused[subject] else ""
    return keys
