"""The gate over single answers: each reason against real answers of a small model, and against texts that are fine."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.settings import KnowledgeSettings
from kar.text.quality import Candidate, QualityGate, clean, judge, judge_import, load_domain_words, tidy, words_of
from kar.text.quality.words import lower_words_of
from tests.llm.loopback import REFUSAL, answer_to

SETTINGS = KnowledgeSettings()
TEMPLATE = SETTINGS.model_copy(update={"min_words": 25})  # what the movies' templates ask for
CASES = tomllib.loads((Path(__file__).parent / "answers.toml").read_text())["answer"]


CATALOGUE = ["The Big Sleep (1946)", "Hell's Angels (1930)", "Inception (2010)", "Scream (1996)", "Amadeus (1984)", "Lion King, The (1994)"]
ALL_REASONS = {
    *("", "echo", "repetition", "truncated", "too_short", "refusal", "asks_for_input", "wrong_language"),
    *("off_domain", "entity_mismatch", "sensitive_inference"),
}


@pytest.fixture(scope="module")
def gate() -> QualityGate:
    words = load_domain_words(Path(__file__).parents[2] / "prompts", "movies")
    return QualityGate(SETTINGS, CATALOGUE, {"item.facts": TEMPLATE.min_words}, words)


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_a_real_answer_is_judged_as_a_person_would(case: dict[str, Any], gate: QualityGate) -> None:
    view, titles = case.get("view", "item.facts"), tuple(case.get("titles", ()))
    refusal = gate.judge(Candidate(view, "1", case["text"], case["finish_reason"], case["prompt"], titles))
    assert (refusal.reason if refusal else "") == case["reason"], refusal


def test_the_real_answers_cover_the_reasons_that_one_answer_can_show() -> None:
    assert len(CASES) >= 35
    assert {c["reason"] for c in CASES} == ALL_REASONS


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("", "stop", "empty"),
        (" \n\t ", "stop", "empty"),
        ("... !!! 🎬", "stop", "empty"),
        ("", "length", "truncated_by_reasoning"),
        ("[]", "stop", "empty_list"),
        ("```json\n{}\n```", "stop", "empty_list"),
        ('{"genre": "", "mood": "unknown", "plot": null, "music": []}', "stop", "empty_list"),
        ("1.\n2.\n3. none\n", "stop", "empty_list"),
        ("It was a", "length", "truncated"),
        ("A fine film.", "stop", "too_short"),
        (answer_to("x"), "content_filter", "refusal"),
        (REFUSAL, "stop", "refusal"),
        ("I’m sorry, I can’t help with that request, because I do not know this film well enough to say.", "stop", "refusal"),
        ("As a large language model I know nothing of this film, so here is what its title and genres suggest instead.", "stop", "refusal"),
        (
            "Could you please provide me with the list of films, so that I can say more about the taste of this viewer?",
            "stop",
            "asks_for_input",
        ),
    ],
)
def test_each_reason_has_its_sign(text: str, finish_reason: str, reason: str) -> None:
    refusal = judge(text, finish_reason, "", SETTINGS)
    assert refusal is not None
    assert refusal.reason == reason
    assert refusal.detail


@pytest.mark.parametrize(
    "text",
    [
        "A robot learns what it means to be alive in this moving drama; as an AI it cannot lie, and that is its undoing in the last act.",
        "Little is known about this obscure film; its title and its genres suggest a quiet family drama with some comic relief in between.",
        "He says “I cannot tell you” three times before the end, and the audience, who know more than he does, laugh each time he says so.",
        "They provide the viewer with a map, a compass and a reason to go: an old-fashioned adventure for all who like to be helped along.",
        "《红楼梦》是一部描写贵族家庭兴衰的小说,人物众多,情节复杂,语言优美,深受读者喜爱,被认为是古典文学的高峰。",
    ],
)
def test_a_text_that_only_sounds_like_a_fault_passes(text: str) -> None:
    assert judge(text, "stop", "", SETTINGS) is None


def test_titles_of_a_history_that_an_answer_names_are_no_echo() -> None:
    history = "\n".join(f"- Film number {n} of the long series (19{n}): 4 of 5 stars" for n in range(60, 90))
    text = (
        "This person loves the long series: Film number 61 of the long series and Film number 77 stand out for their warmth, and slow "
        "comedies with a friendly ending please them far more than anything loud, cold or violent, which they rate low throughout the years."
    )
    assert judge(text, "stop", history, SETTINGS) is None
    refusal = judge(history, "stop", history, SETTINGS)
    assert refusal is not None
    assert refusal.reason == "echo"


def test_a_loop_that_runs_into_the_token_limit_is_a_loop_and_not_cut() -> None:
    refusal = judge("It is a film about a film " + "about a film " * 20, "length", "", SETTINGS)
    assert refusal is not None
    assert refusal.reason == "repetition"


def test_the_share_of_repeats_is_a_setting() -> None:
    sentence = "The quiet film moves slowly through grey streets. "
    twice = sentence * 2 + "Then its hero meets a dog, and everything changes for the better in the end."
    assert judge(twice, "stop", "", SETTINGS) is None
    strict = judge(twice, "stop", "", SETTINGS.model_copy(update={"max_repetition_share": 0.1}))
    assert strict is not None
    assert strict.reason == "repetition"


@given(st.text(max_size=400), st.sampled_from(["stop", "length", "content_filter", ""]), st.text(max_size=200))
def test_no_text_whatsoever_raises(text: str, finish_reason: str, prompt: str) -> None:
    judge(text, finish_reason, prompt, SETTINGS)
    tidy(text, 50)
    clean(text, 50)


@given(st.integers(1, 60))
def test_an_answer_of_different_words_loops_nowhere(count: int) -> None:
    refusal = judge(answer_to("a prompt", count), "stop", "", SETTINGS)
    assert (refusal.reason if refusal else "") == ("too_short" if count < SETTINGS.min_words else "")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One sentence. Another one! A third, cut in the", "One sentence. Another one!"),
        ("It stars Mr. Smith and Dr. No. He runs to", "It stars Mr. Smith and Dr. No."),
        ("By George A. Romero. It is about", "By George A. Romero."),
        ("Rated 3.5 by many. And so", "Rated 3.5 by many."),
        ("He says “run.” Then he", "He says “run.”"),
        ("They don't. And", "They don't."),
        ("Two\n\nparagraphs here.\nAnd a cut", "Two paragraphs here."),
        ("no sentence at all", ""),
        ("这是第一句。这是第二", "这是第一句。"),
        ("", ""),
    ],
)
def test_tidying_keeps_whole_sentences(text: str, kept: str) -> None:
    assert tidy(text, 400) == kept


def test_tidying_stops_before_too_many_words() -> None:
    assert tidy("One two three. Four five six. Seven eight.", 6) == "One two three. Four five six."
    assert clean("One two three. Four five six. Seven eight.", 6) == "One two three. Four five six."
    assert clean("  One two,\n three ", 6) == "One two, three"


@given(st.text(alphabet="ab .!?\n", max_size=80), st.integers(1, 20))
def test_tidied_text_is_a_beginning_of_the_text_and_no_longer_than_asked(text: str, most: int) -> None:
    kept = tidy(text, most)
    assert " ".join(text.split()).startswith(kept)
    assert len(words_of(kept)) <= most
    assert tidy(kept, most) == kept


def test_imported_texts_are_only_asked_for_enough_words() -> None:
    assert judge_import(REFUSAL, SETTINGS) is None
    for text, reason in (("", "empty"), ("Two words", "too_short")):
        refusal = judge_import(text, SETTINGS)
        assert refusal is not None
        assert refusal.reason == reason


@given(st.text(st.sampled_from("aB9_'’ -.\t\nÉß語İΣσ") | st.characters(), max_size=30) | st.text(st.sampled_from("aB9_' -."), max_size=30))
def test_words_of_ascii_are_those_that_every_other_text_has(text: str) -> None:
    other = words_of(f"{text} 語")[:-1]  # not ASCII: looked at by the pattern for all languages
    assert words_of(text) == other
    assert lower_words_of(text) == [word.lower() for word in other]
