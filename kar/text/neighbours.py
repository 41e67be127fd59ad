"""The items that stand beside an item in a prompt: how they are written, and what their texts have seen.

Shape suffixes: S subjects, in the order given
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from kar.text.clean import clean

NEIGHBOUR_CHARS = 300
"""Of a neighbour's text in another item's prompt."""
COLUMNS = ["subject_id", "title", "text", "evidence_users", "evidence_items", "evidence_newest_at"]


@dataclass(frozen=True)
class Seen:
    """The interactions that a text rests on: users and items in the same order, and the newest one's time."""

    users: list[str]
    items: list[str]
    newest_at: dt.datetime | None


@dataclass
class Neighbours:
    """Who stands beside whom, and what is said of them.

    Args:
        of: item → its neighbours, the nearest first, as text.
        lines: neighbour → the line that stands for it; those of which nothing can be said are not there.
        seen: neighbour → what that line rests on.
        graph_newest_at: newest interaction of the graph that told who stands beside whom.
    """

    of: dict[str, list[str]] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    graph_newest_at: dt.datetime | None = None

    @classmethod
    def read(cls, item_neighbour: pa.Table, profiles: Iterable[pa.Table]) -> Neighbours:
        """From table item_neighbour and the parts of item_profile, with columns `COLUMNS`."""
        rows = item_neighbour.sort_by([("item_id", "ascending"), ("rank", "ascending")])
        ids, near = (rows.column(name).cast(pa.string()) for name in ("item_id", "neighbour_id"))
        found = cls(graph_newest_at=pc.max(rows.column("evidence_newest_at")).as_py())
        for item, neighbour in zip(ids.to_pylist(), near.to_pylist(), strict=True):
            found.of.setdefault(item, []).append(neighbour)
        wanted = pc.unique(near)
        for part in profiles:
            found._say(part.filter(pc.is_in(part.column("subject_id"), value_set=wanted)))
        return found

    def _say(self, profile: pa.Table) -> None:
        columns = [profile.column(name).to_pylist() for name in COLUMNS]
        for item, title, text, *seen in zip(*columns, strict=True):
            if said := clean(text, NEIGHBOUR_CHARS) or clean(title or "", NEIGHBOUR_CHARS):
                self.lines[item] = f"- {said}"
                self.seen[item] = Seen(*seen)

    def shown(self, subjects: Sequence[str], count: int) -> list[list[str]]:
        """[S] the nearest `count` neighbours of each that a prompt can show; fewer where there are fewer."""
        return [[near for near in self.of.get(subject, []) if near in self.lines][:count] for subject in subjects]

    def text(self, shown: Sequence[str]) -> str:
        """What the variable `neighbours` holds."""
        return "\n".join(self.lines[item] for item in shown)

    def evidence(self, own: Seen, shown: Sequence[str]) -> Seen:
        """What a prompt rests on that shows an item and these neighbours: its own interactions, theirs, and the graph's newest."""
        beside = [self.seen[item] for item in shown]
        times = [
            at for at in (own.newest_at, self.graph_newest_at if shown else None, *(one.newest_at for one in beside)) if at is not None
        ]
        return Seen(
            [*own.users, *(user for one in beside for user in one.users)],
            [*own.items, *(item for one in beside for item in one.items)],
            max(times, default=None),
        )
