"""The forgotten subject's own words, and which texts of others hold them literally."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

SHORTEST = 32  # characters: a shorter text ("Great film!") may be anybody's
WRITTEN = 80  # of what a person wrote: prompts cut reviews, so only the beginning can be looked for
ANSWERED = 400  # of what a model answered: answers begin alike, so much of one must be met
_AT_ONCE = 100  # patterns in one expression: RE2 grows with them


@dataclass(frozen=True)
class Quotes:
    """Beginnings of texts that belong to the subject alone: what they wrote, what was answered about them."""

    beginnings: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, texts: Iterable[str | None], chars: int) -> Quotes:
        """Args: chars: of each text; one shorter than `SHORTEST` is left out."""
        return cls(frozenset(t[:chars] for text in texts if text and len(t := text.strip()) >= SHORTEST))

    def __bool__(self) -> bool:
        return bool(self.beginnings)

    def plus(self, other: Quotes) -> Quotes:
        return Quotes(self.beginnings | other.beginnings)

    @cached_property
    def _expressions(self) -> list[str]:
        """Plain, with blanks run together as prompts have them, and as JSON writes both."""
        plain = self.beginnings | {" ".join(one.split()) for one in self.beginnings}
        written = sorted(plain | {json.dumps(one, ensure_ascii=False)[1:-1] for one in plain} | {json.dumps(one)[1:-1] for one in plain})
        return ["|".join(map(_escaped, written[first : first + _AT_ONCE])) for first in range(0, len(written), _AT_ONCE)]

    def are_in(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        """bool: which texts hold one of them."""
        found = pa.chunked_array([pa.repeat(pa.scalar(False), len(texts))])
        for expression in self._expressions:
            found = pc.or_(found, pc.fill_null(pc.match_substring_regex(texts, expression), False))
        return found

    def is_in(self, text: str) -> bool:
        return any(re.search(expression, text) for expression in self._expressions)


def _escaped(text: str) -> str:
    """As RE2 and Python's re both take it."""
    return "".join(c if c.isalnum() or c == "_" or ord(c) > 127 else "\\" + c for c in text)
