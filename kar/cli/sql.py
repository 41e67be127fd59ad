"""`kar sql`, `kar catalog`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from kar.cli.options import Overrides, Root, SettingsPath, open_scenario, say


def sql(
    settings: SettingsPath,
    statement: Annotated[
        str | None, typer.Argument(metavar="SELECT", help="One statement that reads; - takes it from stdin.", show_default="none")
    ] = None,
    ask: Annotated[str | None, typer.Option("--ask", help="A documented question instead: see --questions.", show_default="none")] = None,
    value: Annotated[
        list[str] | None, typer.Option("--with", metavar="NAME=VALUE", help="What $NAME stands for, as text.", show_default="none")
    ] = None,
    questions: Annotated[bool, typer.Option("--questions", help="List the documented questions.")] = False,
    form: Annotated[Literal["table", "records", "json", "csv"], typer.Option("--format", "-f", help="How to print the rows.")] = "table",
    rows: Annotated[int, typer.Option("--rows", min=0, help="Most rows of a table or of records; 0: all.")] = 100,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Ask the catalogue: views over the current release, every night's tables and the ledger. Reads, and does nothing else.

    What there is:  kar sql "from catalogue"    the columns of a view:  kar sql "describe knowledge"
    """
    from kar.catalog import Asking, printed
    from kar.catalog import questions as library
    from kar.errors import CatalogError

    if questions:
        for question in library().values():
            takes = " ".join(name if default is None else f"{name}={default}" for name, default in question.takes.items())
            say(f"{question.name:<24} {question.asks}{f'  (--with {takes})' if takes else ''}")
        return
    if (statement is None) == (ask is None):
        raise typer.BadParameter("give one statement, or a question with --ask", param_hint="SELECT")
    given = _given(value or [])
    if ask is not None and ask not in library():
        raise CatalogError(f"there is no question {ask!r}", f"the questions are {', '.join(library())}")
    text = library()[ask].sql if ask is not None else sys.stdin.read() if statement == "-" else statement or ""
    parameters = library()[ask].parameters(given) if ask is not None else given
    with Asking(*open_scenario(settings, override, home), text) as asking:
        for line in printed(asking.answer(parameters), form, rows):
            say(line)


def _given(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--with")
        found[name] = value
    return found


def catalog(
    settings: SettingsPath,
    out: Annotated[Path, typer.Option("--out", help="The DuckDB file to write.")],
    relative: Annotated[
        bool, typer.Option("--relative", help="Name files relative to the file's folder, where DuckDB must then be started.")
    ] = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Write the catalogue as a DuckDB file of views, for notebooks and the duckdb command. It copies no text; write it again after a night."""
    from kar.catalog import write
    from kar.errors import CatalogError

    loaded, place = open_scenario(settings, override, home)
    if place.published_uri:
        raise CatalogError(
            f"the catalogue would name files of {place.published_uri}, which lie in no folder",
            "ask by kar sql, or export: kar release export",
        )
    written = write(loaded, place, out, is_relative=relative)
    say(f"{written.path}: {written.views} views over {written.files:,} files")
    say(f"open it with DuckDB 2: duckdb -readonly {written.path}")
