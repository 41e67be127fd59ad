"""The section on templates: what each one's answers came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kar.page.templates import TemplateOutcome, _answers, _planned, _texts
from tests.page import fake_home
from tests.page.fake_home import Plan
from tests.page.parsed import Parsed

A, B = "movies.item.facts@1:aaaaaaaaaaaa", "movies.item.facts.b@1:bbbbbbbbbbbb"


def plan(*rows: tuple[str, str, str]) -> pa.Table:
    """(subject, version, decision)"""
    subjects, versions, decisions = zip(*rows, strict=True)
    view = ["item.facts"] * len(rows)
    return pa.table({"view": view, "subject_id": list(subjects), "template_version": list(versions), "decision": list(decisions)})


PLAN = plan(("1", A, "ask"), ("2", A, "ask"), ("3", A, "fresh"), ("4", B, "ask"), ("5", B, "ask"), ("6", B, "refused"), ("7", B, "ask"))


def told(*rows: tuple[str, str, str, int]) -> pa.Table:
    """(subject, version, origin, words)"""
    subjects, versions, origins, words = zip(*rows, strict=True)
    columns = {"view": ["item.facts"] * len(rows), "subject_id": list(subjects), "template_version": list(versions)}
    return pa.table(columns | {"origin": list(origins), "words": list(words), "completion_tokens": [2 * w for w in words]})


KNOWLEDGE = told(("1", A, "tonight", 40), ("2", A, "tonight", 60), ("3", A, "last_good", 50), ("4", B, "tonight", 30))


def refused(*rows: tuple[str, str]) -> pa.Table:
    subjects, reasons = zip(*rows, strict=True)
    return pa.table({"view": ["item.facts"] * len(rows), "subject_id": list(subjects), "reason": list(reasons)})


def test_answers_and_refusals_are_counted_for_the_template_that_asked() -> None:
    answers, reasons = _answers(PLAN, KNOWLEDGE, refused(("5", "echo"), ("6", "refusal"), ("7", "exhausted"), ("3", "echo")))
    assert answers == {("item.facts", A): (2, 0), ("item.facts", B): (1, 1)}, (
        "no answer is not a refused one; one of an old night counts no more"
    )
    assert {key: dict(counts) for key, counts in reasons.items()} == {("item.facts", B): {"echo": 1, "refusal": 1}}


def test_words_and_tokens_are_means_over_the_published_texts() -> None:
    assert _texts(KNOWLEDGE) == {("item.facts", A): (3, 50.0, 100.0), ("item.facts", B): (1, 30.0, 60.0)}
    assert {key: dict(counts) for key, counts in _planned(PLAN).items()} == {
        ("item.facts", A): {"ask": 2, "fresh": 1},
        ("item.facts", B): {"ask": 3, "refused": 1},
    }


def split(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every third item to a second template."""
    return [
        row | {"template_version": "item.facts.b@1:bbbbbbbbbbbb"}
        if row["view"] == "item.facts" and int(row["subject_id"]) % 3 == 0
        else row
        for row in rows
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    return Parsed(fake_home.page(tmp_path_factory.mktemp("home"), Plan(edit={"plan": split, "knowledge": split})))


def test_the_page_shows_a_row_for_each_template_of_a_view_and_links_to_it(page: Parsed) -> None:
    assert page.faults == []
    assert "#templates" in [a["href"] for a in page.of("a")]
    for version in ("item.facts@1:0123456789ab", "item.facts.b@1:bbbbbbbbbbbb", "user.preference@1:0123456789ab"):
        assert version in page.text
    assert "Where two templates share a view" in page.text
    assert "AUC per template is not measured" in page.text


def test_a_page_with_one_template_a_view_says_how_to_have_two(tmp_path: Path) -> None:
    assert "prompts.variants" in Parsed(fake_home.page(tmp_path)).text


def test_a_share_of_nothing_is_not_nought() -> None:
    row = TemplateOutcome("v", "t", False, 0, 0, 0, 0, 0, None, None, [], "")  # type: ignore[arg-type]
    assert row.accepted_share is None
