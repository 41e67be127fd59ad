"""Titles, answers, ids and model names come from others: none of them may become markup, turn a line or swell the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.page import fake_home
from tests.page.fake_home import Plan
from tests.page.parsed import Parsed

EVIL = """<script>alert("1")</script><img src=x onerror='boom()'>"><b>&amp; \u202egnp.exe\x00"""
VISIBLE = """<script>alert("1")</script><img src=x onerror='boom()'>"><b>&amp; ⟨U+202E⟩gnp.exe⟨U+0000⟩"""

Rows = list[dict[str, Any]]


def planted(**columns: Any) -> Any:
    """An edit that overwrites columns in every row."""
    return lambda rows: [row | columns for row in rows]


def _history(rows: Rows) -> Rows:
    return [row | {"titles": [EVIL] * len(row["titles"])} for row in rows]


def _request(rows: Rows) -> Rows:
    body = json.dumps({"messages": [{"role": EVIL, "content": EVIL}, {"role": "user", "content": "\ud800 alone"}]})
    return [row | {"body": body} for row in rows]


PLACES: dict[str, Plan] = {
    "titles of histories": Plan(edit={"history": _history}),
    "items": Plan(edit={"item_profile": planted(title=EVIL, text=EVIL)}),
    "prompts": Plan(edit={"request": _request}),
    "knowledge": Plan(edit={"knowledge": planted(text=EVIL, model=EVIL, model_revision=EVIL)}),
    "refused answers": Plan(edit={"refused": planted(answer=EVIL, detail=EVIL)}),
    "rejected rows": Plan(rejected_examples=[{"user_id": EVIL, EVIL: 1}]),
    "figures": Plan(figures={"knowledge": {"stopped_by": EVIL, EVIL: EVIL}}),
    "the release": Plan(edit={"release": planted(release_id=EVIL, space_id=EVIL)}),
    "views": Plan(edit={"knowledge_vector": lambda rows: [row | {"view": "item." + EVIL} for row in rows if row["view"] == "item.raw"]}),
    "arms": Plan(
        edit={
            table: lambda rows: [r | {"backbone": EVIL} for r in rows if r["backbone"] == "din"]
            for table in ("metric", "comparison", "epoch")
        }
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_planted_markup_is_shown_as_text_and_changes_nothing(tmp_path: Path, place: str) -> None:
    html = fake_home.page(tmp_path, PLACES[place])
    page = Parsed(html)
    assert page.faults == []
    assert not page.of("script")
    assert not page.of("img")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "\u202e" not in html
    assert "\x00" not in html
    told = page.text + json.dumps([attributes for _, attributes in page.elements], ensure_ascii=False).replace('\\"', '"')
    # JSON of rejected rows and figures escapes quotes and control characters a first time
    assert VISIBLE in told or json.dumps(VISIBLE, ensure_ascii=False)[1:50] in told


def test_a_body_that_is_no_request_is_shown_as_it_is(tmp_path: Path) -> None:
    broken = Plan(edit={"request": planted(body="not { json")})
    assert "not { json" in Parsed(fake_home.page(tmp_path, broken)).text


def test_texts_of_100_kb_are_cut_with_a_note_and_the_page_stays_small(tmp_path: Path) -> None:
    long = "<&\"'" * 25_000

    def body(rows: Rows) -> Rows:
        return [row | {"body": json.dumps({"messages": [{"role": "user", "content": long}]})} for row in rows]

    everything = Plan(
        users=60,
        items=60,
        edit={
            "request": body,
            "knowledge": planted(text=long),
            "refused": planted(answer=long[:2_000], detail=long),
            "item_profile": planted(title=long, text=long),
            "history": lambda rows: [row | {"titles": [long] * len(row["titles"])} for row in rows],
        },
        rejected_examples=[{"text": long}] * 20,
        figures={stage: {"note": long} for stage in ("sources", "prompts", "knowledge", "vectors", "examples")},
        settings={"report": {"reading_count": 60}},
    )
    html = fake_home.page(tmp_path, everything)
    assert len(html.encode()) < 1_500_000
    page = Parsed(html)
    assert page.faults == []
    assert "of 100,000 characters left out" in page.text
    assert "more were drawn and left out to keep this page small" in page.text
    assert "User " in page.text[page.text.index("Drawn at random") :]
