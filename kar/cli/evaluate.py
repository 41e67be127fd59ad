"""`kar evaluate`"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from kar.cli.options import Overrides, Root, SettingsPath, day, open_scenario, say


def evaluate(
    settings: SettingsPath,
    date: Annotated[str | None, typer.Option("--date", "-d", help="Partition date of the training.", show_default="the newest")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON; what is not defined is null.")] = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Judge a training: the arms, their differences with intervals, where the uplift comes from, what it cost, and one sentence.

    Trains nothing. A verdict that cannot be given says so: too few users to tell is an answer too.
    """
    from kar.evaluation import evaluation, text

    loaded, place = open_scenario(settings, override, home)
    told = evaluation(loaded, place, None if date is None else day(date))
    say(json.dumps(told, indent=2, ensure_ascii=False) if as_json else text(told))
