"""Titles of the catalogue that a text names: Aho-Corasick over every distinctive form of every title.

A one-word title ("Heat", "Big") is a word first and a title second: it counts only in quotes, in stars, before a year,
or where a text opens with "Heat is a …". Longer forms count where they stand with the catalogue's capitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from ahocorasick_rs import AhoCorasick, Implementation, MatchKind

from kar.text.quality.words import words_of

_YEAR = re.compile(r"\s*[(\[](?:1[89]|20)\d\d[)\]]\s*$")
_OTHER_NAME = re.compile(r"\s*\(([^()]{2,80})\)\s*$")
_ARTICLES = "The|A|An|Le|La|Les|L'|Il|Lo|I|Gli|El|Los|Las|Das|Der|Die|Ein|Eine|Un|Une|Den|Det|De|Het|O|Os"
_TRAILING_ARTICLE = re.compile(rf"^(?P<rest>.+), (?P<article>{_ARTICLES})$")
_LEADING_ARTICLE = re.compile(r"^(?:the|a|an) ", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“‘«*_]([^\"“”‘’«»*_\n]{2,80})[\"”’»*_]")
_DATED = re.compile(r"\b([A-Z][\w'’-]{1,30}) \((?:1[89]|20)\d\d\)")
_OPENING = re.compile(
    r"^\W{0,3}(?:The (?:\d{4} )?(?:[a-z]{3,12} )?)?([A-Z0-9][^.!?\n\"“”*]{0,80}?)[\"”*]{0,2},?(?: \([^()]{1,30}\),?)? (?:is|was) (?:an?|the|one)\b"
)
_SEQUEL = re.compile(r"\s+(?:\d{1,3}|[ivx]{1,5}|part \w+|vol(?:ume|\.)? \w+)$")
_LEAST_CHARS, _MOST_CHARS = 7, 80


def forms(title: str) -> list[str]:
    """How a text may write a title: without the year, the article in front, other names and a colon's first half by themselves.

    >>> forms("City of Lost Children, The (Cité des enfants perdus, La) (1995)")
    ['The City of Lost Children', 'City of Lost Children', 'La Cité des enfants perdus', 'Cité des enfants perdus']
    """
    rest = _YEAR.sub("", title.strip())
    names: list[str] = []
    while found := _OTHER_NAME.search(rest):
        names.insert(0, found.group(1))
        rest = rest[: found.start()]
    written: list[str] = []
    for name in [rest, *names]:
        name = name.removeprefix("a.k.a. ").strip()
        moved = _TRAILING_ARTICLE.match(name)
        article = moved["article"] + ("" if moved["article"].endswith("'") else " ") if moved else ""
        written += [article + moved["rest"], moved["rest"]] if moved else [name, _LEADING_ARTICLE.sub("", name)]
        head, colon, _ = written[-1].partition(": ")
        if colon and len(head.split()) > 1:
            written.append(head)
    return list(dict.fromkeys(form for form in written if form))


def stem(form: str) -> str:
    """What a title and its sequels share: lower-case words without article and number.

    >>> stem("The Lethal Weapon 2"), stem("Lethal Weapon")
    ('lethal weapon', 'lethal weapon')
    """
    head = form.partition(":")[0]
    return _SEQUEL.sub("", _LEADING_ARTICLE.sub("", " ".join(words_of(head)).lower()))


class Catalogue:
    """Finds the catalogue's titles in texts.

    Args:
        titles: as the item table writes them; all of them.
    """

    def __init__(self, titles: Iterable[str]) -> None:
        patterns: dict[str, None] = {}
        single: dict[str, str] = {}
        for title in titles:
            for form in forms(title):
                single.setdefault(form.lower(), form)
                if _LEAST_CHARS <= len(form) <= _MOST_CHARS and len(_LEADING_ARTICLE.sub("", form).split()) > 1 and form[:1].isupper():
                    patterns[form] = None
        self._patterns, self._single = list(patterns), single
        # the smallest automaton: a catalogue may hold a million titles
        self._found = AhoCorasick(
            self._patterns, MatchKind.LeftmostLongest, store_patterns=False, implementation=Implementation.ContiguousNFA
        )

    def named(self, text: str) -> list[tuple[str, int]]:
        """(title form, place in the text) of every title that the text names, in order; a title may come twice."""
        found = [
            (self._patterns[which], start) for which, start, end in self._found.find_matches_as_indexes(text) if _is_whole(text, start, end)
        ]
        for pattern in (_QUOTED, _DATED):
            for match in pattern.finditer(text):
                form = self._single.get(_YEAR.sub("", match.group(1)).strip(" ,.").lower())
                if form is not None:
                    found.append((form, match.start(1)))
        if (opening := _OPENING.match(text)) and (form := self._single.get(opening.group(1).lower())) is not None:
            found.append((form, opening.start(1)))
        return sorted(set(found), key=lambda pair: pair[1])


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether a match begins and ends at a word's border, and is no part of a longer capitalised name ("New York Times")."""
    return (
        not (start and (text[start - 1].isalnum() or text[start - 1] == "-"))
        and not text[end : end + 1].isalnum()
        and text[end : end + 1] != "-"
    )


def is_met(form: str, met: Sequence[str], prompt: str) -> bool:
    """Whether a named title is one of those, another part of the same series, or stands in the prompt.

    Args:
        form: as `Catalogue.named` gives it.
        met: stems of the titles the subject met.
        prompt: what the model was shown, lower case.
    """
    own = stem(form)
    return form.lower() in prompt or any(
        own == other or (own and (f" {own} " in f" {other} " or f" {other} " in f" {own} ")) for other in met
    )


def stems(titles: Iterable[str]) -> list[str]:
    """The stems of every form of these titles, empty ones left out."""
    return list(dict.fromkeys(s for title in titles for s in _stems_of(title)))


@lru_cache(maxsize=65_536)  # the same titles stand in history after history
def _stems_of(title: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(s for form in forms(title) if (s := stem(form))))
