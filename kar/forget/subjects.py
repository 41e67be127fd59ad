"""Who is to be forgotten, and which rows are about them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import SourceError
from kar.settings import Settings
from kar.store.forgotten import Side

SIDES: tuple[Side, ...] = ("user", "item")


@dataclass(frozen=True)
class Subjects:
    """Users and items by their ids as text (an int id in decimal)."""

    users: frozenset[str] = field(default_factory=frozenset)
    items: frozenset[str] = field(default_factory=frozenset)

    def __len__(self) -> int:
        return len(self.users) + len(self.items)

    def of(self, side: Side) -> frozenset[str]:
        return self.users if side == "user" else self.items

    def without(self, named: Collection[tuple[Side, str]]) -> Subjects:
        """The others."""
        left = {side: self.of(side) - {one for of, one in named if of == side} for side in SIDES}
        return Subjects(left["user"], left["item"])

    def pairs(self) -> list[tuple[Side, str]]:
        return [(side, one) for side in SIDES for one in sorted(self.of(side))]

    def are(self, side: Side, ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """bool: which values of an id column are one of them."""
        wanted = sorted(self.of(side))
        values = pa.array([int(one) for one in wanted], pa.int64()) if pa.types.is_integer(ids.type) else pa.array(wanted, pa.string())
        return pc.is_in(ids, value_set=values)

    def are_of_views(self, table: pa.Table) -> pa.ChunkedArray:
        """bool: which rows (view, subject_id) are about one of them."""
        view, subject = table.column("view"), table.column("subject_id")
        users = pc.and_(pc.starts_with(view, "user."), self.are("user", subject))
        return pc.or_(users, pc.and_(pc.starts_with(view, "item."), self.are("item", subject)))

    def words(self, shortest: int = 1) -> re.Pattern[str]:
        """Finds an id of at least so many characters as a word of its own."""
        ids = sorted((one for one in {*self.users, *self.items} if len(one) >= shortest), key=len, reverse=True)
        return re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, ids)) + r")(?![\w-])" if ids else r"(?!)")


def subjects_of(settings: Settings, users: list[str], items: list[str]) -> Subjects:
    """Subjects from what somebody typed.

    Raises:
        SourceError: an id that is none of the scenario's type.
    """
    ids = settings.scenario
    return Subjects(frozenset(_id("user", one, ids.user_id) for one in users), frozenset(_id("item", one, ids.item_id) for one in items))


def ids_in(path: Path) -> list[str]:
    """One id a line; empty lines are passed over.

    Raises:
        SourceError: the file is not there, is no text, or names nobody.
    """
    try:
        found = [line.rstrip("\r\n") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as a list of ids: {error}", "give a text file with one id a line") from error
    if not found:
        raise SourceError(f"{path} holds no id", "write one id a line")
    return found


def _id(side: Side, text: str, kind: str) -> str:
    if kind == "string":
        return text
    try:
        return str(int(text.strip()))
    except ValueError as error:
        raise SourceError(
            f"{text!r} is no {side} id: in this scenario they are whole numbers", "write the id as the source does"
        ) from error


def named_in(value: Any, words: re.Pattern[str]) -> bool:
    """Whether a JSON value holds an id, alone or as a word of a text."""
    if isinstance(value, dict):
        return any(named_in(one, words) for one in value.values())
    if isinstance(value, list):
        return any(named_in(one, words) for one in value)
    return value is not None and words.search(str(value)) is not None
