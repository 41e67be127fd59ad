"""The judge's calls: a server with a real, if tiny, language model scores prompts; scores are kept, counted and paid for once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kar.errors import ServerRefused
from kar.llm.ask import Asked
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Ledger
from kar.llm.likelihood import Scoring, rest_of, scoring
from kar.llm.stream import Request
from kar.settings import LLMSettings
from kar.store import Home
from kar.text.quality.likelihood import bodies, likelihood, token_logprobs
from tests.llm.loopback import loopback

NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
ASKED = [{"role": "user", "content": "Describe the entry: a submarine crew hunted in the cold Atlantic"}]
BLANK = [{"role": "user", "content": "Describe the entry:"}]
TRUE = "a submarine crew hunted in the Atlantic"
OTHER = "two sisters inherit a vineyard near Bordeaux"


def requests(answer: str) -> list[Request]:
    raw = [body_bytes(body) for body in bodies("tiny", ASKED, BLANK, answer)]
    return [Request(request_key(body, "r1"), body, 40, 1, "judge") for body in raw]


@contextmanager
def scorer(folder: Path, base_url: str, asked: Asked | None = None, **llm: Any) -> Iterator[Scoring]:
    home = Home.of("world", folder)
    settings = LLMSettings(provider="openai", model="tiny", revision="r1", base_url=base_url, max_attempts=1, timeout_s=5.0, **llm)
    with Ledger.open(home.ledger) as ledger, scoring(settings, home, "r1", NOW, ledger, token_logprobs, asked or Asked()) as made:
        yield made


def test_a_text_about_its_source_gains_more_from_it_than_a_text_about_another(tmp_path: Path) -> None:
    gains = {}
    with loopback() as server, scorer(tmp_path, server.base_url) as made:
        for name, answer in (("true", TRUE), ("other", OTHER)):
            trio = requests(answer)
            scores = made.score(trio)
            given, alone, frame = (scores[request.key] for request in trio)
            found = likelihood(given, alone, len(frame))
            assert found is not None
            assert found.tokens == len(answer.split())
            gains[name] = found.gain
        assert server.calls == 5, "the template alone is scored once"
    assert gains["true"] > 1.0 > gains["other"]


def test_a_score_is_paid_for_once_and_a_second_run_opens_no_connection(tmp_path: Path) -> None:
    with loopback() as server, scorer(tmp_path, server.base_url) as made:
        first = made.score(requests(TRUE))
        paid = made.paid()
        assert (paid.calls, paid.answered, paid.from_ledger) == (3, 3, 0)
        assert paid.prompt_tokens > 0
    with scorer(tmp_path, "http://127.0.0.1:9/v1") as made:
        assert made.score(requests(TRUE)) == first
        assert (made.paid().calls, made.paid().from_ledger) == (0, 3)


def test_a_server_without_scores_and_one_that_fails_give_none_and_say_why(tmp_path: Path) -> None:
    for mode, why in (("scoreless", "200 without prompt_logprobs"), ("400", "400"), ("500", "500"), ("truncated_json", "200 with")):
        with loopback(lambda call, mode=mode: mode) as server, scorer(tmp_path / mode, server.base_url) as made:
            (request, *_) = requests(TRUE)
            assert made.score([request]) == {}
            assert made.why_not(request).startswith(why)
            assert server.calls == 1


def test_a_server_that_wants_another_key_ends_the_scoring(tmp_path: Path) -> None:
    with loopback(lambda call: "401") as server, scorer(tmp_path, server.base_url) as made, pytest.raises(ServerRefused, match="401"):
        made.score(requests(TRUE))


def test_what_the_asking_left_of_the_budget_is_all_there_is(tmp_path: Path) -> None:
    spent = Asked(prompt_tokens=800, completion_tokens=150, usd=0.5, seconds=3.0)
    rest = rest_of(LLMSettings(token_budget=1000, usd_budget=2.0, deadline_s=2.0), spent)
    assert (rest.token_budget, rest.usd_budget, rest.deadline_s) == (50, 1.5, 0.0)
    assert rest_of(LLMSettings(), spent) == LLMSettings()
    with loopback() as server, scorer(tmp_path, server.base_url, spent, token_budget=1000) as made:  # 41 of the 50 for the first
        assert len(made.score(requests(TRUE)[:1])) == 1
        assert made.score(requests(TRUE)[1:]) == {}
        assert made.paid().stopped_by == "token_budget"
        assert server.calls == 1
