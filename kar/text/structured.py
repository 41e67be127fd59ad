"""Answers in factors: one JSON object with a short text for each of the domain's factors, instead of one paragraph.

A server that can be held to a JSON schema writes them in one request; what it wrote is then known, encoded and compared
factor by factor. A server that ignores the schema may answer in prose all the same: `read_answer` tells the two apart,
and a third thing, JSON that is not what was asked for.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kar.text.factors import Factors

MOST_KEYS = 12  # flat and few: a schema of that size compiles at once, and a small model still fills it
_CHARS_PER_WORD = 14  # twice the average word with its blank: a bound on run-on texts, not on good ones
_LEAST_WORDS = 8
_MOST_CHARS = 100_000  # a longer answer is not looked into
_FENCE = "```"
_OPENS_JSON = re.compile(r'\s*(?:\{|\[\s*[{"]|```)')
_SURROGATE = re.compile("[\ud800-\udfff]")
_END = (".", "!", "?", "…", "。", "！", "？")
_UNSURE = frozenset({"unknown", "unsure", "not sure", "n/a", "na", "not applicable", "not known"})


@dataclass(frozen=True)
class Read:
    """What an answer to a request for factors is.

    Args:
        kind: factors; prose (the server ignored the schema); broken (JSON, whole or cut, that is not the object asked for).
        factors: key → text, in the order asked for, only the factors that have one; empty for the other kinds.
    """

    kind: Literal["factors", "prose", "broken"]
    factors: dict[str, str] = field(default_factory=dict)


def factor_keys(factors: Factors) -> dict[str, str]:
    """JSON key → factor name, in the factors' order. Keys are of a–z, 0–9 and _; two names never share one."""
    found: dict[str, str] = {}
    for place, factor in enumerate(factors.factors, start=1):
        plain = unicodedata.normalize("NFKD", factor.name).encode("ascii", "ignore").decode().lower()
        key = re.sub(r"[^a-z0-9]+", "_", plain).strip("_") or f"factor_{place}"
        while key in found:
            key = f"{key}_{place}"
        found[key] = factor.name
    return found


def factor_words(words: int, count: int) -> int:
    """About how many words one of `count` factors may have when all together should have `words`."""
    return max(_LEAST_WORDS, round(words / count))


def most_chars(words: int) -> int:
    """The longest text of a factor of about so many words."""
    return words * _CHARS_PER_WORD


def answer_tokens(keys: Iterable[str], chars: int) -> int:
    """Tokens that hold the object with every text at its longest: 4 characters a token, and 6 around each key."""
    return sum(-(-(chars + len(key)) // 4) + 6 for key in keys) + 8


def schema(keys: Iterable[str], chars: int | None) -> dict[str, Any]:
    """The JSON schema: a flat object, every key required, none beside them.

    Args:
        keys: in the order in which they are to be written.
        chars: longest text of one; None: no bound (some hosted providers refuse the keyword in strict mode).
    """
    text: dict[str, Any] = {"type": "string"} if chars is None else {"type": "string", "maxLength": chars}
    names = list(keys)
    return {"type": "object", "properties": {name: dict(text) for name in names}, "required": names, "additionalProperties": False}


def read_factors(text: str, names: Iterable[str]) -> dict[str, str] | None:
    """The texts of an answer that is a JSON object with exactly these keys, each once, all texts.

    White space and a Markdown fence around it are passed over. Never raises.

    Args:
        text: whatever the server sent.
        names: the keys; the result has their order.

    Returns:
        Every key with its text on one line, empty where the model was not sure; None: the answer is something else.
    """
    bare = _unfenced(text.strip())
    if not bare.startswith("{") or len(bare) > _MOST_CHARS:
        return None
    try:
        pairs = json.loads(bare, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):  # of a nested, cut or otherwise wrong object
        return None
    wanted = list(names)
    if not isinstance(pairs, _Pairs) or sorted(pairs.keys) != sorted(wanted) or not all(isinstance(v, str) for v in pairs.values):
        return None
    found = dict(zip(pairs.keys, pairs.values, strict=True))
    return {name: _tidy(found[name]) for name in wanted}


def _unfenced(text: str) -> str:
    """What stands between a Markdown fence's lines; the text itself if there is none around it."""
    if not (text.startswith(_FENCE) and text.endswith(_FENCE) and "\n" in text):
        return text
    return text[text.index("\n") : -len(_FENCE)].strip()


@dataclass(frozen=True)
class Schema:
    """What the schema in a request body asks for.

    Args:
        keys: of the object, in the order in which they are to be written.
        chars: longest text of one; None: no bound.
    """

    keys: tuple[str, ...]
    chars: int | None


def asked_schema(body: str) -> Schema | None:
    """The schema that a request's body holds the server to; None: no flat object of texts is asked for.

    The request itself says what its answer must look like: templates may have changed since.
    """
    try:
        sent = json.loads(body)
        found = sent.get("structured_outputs", {}).get("json") or sent.get("response_format", {}).get("json_schema", {}).get("schema")
        found = json.loads(found) if isinstance(found, str) else found
        texts = found["properties"] if found is not None else {}
        bounds = {text.get("maxLength") for text in texts.values() if text["type"] == "string"}
        is_flat = bool(texts) and all(text["type"] == "string" for text in texts.values()) and len(bounds) == 1
        return Schema(tuple(found["required"]), bounds.pop()) if is_flat and sorted(found["required"]) == sorted(texts) else None
    except (ValueError, TypeError, KeyError, AttributeError):  # somebody's own extra_body may hold anything
        return None


class _Pairs:
    """A JSON object with its keys as they came, repeated ones too."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.keys = [key for key, _ in pairs]
        self.values = [value for _, value in pairs]


def read_answer(text: str, names: Iterable[str]) -> Read:
    """Tell factors, prose and broken JSON apart. Never raises."""
    found = read_factors(text, names)
    if found is not None:
        return Read("factors", {name: value for name, value in found.items() if value})
    return Read("broken" if _OPENS_JSON.match(text) else "prose")


def whole_words(factors: Mapping[str, str], chars: int | None) -> dict[str, str]:
    """The texts without the word that the schema's longest length cut: up to their last sentence, or else their last word."""
    return {key: text if chars is None or len(text) < chars else _back_to_a_word(text) for key, text in factors.items()}


def _back_to_a_word(text: str) -> str:
    sentence = max(text.rfind(end) for end in _END)
    if sentence > len(text) // 2:
        return text[: sentence + 1]
    return text.rpartition(" ")[0].rstrip(" ,;:") or text


def as_text(factors: Mapping[str, str], names: Mapping[str, str]) -> str:
    """The factors as prose, for a reader and for the encoder of the whole: `Genre: a dark comedy. Mood: bitter.`

    Args:
        factors: key → text; those without are left out.
        names: key → factor name (`factor_keys`); the order of the sentences.
    """
    return " ".join(f"{name[:1].upper()}{name[1:]}: {_ended(factors[key])}" for key, name in names.items() if factors.get(key))


def shown(key: str, names: Mapping[str, str]) -> str:
    """A factor's name for a reader: as the domain's list has it, else the key in words."""
    return names.get(key, key.replace("_", " "))


def spoken(factors: Mapping[str, str]) -> str:
    """Only what the model said, without the factors' names: what the quality gate judges.

    The names stand in the prompt and in every other answer, so with them each answer would look like an echo and like its neighbours.
    """
    return " ".join(_ended(text) for text in factors.values() if text)


def _ended(text: str) -> str:
    return text if text.endswith(_END) else f"{text}."


def _tidy(value: str) -> str:
    """On one line, with nothing that no file can hold; empty if it has no word, or says only that the model does not know."""
    text = " ".join(_SURROGATE.sub("\ufffd", value).replace("\x00", " ").split())
    return "" if text.rstrip(".").casefold() in _UNSURE or not any(c.isalnum() for c in text) else text
