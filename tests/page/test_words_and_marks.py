"""Numbers, text of others, and the geometry of the plots."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.page import marks, numbers
from kar.untrusted import shown, title


@pytest.mark.parametrize("write", [numbers.fixed, numbers.signed, numbers.count, numbers.share, numbers.seconds, numbers.usd, numbers.size])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "many", True, [], {}])
def test_what_is_no_number_is_written_as_a_dash(write: object, value: object) -> None:
    assert write(value) == "–"  # type: ignore[operator]


def test_numbers_read_as_people_write_them() -> None:
    assert numbers.signed(-0.00123) == "−0.0012"
    assert numbers.signed(0.00004) == "±0.0000"
    assert numbers.count(92_024) == "92,024"
    assert [numbers.share(s) for s in (0, 0.0004, 0.123, 0.9999, 1)] == ["0 %", "< 0.1 %", "12.3 %", "> 99.9 %", "100 %"]
    assert [numbers.seconds(s) for s in (0.42, 12.4, 148, 3800)] == ["0.4 s", "12 s", "2 min 28 s", "1 h 03 min"]
    assert [numbers.usd(d) for d in (0, 0.0042, 12.5)] == ["$0.00", "$0.0042", "$12.50"]
    assert [numbers.size(b) for b in (812, 4_200, 1.5e6)] == ["812 B", "4.2 kB", "1.5 MB"]


def test_an_interval_is_kept_on_one_line_and_its_words_stay() -> None:
    sentence = "It is +0.0010 AUC (95 % −0.0020 … +0.0040), from raw … to done; it cost 1.2 M tokens."
    whole = numbers.unbroken(sentence)
    assert whole.replace("\u00a0", " ") == sentence
    assert "+0.0010\u00a0AUC" in whole
    assert "95\u00a0%\u00a0−0.0020\u00a0…\u00a0+0.0040" in whole
    assert "raw … to" in whole
    assert "1.2\u00a0M tokens" in whole


def test_a_hiding_character_is_shown_by_its_code_point() -> None:
    assert shown("a\u202eb\x00c\u2066d\ud800") == "a⟨U+202E⟩b⟨U+0000⟩c⟨U+2066⟩d⟨U+D800⟩"


def test_honest_text_of_any_script_is_left_alone() -> None:
    for text in ("Amélie (2001)", "七人の侍", "שלום עולם", "می‌خواهم", "👩‍👧 Ünïcode\nsecond line\ttabbed", ""):
        assert shown(text) == text


def test_a_long_text_is_cut_and_says_how_much_is_missing() -> None:
    text = shown("x" * 100_000, 4_000)
    assert text.startswith("x" * 4_000 + "…")
    assert "96,000 of 100,000 characters left out" in text
    assert len(title("word " * 1_000)) == 160


@given(st.text(max_size=300))
def test_no_text_can_turn_the_line_or_break_the_encoding(text: str) -> None:
    safe = shown(text, 200)
    safe.encode()
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f]", safe)


_value = st.floats(-1, 1, allow_nan=False)


@given(st.lists(_value, min_size=1, max_size=20), st.booleans())
def test_a_scale_holds_its_values_inside_the_lane_and_its_ticks_in_order(values: list[float], zero: bool) -> None:
    scale = marks.scale_of(values, zero=zero)
    places = [scale.at(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(5 <= place <= 95 for place in places)
    ticks = scale.ticks(5, is_signed=True)
    assert 1 <= len(ticks) <= 6
    assert [t.at for t in ticks] == sorted(t.at for t in ticks)
    main = [t.at for t in ticks if t.is_main]
    assert main
    assert all(b - a >= 35 for a, b in itertools.pairwise(main))


def test_ticks_are_round_and_zero_is_plain() -> None:
    labels = [tick.label for tick in marks.Scale(-0.0031, 0.0094).ticks(7, is_signed=True)]
    assert labels == ["−0.002", "0", "+0.002", "+0.004", "+0.006", "+0.008"]


def test_an_interval_that_excludes_0_is_filled_and_one_that_holds_it_is_not() -> None:
    scale = marks.Scale(-0.01, 0.01)
    assert "point sure" in marks.interval(scale, 0.004, 0.001, 0.007)
    assert "point sure" in marks.interval(scale, -0.004, -0.007, -0.001)
    assert "point open" in marks.interval(scale, 0.001, -0.002, 0.004)


def test_an_interval_beyond_the_scale_ends_dashed_at_its_edge() -> None:
    drawn = marks.interval(marks.Scale(-0.01, 0.01), 0.004, -0.05, 0.008)
    assert drawn.count('class="cut"') == 1
    assert max(float(x) for x in re.findall(r'[xc]\w*="([\d.]+)%"', drawn)) <= 95


def test_an_undefined_difference_leaves_only_the_line_at_zero() -> None:
    drawn = marks.interval(marks.Scale(-1, 1), math.nan, math.nan, math.nan)
    assert 'class="zero"' in drawn
    assert "point" not in drawn


def test_a_stack_s_parts_follow_one_another_and_fill_what_they_say() -> None:
    drawn = marks.stack([("a", 0.5), ("b", 0.0), ("c", 0.25)])
    assert re.findall(r'x="([\d.]+)%" width="([\d.]+)%"', drawn) == [("0.0", "50.0"), ("50.0", "25.0")]


def _luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(d * 2 for d in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_and_marks_stand_out_on_light_and_on_dark_paper() -> None:
    css = (Path(marks.__file__).parent / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]{3,6})", block))
        assert len(colours) >= 15
        for name in ("ink", "soft"):
            assert _contrast(colours[name], colours["paper"]) >= 4.5
            assert _contrast(colours[name], colours["card"]) >= 4.5
        for name in ("base", "text", "knowledge", "permuted", "refused"):
            assert _contrast(colours[name], colours["paper"]) >= 4.5, name


def test_a_series_leaves_the_place_of_an_undefined_value_empty() -> None:
    drawn = marks.series(
        [(0.1, 0.05, 0.15), (math.nan, math.nan, math.nan), (0.0, -0.1, 0.1)], marks.Scale(-0.2, 0.2), 0.0, "knowledge", "so"
    )
    assert re.findall(r'<circle class="point (\w+)[^"]*" cx="([\d.]+)%"', drawn) == [("sure", "16.67"), ("open", "83.33")]
    assert 'aria-label="so"' in drawn


def test_a_series_draws_larger_values_higher_and_marks_an_interval_that_goes_on() -> None:
    drawn = marks.series([(0.1, 0.1, 0.1), (-0.1, -0.5, 0.0)], marks.Scale(-0.2, 0.2), 0.0, "knowledge", "so")
    high, low = (float(y) for y in re.findall(r'cy="([\d.]+)%"', drawn))
    assert high < 50 < low
    assert drawn.count(" cut") == 1
