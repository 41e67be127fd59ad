"""`kar ask`"""

from __future__ import annotations

from typing import Annotated

import typer

from kar.cli.options import AsJson, Date, Overrides, Root, SettingsPath, StopIn, as_line, day, now, open_scenario, say


def ask(
    settings: SettingsPath,
    date: Date = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Which share of the requests, of how many; the first is 0.")] = "0/1",
    stop_in: StopIn = None,
    as_json: AsJson = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Ask one share of a date's planned requests; N processes may ask N shares at the same time. Answers go to the ledger, nowhere else.

    A share has its part of the night's token and money budget. Reaching it, or the deadline, is a success and is said. The same
    command goes on where a killed one stopped. Afterwards: kar run knowledge --answers held.
    """
    from kar import flow
    from kar import run as runner
    from kar.stages.knowledge.share import Share
    from kar.stages.knowledge.shares import ask_share

    try:
        share = Share.read(shard)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from error
    loaded, place = open_scenario(settings, override, home)
    inputs = runner.inputs_of(flow.KNOWLEDGE, loaded, place, day(date), now())
    told = {"date": inputs.date.isoformat(), **ask_share(inputs, loaded, share, stop_in).figures()}
    say(as_line(told) if as_json else "\n".join(f"{name:<18} {value}" for name, value in told.items()))
