"""`kar training …`"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kar.cli.options import AsJson, Date, Overrides, Root, SettingsPath, as_line, day, now, open_scenario, say

app = typer.Typer(
    help="Trainings of the adaptor: list them, ask whether another is due, promote one against its gate, hold one back.",
    no_args_is_help=True,
)
OfTraining = Annotated[str, typer.Option("--date", "-d", metavar="DATE", help="Of the training, YYYY-MM-DD.", show_default=False)]
Why = Annotated[str, typer.Option(help="Whoever wonders later is told so.", show_default="no reason")]


@app.command("list")
def list_trainings(settings: SettingsPath, as_json: AsJson = False, override: Overrides = None, home: Root = None) -> None:
    """List the trainings, newest first, the one in use marked, and why others are held back."""
    from kar.trained import listing, listing_json

    place = open_scenario(settings, override, home)[1]
    say(as_line(listing_json(place)) if as_json else listing(place))


@app.command("due")
def due(settings: SettingsPath, date: Date = None, as_json: AsJson = False, override: Overrides = None, home: Root = None) -> None:
    """Say whether the adaptor should be trained again: no training yet, another encoder or template, too old. Trains nothing."""
    from kar.trained import due

    loaded, place = open_scenario(settings, override, home)
    found = due(loaded, place, day(date))
    say(as_line(asdict(found)) if as_json else f"{'due' if found.due else 'not due'}: {found.why}")


@app.command("promote")
def promote(settings: SettingsPath, date: OfTraining, why: Why = "", override: Overrides = None, home: Root = None) -> None:
    """Use a training that its gate held back: the next features and report read it, if none in use is newer."""
    _decide(settings, date, True, why, override, home)


@app.command("hold")
def hold(settings: SettingsPath, date: OfTraining, why: Why = "", override: Overrides = None, home: Root = None) -> None:
    """Keep a training from being used, whatever its gate said: the next features and report read the one before it."""
    _decide(settings, date, False, why, override, home)


def _decide(settings: SettingsPath, date: str, is_promoted: bool, why: str, override: Overrides, home: Root) -> None:
    from kar.store.forgotten import nobody_is_forgotten
    from kar.trained import decide

    place = open_scenario(settings, override, home)[1]
    with nobody_is_forgotten(place):
        say(decide(place, day(date), is_promoted, now(), why))
