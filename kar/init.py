"""kar init: look at three files and propose the settings that read them, every guess marked.

A proposal is a beginning. What a column means cannot be read off its values for certain, so whatever is guessed stands with
`# guessed: why`, and what could not be told is asked.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from kar import settings
from kar.source.guess import Look, Seen, look
from kar.source.scan import bare, quoted

_DOMAINS = {
    "movies": ("movie", "film", "cinema"),
    "books": ("book", "author", "isbn"),
    "news": ("news", "article", "headline"),
}
_ATTRIBUTE_LENGTH = 60  # characters: longer values are prose
_ROWS_TO_TELL = 100  # with fewer rows an attribute may have a value of its own in each
_SCALE_STEPS = 21  # distinct ratings: half stars from 0 to 10
_SPAN_FOR_TIME_MODE = dt.timedelta(days=60)


@dataclass(frozen=True)
class Proposal:
    """What kar init found.

    Args:
        toml: the settings file to write; loads through kar.settings.load.
        questions: what the user should answer by editing it.
        factors_path: the file with the domain's factors, to be edited too.
        date: the partition date to begin with: the day of the newest event, ISO.
    """

    toml: str
    questions: list[str]
    factors_path: Path
    date: str


@dataclass
class _Draft:
    """What is known so far: mapped columns with the reason for each guess, and open questions."""

    questions: list[str] = field(default_factory=list)

    def ask(self, question: str) -> None:
        self.questions.append(question)


def propose(name: str, users: Path | None, items: Path | None, interactions: Path) -> Proposal:
    """Look at the files and propose settings.

    Args:
        name: the scenario's name.
        users, items: None: the user has no such table.

    Raises:
        SourceError: a file is missing, empty or unreadable.
        SettingsError: the name cannot be a scenario's name.
    """
    draft = _Draft()
    folder = _folder([path for path in (users, items, interactions) if path is not None])
    with duckdb.connect(":memory:") as connection:
        connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
        seen = {
            kind: look(connection, kind, path)
            for kind, path in (("users", users), ("items", items), ("interactions", interactions))
            if path
        }
        events = _events(seen["interactions"], draft)
        maps = {"interactions": events}
        if "users" in seen:
            maps["users"] = _subjects(seen["users"], "user_id", events["user_id"], draft)
        if "items" in seen:
            maps["items"] = _subjects(seen["items"], "item_id", events["item_id"], draft)
        first, last, unit = _span(connection, seen["interactions"], events["event_at"])
        stars = _range(connection, seen["interactions"], events.get("rating"))
        ids = {side: _id_type(connection, seen, maps, side) for side in ("user_id", "item_id")}
    domain = _domain(name, seen, draft)
    lines = [
        f"# Settings of {name}, proposed by kar init from {', '.join(str(s.path) for s in seen.values())}.",
        "# Every guess is marked; mend what is wrong. All settings and their defaults: kar/settings/schema.py",
        "",
        "[scenario]",
        f"name = {_text(name)}",
        f"domain = {_text(domain)}  # guessed: from the names of files and columns; prompts/{domain}/factors.toml holds its factors",
        *(f"{side} = {_text(kind)}  # guessed: {_why_id(kind)}" for side, kind in ids.items()),
        "",
        "[sources]",
        f"folder = {_text(str(folder))}",
        f"time_unit = {_text(unit)}  # guessed: so that the events lie between {first:%Y-%m-%d} and {last:%Y-%m-%d}",
        *(
            [f"rating_range = [{stars[0]:g}, {stars[1]:g}]  # guessed: the lowest and highest there are; others will be rejected"]
            if stars
            else []
        ),
        *(line for kind in ("users", "items", "interactions") if kind in seen for line in _section(kind, seen[kind], maps[kind], folder)),
        "",
        "[histories]",
        _mode(last - first),
        "",
        "[examples]",
        _label(events, stars, draft),
        *_fields(seen, maps),
    ]
    toml = "\n".join(lines) + "\n"
    settings.parse(tomllib.loads(toml), where=f"the settings proposed for {name}")
    return Proposal(toml, draft.questions, Path("prompts") / domain / "factors.toml", last.date().isoformat())


def _folder(paths: list[Path]) -> Path:
    """The nearest folder that holds all files, as the user wrote it if they wrote no absolute path."""
    if len({path.is_absolute() for path in paths}) > 1:
        paths = [path.resolve() for path in paths]
    return Path(os.path.commonpath([path.parent for path in paths]) or ".")


def _events(seen: Seen, draft: _Draft) -> dict[str, object]:
    """Our columns of the interactions → theirs."""
    mapped: dict[str, object] = {}
    taken: set[str] = set()
    for ours in ("user_id", "item_id", "event_at", "rating", "click", "text"):
        column = seen.named(ours, taken)
        if ours == "click" and ("rating" in mapped or (column and seen.looks[column].distinct > 3)):
            continue
        if column is None and ours == "event_at":
            column = _by_looks(seen, taken, lambda found: found.is_time or found.time_share > 0.9 or _unit(found) is not None)
        if column is None and ours == "rating":
            column = _by_looks(
                seen, taken, lambda found: found.number_share > 0.9 and 2 < found.distinct <= _SCALE_STEPS and (found.highest or 99) <= 10
            )
        if column is None and ours in ("user_id", "item_id", "event_at"):
            column = next(c for c in [*(c for c in seen.looks if c not in taken), *seen.looks])
            draft.ask(f"interactions: which column is {ours}? None looked like it, so {column!r} stands in ({', '.join(seen.looks)})")
        if column is not None:
            taken.add(column)
            mapped[ours] = column
    summary = next((c for c in seen.looks if c not in taken and bare(c).lower() == "summary"), None)
    if summary and "text" in mapped:
        mapped["text"] = [summary, mapped["text"]]
    return mapped


def _by_looks(seen: Seen, taken: set[str], fits: Callable[[Look], bool]) -> str | None:
    return next((column for column, found in seen.looks.items() if column not in taken and fits(found)), None)


def _subjects(seen: Seen, ours: str, joined_by: object, draft: _Draft) -> dict[str, object]:
    """Our columns of a users or items table → theirs; what is left and short becomes attributes."""
    kind = "users" if ours == "user_id" else "items"
    has_names = seen.table.names is None
    same = next((c for c in seen.looks if has_names and bare(c) == bare(str(joined_by)) and seen.looks[c].is_unique), None)
    column = same or seen.named(ours, set()) or _by_looks(seen, set(), lambda found: found.is_unique)
    if column is None:
        column = next(iter(seen.looks))
        draft.ask(f"{kind}: which column is {ours}? None looked like it, so {column!r} stands in ({', '.join(seen.looks)})")
    mapped: dict[str, object] = {ours: column}
    taken = {column}
    for text in ("title", "description") if kind == "items" else ():
        found = seen.named(text, taken)
        if found is None and text == "title":
            found = _by_looks(seen, taken, lambda look: look.number_share < 0.5 and look.distinct > 0.9 * look.rows)
            instead = "none looks like it, so items are described by their reviews" if found is None else f"{found!r} stands in"
            draft.ask(f"items: which column is the title? {instead} ({', '.join(seen.looks)})")
        if found is not None:
            taken.add(found)
            mapped[text] = found
    left = [found for name, found in seen.looks.items() if name not in taken and not (found.is_unique and found.rows >= _ROWS_TO_TELL)]
    mapped["attributes"] = {_key(found.name): found.name for found in left if 0 < found.length <= _ATTRIBUTE_LENGTH and found.distinct > 1}
    return mapped


def _span(connection: duckdb.DuckDBPyConnection, seen: Seen, column: object) -> tuple[dt.datetime, dt.datetime, str]:
    """First and last event over the whole file, and the unit that puts them into our times."""
    found = seen.looks[str(column)]
    unit = _unit(found) or ("iso" if found.is_time or found.time_share > 0.5 else "s")
    cell = quoted(str(column))
    per_second = {"s": 1, "ms": 1_000, "us": 1_000_000}.get(unit)
    value = f"epoch(try_cast({cell} as timestamptz))" if per_second is None else f"try_cast({cell} as double) / {per_second}"
    [(first, last)] = connection.execute(f"select min({value}), max({value}) from {seen.relation}").fetchall()
    usable = [second for second in (first, last) if second is not None and 0 <= second < 253402300800]
    low, high = (dt.datetime.fromtimestamp(second, dt.UTC) for second in ((usable[0], usable[-1]) if usable else (0, 0)))
    return low, high, unit


def _range(connection: duckdb.DuckDBPyConnection, seen: Seen, column: object) -> tuple[float, float] | None:
    """Lowest and highest rating over the whole file; None if there is no rating, or it is no scale of few steps."""
    if column is None or seen.looks[str(column)].distinct > _SCALE_STEPS:
        return None
    stars = f"try_cast({quoted(str(column))} as double)"
    [(low, high)] = connection.execute(f"select min({stars}), max({stars}) from {seen.relation} where isfinite({stars})").fetchall()
    return None if low is None or low == high else (low, high)


def _unit(found: Look) -> str | None:
    """The unit in which a number is a time between 1985 and 2100; None if in none."""
    if found.is_time or found.number_share < 0.9 or found.highest is None:
        return None
    return next((unit for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)) if 4.7e8 * scale < found.highest < 4.1e9 * scale), None)


def _id_type(connection: duckdb.DuckDBPyConnection, seen: dict[str, Seen], maps: dict[str, dict[str, object]], side: str) -> str:
    """int if every id of every table is a whole number of 64 bits as it is written (007 is text)."""
    for kind, mapped in maps.items():
        if side in mapped:
            cell = quoted(str(mapped[side]))
            written = (
                f"select count(*) from {seen[kind].relation} where try_cast({cell} as bigint)::varchar is distinct from {cell}::varchar"
            )
            [(other,)] = connection.execute(f"{written} and {cell} is not null").fetchall()
            if other:
                return "string"
    return "int"


def _domain(name: str, seen: dict[str, Seen], draft: _Draft) -> str:
    words = " ".join([name, *(f"{s.path.name} {' '.join(s.looks)}" for s in seen.values())]).lower()
    for domain, signs in _DOMAINS.items():
        if any(sign in words for sign in signs):
            return domain
    draft.ask("what are the items? domain is set to 'products'; the others under prompts/ are movies, books and news")
    return "products"


def _section(kind: str, seen: Seen, mapped: dict[str, object], folder: Path) -> list[str]:
    attributes = mapped.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    columns = [f"{ours} = {_text(column)}" for ours, column in mapped.items() if ours != "attributes"]
    if attributes:
        columns.append("attributes = { " + ", ".join(f"{key} = {_text(column)}" for key, column in attributes.items()) + " }")
    lists = {key: seen.looks[column].separator for key, column in attributes.items() if seen.looks[column].separator}
    table = seen.table
    path = os.path.relpath(seen.path.resolve(), folder.resolve())
    return [
        "",
        f"[sources.{kind}]",
        f"path = {_text(path)}",
        f"format = {_text(table.format)}  # guessed: from the name and the first line",
        *([f'encoding = "{table.encoding}"  # guessed: the file is not UTF-8'] if table.encoding != "utf-8" else []),
        *([f"header = false  # guessed: the first line holds numbers\nnames = {_text(table.names)}"] if table.names else []),
        f"columns = {{ {', '.join(columns)} }}  # guessed: of {', '.join(seen.looks)}",
        *(
            [f"lists = {{ {', '.join(f'{key} = {_text(sign)}' for key, sign in lists.items())} }}  # guessed: a list in one text"]
            if lists
            else []
        ),
    ]


def _fields(seen: dict[str, Seen], maps: dict[str, dict[str, object]]) -> list[str]:
    """What the ranker sees beside ids and histories: attributes whose values several subjects share. Without them, uplift over the base flatters."""
    found = []
    for kind, name, seen_by in (
        ("items", "item_fields", "the thin base sees the first"),
        ("users", "user_fields", "seen by the rich base"),
    ):
        attributes = maps.get(kind, {}).get("attributes")
        for_all = attributes.items() if isinstance(attributes, dict) else ()
        looks = {key: seen[kind].looks[column] for key, column in for_all}
        shared = [key for key, look in looks.items() if look.separator or 2 * look.distinct <= look.rows]
        if shared:
            found.append(
                f"{name} = [{', '.join(map(_text, shared))}]  # guessed: attributes that repeat; the first is all that the thin base sees"
            )
    return ["", "[adaptor]", *found] if found else []


def _mode(span: dt.timedelta) -> str:
    if span >= _SPAN_FOR_TIME_MODE:
        return 'mode = "time"  # guessed: the events span months, so examples can be newer than all knowledge'
    return 'mode = "per_user"  # guessed: the events span too little time for a training window'


def _label(events: dict[str, object], stars: tuple[float, float] | None, draft: _Draft) -> str:
    if "rating" in events:
        low, high = stars or (1.0, 5.0)
        rule = f"rating > {(low + high) / 2:g}"
        draft.ask(f"does {rule!r} say what you call liked? Ratings run from {low:g} to {high:g}")
        return f"label = {_text(rule)}  # guessed: the upper half of the ratings is liked"
    if "click" not in events:
        draft.ask("interactions: which column is a rating or a click? None looked like one; without it nothing can be trained")
    return 'label = "click"  # guessed: there is no rating'


def _why_id(kind: str) -> str:
    return "every id is a whole number" if kind == "int" else "not every id is a whole number"


def _key(column: str) -> str:
    """A source's column name as a bare TOML key."""
    key = "".join(sign if sign.isalnum() and sign.isascii() else "_" for sign in bare(column).lower()).strip("_")
    return key or "attribute"


def _text(value: object) -> str:
    """A text or a list of texts as TOML writes them."""
    return json.dumps(value, ensure_ascii=False)
