"""The documented questions, over a home whose answers are known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kar.catalog import Asking, questions
from kar.errors import CatalogError
from kar.settings import Settings
from kar.store import Home
from tests.catalog.filled import DEAREST_ITEM, OLDEST_USER
from tests.page import fake_home

Shop = tuple[Settings, Home]
README = (Path(__file__).parents[2] / "README.md").read_text()


def ask(shop: Shop, name: str, **given: str) -> list[dict[str, Any]]:
    question = questions()[name]
    with Asking(*shop, question.sql) as asking:
        return [row for batch in asking.answer(question.parameters(given)).batches for row in batch.to_pylist()]


def test_the_readme_names_every_question_and_no_other() -> None:
    assert set(re.findall(r"--ask ([a-z_]+)", README)) == set(questions())
    assert len(questions()) == 5


def test_what_is_said_of_a_user_comes_with_why_and_with_what_the_prompt_saw(shop: Shop) -> None:
    (row,) = ask(shop, "about", subject="4")
    assert row["view"] == "user.preference"
    assert row["text"].startswith("This viewer is drawn to")
    assert row["why"] == "asked tonight, because new"
    assert row["evidence"].count(" · ") == 8  # nine events
    assert "(19" in row["evidence"]
    (fresh,) = ask(shop, "about", subject="3")
    assert fresh["why"] == "still good: the plan says fresh"


def test_of_an_item_each_factor_has_a_row(shop: Shop) -> None:
    rows = ask(shop, "about", subject="5", side="item")
    assert [row["factor"] for row in rows] == ["genre", "mood"]
    assert rows[1]["text"] == "Wry and patient, like number 5."


def test_the_dearest_text_is_the_one_that_was_asked_twice(shop: Shop) -> None:
    rows = ask(shop, "dearest", top="3")
    assert (rows[0]["view"], rows[0]["subject_id"], rows[0]["request_count"]) == ("item.facts", str(DEAREST_ITEM), 2)
    assert rows[0]["tokens"] == 2 * 400 + 108 + 400
    assert len(rows) == 3
    assert [row["usd"] for row in rows] == sorted((row["usd"] for row in rows), reverse=True)


def test_what_was_rejected_is_counted_by_reason_with_an_answer_to_look_at(shop: Shop) -> None:
    rows = ask(shop, "rejected_yesterday")
    assert {row["date"] for row in rows} == {fake_home.DATE}
    assert rows == ask(shop, "rejected_yesterday", night=fake_home.DATE.isoformat())
    assert ask(shop, "rejected_yesterday", night="1999-01-01") == []
    judged = {row["reason"]: row for row in rows if row["stage"] == "knowledge"}
    assert (judged["repetition"]["meaning"], judged["repetition"]["row_count"]) == ("the answer loops", 5)
    assert judged["repetition"]["answer"].startswith("The film is a film about a film")
    assert 0 not in {row["row_count"] for row in rows}


def test_the_oldest_knowledge_among_the_busiest_comes_after_those_who_have_none(shop: Shop) -> None:
    rows = ask(shop, "oldest_of_the_busiest", rows="1000")
    missing = [row["is_missing"] for row in rows]
    assert missing == sorted(missing, reverse=True)
    held = [row for row in rows if not row["is_missing"]]
    assert held[0]["subject_id"] == str(OLDEST_USER)
    assert [row["asked_at"] for row in held] == sorted(row["asked_at"] for row in held)
    busiest = ask(shop, "oldest_of_the_busiest", top="5", rows="1000")
    assert {row["subject_id"] for row in busiest} == {
        row["subject_id"] for row in sorted(rows, key=lambda row: (-row["event_count"], row["subject_id"]))[:5]
    }


def test_a_served_row_leads_back_to_template_model_answer_and_cost(shop: Shop) -> None:
    (row,) = ask(shop, "lineage", subject="4")
    assert row["release_id"].startswith("2026-11-19-")
    assert row["template_version"] == "user.preference@1:0123456789ab"
    assert (row["model"], row["answer"]) == ("smollm2-135m-instruct", "an answer about 4")
    assert row["prompt"].startswith("A person rated these films")
    assert row["usd"] == pytest.approx((300 + 100 + 1040) / 1e6)
    assert len(row["request_key"]) == 64


def test_a_question_says_what_it_takes() -> None:
    with pytest.raises(CatalogError, match=r"it was not told subject\n  do: it takes subject, side=user"):
        questions()["lineage"].parameters({})
    with pytest.raises(CatalogError, match=r"it takes no sbject"):
        questions()["lineage"].parameters({"sbject": "4"})


def test_a_value_is_never_taken_for_sql(shop: Shop) -> None:
    assert ask(shop, "about", subject="4' or '1' = '1") == []
    with pytest.raises(CatalogError, match=r"Could not convert string '1; drop table"):
        ask(shop, "dearest", top="1; drop table facts.view")
