"""Make text from elsewhere (titles, reviews, attributes) safe to stand inside a prompt: data, never instructions.

What a hostile title can still do is say something untrue in plain words. What it cannot do: leave its line, close the
delimiters around it, forge a chat turn, hide characters from a reader, reverse the reading direction, or grow without
bound. Template syntax needs no care here: values are handed to Jinja as variables and are never compiled.
"""

from __future__ import annotations

import re
import unicodedata

TITLE_CHARS = 160
TEXT_CHARS = 2000
ATTRIBUTE_CHARS = 80

_JOINERS = frozenset("\u200c\u200d")  # Persian, Indic scripts and emoji need them; they hide nothing by themselves
_TAG = re.compile(r"</?[A-Za-z!][^<>]{0,300}>")
_ANGLES = str.maketrans({"<": "‹", ">": "›", "＜": "‹", "＞": "›"})
# chat turns are forged with <|…|> or with these; other square brackets stay, films have them: [REC]
_TURN = re.compile(
    r"\[(/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK|sMASK|SEP|CLS|MASK|PAD|UNK))\]", re.IGNORECASE
)


def clean(text: str, max_chars: int) -> str:
    """The text on one line, without control and bidi characters, markup and forged delimiters.

    Args:
        text: any text.
        max_chars: longest result; a longer one is cut at a word where possible and ends in "…".
    """
    if len(text) > 4 * max_chars:
        text = text[: 4 * max_chars]  # before the work, so that 100 kB cost as little as 1 kB
    if not text.isprintable():
        text = "".join(_visible(c) for c in text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(c for c in text if not _is_smuggler(c)))
    if "<" in text or ">" in text or "＜" in text or "＞" in text:
        text = _TAG.sub(" ", text).translate(_ANGLES)
    if "[" in text:
        text = _TURN.sub(r"(\1)", text)
    return _cut(" ".join(text.split()), max_chars)


def _visible(c: str) -> str:
    """The character, a space for white space, or nothing for what no reader sees (Unicode categories C* and Z*)."""
    if c.isprintable() or c in _JOINERS:
        return c
    return " " if c.isspace() else ""


def _is_smuggler(c: str) -> bool:
    """Variation selectors carry hidden bytes; only the one that emoji use (U+FE0F) stays."""
    return "\ufe00" <= c <= "\ufe0e" or "\U000e0100" <= c <= "\U000e01ef"


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    head = text[: max_chars - 1]
    space = head.rfind(" ", max_chars // 2)
    return (head[:space] if space > 0 else head) + "…"
