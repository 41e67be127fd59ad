"""Text that somebody else wrote, made safe to look at, on the page and in a terminal: capped, with nothing invisible in it.

Escaping is Jinja's (autoescape is on for the whole page); this module deals with what escaping leaves alone. Direction
marks could turn a line around and control characters could hide words, so both are shown by their code points.
"""

from __future__ import annotations

import unicodedata

TEXT_CHARS = 4_000
TITLE_CHARS = 160

_KEPT = {"\n", "\t", "\u00ad", "\u200c", "\u200d"}  # soft hyphen, and the joiners of Persian, Hindi and emoji
_INVISIBLE = {"\ufeff", "\u2028", "\u2029"}
_HIDING = {"Cc", "Cf", "Cs", "Co"}  # control, format (direction marks), lone surrogate, private use


def shown(text: str, most: int = TEXT_CHARS) -> str:
    """The text as it is printed.

    Args:
        text: any string.
        most: characters kept; a longer text ends with a note of how much was left out.
    """
    kept = text[:most].replace("\r\n", "\n")
    if not (kept.isascii() and kept.isprintable()):
        kept = "".join(map(_visible, kept))
    if len(text) <= most:
        return kept
    return f"{kept}… [cut here: {len(text) - most:,} of {len(text):,} characters left out]"


def title(text: str) -> str:
    """One line of at most TITLE_CHARS characters."""
    line = " ".join(text.split())
    return shown(line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1] + "…")


def _visible(char: str) -> str:
    if char in _KEPT:
        return char
    is_hiding = char in _INVISIBLE or unicodedata.category(char) in _HIDING
    return f"⟨U+{ord(char):04X}⟩" if is_hiding else char
