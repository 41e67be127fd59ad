"""kar rerank: train and judge re-rankers over candidate lists, and print what came of it."""

from __future__ import annotations

from kar.cli.options import Date, Overrides, Root, SettingsPath, day, now, open_scenario, say


def rerank(settings: SettingsPath, date: Date = None, override: Overrides = None, home: Root = None) -> None:
    """Re-rank candidate lists with and without knowledge; MAP, NDCG, and each arm's difference with its interval."""
    from kar import run as runner
    from kar.reranked import told

    loaded, place = open_scenario(settings, override, home)
    on = day(date)
    runner.run_all(loaded, place, on, now, ["rerank"])
    say(told(place, on))
