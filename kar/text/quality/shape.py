"""What can be seen from an answer's words alone: it repeats the prompt, it loops, it is an empty list or none at all."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import orjson

from kar.text.quality.words import runs, words_of

ECHO_WORDS = 5
_REPETITION_WORDS = 4
_REPETITION_LEAST = 12  # fewer 4-grams say nothing
_TAIL_TIMES = 4  # the text ends in the same words so many times in a row
_TAIL_WORDS = 200  # a longer phrase said four times is caught by its 4-grams
_FENCE = re.compile(r"^```[a-z]{0,10}\s|```\s*$")
_BULLET = re.compile(r"^\s{0,8}(?:[-*•–]|\(?\d{1,3}[.):])\s{0,8}")
_NOTHING = frozenset({"", "none", "null", "n/a", "na", "nothing", "unknown", "empty", "nil", "-"})


def echo_share(words: list[str], prompt: list[str]) -> float:
    """Share of the answer's words that lie in runs of 5 which the prompt holds too."""
    seen = set(runs(prompt, ECHO_WORDS))
    is_copied = [False] * len(words)
    for place, run in enumerate(runs(words, ECHO_WORDS)):
        if run in seen:
            is_copied[place : place + ECHO_WORDS] = [True] * ECHO_WORDS
    return sum(is_copied) / len(words)


def loop(words: list[str], most_share: float) -> str:
    """What repeats, or an empty string: many repeated 4-grams, or one phrase said over and over at the end."""
    for size in range(1, min(len(words) // _TAIL_TIMES, _TAIL_WORDS) + 1):
        tail = words[-size:]
        if all(words[-size * (n + 1) : len(words) - size * n] == tail for n in range(1, _TAIL_TIMES)):
            return f"ends in {' '.join(tail[:8])!r} {_TAIL_TIMES} times or more"
    four = runs(words, _REPETITION_WORDS)
    if len(four) < _REPETITION_LEAST:
        return ""
    counts = Counter(four)
    share = 1 - len(counts) / len(four)
    if share <= most_share:
        return ""
    most, times = counts.most_common(1)[0]
    return f"{share:.0%} of its {_REPETITION_WORDS}-word runs are repeats; {' '.join(most)!r} stands in it {times} times"


def list_fault(text: str, *, is_asked_for: bool) -> tuple[str, str] | None:
    """Whether an answer that is a list or an object, or should be one, holds anything.

    Args:
        text: the answer.
        is_asked_for: prose is a fault too.

    Returns:
        (reason, detail) with reason empty_list or not_a_list; None: no fault.
    """
    body = _FENCE.sub("", text.strip()).strip()
    found = _parsed(body)
    if isinstance(found, list | dict):
        return None if _says_something(found) else ("empty_list", f"{body[:60]!r} holds no entry")
    lines = [line for line in body.splitlines() if line.strip()]
    items = [_BULLET.sub("", line) for line in lines if _BULLET.match(line + " ")]
    if items and len(items) == len(lines) and all(item.strip(" .:").lower() in _NOTHING for item in items):
        return "empty_list", f"{len(items)} list marks and nothing behind them"
    if is_asked_for and len(items) < 1:
        return "not_a_list", f"begins {body[:60]!r}"
    return None


def _parsed(body: str) -> Any:
    if not body.startswith(("[", "{")):
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _says_something(value: Any) -> bool:
    """Whether any leaf of a list or object is more than `""`, `null` or "unknown"."""
    if isinstance(value, dict):
        return any(_says_something(v) for v in value.values())
    if isinstance(value, list):
        return any(_says_something(v) for v in value)
    if isinstance(value, str):
        return value.strip(" .").lower() not in _NOTHING and bool(words_of(value))
    return value is not None
