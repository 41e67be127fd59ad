"""Who is asked tonight, and how urgent it is. Pure: last knowledge and tonight's state in, reason out.

    reason    when                                                                         staleness
    new       no knowledge of this subject in this view                                    1
    evidence  user: at least k events that the last prompt did not see; item: its text     user: their share of the history
              changed                                                                      item: 0.5
    drift     user: the mixture of an item attribute over the history moved by at least    the distance, 0-1
              the most allowed, ½ Σ |p_last − p_tonight| (`kar.text.drift`)
              item: so did the neighbours that the prompt shows, each of equal weight
    template  the template or its factors changed                                          0.5
    model     another model, or another revision of it (where both are known)              0.5
    age       the answer is older than the longest age at tonight's cutoff                 0.25

The first that holds, from the top, is the reason; none holds: fresh. Ages are measured at the cutoff of the partition
date, not by the clock, so that running a date again decides the same.

Shape suffixes: S subjects, in the order given
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.text.drift import Mixtures

REASONS = ("new", "evidence", "drift", "template", "model", "age")
ITEM_EVIDENCE, TEMPLATE, MODEL, AGE = 0.5, 0.5, 0.5, 0.25
Texts: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray
COLUMNS = (
    "subject_id",
    "evidence_sha",
    "template_version",
    "model",
    "model_revision",
    "asked_at",
    "evidence_items",
    "evidence_newest_at",
    "neighbour_items",
)
"""What is needed of the last knowledge."""
_ONE_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Tonight:
    """What tonight's request would be made with.

    Args:
        model_revision: empty: unknown, then revisions are not compared.
        min_new_events: k of reason `evidence` for users.
        mixtures: of the attribute whose drift is measured; None: none is.
    """

    template_version: str
    model: str
    model_revision: str
    cutoff_at: dt.datetime
    max_age_days: int
    min_new_events: int
    max_drift: float = 1.0
    mixtures: Mixtures | None = None


class Last:
    """The last knowledge of one view.

    Args:
        table: rows of the view, columns `COLUMNS`; each subject once.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.select(list(COLUMNS))
        # in one piece what is taken from for every part of the subjects: of several pieces each take would join them all
        self._subjects, self._shas, self._neighbours = (
            self.table.column(name).combine_chunks() for name in ("subject_id", "evidence_sha", "neighbour_items")
        )
        self._made: dict[tuple[str, ...], np.ndarray] = {}
        self.asked_us: np.ndarray = self.table.column("asked_at").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()

    @classmethod
    def of(cls, knowledge: pa.Table, view: str) -> Last:
        """Of one view of table knowledge."""
        return cls(knowledge.filter(pc.equal(knowledge.column("view"), view)))

    def rows(self, subjects: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """int64 [S]: each subject's row; -1: nothing is known of it. Each call looks at all that is known: not for a part at a time."""
        found: np.ndarray = pc.fill_null(pc.index_in(subjects, value_set=self._subjects), -1).to_numpy().astype(np.int64)
        return found

    def is_other_evidence(self, rows: np.ndarray, shas: pa.Array) -> np.ndarray:
        """bool [S]: whether the digests of these rows' evidence are not `shas`."""
        return _bools(pc.not_equal(self._shas.take(pa.array(rows)), shas))

    def is_other_template(self, version: str) -> np.ndarray:
        """bool, one a row: asked by another version of the template."""
        return self._once(("template", version), lambda: _bools(pc.not_equal(self.table.column("template_version"), version)))

    def is_other_model(self, model: str, revision: str) -> np.ndarray:
        """bool, one a row: asked of another model, or of another revision where both are known."""
        return self._once(("model", model, revision), lambda: _is_other_model(self.table, model, revision))

    def _once(self, key: tuple[str, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Of the whole table once a night, not of a part of it for every part of the subjects."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def neighbours(self, rows: np.ndarray) -> list[list[str]]:
        """The neighbours that the prompts of these rows showed."""
        shown: list[list[str]] = self._neighbours.take(pa.array(rows)).to_pylist()
        return shown

    def evidence(self, row: int) -> tuple[list[str], dt.datetime | None]:
        """Items of the events that the prompt saw, oldest first, and the newest one's time."""
        items: list[str] = self.table.column("evidence_items")[row].as_py()
        return items, self.table.column("evidence_newest_at")[row].as_py()


@dataclass
class Standing:
    """How the last knowledge of some subjects stands tonight.

    Args:
        last_row: int64 [S], row of the last knowledge; -1: none.
        is_changed: bool [S], the evidence's digest is another one.
        new_events: int64 [S], events that the last prompt did not see; users with changed evidence only.
        drift: float64 [S]; NaN where it is not measured.
        age_days: float64 [S] at the cutoff; NaN without knowledge.
        holds: reason → bool [S].
        stale: reason → float64 [S], how stale the knowledge is if that is the reason.
    """

    last_row: np.ndarray
    is_changed: np.ndarray
    new_events: np.ndarray
    drift: np.ndarray
    age_days: np.ndarray
    holds: dict[str, np.ndarray] = field(default_factory=dict)
    stale: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def reason(self) -> np.ndarray:
        """[S], the first that holds; empty: none, it is fresh."""
        return np.select([self.holds[r] for r in REASONS], REASONS, "").astype(object)

    @property
    def staleness(self) -> np.ndarray:
        """float64 [S], 0-1; 0: fresh."""
        return np.select([self.holds[r] for r in REASONS], [self.stale[r] for r in REASONS], 0.0)


def standing_of_users(history: pa.Table, shas: Texts, last: Last | None, tonight: Tonight, last_row: np.ndarray | None = None) -> Standing:
    """One verdict per row of the history table.

    Args:
        shas: the evidence's digests, one a row.
        last_row: int64 [S], where `last.rows` says that the subjects stand; None: it is asked.
    """
    found = _standing(history.column("subject_id"), shas, last, tonight, last_row)
    shown_S = pc.list_value_length(history.column("item_ids")).to_numpy()
    places = np.flatnonzero(found.is_changed)
    if last is not None and len(places):
        rows = history.select(["item_ids", "event_ats"]).take(pa.array(places))
        items_of, times_of = rows.column("item_ids"), rows.column("event_ats")
        for n, (place, row) in enumerate(zip(places.tolist(), found.last_row[places].tolist(), strict=True)):
            items, (seen, newest) = [str(item) for item in items_of[n].as_py()], last.evidence(row)
            new = new_events(items, times_of[n].as_py(), seen, newest)
            found.new_events[place] = new
            if tonight.mixtures is not None:
                found.drift[place] = tonight.mixtures.drift(seen, items[-(len(seen) + new) :])
    found.holds["evidence"] = found.new_events >= tonight.min_new_events
    found.stale["evidence"] = found.new_events / np.maximum(shown_S, 1)
    found.holds["drift"] = np.nan_to_num(found.drift) >= tonight.max_drift if tonight.mixtures is not None else np.zeros(len(shown_S), bool)
    found.stale["drift"] = np.nan_to_num(found.drift)
    return found


def standing_of_items(
    subjects: pa.Array | pa.ChunkedArray,
    shas: Texts,
    last: Last | None,
    tonight: Tonight,
    last_row: np.ndarray | None = None,
    neighbours: Sequence[Sequence[str]] | None = None,
) -> Standing:
    """One verdict per item. `last_row` as of users.

    Args:
        neighbours: [S], those that tonight's prompt would show; None: the template shows none.
    """
    found = _standing(subjects, shas, last, tonight, last_row)
    found.holds["evidence"] = found.is_changed
    found.holds["drift"] = np.zeros(len(shas), bool)
    found.stale |= {"evidence": np.full(len(shas), ITEM_EVIDENCE), "drift": np.zeros(len(shas))}
    if neighbours is not None and last is not None:
        is_known = found.last_row >= 0
        before = last.neighbours(found.last_row[is_known])
        now = [neighbours[place] for place in np.flatnonzero(is_known).tolist()]
        found.drift[is_known] = [neighbour_drift(*pair) for pair in zip(before, now, strict=True)]
        found.stale["drift"] = np.nan_to_num(found.drift)
        found.holds["drift"] = found.stale["drift"] >= tonight.max_drift
    return found


def neighbour_drift(before: Sequence[str], now: Sequence[str]) -> float:
    """½ Σ |p_before − p_now| over the neighbours of two lists, each of equal weight in its list; their order does not count."""
    if not before or not now:
        return float(bool(before) != bool(now))
    both = len(set(before) & set(now))
    return 1.0 - both / max(len(before), len(now))


def _standing(
    subjects: pa.Array | pa.ChunkedArray, shas: Texts, last: Last | None, tonight: Tonight, last_row: np.ndarray | None
) -> Standing:
    """All that does not depend on the side; reasons evidence and drift are still open."""
    count = len(shas)
    row_S = np.full(count, -1, np.int64) if last is None else last.rows(subjects) if last_row is None else last_row
    is_known = row_S >= 0
    found = Standing(row_S, np.zeros(count, bool), np.zeros(count, np.int64), np.full(count, np.nan), np.full(count, np.nan))
    found.holds = {"new": ~is_known, **{r: np.zeros(count, bool) for r in REASONS[1:]}}
    found.stale = {"new": np.ones(count)}
    found.stale |= {r: np.full(count, s) for r, s in (("template", TEMPLATE), ("model", MODEL), ("age", AGE))}
    if last is None or not is_known.any():
        return found
    known = row_S[is_known]
    found.is_changed[is_known] = last.is_other_evidence(known, _column(shas).filter(pa.array(is_known)))
    found.holds["template"][is_known] = last.is_other_template(tonight.template_version)[known]
    found.holds["model"][is_known] = last.is_other_model(tonight.model, tonight.model_revision)[known]
    found.age_days[is_known] = (int(tonight.cutoff_at.timestamp()) * 1_000_000 - last.asked_us[known]) / _ONE_DAY_US
    found.holds["age"] = np.nan_to_num(found.age_days) > tonight.max_age_days
    return found


def _is_other_model(known: pa.Table, model: str, revision: str) -> np.ndarray:
    same = [m for m in pc.unique(known.column("model")).to_pylist() if is_same_model(m, model)]
    is_other: np.ndarray = ~_bools(pc.is_in(known.column("model"), value_set=pa.array(same, pa.string())))
    if revision:
        answered = known.column("model_revision")
        is_other |= _bools(pc.and_(pc.not_equal(answered, ""), pc.not_equal(answered, revision)))
    return is_other


def _bools(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = np.asarray(column)
    return values.astype(bool)


def _column(texts: Texts) -> pa.Array:
    if isinstance(texts, pa.ChunkedArray):
        return texts.combine_chunks()
    return texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())


def new_events(items: list[str], times: list[dt.datetime], seen: list[str], newest_seen_at: dt.datetime | None) -> int:
    """How many events of a history the last prompt did not see and could not have dropped for want of room.

    Events after its newest one count; so do events that have since turned up among the ones it saw (a late delivery).
    Events older than what it saw do not: they were there and were left out.

    Args:
        items: the history's items as text, oldest first; `times` are theirs.
        seen: items of the events that the last prompt saw, oldest first.
    """
    if newest_seen_at is None:
        return len(items)
    later = sum(time > newest_seen_at for time in times)
    unmet, late = Counter(seen), 0
    for item in reversed(items[: len(items) - later]):
        if not unmet:
            break  # what is older was dropped for want of room
        if unmet[item] > 1:
            unmet[item] -= 1
        elif unmet.pop(item, 0) == 0:
            late += 1
    return later + late


def is_same_model(answered: str, asked: str) -> bool:
    """Whether the name a server answers with is the model that was asked for.

    Servers add what they resolved the name to: `gpt-4o` answers as `gpt-4o-2024-08-06`, `smollm2` as `smollm2@main`.
    Without this, such a model would look changed every night and everybody would be asked again.
    """
    return answered == asked or re.fullmatch(re.escape(asked) + r"(?:[@:].*|-\d{4}-\d{2}-\d{2}|-\d{4,8})", answered) is not None
