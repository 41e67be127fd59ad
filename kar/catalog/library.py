"""The SQL files under warehouse/catalog: views, each with its name, what it holds and what it reads; questions with their parameters."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from kar.errors import CatalogError
from kar.warehouse import FOLDER

_FOLDER = FOLDER / "catalog"


@dataclass(frozen=True)
class View:
    """One view: `what` in a line, and the relations it reads (views by name, `files.…` and `facts.…` with their schema)."""

    name: str
    what: str
    reads: tuple[str, ...]
    sql: str


@dataclass(frozen=True)
class Question:
    """A question with named parameters (`$name` in its SQL).

    Args:
        asks: the question in words.
        takes: parameter → its default; None: it must be given.
    """

    name: str
    asks: str
    takes: dict[str, str | None]
    sql: str

    def parameters(self, given: dict[str, str]) -> dict[str, str]:
        """What is given over the defaults. Raises CatalogError for one that is unknown or lacking."""
        strange = sorted(given.keys() - self.takes.keys())
        lacking = [name for name, default in self.takes.items() if default is None and name not in given]
        if strange or lacking:
            takes = ", ".join(name if default is None else f"{name}={default}" for name, default in self.takes.items())
            what = f"it takes no {', '.join(strange)}" if strange else f"it was not told {', '.join(lacking)}"
            raise CatalogError(f"question {self.name}: {what}", f"it takes {takes or 'nothing'}; say --with name=value")
        return {name: given.get(name) or default or "" for name, default in self.takes.items()}


@functools.cache
def views(folder: Path = _FOLDER) -> dict[str, View]:
    """Every view by name, those that others read before them. Raises CatalogError."""
    found = {}
    for path in sorted(folder.glob("*.sql")):
        said, sql = _parted(path, ("name", "what", "reads"))
        found[path.stem] = View(said["name"], said["what"], tuple(filter(None, map(str.strip, said["reads"].split(",")))), sql)
    if not found:
        raise CatalogError(f"there are no views in {folder}", "install kar from its repository: pip install -e .")
    ordered: dict[str, View] = {}
    for name in found:
        _after_what_it_reads(name, found, ordered)
    return ordered


@functools.cache
def questions(folder: Path = _FOLDER / "questions") -> dict[str, Question]:
    """Every question by name. Raises CatalogError."""
    found = {}
    for path in sorted(folder.glob("*.sql")):
        said, sql = _parted(path, ("name", "asks", "takes"))
        takes = dict(_parameter(text) for text in said["takes"].split(",") if text.strip())
        found[path.stem] = Question(said["name"], said["asks"], takes, sql)
    return found


def _after_what_it_reads(name: str, found: dict[str, View], ordered: dict[str, View]) -> None:
    for read in found[name].reads:
        if read in found and read not in ordered:
            _after_what_it_reads(read, found, ordered)
    ordered[name] = found[name]


def _parameter(text: str) -> tuple[str, str | None]:
    name, equals, default = text.strip().partition("=")
    return name, default if equals else None


def _parted(path: Path, words: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """The header's lines and the SQL after them."""
    text = path.read_text(encoding="utf-8")
    said: dict[str, str] = {}
    for line in text.splitlines():
        word, colon, rest = line.removeprefix("--").strip().partition(":")
        if not line.startswith("--") or not colon or word not in words:
            break
        said[word] = rest.strip()
    if said.keys() != set(words) or said["name"] != path.stem:
        raise CatalogError(f"{path}: its header lacks {sorted(set(words) - said.keys())} or does not name {path.stem}")
    return said, text.rstrip().removesuffix(";")
