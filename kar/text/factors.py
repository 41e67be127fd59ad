"""A domain's factors: which facets decide interest in this kind of item. One list for both views, so that what is
said of a user and what is said of an item speak of the same things (KAR's factorization prompting)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kar.errors import TemplateError

Message = dict[str, str]
M = TypeVar("M", bound=BaseModel)
FILE = "factors.toml"
_FEWEST_SUGGESTED, _MOST_SUGGESTED = 3, 12


class Factor(BaseModel):
    """One facet.

    Args:
        name: a word or a few, e.g. "mood and tone".
        hint: what it covers, a few words; empty if the name says enough.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(min_length=1, max_length=60)
    hint: str = Field("", max_length=120)


class Noun(BaseModel):
    """What one item is called, and several."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    singular: str = Field(min_length=1)
    plural: str = Field(min_length=1)


class Factors(BaseModel):
    """prompts/<domain>/factors.toml.

    Args:
        id: the domain's name; the folder's name.
        version: raised by hand when the meaning of the list changes.
        item: what an item is called.
        verb: what users did with the items, past tense: rated, read, bought.
        rating_phrase: how a rating is written, with `{rating}` in it; empty: ratings are not shown.
        vocabulary: how texts about such items speak; for the quality gate alone, in no prompt and in no version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(pattern=r"^[a-z0-9_]+$")
    version: int = Field(ge=1)
    item: Noun
    verb: str = Field(min_length=1)
    rating_phrase: str = ""
    factors: tuple[Factor, ...] = Field(min_length=1, max_length=20)
    vocabulary: tuple[str, ...] = ()

    @field_validator("rating_phrase")
    @classmethod
    def _has_a_hole(cls, value: str) -> str:
        if value and value.count("{rating}") != 1:
            raise ValueError("write {rating} once where the number stands, or leave the phrase empty")
        return value

    @field_validator("factors")
    @classmethod
    def _names_differ(cls, value: tuple[Factor, ...]) -> tuple[Factor, ...]:
        names = [factor.name.casefold() for factor in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        return value

    def names(self) -> str:
        """`genre, director and cast, plot`."""
        return ", ".join(factor.name for factor in self.factors)

    def listed(self) -> str:
        """One line a factor: `- plot: story, theme and ending`."""
        return "\n".join(f"- {f.name}: {f.hint}" if f.hint else f"- {f.name}" for f in self.factors)

    def rated(self, rating: float) -> str:
        """A rating in words; empty where there is none (NaN) or none are shown."""
        return "" if rating != rating or not self.rating_phrase else self.rating_phrase.replace("{rating}", f"{rating:g}")


def load_factors(folder: Path, domain: str) -> Factors:
    """Read prompts/<domain>/factors.toml.

    Raises:
        TemplateError: there is no such file, it is not TOML, it has an unknown or missing key, or its id is not the domain.
    """
    path = folder / domain / FILE
    if not path.is_file():
        known = sorted(p.parent.name for p in folder.glob(f"*/{FILE}"))
        raise TemplateError(f"domain {domain!r} has no {FILE} in {folder}", f"domains here: {', '.join(known) or 'none'}")
    factors = strict(Factors, read_toml(path), path)
    if factors.id != domain:
        raise TemplateError(f"{path}: id is {factors.id!r}, its folder is {domain!r}", "give both the same name")
    return factors


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict. Raises TemplateError with the line if it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TemplateError(f"{path} is no TOML: {error}", "mend the place named") from error


def strict(model: type[M], data: dict[str, Any], path: Path) -> M:
    """Validate against a model that forbids extra keys. Raises TemplateError naming file and keys."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            place = ".".join(str(part) for part in fault["loc"])
            kind = {"extra_forbidden": f"unknown key {place}", "missing": f"missing key {place}"}
            faults.append(kind.get(fault["type"], f"{place}: {fault['msg']}"))
        raise TemplateError(f"{path}: {'; '.join(faults)}", f"keys: {', '.join(model.model_fields)}") from error


# ---- elicitation: KAR asks a language model for the factors, and a person prunes the list


def suggest(domain: str, item_noun: str, ask: Callable[[list[Message]], str]) -> str:
    """Ask the configured model which factors decide interest in this kind of item; return a draft factors.toml.

    Args:
        domain: the new folder's name under prompts/.
        item_noun: one item, e.g. "board game".
        ask: sends messages to the model, returns its answer's text.

    Raises:
        TemplateError: the answer holds no list, or one of fewer than three.
    """
    answer = ask(elicitation(item_noun))
    found = parse_list(answer)
    if len(found) < _FEWEST_SUGGESTED:
        raise TemplateError(
            f"the model's answer holds no list of factors; it begins: {answer.strip()[:120]!r}",
            f"ask again, ask a larger model, or write prompts/{domain}/{FILE} by hand",
        )
    return draft(domain, item_noun, found)


def elicitation(item_noun: str) -> list[Message]:
    """The question for factors, plain enough for a small model."""
    return [
        {"role": "system", "content": "You write short numbered lists."},
        {
            "role": "user",
            "content": f"What makes a person choose one {item_noun} over another? Write a numbered list of eight factors. "
            "For each factor give its name, a colon and a short explanation.",
        },
    ]


_MARK = re.compile(r"^\s*(?:[-*•‣–·]+|\(?\d{1,2}\s*[.):\]]|\(?[a-zA-Z][.)])\s+|^\s*#{1,4}\s+(?:\d{1,2}[.)]\s*)?")
_SPLIT = re.compile(r"\s*(?::|\s[-–—]\s)\s*")


def parse_list(answer: str) -> list[Factor]:
    """The factors in a model's answer: marked list lines, else short `name: hint` lines, else one comma-separated line.

    A small model rambles: lines that are sentences, repeats, and everything beyond twelve are left out.
    """
    lines = [line for line in answer.splitlines() if line.strip()]
    marked = [_MARK.sub("", line, count=1) for line in lines if _MARK.match(line)]
    named = [line for line in lines if ":" in line and not line.rstrip().endswith(":")]
    candidates = marked or (named if len(named) > 1 else _comma_list(lines) or named)
    found: dict[str, Factor] = {}
    for candidate in candidates:
        factor = _factor(candidate)
        if factor is not None:
            found.setdefault(factor.name.casefold(), factor)
    return list(found.values())[:_MOST_SUGGESTED]


def _comma_list(lines: list[str]) -> list[str]:
    longest = max(lines, key=lambda line: line.count(","), default="")
    return re.split(r",\s*(?:and\s+)?", longest.rpartition(":")[2].rstrip(". ")) if longest.count(",") >= 2 else []


def _factor(line: str) -> Factor | None:
    plain = "".join(c for c in line if c.isprintable())
    name, *rest = _SPLIT.split(re.sub(r"[*_`\"“”]+", "", plain).strip(), maxsplit=1)
    name = " ".join(name.split()).strip(" .;,").lower()
    if not name or len(name) > 60 or len(name.split()) > 5 or not any(c.isalpha() for c in name):
        return None
    hint = " ".join(rest[0].split()).strip(" .;") if rest else ""
    return Factor(name=name, hint=_short(hint))


def _short(hint: str, most_words: int = 10) -> str:
    words = re.split(r"(?<=[.;])\s", hint)[0].rstrip(".;").split()
    return " ".join(words[:most_words])[:120]


def draft(domain: str, item_noun: str, factors: list[Factor]) -> str:
    """A factors.toml that a person still has to prune; every factor says so."""
    head = [
        "# DRAFT: a language model named these factors. Keep what decides interest, reword, delete the rest, add what it missed;",
        "# six to ten are good. prompts/movies/factors.toml explains every key. Then remove these lines.",
        f"id = {_quoted(domain)}",
        "version = 1",
        f"item = {{ singular = {_quoted(item_noun)}, plural = {_quoted(item_noun + 's')} }}  # draft: check the plural",
        'verb = "rated"  # draft: rated, read, bought, played …',
        'rating_phrase = "{rating} of 5 stars"  # draft: your scale; empty if there are no ratings',
    ]
    body = [f"\n[[factors]]  # draft: keep, reword or delete\nname = {_quoted(f.name)}\nhint = {_quoted(f.hint)}" for f in factors]
    return "\n".join([*head, *body]) + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else " " for c in escaped) + '"'
