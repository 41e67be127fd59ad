"""Templates that show an item's neighbours: what stands in the prompt, what it rests on, and when it is asked again."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kar.errors import TemplateError
from kar.tables import TABLES, IdTypes
from kar.text.staleness import neighbour_drift
from kar.text.templates import load_template
from tests.text.test_prompts_stage import CUTOFF, Asking, ask, prompt, rows

__all__ = ["ask"]  # the fixture

VIEW = "item.engagement"
TEMPLATE = '''
id = "films.item.engagement"
version = 1
view = "item.engagement"
side = "item"
neighbours = 2
uses_factors = false
user = """
What have these {{ items }} in common?
<entry>
{{ text }}
</entry>
<others>
{{ neighbours }}
</others>
"""
[output]
words = 60
max_tokens = 120
min_words = 10
'''
ITEMS = {
    10: ("Alien (1979)", "Alien (1979). genre: horror", 3),
    11: ("Heidi", "", 2),
    12: (None, "", 1),
    13: ("Solaris", "Solaris. <b>A</b> planet\nthat dreams.", 0),
}
GRAPH_AT = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)


@pytest.fixture
def engaged(prompts_folder: Path, ask: Asking) -> Asking:
    """ask() for the one view that shows neighbours."""
    (prompts_folder / "films" / f"{VIEW}.toml").write_text(TEMPLATE, encoding="utf-8")

    def make(beside: dict[int, list[int]], **more: Any) -> Any:
        return ask(items=ITEMS, beside=beside, prompts={"views": [VIEW], **more.pop("prompts", {})}, **more)

    return make


def known(shown: dict[str, list[str]], made: Any) -> pa.Table:
    """Knowledge of last night, of prompts that showed these neighbours; all else as tonight's plan would have it."""
    plan = rows(made)
    template = next(row for row in plan.values() if row["template_version"])["template_version"]
    found = [
        {
            **dict.fromkeys(("text", "origin", "request_key"), "x"),
            "view": VIEW,
            "subject_id": item,
            "model": "m",
            "model_revision": "r1",
            "template_version": template,
            "evidence_sha": plan[VIEW, item]["evidence_sha"],
            "asked_at": CUTOFF - dt.timedelta(days=3),
            "cutoff_at": CUTOFF,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "evidence_users": [],
            "evidence_items": [],
            "neighbour_items": near,
        }
        for item, near in shown.items()
    ]
    return pa.Table.from_pylist(found, schema=TABLES["knowledge"].schema(IdTypes()))


def test_a_prompt_shows_the_nearest_neighbours_that_have_something_to_say_cleaned_and_in_their_order(engaged: Asking) -> None:
    row = rows(engaged({10: [12, 13, 11]}))[VIEW, "10"]
    assert prompt(row).endswith(
        "<entry>\nAlien (1979). genre: horror\n</entry>\n<others>\n- Solaris. A planet that dreams.\n- Heidi\n</others>"
    )
    assert row["neighbour_items"] == ["13", "11"]


def test_a_prompt_shows_no_more_neighbours_than_its_template_asks_for(engaged: Asking) -> None:
    assert rows(engaged({10: [11, 13, 12]}))[VIEW, "10"]["neighbour_items"] == ["11", "13"]
    assert rows(engaged({13: [10]}))[VIEW, "13"]["neighbour_items"] == ["10"]


def test_an_item_without_neighbours_is_left_out_as_empty(engaged: Asking) -> None:
    made = engaged({10: [11], 13: [12]})
    assert {s: row["decision"] for (_, s), row in rows(made).items()} == {"10": "ask", "11": "empty", "12": "empty", "13": "empty"}
    assert made.rejected["empty_item"][0] == 3


def test_the_evidence_is_as_new_as_the_graph(engaged: Asking) -> None:
    assert rows(engaged({10: [11]}, graph_newest_at=GRAPH_AT))[VIEW, "10"]["evidence_newest_at"] == GRAPH_AT
    assert rows(engaged({10: [11]}))[VIEW, "10"]["evidence_newest_at"] is None


def test_tokens_of_the_neighbours_are_counted(engaged: Asking) -> None:
    few, many = (rows(engaged({10: near}))[VIEW, "10"]["prompt_tokens"] for near in ([11], [11, 13]))
    assert many > few


def test_a_text_is_cut_where_it_does_not_fit_beside_its_neighbours(engaged: Asking) -> None:
    room = rows(engaged({10: [13, 11]}))[VIEW, "10"]["prompt_tokens"] - 2
    row = rows(engaged({10: [13, 11]}, llm={"context_tokens": room + 120}))[VIEW, "10"]
    assert row["decision"] == "ask"
    assert "Alien (1979). genre: horror" not in prompt(row)
    assert "…\n</entry>" in prompt(row)
    assert "- Heidi\n</others>" in prompt(row)
    assert row["prompt_tokens"] <= room


def test_an_item_is_asked_again_when_enough_of_its_neighbours_are_others(engaged: Asking) -> None:
    first = engaged({10: [11, 13], 13: [10, 11]})
    before = known({"10": ["13", "11"], "13": ["12", "11"]}, first)
    found = rows(engaged({10: [11, 13], 13: [10, 11]}, known=before))
    assert found[VIEW, "10"]["decision"] == "fresh", "another order is no other neighbourhood"
    assert (found[VIEW, "13"]["reason"], found[VIEW, "13"]["decision"]) == ("drift", "ask")
    calm = rows(engaged({10: [11, 13], 13: [10, 11]}, known=before, prompts={"max_drift": 0.6}))
    assert calm[VIEW, "13"]["decision"] == "fresh"


@pytest.mark.parametrize(
    ("before", "now", "drift"),
    [
        (["a", "b", "c"], ["c", "a", "b"], 0.0),
        (["a", "b", "c"], ["a", "b", "d"], 1 / 3),
        (["a", "b"], ["a", "b", "c"], 1 / 3),
        (["a"], ["b"], 1.0),
        ([], ["b"], 1.0),
        (["b"], [], 1.0),
        ([], [], 0.0),
    ],
)
def test_the_drift_of_neighbours_is_the_total_variation_distance(before: list[str], now: list[str], drift: float) -> None:
    assert neighbour_drift(before, now) == pytest.approx(drift)
    weights = [{item: 1 / len(own) for item in own} for own in (before, now)]
    if before and now:
        assert drift == pytest.approx(sum(abs(weights[0].get(i, 0) - weights[1].get(i, 0)) for i in {*before, *now}) / 2)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{{ neighbours }}", "nobody", "neighbours is set but user never names neighbours"),
        ("neighbours = 2\n", "", "names neighbours, which nobody fills"),
        ("neighbours = 2", "neighbours = 99", "neighbours: Input should be less than"),
        ("uses_factors = false\n", "", "must stand before"),
    ],
)
def test_a_template_with_a_fault_about_neighbours_is_refused(prompts_folder: Path, old: str, new: str, told: str) -> None:
    (prompts_folder / "films" / f"{VIEW}.toml").write_text(TEMPLATE.replace(old, new), encoding="utf-8")
    with pytest.raises(TemplateError, match=told):
        load_template(prompts_folder, "films", VIEW)


def test_a_template_about_users_has_no_neighbours(prompts_folder: Path) -> None:
    path = prompts_folder / "films" / "user.preference.toml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("[output]", "[output]", 1).replace("side =", "neighbours = 2\nside ="), encoding="utf-8"
    )
    with pytest.raises(TemplateError, match="only items have neighbours"):
        load_template(prompts_folder, "films", "user.preference")
