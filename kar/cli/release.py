"""`kar release …`"""

from __future__ import annotations

from typing import Annotated

import typer

from kar.cli.options import Overrides, Root, SettingsPath, open_scenario, say

app = typer.Typer(help="Published releases: list, show, verify, promote, roll back.", no_args_is_help=True)


@app.command("list")
def list_releases(settings: SettingsPath, override: Overrides = None, home: Root = None) -> None:
    """List the releases, the current one marked."""
    from kar.show import releases

    say(releases(open_scenario(settings, override, home)[1]))


@app.command("show")
def show(
    settings: SettingsPath,
    release_id: Annotated[str | None, typer.Argument(help="Which.", show_default="the current one")] = None,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Show what a release binds: tables, space, clocks, models, coverage, uplift."""
    from kar.show import release

    say(release(open_scenario(settings, override, home)[1], release_id))


@app.command("verify")
def verify(
    settings: SettingsPath,
    release_id: Annotated[str | None, typer.Argument(help="Which.", show_default="the current one")] = None,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Recompute every digest, row count and schema of a release; name the first difference."""
    from kar.show import verify

    say(verify(open_scenario(settings, override, home)[1], release_id))


@app.command("promote")
def promote(
    release_id: Annotated[str, typer.Argument(help="Which.")], settings: SettingsPath, override: Overrides = None, home: Root = None
) -> None:
    """Point CURRENT at a release with a newer data_cutoff."""
    from kar.release import promote

    place = open_scenario(settings, override, home)[1]
    promote(place.published, release_id)
    say(f"CURRENT is {release_id}")


@app.command("rollback")
def rollback(
    release_id: Annotated[str, typer.Argument(help="Which.")], settings: SettingsPath, override: Overrides = None, home: Root = None
) -> None:
    """Point CURRENT back at an earlier release."""
    from kar.release import rollback

    place = open_scenario(settings, override, home)[1]
    rollback(place.published, release_id)
    say(f"CURRENT is {release_id}")
