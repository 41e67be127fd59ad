"""Whatever is missing, the page is made and says so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from kar import run
from tests.page import fake_home
from tests.page.fake_home import AS_OF, DATE, Plan
from tests.page.parsed import Parsed

Rows = list[dict[str, Any]]


def none(rows: Rows) -> Rows:
    return []


def undefined(rows: Rows) -> Rows:
    return [row | {name: math.nan for name in ("value", "difference", "low", "high", "valid_auc") if name in row} for row in rows]


def uncovered(rows: Rows) -> Rows:
    return [row | {"has_user_knowledge": False, "has_item_knowledge": False} for row in rows]


LACKING: dict[str, tuple[Plan, list[str]]] = {
    "no knowledge": (
        Plan(known_share=0.0, edit={"knowledge": none, "example": uncovered}),
        ["There is no knowledge at all on this date", "0 of 24 with knowledge (0 %)"],
    ),
    "no view at all": (
        Plan(edit={"knowledge": none, "plan": none, "request": none, "refused": none, "knowledge_vector": none}),
        ["nobody is covered", "Nothing was encoded.", "No answer was refused.", "No view speaks of it."],
    ),
    "no training": (
        Plan(edit={"metric": none, "comparison": none, "epoch": none}),
        [
            "Whether knowledge helps over the same evidence was not measured",
            "No backbone was trained",
            "No training was recorded.",
            "has no test figures",
        ],
    ),
    "no examples": (Plan(edit={"example": none}), ["There are no examples."]),
    "no release": (Plan(edit={"release": none}), ["Nothing was released on this date."]),
    "no users and no items": (
        Plan(edit=dict.fromkeys(("history", "item_profile", "plan", "request", "knowledge", "refused", "example"), none)),
        ["There is nobody to show"],
    ),
    "metrics undefined everywhere": (
        Plan(edit={"metric": undefined, "comparison": undefined, "epoch": undefined}),
        ["Whether knowledge helps over the same evidence was not measured", "not defined"],
    ),
    "one slice undefined": (
        Plan(edit={"comparison": lambda rows: [r if r["slice"] != "cold" else undefined([r])[0] for r in rows]}),
        ["knowledge beats raw text", "not defined"],
    ),
    "two arms only": (Plan(arms=("base", "knowledge"), kind="not_measured"), ["Not trained: text and permuted."]),
    "one backbone": (Plan(backbones=("din",)), ["FiBiNET, the published backbone, has no test figures."]),
    "an arm nobody knows": (
        Plan(edit={"metric": lambda rows: [r | {"arm": "oracle"} if r["arm"] == "text" else r for r in rows]}),
        ["oracle", "Not trained: text."],
    ),
    "no figures": (
        Plan(figures={stage: {} for stage in ("sources", "prompts", "knowledge", "examples", "adaptor")}),
        ["Its result was not recorded.", "– of the examples share their second"],
    ),
    "figures of odd types": (
        Plan(
            figures={
                "knowledge": {"calls": "many", "usd": None, "tokens_per_s": [1], "stopped_by": 7},
                "examples": {"leaks": "few", "tie_share": {}},
            }
        ),
        ["Its result was not recorded.", "It stopped because of: 7."],
    ),
    "no budget": (Plan(settings={"llm": {"token_budget": None}}), ["No token budget was set."]),
    "a budget of nothing": (Plan(settings={"llm": {"token_budget": 0}}, figures={"knowledge": {}}), ["What it cost"]),
    "nobody to read": (Plan(settings={"report": {"reading_count": 0}}), ["report.reading_count is 0"]),
    "no ratings": (
        Plan(edit={"history": lambda rows: [r | {"ratings": [math.nan] * len(r["ratings"])} for r in rows]}),
        ["newest of"],
    ),
    "untitled items": (
        Plan(edit={"item_profile": lambda rows: [r | {"title": None, "text": "", "rating_mean": None} for r in rows]}),
        ["Item 1"],
    ),
}


@pytest.mark.parametrize("lack", LACKING)
def test_a_page_is_made_and_says_what_is_missing(tmp_path: Path, lack: str) -> None:
    plan, sentences = LACKING[lack]
    page = Parsed(fake_home.page(tmp_path, plan))
    assert page.faults == []
    assert page.headline
    told = page.text.replace("\u00a0", " ")
    assert [sentence for sentence in sentences if sentence not in told] == []
    assert "nan" not in told.lower().replace("finance", "").split()


def test_a_manifest_without_a_recipe_falls_back_on_the_settings(tmp_path: Path) -> None:
    made, home = fake_home.build(tmp_path)
    for stage in ("histories", "knowledge", "adaptor", "examples"):
        path = home.partition(stage, DATE).manifest_path
        text = path.read_text()
        assert '"recipe": {' in text
        import json

        path.write_text(json.dumps(json.loads(text) | {"recipe": {}}))
    run.run_stage("report", made, home, DATE, AS_OF)
    page = Parsed((home.partition("report", DATE).path / "index.html").read_text())
    assert "the base sees the newest 30 events" in page.text
