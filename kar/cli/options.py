"""What most commands take: the settings file, a date, where data lies. And the clock, read in one place."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kar.settings import Settings
    from kar.store import Home

_MOST_CHARS = 10_000_000
SettingsPath = Annotated[
    Path, typer.Option("--settings", "-s", envvar="KAR_SETTINGS", help="The scenario's TOML file.", show_default="$KAR_SETTINGS")
]
Date = Annotated[
    str | None, typer.Option("--date", "-d", help="Partition date, YYYY-MM-DD; its end (UTC) is the cutoff.", show_default="yesterday, UTC")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value, over the settings file; may be given several times.", show_default="lines of $KAR_SET"),
]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout: counts and paths, nobody's text.")]
StopIn = Annotated[
    float | None,
    typer.Option(
        "--stop-in", metavar="SECONDS", help="Begin no call after so many seconds, counted from now.", show_default="llm.deadline_s"
    ),
]
Root = Annotated[Path | None, typer.Option("--home", help="Where data lies.", show_default="$KAR_HOME, or .kar")]


def open_scenario(path: Path, overrides: list[str] | None, root: Path | None) -> tuple[Settings, Home]:
    """The settings with their overrides, $KAR_SET's lines before those of --set, and the scenario's folder. Raises SettingsError."""
    from kar.settings import load
    from kar.store import Home

    lines = [line.strip() for line in os.environ.get("KAR_SET", "").splitlines()]
    loaded = load(path, [*filter(None, lines), *(overrides or [])])
    return loaded, Home.of(loaded.scenario.name, root, loaded.features.published)


@contextmanager
def releases_of(place: Home, *, files: bool = False) -> Iterator[Home]:
    """The home with its releases where functions of folders find them, to be read; `files`: by path, not only by opening them."""
    from kar.release import remote

    if not place.published_uri:
        yield place
        return
    with remote.looking(place.published_uri, files=files) as folder:
        yield replace(place, looked_at=folder)


def day(text: str | None, option: str = "--date") -> dt.date:
    """The partition date that `--date` names; yesterday (UTC) without one."""
    if text is None:
        return now().date() - dt.timedelta(days=1)
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no date; write YYYY-MM-DD", param_hint=option) from error


def as_line(told: object) -> str:
    """JSON in one line of ASCII; what is not a number is null."""
    import orjson

    return json.dumps(orjson.loads(orjson.dumps(told)))


def say(text: str) -> None:
    """Print an answer. It holds titles and texts of others, which must not steer the terminal."""
    from kar.untrusted import shown

    typer.echo(shown(text, _MOST_CHARS))


def now() -> dt.datetime:
    """The clock: read here, and handed down."""
    return dt.datetime.now(dt.UTC)
