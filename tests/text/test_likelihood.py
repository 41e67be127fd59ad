"""The judge's arithmetic: log-probabilities of prompt tokens to a gain, and a gain to a refusal."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.settings import KnowledgeSettings
from kar.text.quality.likelihood import Likelihood, bodies, likelihood, token_logprobs, unlikely

ON = KnowledgeSettings(judge=True, min_likelihood_gain=0.5)
SYSTEM = {"role": "system", "content": "You know films."}


def test_the_three_bodies_differ_in_the_source_and_the_answer_alone() -> None:
    asked, blank = [SYSTEM, {"role": "user", "content": "Heat"}], [SYSTEM, {"role": "user", "content": ""}]
    given, alone, frame = bodies("tiny", asked, blank, "A thief.")
    assert [m["content"] for m in given["messages"]] == ["You know films.", "Heat", "A thief."]
    assert [m["content"] for m in alone["messages"]] == ["You know films.", "", "A thief."]
    assert [m["content"] for m in frame["messages"]] == ["You know films.", ""]
    for body in (given, alone, frame):
        assert (body["prompt_logprobs"], body["max_tokens"], body["temperature"]) == (0, 1, 0.0)
        assert body["continue_final_message"] is not body["add_generation_prompt"]  # a server refuses both at once


def test_a_row_gives_the_log_probability_of_the_prompt_token_which_stands_first() -> None:
    rows = [
        None,
        {"17": {"logprob": -2.5, "rank": 9, "decoded_token": " a"}, "4": {"logprob": -0.1, "rank": 1, "decoded_token": " the"}},
        {"3": {"logprob": -1.0, "rank": 1, "decoded_token": "."}},
        {"5": -0.25},
    ]
    assert token_logprobs(rows) == [-2.5, -1.0, -0.25]


def test_the_means_are_over_the_answer_and_nothing_before_it() -> None:
    found = likelihood([-9.0, -9.0, -9.0, -1.0, -2.0], [-9.0, -3.0, -4.0], frame_count=1)
    assert found == Likelihood(with_source=-1.5, without_source=-3.5, tokens=2)
    assert found is not None
    assert found.gain == 2.0


@pytest.mark.parametrize(
    ("with_source", "without_source", "frame_count"),
    [([-1.0], [-1.0], 1), ([], [], 0), ([-1.0], [-1.0, -2.0, -3.0], 1), ([-math.inf, -1.0], [-1.0, -1.0], 0)],
)
def test_an_answer_that_cannot_be_scored_has_no_likelihood(with_source: list[float], without_source: list[float], frame_count: int) -> None:
    assert likelihood(with_source, without_source, frame_count) is None


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=40), st.floats(-5, 5))
def test_the_gain_is_what_each_token_gains_whatever_the_text_is_worth(logprobs: list[float], shift: float) -> None:
    found = likelihood([value + shift for value in logprobs], logprobs, 0)
    assert found is not None
    assert found.gain == pytest.approx(shift, abs=1e-6)


def test_a_text_that_its_source_hardly_explains_is_refused_where_the_judge_is_on() -> None:
    poor, good = Likelihood(-3.0, -3.2, 80), Likelihood(-2.0, -3.2, 80)
    refusal = unlikely(poor, ON)
    assert refusal is not None
    assert refusal.reason == "unlikely"
    assert "0.20 nats" in refusal.detail
    assert unlikely(good, ON) is None
    assert unlikely(None, ON) is None
    assert unlikely(poor, KnowledgeSettings()) is None
