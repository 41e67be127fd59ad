from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.verdict import Seen, verdict, written_tokens

Interval = tuple[float, float, float]
UP: Interval = (0.004, 0.002, 0.006)
LEVEL: Interval = (0.001, -0.002, 0.004)
DOWN: Interval = (-0.004, -0.006, -0.002)
WIDE: Interval = (0.004, -0.016, 0.024)
NAN: Interval = (math.nan, math.nan, math.nan)


def comparison(over: str = "same_evidence", **against: Interval) -> list[dict[str, object]]:
    """knowledge − each arm for fibinet; beside them rows that a verdict must pass over."""
    ours = [("fibinet", "knowledge", arm, "all", "auc", *interval) for arm, interval in against.items()]
    others = [
        ("din", "knowledge", "text", "all", "auc", *DOWN),
        ("fibinet", "knowledge", "text", "cold", "auc", *DOWN),
        ("fibinet", "knowledge", "text", "all", "logloss", *DOWN),
        ("fibinet", "text", "base", "all", "auc", *DOWN),
    ]
    names = ("backbone", "arm_a", "arm_b", "slice", "metric", "difference", "low", "high")
    return [
        dict(zip(names, row, strict=True)) | {"base": over, "detectable": 0.0028, "seed_count": 5, "user_count": 94, "resamples": 1000}
        for row in ours + others
    ]


@pytest.mark.parametrize(
    ("text", "permuted", "base", "kind"),
    [
        (UP, UP, UP, "helps"),
        (LEVEL, UP, UP, "beats_base_only"),
        (UP, LEVEL, UP, "beats_base_only"),
        (DOWN, UP, UP, "beats_base_only"),
        (DOWN, WIDE, UP, "beats_base_only"),
        (LEVEL, LEVEL, LEVEL, "no_difference"),
        (DOWN, LEVEL, LEVEL, "no_difference"),
        (UP, UP, LEVEL, "no_difference"),
        (UP, UP, DOWN, "hurts"),
        (WIDE, WIDE, DOWN, "hurts"),
        (WIDE, UP, UP, "too_few"),
        (UP, UP, WIDE, "too_few"),
        (WIDE, WIDE, WIDE, "too_few"),
        (NAN, UP, UP, "not_measured"),
    ],
)
def test_each_pattern_of_intervals_has_its_kind(text: Interval, permuted: Interval, base: Interval, kind: str) -> None:
    found = verdict(comparison(text=text, permuted=permuted, base=base), "fibinet", "same_evidence")
    assert found.kind == kind
    assert found.is_positive == (kind == "helps")


def test_beating_the_base_alone_is_called_neither_help_nor_the_model_s_doing() -> None:
    sentence = verdict(comparison(text=LEVEL, permuted=UP, base=UP), "fibinet", "same_evidence").sentence
    assert sentence == (
        "Over the same evidence, knowledge does not beat raw text: +0.0010 AUC (95 % −0.0020 … +0.0040), "
        "so its +0.0040 over the base is not the language model’s doing."
    )


def test_losing_to_the_permuted_arm_is_said_of_the_permuted_arm() -> None:
    assert "does not beat shuffled knowledge" in verdict(comparison(text=UP, permuted=DOWN, base=UP), "fibinet", "same_evidence").sentence


def test_help_is_stated_with_all_it_beats_their_intervals_the_base_and_the_cost() -> None:
    rows = comparison(text=UP, permuted=(0.007, 0.005, 0.009), base=(0.012, 0.01, 0.014))
    found = verdict(rows, "fibinet", "same_evidence", Seen(30, 30), 1_200_000)
    assert found.kind == "helps"
    assert found.sentence == (
        "Over the same evidence, knowledge beats raw text by +0.0040 AUC (95 % +0.0020 … +0.0060); beats shuffled knowledge by +0.0070 "
        "(+0.0050 … +0.0090); beats the base by +0.0120 (+0.0100 … +0.0140); it cost 1.2 M tokens."
    )


def test_an_uplift_over_a_base_that_sees_less_than_the_prompt_is_one_from_data() -> None:
    rows = comparison("thin", text=UP, permuted=UP, base=UP)
    uneven = verdict(rows, "fibinet", "thin", Seen(5, 30))
    assert (uneven.kind, uneven.is_positive) == ("from_data", False)
    assert uneven.sentence.startswith("Over the thin base, knowledge beats raw text by +0.0040 AUC")
    assert uneven.sentence.endswith(
        "; but that base sees 5 events of a history and the prompt saw up to 30: an uplift over it is one from data, not from knowledge."
    )
    assert verdict(rows, "fibinet", "thin", Seen(5, 5)).kind == "helps"
    assert verdict(rows, "fibinet", "thin", Seen(5, 0)).kind == "helps"  # knowledge of items alone: no prompt saw a history


def test_an_uneven_base_excuses_no_loss() -> None:
    assert verdict(comparison("thin", text=DOWN, permuted=UP, base=UP), "fibinet", "thin", Seen(5, 30)).kind == "beats_base_only"
    assert verdict(comparison("thin", text=UP, permuted=UP, base=DOWN), "fibinet", "thin", Seen(5, 30)).kind == "hurts"


@pytest.mark.parametrize(("base", "words"), [("thin", "thin base"), ("same_evidence", "same evidence"), ("rich", "rich base")])
@pytest.mark.parametrize("text", [UP, LEVEL, DOWN, WIDE, NAN])
def test_every_verdict_names_its_base(base: str, words: str, text: Interval) -> None:
    assert f"over the {words}" in verdict(comparison(base, text=text, permuted=UP, base=LEVEL), "fibinet", base).sentence.lower()


def test_another_base_s_rows_do_not_count() -> None:
    assert verdict(comparison("thin", text=UP, permuted=UP, base=UP), "fibinet", "rich").kind == "not_measured"


def test_what_the_test_could_tell_is_said_of_the_least_certain_comparison() -> None:
    rows = comparison(text=UP, permuted=UP, base=UP)
    rows[1]["detectable"] = 0.0031
    power = verdict(rows, "fibinet", "same_evidence").power
    assert power.startswith("With 94 test users a true difference of 0.0031 AUC would be found in four of five such tests")
    assert verdict([], "fibinet", "same_evidence").power == ""


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 tokens"), (8412, "8,412 tokens"), (119_530, "120 k tokens"), (999_900, "1.0 M tokens"), (1_234_567, "1.2 M tokens")],
)
def test_tokens_are_written_as_one_reads_them(count: int, words: str) -> None:
    assert written_tokens(count) == words


def test_a_wide_interval_names_the_users_it_rests_on() -> None:
    sentence = verdict(comparison(text=WIDE, permuted=UP, base=UP), "fibinet", "same_evidence").sentence
    assert sentence.startswith("Too few test users to tell: over the same evidence")
    assert "94 users" in sentence


@pytest.mark.parametrize("missing", ["text", "permuted"])
def test_without_a_control_nothing_was_measured_however_far_the_base_is_beaten(missing: str) -> None:
    arms = {"text": UP, "permuted": UP, "base": UP}
    del arms[missing]
    found = verdict(comparison(**arms), "fibinet", "same_evidence")
    assert found.kind == "not_measured"
    assert {"text": "raw text", "permuted": "shuffled"}[missing] in found.sentence


def test_another_backbone_s_rows_do_not_count() -> None:
    assert verdict(comparison(text=UP, permuted=UP, base=UP), "din", "same_evidence").kind == "not_measured"


_ends = st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1)).map(sorted)


@given(text=_ends, permuted=_ends, base=_ends)
def test_a_positive_verdict_never_rests_on_an_interval_that_holds_0(text: list[float], permuted: list[float], base: list[float]) -> None:
    arms = {name: ((low + high) / 2, low, high) for name, (low, high) in (("text", text), ("permuted", permuted), ("base", base))}
    found = verdict(comparison(**arms), "fibinet", "same_evidence")
    assert found.is_positive == (min(text[0], permuted[0], base[0]) > 0)


def test_an_interval_too_wide_to_tell_is_never_the_reason_given_for_no_difference() -> None:
    lost = verdict(comparison(text=WIDE, permuted=DOWN, base=LEVEL), "fibinet", "same_evidence")
    assert lost.kind == "no_difference"
    assert lost.sentence.startswith("Over the same evidence, knowledge does not help: −0.0040 AUC against shuffled knowledge")
    level = verdict(comparison(text=LEVEL, permuted=LEVEL, base=LEVEL), "fibinet", "same_evidence")
    assert level.sentence.startswith("Over the same evidence, knowledge makes no difference: +0.0010 AUC against raw text")
