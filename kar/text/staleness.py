"""Who is asked tonight, and how urgent it is. Pure: last knowledge and tonight's state in, reason out.

    reason    when                                                                         staleness
    new       no knowledge of this subject in this view                                    1
    evidence  user: at least k events that the last prompt did not see; item: its text     user: their share of the history
              changed                                                                      item: 0.5
    template  the template or its factors changed                                          0.5
    model     another model, or another revision of it (where both are known)              0.5
    age       the answer is older than the longest age at tonight's cutoff                 0.25

The first that holds, from the top, is the reason; none holds: fresh. Ages are measured at the cutoff of the partition
date, not by the clock, so that running a date again decides the same.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

_ONE_DAY_US = 86_400_000_000
ITEM_EVIDENCE, TEMPLATE, MODEL, AGE = 0.5, 0.5, 0.5, 0.25


@dataclass(frozen=True)
class Tonight:
    """What tonight's request would be made with.

    Args:
        model_revision: empty: unknown, then revisions are not compared.
        min_new_events: k of reason `evidence` for users.
    """

    template_version: str
    model: str
    model_revision: str
    cutoff_at: dt.datetime
    max_age_days: int
    min_new_events: int


@dataclass(frozen=True)
class Last:
    """The last knowledge of one subject in one view, lists left in Arrow until they are needed."""

    evidence_sha: str
    template_version: str
    model: str
    model_revision: str
    asked_us: int
    row: int
    table: pa.Table

    def evidence(self) -> tuple[list[str], dt.datetime | None]:
        """Items of the events that the prompt saw, oldest first, and the newest one's time."""
        items: list[str] = self.table.column("evidence_items")[self.row].as_py()
        return items, self.table.column("evidence_newest_at")[self.row].as_py()


@dataclass(frozen=True)
class Due:
    """Why a subject is due (empty: it is not) and how stale its knowledge is, 0–1."""

    reason: str
    staleness: float


FRESH = Due("", 0.0)


def last_knowledge(knowledge: pa.Table | None, view: str) -> dict[str, Last]:
    """The previous partition's knowledge of one view by subject."""
    if knowledge is None:
        return {}
    table = knowledge.filter(pc.equal(knowledge.column("view"), view)).combine_chunks()
    plain = [table.column(name).to_pylist() for name in ("subject_id", "evidence_sha", "template_version", "model", "model_revision")]
    asked = table.column("asked_at").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
    return {
        subject: Last(evidence, template, model, revision, at, row, table)
        for row, (subject, evidence, template, model, revision, at) in enumerate(zip(*plain, asked, strict=True))
    }


def due_users(history: pa.Table, evidence_shas: Sequence[str], last: dict[str, Last], tonight: Tonight) -> Iterator[Due]:
    """One verdict per row of the history table."""
    subjects = history.column("subject_id").to_pylist()
    items, times = history.column("item_ids"), history.column("event_ats")
    for row, (subject, sha) in enumerate(zip(subjects, evidence_shas, strict=True)):
        before = last.get(subject)
        if before is None:
            yield Due("new", 1.0)
            continue
        if before.evidence_sha != sha:
            shown = [str(item) for item in items[row].as_py()]
            new = new_events(shown, times[row].as_py(), *before.evidence())
            if new >= tonight.min_new_events:
                yield Due("evidence", new / len(shown))
                continue
        yield _due_anyway(before, tonight)


def due_items(evidence_shas: Sequence[str], subjects: Sequence[str], last: dict[str, Last], tonight: Tonight) -> Iterator[Due]:
    """One verdict per item."""
    for subject, sha in zip(subjects, evidence_shas, strict=True):
        before = last.get(subject)
        if before is None:
            yield Due("new", 1.0)
        elif before.evidence_sha != sha:
            yield Due("evidence", ITEM_EVIDENCE)
        else:
            yield _due_anyway(before, tonight)


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


def _due_anyway(before: Last, tonight: Tonight) -> Due:
    """Reasons that have nothing to do with what is known of the subject."""
    if before.template_version != tonight.template_version:
        return Due("template", TEMPLATE)
    if not is_same_model(before.model, tonight.model) or (tonight.model_revision and before.model_revision != tonight.model_revision):
        return Due("model", MODEL)
    cutoff_us = int(tonight.cutoff_at.timestamp()) * 1_000_000
    if cutoff_us - before.asked_us > tonight.max_age_days * _ONE_DAY_US:
        return Due("age", AGE)
    return FRESH
