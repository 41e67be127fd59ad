"""Tonight's plan, made in two walks over the subjects: decide and size; then, ranks known, write rows and requests.

Shape suffixes: N candidates (due subjects of all views that may be asked) · S due subjects of one part
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.store.reorder import Reorder
from kar.tables import TABLES, IdTypes
from kar.text.factors import Message
from kar.text.plan_rows import due_rows, other_rows, request_rows
from kar.text.ranking import Candidates, rank, usd_costs
from kar.text.templates import Template
from kar.text.variants import Split
from kar.text.views import Night, ViewPlan, World, view_plan

_PLAN_ROWS = 16_384
_EXAMPLES = 20
BodyOf = Callable[[Template, list[Message]], bytes]


@dataclass
class Plan:
    """Both tables of the stage in parts, in key order; and, once the rows are read, what was left out and the figures."""

    rows: Iterator[pa.Table]
    requests: Iterator[pa.Table]
    rejected: dict[str, tuple[int, list[dict[str, Any]]]]
    figures: dict[str, Any]


@dataclass
class Look:
    """One template's subjects in one part of its table.

    Args:
        view: number of the view; `family`: of the template.
        positions: int64 [rows of the part], each row's place in the plan.
    """

    view: int
    family: int
    positions: np.ndarray
    plan: ViewPlan


@contextlib.contextmanager
def planned(night: Night, splits: list[Split], body_of: BodyOf, key_of: Callable[[bytes], str], folder: Path) -> Iterator[Plan]:
    """Decide, rank, cut at the budget, and write the requests that will be sent.

    Args:
        body_of: template and messages → the exact body.
        key_of: body → its key.
        folder: for rows that wait to be put in order.
    """
    night.key_of = lambda template, messages: key_of(body_of(template, messages))
    imported = sorted(night.settings.knowledge.imports)
    positions = _Positions(night.world, sorted([*(split.view for split in splits), *imported]))
    looks = _Looks(night, splits, positions)
    candidates, may_ask = _candidates(looks)
    ranks = np.full(len(may_ask), -1, np.int64)
    ranks[may_ask] = rank(candidates, night.settings.llm, night.settings.prompts)
    tally = _Tally(night)
    asked_count = int((ranks >= 0).sum())
    with (
        Reorder(folder, positions.count, _PLAN_ROWS) as rows,
        Reorder(folder, asked_count, TABLES["request"].row_group_rows) as requests,
    ):
        first = 0
        for look in looks:
            own = ranks[first : (first := first + len(look.plan.subjects))]
            sent = request_rows(look.plan, own, body_of, key_of, night.model.revision)
            due = due_rows(look.plan, own, sent)
            rows.add(due, look.positions[look.plan.rows])
            requests.add(sent, own[own >= 0])
            tally.add_due(look.plan, own, due)
            for decision, places in look.plan.others.items():
                rows.add(tally.add_other(look.plan.view, look.plan.template, decision, look.plan, places), look.positions[places])
        for view in imported:
            for part, at in positions.parts(view, ["subject_id", "evidence_sha"]):
                rows.add(tally.add_imported(view, part), at)
        wanted = int(candidates.tokens.sum())
        yield Plan(_with_cutoff(rows.parts(), night), requests.parts(), tally.rejected(), tally.figures(wanted))


def _with_cutoff(parts: Iterator[pa.Table], night: Night) -> Iterator[pa.Table]:
    kind = TABLES["plan"].schema(IdTypes()).field("cutoff_at").type
    for part in parts:
        yield part.append_column("cutoff_at", pa.repeat(pa.scalar(night.world.cutoff_at, kind), part.num_rows))


def _candidates(looks: _Looks) -> tuple[Candidates, np.ndarray]:
    """Those who may be asked; and for every due subject, in the order of the looks, whether it is one of them."""
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    for look in looks:
        made, is_in = look.plan, look.plan.may_ask
        count = len(made.subjects)
        columns["may_ask"].append(is_in)
        for name, values in (
            ("view", np.full(count, look.view)),
            ("family", np.full(count, look.family)),
            ("position", look.positions[made.rows]),
            ("value", made.value),
            ("prompt_tokens", made.prompts.prompt_tokens),
            ("answer_tokens", np.full(count, made.template.output.max_tokens)),
        ):
            columns[name].append(values[is_in])
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    if not joined:
        nothing = np.zeros(0, np.int64)
        return Candidates(nothing, nothing, nothing, np.zeros(0), nothing, nothing), np.zeros(0, bool)
    may_ask = joined.pop("may_ask").astype(bool)
    return Candidates(**joined), may_ask


class _Positions:
    """Where each subject of each view stands in the plan: by view, then by subject as text."""

    def __init__(self, world: World, views: list[str]) -> None:
        self._world, self.count = world, 0
        self._ranks: dict[str, np.ndarray] = {}
        self._first: dict[str, int] = {}
        for view in views:
            side = view.split(".")[0]
            if side not in self._ranks:
                self._ranks[side] = _text_ranks(world, view)
            self._first[view] = self.count
            self.count += len(self._ranks[side])

    def parts(self, view: str, columns: list[str] | None = None) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """The parts of the view's table, each with the positions of its rows."""
        ranks, start = self._ranks[view.split(".")[0]], 0
        for part in self._world.parts(view, columns):
            yield part, self._first[view] + ranks[start : (start := start + part.num_rows)]


def _text_ranks(world: World, view: str) -> np.ndarray:
    """int64: place of each row of the view's table in the order of the subjects' texts."""
    parts = [part.column("subject_id") for part in world.parts(view, ["subject_id"])]
    subjects = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())
    order = pc.sort_indices(subjects).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


class _Looks:
    """All looks, view after view, part after part, template after template: the same each time it is walked over.

    What a walk makes is let go at once, but for tables of a single part, where making it again would cost more than
    keeping it.
    """

    def __init__(self, night: Night, splits: list[Split], positions: _Positions) -> None:
        self._night, self._splits, self._positions = night, splits, positions
        self._kept: dict[int, list[Look]] = {}

    def __iter__(self) -> Iterator[Look]:
        family = 0
        for number, split in enumerate(self._splits):
            if number in self._kept:
                yield from self._kept[number]
            else:
                yield from self._made(number, family, split)
            family += len(split.templates)

    def _made(self, number: int, family: int, split: Split) -> Iterator[Look]:
        kept: list[Look] = []
        parts = 0
        for part, positions in self._positions.parts(split.view):
            own = split.of(part.column("subject_id"))
            parts += 1
            kept = kept if parts == 1 else []
            for place, template in enumerate(split.templates):
                rows = np.flatnonzero(own == place)
                chosen = part if len(split.templates) == 1 else part.take(pa.array(rows))
                look = Look(number, family + place, positions[rows], view_plan(chosen, template, self._night))
                if parts == 1:
                    kept.append(look)
                yield look
        if parts == 1:
            self._kept[number] = kept


@dataclass
class _Tally:
    """Counts on the way: for `kar plan`, the report and the rejections."""

    night: Night
    decisions: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    totals: Counter[str] = field(default_factory=Counter)
    usd: float = 0.0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def add_due(self, made: ViewPlan, ranks: np.ndarray, rows: pa.Table) -> None:
        is_asked = ranks >= 0
        decisions = np.array(rows.column("decision").to_pylist(), object)
        self.decisions[made.view].update(decisions.tolist())
        self.reasons[made.view].update(np.array(made.reasons, object)[is_asked].tolist())
        prompt, answer = made.prompts.prompt_tokens[is_asked], np.full(int(is_asked.sum()), made.template.output.max_tokens)
        for name, values in (
            ("asked", is_asked),
            ("planned_prompt_tokens", prompt),
            ("planned_answer_tokens", answer),
            ("history_shown", made.prompts.shown[is_asked]),
            ("history_dropped", made.prompts.dropped[is_asked]),
        ):
            self.totals[name] += int(values.sum())
        self.usd += float(usd_costs(prompt, answer, self.night.settings.llm).sum())
        for reason, places in (
            ("prompt_too_long", ~made.prompts.fits),
            ("over_budget", decisions == "over_budget"),
            ("refused_before", decisions == "refused"),
        ):
            rows_out = ((made.subjects[s], {"tokens": int(made.tokens[s])}) for s in np.flatnonzero(places).tolist())
            self._leave_out(reason, made.view, int(places.sum()), rows_out)

    def add_other(self, view: str, template: Template, decision: str, made: ViewPlan, places: np.ndarray) -> pa.Table:
        subjects, shas = ([values[p] for p in places.tolist()] for values in (made.part_subjects, made.part_shas))
        self.decisions[view][decision] += len(places)
        if decision == "empty":
            self._leave_out("empty_item", view, len(places), ((subject, {}) for subject in subjects))
        return other_rows(view, template, decision, subjects, shas)

    def add_imported(self, view: str, part: pa.Table) -> pa.Table:
        self.decisions[view]["imported"] += part.num_rows
        return other_rows(view, None, "imported", part.column("subject_id").to_pylist(), part.column("evidence_sha").to_pylist())

    def _leave_out(self, reason: str, view: str, count: int, rows: Iterator[tuple[str, dict[str, Any]]]) -> None:
        self.left_out[reason] += count
        shown = self.examples[reason]
        for _, (subject, more) in zip(range(_EXAMPLES - len(shown)), rows, strict=False):
            shown.append({"view": view, "subject_id": subject, **more})

    def rejected(self) -> dict[str, tuple[int, list[dict[str, Any]]]]:
        names = ("empty_history", "empty_item", "prompt_too_long", "over_budget", "refused_before")
        return {reason: (self.left_out[reason], self.examples[reason]) for reason in names}

    def figures(self, wanted_tokens: int) -> dict[str, Any]:
        """What `kar plan` and the report say."""
        names = ("asked", "planned_prompt_tokens", "planned_answer_tokens", "history_shown", "history_dropped")
        return {
            **{name: self.totals[name] for name in names},
            "decisions": {view: dict(sorted((+counts).items())) for view, counts in sorted(self.decisions.items())},
            "reasons": {view: dict(sorted(counts.items())) for view, counts in sorted(self.reasons.items()) if counts},
            "planned_usd": round(self.usd, 6),
            "wanted_tokens": wanted_tokens,
            "budget_tokens": self.night.settings.llm.token_budget,
            "token_counts": self.night.model.counter.nature if self.decisions else "nothing is asked",
            "model_revision": self.night.model.revision,
        }
