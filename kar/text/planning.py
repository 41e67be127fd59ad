"""Tonight's plan, made in two walks over the subjects: decide and size; then, ranks known, write rows and requests.

The first walk also writes the rows of those who are not due. Where few are due, what it made of them is kept, and the second reads no table.

Shape suffixes: N candidates (due subjects of all views that may be asked) · S due subjects of one part
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
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
KEPT_DUE = 8_192
"""Due subjects of a view whose sized prompts are kept from the first walk to the second: about 2 kB each."""
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

    @property
    def due_positions(self) -> np.ndarray:
        """int64 [S]."""
        places: np.ndarray = self.positions[self.plan.rows]
        return places

    def of_due(self) -> Look:
        """Only what is known of the due: what the second walk needs."""
        nobody = pa.chunked_array([], pa.string())
        plan = replace(self.plan, rows=np.arange(len(self.plan.rows)), others={}, part_subjects=nobody, part_shas=nobody)
        return Look(self.view, self.family, self.due_positions, plan)


@contextlib.contextmanager
def planned(
    night: Night, splits: list[Split], body_of: BodyOf, key_of: Callable[[bytes], str], folder: Path, kept_due: int = KEPT_DUE
) -> Iterator[Plan]:
    """Decide, rank, cut at the budget, and write the requests that will be sent.

    Args:
        body_of: template and messages → the exact body.
        key_of: body → its key.
        folder: for rows that wait to be put in order.
        kept_due: most due subjects of a view that are decided and sized once and kept; of more it is done twice.
    """
    night.key_of = lambda template, messages: key_of(body_of(template, messages))
    imported = sorted(night.settings.knowledge.imports)
    positions = _Positions(night.world, sorted([*(split.view for split in splits), *imported]))
    looks, tally = _Looks(night, splits, positions, kept_due), _Tally(night)
    with contextlib.ExitStack() as stack:
        rows = stack.enter_context(Reorder(folder, positions.count, _PLAN_ROWS))
        candidates, may_ask = _candidates(_others_written(looks, rows, tally))
        ranks = np.full(len(may_ask), -1, np.int64)
        ranks[may_ask] = rank(candidates, night.settings.llm, night.settings.prompts)
        requests = stack.enter_context(Reorder(folder, int((ranks >= 0).sum()), TABLES["request"].row_group_rows))
        first = 0
        for look in looks:
            own = ranks[first : (first := first + len(look.plan.subjects))]
            sent = request_rows(look.plan, own, body_of, key_of, night.model.revision)
            due = due_rows(look.plan, own, sent)
            rows.add(due, look.due_positions)
            requests.add(sent, own[own >= 0])
            tally.add_due(look.plan, own, due)
        for view in imported:
            for part, at in positions.parts(view, ["subject_id", "evidence_sha"]):
                rows.add(tally.add_imported(view, part), at)
        wanted = int(candidates.tokens.sum())
        yield Plan(_with_cutoff(rows.parts(), night), requests.parts(), tally.rejected(), tally.figures(wanted))


def _others_written(looks: Iterable[Look], rows: Reorder, tally: _Tally) -> Iterator[Look]:
    """The looks of the first walk; the rows of those who are not due hang on no rank and go out here."""
    for look in looks:
        for decision, places in look.plan.others.items():
            rows.add(tally.add_other(look.plan.view, look.plan.template, decision, look.plan, places), look.positions[places])
        yield look


def _with_cutoff(parts: Iterator[pa.Table], night: Night) -> Iterator[pa.Table]:
    kind = TABLES["plan"].schema(IdTypes()).field("cutoff_at").type
    for part in parts:
        yield part.append_column("cutoff_at", pa.repeat(pa.scalar(night.world.cutoff_at, kind), part.num_rows))


def _candidates(looks: Iterable[Look]) -> tuple[Candidates, np.ndarray]:
    """Those who may be asked; and for every due subject, in the order of the looks, whether it is one of them."""
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    for look in looks:
        made, is_in = look.plan, look.plan.may_ask
        count = len(made.subjects)
        columns["may_ask"].append(is_in)
        for name, values in (
            ("view", np.full(count, look.view)),
            ("family", np.full(count, look.family)),
            ("position", look.due_positions),
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
    """Where each subject of each view stands in the plan (by view, then by subject as text) and in the last knowledge of the view."""

    def __init__(self, world: World, views: list[str]) -> None:
        self._world, self.count = world, 0
        self._ranks: dict[str, np.ndarray] = {}
        self._first: dict[str, int] = {}
        self._last: dict[str, np.ndarray] = {}
        for side, own in itertools.groupby(views, key=_side):
            subjects = _subjects(world, side)
            self._ranks[side] = _text_ranks(subjects)
            for view in own:
                self._first[view] = self.count
                self.count += len(subjects)
                if (last := world.last.get(view)) is not None:
                    self._last[view] = last.rows(subjects)

    def parts(self, view: str, columns: list[str] | None = None) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """The parts of the view's table, each with the positions of its rows."""
        ranks, start = self._ranks[_side(view)], 0
        for part in self._world.parts(view, columns):
            yield part, self._first[view] + ranks[start : (start := start + part.num_rows)]

    def last_rows(self, view: str, start: int, count: int) -> np.ndarray | None:
        """int64 [count]: as `Last.rows` of the subjects in these rows of the view's table; None: nothing is known in the view."""
        last = self._last.get(view)
        return None if last is None else last[start : start + count]


def _side(view: str) -> str:
    return view.split(".")[0]


def _subjects(world: World, side: str) -> pa.ChunkedArray:
    """Every subject of the side, in the table's order."""
    parts = [part.column("subject_id") for part in world.parts(f"{side}.", ["subject_id"])]
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())


def _text_ranks(subjects: pa.ChunkedArray) -> np.ndarray:
    """int64: place of each row in the order of the subjects' texts."""
    order = pc.sort_indices(subjects).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


class _Looks:
    """All looks, view after view, part after part, template after template: the same each time it is walked over.

    What a walk makes is let go at once, but for tables of a single part and for views of which few subjects are due, where making
    it again would cost more than keeping what is known of the due. (Of kept looks a later walk sees the due alone.)
    """

    def __init__(self, night: Night, splits: list[Split], positions: _Positions, kept_due: int) -> None:
        self._night, self._splits, self._positions, self._kept_due = night, splits, positions, kept_due
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
        kept: list[Look] | None = []
        parts = start = due = 0
        for part, positions in self._positions.parts(split.view):
            own = split.of(part.column("subject_id"))
            last_row = self._positions.last_rows(split.view, start, part.num_rows)
            parts, start = parts + 1, start + part.num_rows
            for place, template in enumerate(split.templates):
                rows = np.flatnonzero(own == place)
                chosen = part if len(split.templates) == 1 else part.take(pa.array(rows))
                plan = view_plan(chosen, template, self._night, None if last_row is None else last_row[rows])
                look = Look(number, family + place, positions[rows], plan)
                due += len(plan.subjects)
                if kept is not None and (parts == 1 or due <= self._kept_due):
                    kept.append(look.of_due())
                else:
                    kept = None
                yield look
        if kept is not None:
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
        subjects, shas = (values.take(pa.array(places)) for values in (made.part_subjects, made.part_shas))
        self.decisions[view][decision] += len(places)
        if decision == "empty":
            self._leave_out("empty_item", view, len(places), ((subject.as_py(), {}) for subject in subjects))
        return other_rows(view, template, decision, subjects, shas)

    def add_imported(self, view: str, part: pa.Table) -> pa.Table:
        self.decisions[view]["imported"] += part.num_rows
        return other_rows(view, None, "imported", part.column("subject_id"), part.column("evidence_sha"))

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
