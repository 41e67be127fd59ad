"""What `kar plan` says of forms and reasoning."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from kar import run as runner
from kar.bill import bill
from kar.store import Home
from tests import world

NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
NOBODY = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("llm", "form", "said"),
    [
        ({}, "factors", ""),
        ({"structured": "none"}, "prose", "item.facts in prose: factors are wanted"),
        ({"thinking": "off:thinking"}, "factors", "thinking off by thinking"),
    ],
)
def test_the_plan_says_which_form_a_view_gets_and_what_becomes_of_reasoning(
    tmp_path: Path, llm: dict[str, Any], form: str, said: str
) -> None:
    world.write(tmp_path / "data", users=3, items=4, events=3)
    settings = world.settings(
        tmp_path / "data", prompts={"form": {"item.facts": "factors"}}, llm={"base_url": NOBODY, "revision": "r", **llm}
    )
    home = Home.of("world", tmp_path / "home")
    runner.run_all(settings, home, world.LAST_DAY, lambda: NOW, ["sources", "histories", "prompts"])
    shown = bill(settings, home, world.LAST_DAY)
    row = next(line for line in shown.splitlines() if line.startswith("item.facts"))
    assert row.split()[1] == form
    assert said in shown
    assert "thinking " in shown
