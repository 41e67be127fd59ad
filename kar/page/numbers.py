"""How the page writes numbers. A value that is missing, not finite or no number at all is written as a dash."""

from __future__ import annotations

import math
import re

DASH = "–"
MINUS = "−"
NBSP = "\u00a0"


def _number(value: object) -> float | None:
    """A finite number, or None. A bool is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def fixed(value: object, digits: int = 4) -> str:
    """0.7912"""
    number = _number(value)
    return DASH if number is None else f"{number:,.{digits}f}".replace("-", MINUS)


def signed(value: object, digits: int = 4) -> str:
    """+0.0034, −0.0012, ±0.0000"""
    number = _number(value)
    if number is None:
        return DASH
    text = f"{abs(number):,.{digits}f}"
    if not text.strip("0.,"):
        return "±" + text
    return ("+" if number > 0 else MINUS) + text


def p_value(value: object) -> str:
    """0.032; < 0.001"""
    number = _number(value)
    if number is None:
        return DASH
    return "< 0.001" if number < 0.001 else f"{number:.3f}"


def count(value: object) -> str:
    """92,024"""
    number = _number(value)
    return DASH if number is None else f"{round(number):,}".replace("-", MINUS)


def share(value: object) -> str:
    """12.3 %, from a share between 0 and 1"""
    number = _number(value)
    if number is None:
        return DASH
    percent = number * 100
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def signed_share(value: object) -> str:
    """+4.28 %, from a share"""
    number = _number(value)
    return DASH if number is None else f"{signed(number * 100, 2)}{NBSP}%"


def seconds(value: object) -> str:
    """0.4 s, 12 s, 4 min 12 s, 1 h 03 min"""
    number = _number(value)
    if number is None:
        return DASH
    if number < 10:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def usd(value: object) -> str:
    """$0.42; four places below a cent's worth"""
    number = _number(value)
    if number is None:
        return DASH
    return f"${number:,.2f}" if number == 0 or number >= 0.1 else f"${number:.4f}"


def size(value: object) -> str:
    """Bytes as 812 B, 4.2 kB, 1.5 MB"""
    number = _number(value)
    if number is None:
        return DASH
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f} B"


def unbroken(sentence: str) -> str:
    """The sentence with its intervals and percentages kept on one line each."""
    whole = re.sub(r"(\d) (%) ([+−±][\d.,]+)", rf"\1{NBSP}\2{NBSP}\3", sentence)
    whole = re.sub(r"([+−±][\d.,]+) … ([+−±])", rf"\1{NBSP}…{NBSP}\2", whole)
    return re.sub(r"(\d) (AUC|k tokens|M tokens|tokens|users)", rf"\1{NBSP}\2", whole)
