"""`kar release export`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kar.cli.options import Overrides, Root, SettingsPath, open_scenario, releases_of, say


def export(
    settings: SettingsPath,
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    release_id: Annotated[
        str | None, typer.Option("--release", help="Which: its id or how that begins.", show_default="the current one")
    ] = None,
    side: Annotated[Literal["user", "item"] | None, typer.Option("--side", help="user or item.", show_default="both")] = None,
    files: Annotated[int, typer.Option("--files", help="Parquet files of each side; 20 or more for readers that shuffle by file.")] = 1,
    clock: Annotated[
        Literal["published", "evidence"],
        typer.Option("--clock", help="What event_timestamp is: when the release was published, or the newest event the row has seen."),
    ] = "published",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older export.")] = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Write a release as plain Parquet, one row per subject, for tools that know nothing of releases (Feast, FuxiCTR, Spark)."""
    from kar import release as releasing
    from kar.release import layout, pointer
    from kar.release.export import export as write

    place = open_scenario(settings, override, home)[1]
    with releases_of(place) as at:
        opened = releasing.open(pointer.named(at.published, release_id))
        written = write(opened, out, layout.SIDES if side is None else (side,), files=files, clock=clock, overwrite=overwrite)
    rows = ", ".join(f"{count:,} {name}s" for name, count in written.rows.items())
    say(f"release  {opened.id}\nwritten  {rows} in {written.files} files, {written.bytes / 1e6:,.1f} MB\nfolder   {written.path}")
