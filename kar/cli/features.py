"""`kar features …`: releases joined to examples, for those who work with files or in SQL."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kar.cli.options import Overrides, Root, open_scenario, say

app = typer.Typer(help="Join published features to your examples, each as of its own time.", no_args_is_help=True)


class ClockName(StrEnum):
    published = "published"
    evidence = "evidence"


class KindName(StrEnum):
    adapted = "adapted"
    knowledge = "knowledge"


Clock = Annotated[
    ClockName,
    typer.Option(
        help="published: what was served at the example's time. evidence: what is served now, where its prompts saw nothing newer than the "
        "example; for studies on old data."
    ),
]
Kind = Annotated[KindName, typer.Option(help="The adaptor's vectors, or the encoder's.")]
RowsOnly = Annotated[bool, typer.Option("--rows", help="Row numbers in the release instead of vectors.")]
From = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        "-s",
        envvar="KAR_SETTINGS",
        help="The scenario's TOML file, to find its published folder.",
        show_default="$KAR_SETTINGS",
    ),
]
Published = Annotated[Path | None, typer.Option(help="A published folder.", show_default="the scenario's")]


@app.command("join")
def join(
    examples: Annotated[Path, typer.Option(help="A Parquet file, or a folder of them, with user_id, item_id and event_at.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write, or with --files the folder. Must not exist.")],
    settings: From = None,
    published: Published = None,
    rows: RowsOnly = False,
    clock: Clock = ClockName.published,
    kind: Kind = KindName.adapted,
    view: Annotated[list[str] | None, typer.Option(help="Only this view; may be given several times.", show_default="all")] = None,
    space: Annotated[str | None, typer.Option(help="The space_id that the vectors must live in.", show_default="any, but one")] = None,
    files: Annotated[int | None, typer.Option(min=1, help="Write so many part files. Loaders that shuffle want 20 or more.")] = None,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Write the examples with the features they could have had: every row kept, missing knowledge as a mask."""
    from kar.release import join_files, remote

    with remote.looking(_where(settings, published, override, home)) as folder:
        told = join_files(
            folder,
            examples,
            out,
            clock=clock.value,
            rows_only=rows,
            views=view,
            kind=kind.value,
            space_id=space,
            files=files,
        )
    say(f"wrote {told.path}: {told.rows:,} examples, {told.before_first:,} of them before the first release")
    for release, count in told.releases.items():
        say(f"  {release}  {count:,}")
    for name, count in told.with_knowledge.items():
        say(f"  {name}  {count / told.rows:.1%} with knowledge")


@app.command("sql")
def sql(
    settings: From = None,
    published: Published = None,
    rows: RowsOnly = False,
    clock: Clock = ClockName.published,
    kind: Kind = KindName.adapted,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Print a DuckDB script that defines kar_features('your_table'): the same join as a macro."""
    from kar.release import ReleaseError, duckdb_macro

    where = _where(settings, published, override, home)
    if isinstance(where, str):
        raise ReleaseError(f"the script would name files of {where}, which lie in no folder", "join by kar features join")
    say(duckdb_macro(where, clock=clock.value, rows_only=rows, kind=kind.value))


def _where(settings: Path | None, published: Path | None, override: list[str] | None, home: Path | None) -> Path | str:
    if published is not None:
        return published
    if settings is None:
        raise typer.BadParameter("say whose: --settings FILE, or --published FOLDER", param_hint="--settings")
    return open_scenario(settings, override, home)[1].releases_at
