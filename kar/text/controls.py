"""Control texts, which tell knowledge from memory: the same texts without names, and words without sense.

masked   every title of the catalogue and every proper name replaced: "this movie", "another movie", "Person A". What a ranker still gains from
         such a text it gains from what is said, not from a name that the encoder, or the language model, remembers from the benchmark.
noise    as many words as the text has, drawn from all words of its view by their frequency: what a vector of such a text can give at all.

Both change the texts that were written. They cannot take back that the language model knew whom it wrote about when it was asked; for that the
question itself must not tell. No template is needed: write the titles away where the items come in, in a scenario of its own
(`[scenario] name`, so with an answer ledger of its own):

    [sources.items]
    format = "duckdb"
    path = "select id, 'Film ' || id || ' (' || year || ')' as title, genre from read_parquet('items.parquet')"

Then every prompt, of items and of users, speaks of "Film 17 (1995)".

What a title is: what the quality gate takes for one (`kar.text.quality.titles`); besides, in whatever capitals, the titles that the text's prompt
showed or that it is about, one word of them too ("Raiders"), but where that word is a plain one and opens a sentence.
What a proper name is, told from the texts of the view themselves:
    a capitalised word is a name if no text of the view writes it in lower case, and some text writes it capitalised inside a sentence;
    neighbouring capitalised words are one name if one of them is a name, or if they stand inside a sentence; particles (de, van, von …) and
    initials may stand within; abbreviations in capitals alone (FBI) and adjectives of countries are none;
    what stands in more than 1 of 50 texts (of 20 at least) is a term of the trade and stays: Oscar, Hollywood, New York. Such are told of.
So no list of names is needed; in a script without capitals none is found.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kar.text.quality.titles import Catalogue, forms
from kar.text.quality.words import words_of

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_POSSESSIVE = re.compile(r"['’]s?$")
_GAP = re.compile(r"\.? |-")
_SENTENCE_START = re.compile(r"(?:^|[.!?…][\"'”’)\]]*\s+|\n\s*)[\"'“‘(\[*_]*$")
_NO_SENTENCE_END = re.compile(r"(?:\b(?:[Mm]rs?|[Mm]s|[Dd]r|[Ss]t|[Jj]r|[Ss]r|vs|[Pp]rof)|\b[A-Z])\.\s*$")
_BEHIND = (
    re.compile(r", (?:The|A|An|Le|La|Les|Il|El|Los|Las|Das|Der|Die)(?=\s*(?:[(\[]|$)|[,.;!?)])"),  # "Matrix, The (1999)"
    re.compile(r" (?:[IVX]{2,4}|[2-9])\b"),
    re.compile(r"[\"”’*_]?,?\s*[(\[](?:1[89]|20)\d\d[)\]]"),
)
_PARTICLES = frozenset(words_of("de del della di da du dos das la le van von der den ter ten bin al el y"))
_PLAIN = frozenset(
    words_of(
        """African American Arab Asian Australian Austrian Belgian Brazilian British Canadian Celtic Chinese Cuban Czech Danish Dutch English
        European Finnish French German Greek Hungarian Indian Irish Israeli Italian Japanese Jewish Korean Latin Mexican Norwegian Persian
        Polish Portuguese Russian Scottish Soviet Spanish Swedish Swiss Turkish Victorian Vietnamese Welsh Catholic Muslim Christmas I"""
    )
)
_TERM_SHARE, _TERM_LEAST = 1 / 50, 20
_LEAST_PART = 4
_LOOK_BACK = 12


@dataclass(frozen=True)
class Row:
    """A text to mask.

    Args:
        own: the title of the item that it is about; None: it is about a user.
        met: titles that its prompt showed besides.
    """

    text: str
    own: str | None = None
    met: tuple[str, ...] = ()


@dataclass(frozen=True)
class Masked:
    """A text without names.

    Args:
        titles, names: how many were replaced.
    """

    text: str
    titles: int
    names: int


@dataclass(frozen=True)
class _Span:
    """A place in a text, and what comes there."""

    start: int
    end: int
    words: str


class Mask:
    """Replaces titles and names in the texts of one view.

    Args:
        rows: all of the view; they tell which words are names.
        catalogue: the titles of all items.
        noun: what an item is called: movie.
    """

    def __init__(self, rows: Sequence[Row], catalogue: Iterable[str], noun: str) -> None:
        self._rows, self._catalogue, self._noun = rows, Catalogue(catalogue), noun
        self._lower: set[str] = set()
        self._inside: set[str] = set()
        for row in rows:
            for match in _WORD.finditer(row.text):
                word = _bare(match.group())
                if word[:1].islower():
                    self._lower.add(word)
                elif not _opens_sentence(row.text, match.start()):
                    self._inside.add(word)
        self._titles = [self._titles_of(row) for row in rows]
        self._names = [self._names_of(row, titles) for row, titles in zip(rows, self._titles, strict=True)]
        counts = Counter(
            name
            for row, places in zip(rows, self._names, strict=True)
            for name in {row.text[start:end] for start, end in places}
            if not _part_of(name, row)
        )
        least = max(_TERM_LEAST, len(rows) * _TERM_SHARE)
        self.terms = sorted(name for name, count in counts.items() if count > least)
        """What stays because it stands in so many texts."""

    def apply(self) -> Iterator[Masked]:
        """Each text without titles and names, in order."""
        terms = frozenset(self.terms)
        for row, titles, places in zip(self._rows, self._titles, self._names, strict=True):
            told = [(start, end) for start, end in places if row.text[start:end] not in terms]
            parts = [place for place in told if _part_of(row.text[slice(*place)], row)]
            spans = [*titles, *(_Span(*place, self._called(row.own is not None)) for place in parts)]
            count = len(spans)
            spans += _persons(row.text, [place for place in told if place not in parts])
            shown, at = [], 0
            for span in sorted(spans, key=lambda span: span.start):
                words = span.words[:1].upper() + span.words[1:] if _opens_sentence(row.text, span.start) else span.words
                shown += [row.text[at : span.start], words]
                at = span.end
            yield Masked("".join([*shown, row.text[at:]]), count, len(spans) - count)

    def _called(self, is_own: bool) -> str:
        return f"{'this' if is_own else 'another'} {self._noun}"

    def _titles_of(self, row: Row) -> list[_Span]:
        """The titles in a text, none over another; the longest first, then the one in front."""
        found = [(start, start + len(form), form) for form, start in self._catalogue.named(row.text)]
        for title in [*([row.own] if row.own else []), *row.met]:
            for form in _forms(title):
                found += [(start, end, form) for start, end in self._standing(row.text, form)]
        mine = {form.lower() for form in _forms(row.own)} if row.own else set()
        chosen: list[_Span] = []
        for start, end, form in sorted(found, key=lambda f: (f[0] - f[1], f[0])):
            for pattern in _BEHIND:
                if behind := pattern.match(row.text, end):
                    end = behind.end()
            if all(end <= span.start or start >= span.end for span in chosen):
                chosen.append(_Span(start, end, self._called(form.lower() in mine)))
        return chosen

    def _standing(self, text: str, form: str) -> Iterator[tuple[int, int]]:
        """Where a title stands as whole words; one of a single word with its capital, and at a sentence's start if it is no plain word."""
        is_one = len(form.split()) == 1
        if is_one and form[:1].islower():
            return
        where, what = (text, form) if is_one or len(text.lower()) != len(text) else (text.lower(), form.lower())
        start = where.find(what)
        while start >= 0:
            end = start + len(what)
            is_whole = not text[max(0, start - 1) : start].isalnum() and not text[end : end + 1].isalnum()
            if is_whole and not (is_one and form.lower() in self._lower and _opens_sentence(text, start)):
                yield start, end
            start = where.find(what, end)

    def _names_of(self, row: Row, titles: list[_Span]) -> list[tuple[int, int]]:
        """Where proper names stand outside the titles, possessives left out."""
        runs: list[list[re.Match[str]]] = [[]]
        for match in _WORD.finditer(row.text):
            word, start = _bare(match.group()), match.start()
            is_free = all(match.end() <= span.start or start >= span.end for span in titles)
            opens = _opens_sentence(row.text, start)
            if is_free and self._goes_on(row.text, runs[-1], match) and (word[:1].isupper() or word in _PARTICLES):
                runs[-1].append(match)
            elif is_free and word[:1].isupper() and word not in _PLAIN and (not opens or self._is_name(word)):
                runs.append([match])
            else:
                runs.append([])
        found = []
        for run in runs:
            while run and run[-1].group() in _PARTICLES:
                run.pop()
            if run and self._is_named(row, [_bare(match.group()) for match in run], run[0].start()):
                found.append((run[0].start(), run[-1].start() + len(_bare(run[-1].group()))))
        return found

    @staticmethod
    def _goes_on(text: str, run: list[re.Match[str]], match: re.Match[str]) -> bool:
        """Whether a word may belong to the run before it: nothing but a blank, a hyphen or an initial's dot between them."""
        if not run or _POSSESSIVE.search(run[-1].group()) or _bare(match.group()) in _PLAIN:
            return False
        return _GAP.fullmatch(text, run[-1].end(), match.start()) is not None and not _opens_sentence(text, match.start())

    def _is_named(self, row: Row, words: list[str], start: int) -> bool:
        """Whether a run of capitalised words is a name."""
        is_inside = not _opens_sentence(row.text, start)
        if len(words) > 1:
            return is_inside or any(self._is_name(word) for word in words)
        (word,) = words
        if len(word) < 2 or word.isupper():
            return False
        return self._is_name(word) or (is_inside and len(word) >= _LEAST_PART and _part_of(word, row))

    def _is_name(self, word: str) -> bool:
        return word in self._inside and word.lower() not in self._lower


def _persons(text: str, places: list[tuple[int, int]]) -> list[_Span]:
    """Names to letters. The same name, or one word of it alone, is the same person."""
    known: dict[str, str] = {}
    found = []
    count = 0
    for start, end in places:
        name = text[start:end]
        person = known.get(name, known.get(name.split()[-1]))
        if person is None:
            person, count = f"Person {_letters(count)}", count + 1
        for word in (name, *name.split()):
            known.setdefault(word, person)
        found.append(_Span(start, end, person))
    return found


def _part_of(name: str, row: Row) -> bool:
    """Whether a name is some words of a title that the text's prompt showed: "Raiders"."""
    words = {word.lower() for word in words_of(name)}
    return any(words <= title for title in map(_words_of_title, (*row.met, *([row.own] if row.own else []))))


@lru_cache(maxsize=65_536)  # the same titles stand in history after history
def _words_of_title(title: str) -> frozenset[str]:
    return frozenset(_bare(word).lower() for word in words_of(title))


@lru_cache(maxsize=65_536)
def _forms(title: str) -> tuple[str, ...]:
    return tuple(forms(title))


def _bare(word: str) -> str:
    return _POSSESSIVE.sub("", word)


def _opens_sentence(text: str, place: int) -> bool:
    before = text[max(0, place - _LOOK_BACK) : place]
    if place > _LOOK_BACK:
        before = "x" + before  # the beginning of the window is not that of the text
    return _SENTENCE_START.search(before) is not None and _NO_SENTENCE_END.search(before) is None


def _letters(number: int) -> str:
    """A … Z, AA, AB …"""
    front = _letters(number // 26 - 1) if number >= 26 else ""
    return front + chr(ord("A") + number % 26)


def noise(view: str, subjects: Sequence[str], texts: Sequence[str]) -> list[str]:
    """For each text as many words as it has, drawn with replacement from all words of these texts, by frequency.

    Args:
        view, subjects: seed the draw of each text, so that it does not depend on the order.
    """
    words = [words_of(text) for text in texts]
    counts = Counter(word for of_text in words for word in of_text)
    vocabulary = sorted(counts)
    up_to = np.cumsum([counts[word] for word in vocabulary], dtype=np.int64)
    found = []
    for subject, of_text in zip(subjects, words, strict=True):
        seed = int.from_bytes(hashlib.sha256(f"{view}\n{subject}".encode()).digest()[:8], "big")
        drawn = np.random.default_rng(seed).integers(0, up_to[-1], len(of_text)) if of_text else np.empty(0, np.int64)
        found.append(" ".join(vocabulary[place] for place in np.searchsorted(up_to, drawn, side="right").tolist()))
    return found
