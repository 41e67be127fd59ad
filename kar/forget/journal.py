"""What a run has done so far, on disk after every step: a killed one is gone on with, and its receipt counts both."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kar.errors import StageError
from kar.store import Forgotten, Home, write_whole
from kar.store.forgotten import folder_of

_HINT = "give the same ids again: kar forget goes on where it was stopped"


@dataclass
class Journal:
    """The state of one `kar forget`.

    Args:
        users, items: salted digests of whom it is about.
        shas: stage.table → digest of a table before → after.
        manifests: place of a partition's manifest below the home → its digest before.
        facts: prompts partition → what its recipe says of replays, before.
        releases: old id → new id.
        counts: place → part of it (a date, a file) → what was taken out there → how much.
        notes: what could not be done, for the receipt.
        stays: what was left on purpose.
    """

    users: list[str]
    items: list[str]
    began_at: str
    shas: dict[str, dict[str, str]] = field(default_factory=dict)
    manifests: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stays: list[str] = field(default_factory=list)

    def add(self, place: str, part: str = "", **counts: int) -> None:
        """Note what a part of a place loses. A run that goes on finds less of it than the first one did: the most counts."""
        if found := {name: count for name, count in counts.items() if count}:
            parts = self.counts.setdefault(place, {})
            parts[part] = dict(Counter(parts.get(part, {})) | Counter(found))

    def totals(self) -> dict[str, dict[str, int]]:
        """Place → what was taken out there → how much, over all its parts."""
        return {place: dict(sum(map(Counter, parts.values()), Counter[str]())) for place, parts in self.counts.items()}

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def changed(self, table: str, before: str, after: str) -> None:
        if before != after:
            self.shas.setdefault(table, {})[before] = after

    def has_made(self, table: str, sha: str) -> bool:
        """Whether a run before this one wrote that very table: numbers in it must not be counted anew twice."""
        return sha in self.shas.get(table, {}).values()

    def newest(self, table: str, sha: str | None) -> str | None:
        """The digest that a table has by now."""
        known, seen = self.shas.get(table, {}), set[str]()
        while sha is not None and sha in known and sha not in seen:
            seen.add(sha)
            sha = known[sha]
        return sha

    def write(self, home: Home) -> None:
        write_whole(path_of(home), json.dumps(asdict(self), indent=1) + "\n")


def path_of(home: Home) -> Path:
    return folder_of(home) / "unfinished.json"


def open_journal(home: Home, listed: Forgotten, users: frozenset[str], items: frozenset[str], now: str) -> Journal:
    """A new journal, or that of a run that was killed.

    Raises:
        StageError: an unfinished run was about others as well; or its journal cannot be read.
    """
    own = Journal(sorted(listed.digest("user", one) for one in users), sorted(listed.digest("item", one) for one in items), now)
    path = path_of(home)
    if not path.is_file():
        return own
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        left = Journal(**found)
    except (ValueError, TypeError) as error:
        raise StageError(f"{path}, the journal of a kar forget that was stopped, cannot be read: {error}", _HINT) from error
    if not (set(left.users) <= set(own.users) and set(left.items) <= set(own.items)):
        count = len(left.users) + len(left.items)
        raise StageError(f"a kar forget of {left.began_at} about {count} others was stopped before its end", _HINT)
    left.users, left.items = own.users, own.items
    return left
