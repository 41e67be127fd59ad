"""`kar backfill`"""

from __future__ import annotations

from typing import Annotated

import typer

from kar.cli.options import Overrides, Root, SettingsPath, day, now, open_scenario, say


def backfill(
    settings: SettingsPath,
    first: Annotated[str, typer.Option("--from", help="The first date, YYYY-MM-DD.")],
    last: Annotated[str, typer.Option("--to", help="The last date, YYYY-MM-DD; included.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what each date would ask and cost, and stop.")] = False,
    promote: Annotated[bool, typer.Option("--promote", help="Let CURRENT move to what is newer than what it serves.")] = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Make past dates, both ends included: say first what they will ask and cost, then run them, oldest first.

    Each date sees nothing after it. Its release is marked reconstructed, and CURRENT stays where it is. Run the same command again after
    an interruption: dates that are made do nothing. Another model or budget per date: --set llm.model=…, --set llm.token_budget=….
    """
    from kar import backfill as filling

    loaded, place = open_scenario(settings, override, home)
    dates = filling.dates_between(day(first, "--from"), day(last, "--to"))
    say(filling.bill(loaded, filling.foresee(loaded, place, dates, now)))
    if not dry_run:
        say("")
        for line in filling.backfill(loaded, place, dates, now, promote=promote):
            say(line)
