"""The pages over nights that the real runner made with a loopback server: prompts and answers come from the ledger."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from kar.browse.app import application
from tests.browse.read import Element, page
from tests.stages.nights import Nights


def test_the_prompt_and_the_answer_behind_a_text_are_found_on_the_night_and_on_every_later_one(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    assert nights() == 20
    assert nights() == 0
    client = TestClient(application(nights.settings, nights.home), base_url="http://127.0.0.1")

    def view(path: str) -> Element:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        return page(answer.text).one("article")

    first = nights.rows("knowledge", "knowledge")["item.facts", "3"]
    before = view(f"/item?id=3&date={nights.home.partitions('knowledge')[0].date}")
    after = view("/item?id=3")
    assert "It was asked and answered on this night." in before.words
    assert "still the last good text" in after.words
    for shown in (before, after):
        assert " ".join(first["text"].split()) in shown.words
        prompt = next(d for d in shown.all("details") if d.one("summary").words == "The prompt")
        assert "Film 3 (1963)" in prompt.words
    assert "not asked: what is known was fresh enough" in after.words


def test_a_refused_answer_is_shown_with_the_prompt_that_it_was_given_to(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    nights(lambda call: "refusal")
    client = TestClient(application(nights.settings, nights.home), base_url="http://127.0.0.1")
    shown = page(client.get("/user?id=2").text).one("article")
    assert shown.one("h3").words == "user.preference refused"
    assert "Refused: refusal. The model declined." in shown.words
    assert any(d.one("summary").words == "The prompt" for d in shown.all("details"))
    assert shown.one("blockquote").words
