"""kar retrieve: rank all items by towers over text vectors, arm by arm, and print what came of it."""

from __future__ import annotations

from kar.cli.options import Date, Overrides, Root, SettingsPath, day, now, open_scenario, say


def retrieve(settings: SettingsPath, date: Date = None, override: Overrides = None, home: Root = None) -> None:
    """Rank all items by the texts alone, view against view (LLM-Rec's evaluation); P, R and NDCG at 10, differences with intervals."""
    from kar import run as runner
    from kar.retrieved import told

    loaded, place = open_scenario(settings, override, home)
    on = day(date)
    runner.run_all(loaded, place, on, now, ["retrieval"])
    say(told(place, on))
