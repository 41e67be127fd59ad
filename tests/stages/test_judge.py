"""The optional judge of the knowledge stage: off it costs nothing, on it refuses what its source does not explain."""

from __future__ import annotations

from pathlib import Path

import pytest

from kar.llm.ledger.stats import stats
from tests.llm.loopback import Behaviour, Call, loopback
from tests.stages.test_knowledge import Shop

SOURCED = (
    "It tells of Film 3, and what Film 3 means to its people. Of Film 3 one may say that Film 3 is made for a long evening. "
    "Slow scenes and three friends who meet again in Film 3 give it weight."
)
ANSWERS = {"sourced": (SOURCED, "stop")}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def sourced(call: Call) -> str:
    """The answer about Film 3 speaks of its source, all others say something else."""
    return "sourced" if "Film 3 (" in call.prompt and "<entry>" in call.prompt and "prompt_logprobs" not in call.body else "ok"


def test_off_it_costs_no_call_and_says_nothing(shop: Shop) -> None:
    with loopback(sourced, answers=ANSWERS) as server:
        manifest = shop.run(server.base_url)
        assert server.calls == 14
    assert manifest.figures["likelihood"] == {}
    assert manifest.warnings == []


def test_an_answer_that_its_source_hardly_explains_is_refused_and_a_second_run_pays_nothing(shop: Shop) -> None:
    on = {"judge": True, "min_likelihood_gain": 0.05}
    with loopback(sourced, answers=ANSWERS) as server:
        manifest = shop.run(server.base_url, knowledge=on)
        assert server.calls == 14 + 2 + 2 * 14, "the answers, each template alone, each answer with its source and without"
        first = shop.rows("knowledge"), shop.rows("refused")
    assert list(first[0]) == [("item.facts", "3")]
    assert len(first[1]) == 13
    assert {row["reason"] for row in first[1].values()} == {"unlikely"}
    assert all("its source explains" in row["detail"] for row in first[1].values())
    figures = manifest.figures
    assert figures["likelihood"]["views"]["item.facts"]["scored"] == 8
    assert figures["likelihood"]["views"]["item.facts"]["unlikely"] == 7
    assert figures["quality"]["item.facts"]["refused_share"] == {"unlikely": 0.875}
    assert (figures["answered"], figures["calls"], figures["likelihood"]["calls"]) == (14, 44, 30)
    assert figures["prompt_tokens"] == sum(g.prompt_tokens for g in stats(shop.home.ledger).groups), "scores are paid for like answers"
    again = shop.run("http://127.0.0.1:9/v1", knowledge=on | {"min_words": 11})  # nobody answers there, and nobody has to
    assert (shop.rows("knowledge"), shop.rows("refused")) == first
    assert (again.figures["calls"], again.figures["likelihood"]["from_ledger"]) == (0, 30)
    mild = shop.run("http://127.0.0.1:9/v1", knowledge=on | {"min_likelihood_gain": -9.0})
    assert (mild.figures["calls"], len(shop.rows("knowledge"))) == (0, 14)


@pytest.mark.parametrize("mode", ["scoreless", "400"])
def test_a_server_without_scores_is_named_once_and_everything_is_accepted(shop: Shop, mode: str) -> None:
    behaviour: Behaviour = lambda call: mode if "prompt_logprobs" in call.body else "ok"  # noqa: E731
    with loopback(behaviour) as server:
        manifest = shop.run(server.base_url, knowledge={"judge": True})
        assert server.calls == 14 + 2  # it shows in the two templates alone
    (warning,) = manifest.warnings
    assert "knowledge.judge is on, but the server gives no prompt log-probabilities" in warning
    assert len(shop.rows("knowledge")) == 14


def test_the_judge_has_what_the_asking_leaves_of_the_budget(shop: Shop) -> None:
    with loopback() as server:
        shop.run(server.base_url)
        spent = sum(g.prompt_tokens + g.completion_tokens for g in stats(shop.home.ledger).groups)
    other = Shop(shop.folder / "other")
    with loopback() as server:
        manifest = other.run(server.base_url, llm={"token_budget": 2 * spent}, knowledge={"judge": True, "min_likelihood_gain": 9.0})
        assert 14 <= server.calls < 44
    (warning,) = manifest.warnings
    assert warning.startswith("token_budget stopped the judge")
    assert manifest.figures["prompt_tokens"] + manifest.figures["completion_tokens"] <= 2 * spent * 1.05
    assert len(other.rows("knowledge")) > 0


def test_without_a_server_to_ask_it_says_so(shop: Shop) -> None:
    with loopback() as server:
        shop.run(server.base_url, llm={"revision": "r1"})
    manifest = shop.run(llm={"provider": "batch", "revision": "r1"}, knowledge={"judge": True})
    assert any("llm.provider is 'batch'" in warning for warning in manifest.warnings)
    assert len(shop.rows("knowledge")) == 14
