"""The words of a text, and the text as it is stored."""

from __future__ import annotations

import re

# Chinese, Japanese and Korean write without blanks: there each sign counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’][^\W_]+)*")
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+(?:'[A-Za-z0-9]+)*")  # what _WORD finds in ASCII
_APART = {code: " " for code in range(128) if not chr(code).isalnum() and chr(code) != "'"}
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？][」』”）]*")
_ABBREVIATION = re.compile(r"(?:\b(?:[Mm]rs?|[Mm]s|[Dd]r|[Ss]t|[Jj]r|[Ss]r|vs|[Pp]rof|no|[Vv]ol|etc|e\.g|i\.e)|\b[A-Z])\.$")
_ABBREVIATION_CHARS = 8


def words_of(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    if not text.isascii():
        return _WORD.findall(text)
    words = text.translate(_APART).split()  # a third of what the pattern takes; it is needed for apostrophes alone
    if "'" not in text:
        return words
    return [word for one in words for word in (_ASCII_WORD.findall(one) if "'" in one else (one,))]


def lower_words_of(text: str) -> list[str]:
    """The words of a text in lower case. (Of ASCII the text is lowered at once; elsewhere a word's case may hang on its neighbours.)"""
    return words_of(text.lower()) if text.isascii() else [word.lower() for word in words_of(text)]


def runs(words: list[str], size: int) -> list[tuple[str, ...]]:
    """Every run of `size` neighbouring words, in order."""
    return list(zip(*(words[i:] for i in range(size)), strict=False))


def tidy(text: str, max_words: int) -> str:
    """Surrounding blanks off, lines joined, and cut after the last whole sentence within `max_words`.

    Returns:
        The text; empty if it holds no whole sentence.
    """
    joined = " ".join(text.split())
    kept = words = counted = 0
    for end in _SENTENCE_END.finditer(joined):
        words += len(words_of(joined[counted : end.end()]))
        counted = end.end()
        if words > max_words:
            break
        if not _ABBREVIATION.search(joined[max(0, end.start() - _ABBREVIATION_CHARS) : end.start() + 1]):
            kept = end.end()
    return joined[:kept]


def clean(text: str, max_words: int) -> str:
    """An accepted answer as it is stored: blanks joined; longer than `max_words`, only its whole sentences."""
    joined = " ".join(text.split())
    return joined if len(words_of(joined)) <= max_words else tidy(joined, max_words) or joined
