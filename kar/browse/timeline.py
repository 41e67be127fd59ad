"""One subject over nights and releases: when its text changed, what was refused, how far its vector moved."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from kar.browse.neighbours import cosine
from kar.browse.shelf import Shelf, vector_at
from kar.browse.tables import Tables
from kar.errors import ReleaseError
from kar.release import Listed, Release
from kar.release.layout import Kind, Side
from kar.store import Partition

NIGHTS = 30


@dataclass(frozen=True)
class Span:
    """Nights in a row on which a view said the same of the subject.

    Args:
        first, last: the nights; equal for one.
        nights: how many were made.
        text: the knowledge; empty: there was none.
        is_changed: whether the text differs from the span before it; of the oldest one shown: False.
        refused: reasons of these nights' refusals, newest first.
        releases: that were published from these nights, newest first.
        knowledge_cosine, adapted_cosine: of the newest release's vector with the span's before it; None: one of the two has
            none, or they are of two encoders or two spaces.
    """

    first: dt.date
    last: dt.date
    nights: int
    text: str
    origin: str
    model: str
    template_version: str
    asked_at: dt.datetime | None
    is_changed: bool
    refused: list[str]
    releases: list[Listed]
    knowledge_cosine: float | None = None
    adapted_cosine: float | None = None


@dataclass(frozen=True)
class Timeline:
    """One view's spans, newest first."""

    view: str
    spans: list[Span]

    @property
    def change_count(self) -> int:
        return sum(span.is_changed for span in self.spans)


@dataclass(frozen=True)
class _Night:
    date: dt.date
    known: dict[str, Any] | None
    refused: tuple[str, ...]

    @property
    def same(self) -> tuple[object, ...]:
        """What makes two nights one span."""
        known = self.known or {}
        return (known.get("text", ""), known.get("asked_at"), self.refused)


def timelines(
    tables: Tables, shelf: Shelf, nights: Sequence[Partition], listed: list[Listed], side: Side, subject_id: str, subject: Any
) -> list[Timeline]:
    """Every view that any of the nights says something of.

    Args:
        nights: partitions of the knowledge stage, oldest first.
        subject: its id in the source's own type.

    Raises:
        TableError: a night's table is damaged.
    """
    columns = ["view", "text", "origin", "model", "template_version", "asked_at"]
    known = _by_view(tables.over_nights(nights, "knowledge", side, subject_id, columns))
    refused = _by_view(tables.over_nights(nights, "refused", side, subject_id, ["view", "reason"]))
    made = []
    for view in sorted({*known, *refused}):
        rows = [
            _Night(
                night.date,
                next(iter(known[view].get(night.path.name, [])), None),
                tuple(sorted({row["reason"] for row in refused[view].get(night.path.name, [])})),
            )
            for night in nights
        ]
        spans = _spans(rows, listed)
        made.append(Timeline(view, _with_cosines(spans, shelf, listed, side, view, subject)[::-1]))
    return made


def _by_view(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """view → night → rows."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["view"]][row["night"]].append(row)
    return found


def _spans(nights: list[_Night], listed: list[Listed]) -> list[Span]:
    """Oldest first; nights before anything was known or refused are left out."""
    groups: list[list[_Night]] = []
    for night in nights:
        if groups and groups[-1][-1].same == night.same:
            groups[-1].append(night)
        elif groups or night.known or night.refused:
            groups.append([night])
    spans: list[Span] = []
    for group in groups:
        known = group[-1].known or {}
        text = known.get("text", "")
        spans.append(
            Span(
                first=group[0].date,
                last=group[-1].date,
                nights=len(group),
                text=text,
                origin=(group[0].known or {}).get("origin", ""),
                model=known.get("model", ""),
                template_version=known.get("template_version", ""),
                asked_at=known.get("asked_at"),
                is_changed=bool(spans) and spans[-1].text != text,
                refused=list(group[-1].refused),
                releases=[
                    e for e in listed if e.manifest and group[0].date.isoformat() <= e.manifest["date"] <= group[-1].date.isoformat()
                ],
            )
        )
    return spans


def _with_cosines(spans: list[Span], shelf: Shelf, listed: list[Listed], side: Side, view: str, subject: Any) -> list[Span]:
    """Every span but the oldest measured against the one before it. Opens no release where there is nothing to compare."""
    if len(spans) < 2:
        return spans
    opened = [_newest_of(span, shelf, listed) for span in spans]
    moved = [spans[0]]
    for (before, after), span in zip(pairwise(opened), spans[1:], strict=True):
        if before is None or after is None:
            moved.append(span)
            continue
        encoded = _moved(before, after, side, view, subject, "knowledge") if before.encoder_id == after.encoder_id else None
        adapted = _moved(before, after, side, view, subject, "adapted") if before.space_id == after.space_id else None
        moved.append(replace(span, knowledge_cosine=encoded, adapted_cosine=adapted))
    return moved


def _newest_of(span: Span, shelf: Shelf, listed: list[Listed]) -> Release | None:
    """The release published last from a span's nights; None if there is none, or it is damaged (the list says so)."""
    for entry in span.releases:
        try:
            return shelf.open(entry.id, listed)
        except ReleaseError:
            continue
    return None


def _moved(before: Release, after: Release, side: Side, view: str, subject: Any, kind: Kind) -> float | None:
    """The cosine of one subject's vectors in two releases; None if one of them has none."""
    one, other = vector_at(before, side, view, subject, kind), vector_at(after, side, view, subject, kind)
    return None if one is None or other is None else cosine(one, other)
