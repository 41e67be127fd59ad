from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.text import structured
from kar.text.factors import Factor, Factors, Noun
from kar.text.structured import as_text, factor_keys, read_answer, read_factors, spoken

KEYS = ("genre", "mood", "plot")
WHOLE = '{"genre": "a dark comedy", "mood": "bitter", "plot": "Two brothers fall out."}'
READ = {"genre": "a dark comedy", "mood": "bitter", "plot": "Two brothers fall out."}


def factors_named(*names: str) -> Factors:
    return Factors(
        id="x", version=1, item=Noun(singular="film", plural="films"), verb="rated", factors=tuple(Factor(name=name) for name in names)
    )


# ---- the schema


def test_the_schema_is_a_flat_object_with_every_key_required_in_the_factors_order() -> None:
    made = structured.schema(("mood", "genre"), 140)
    assert made == {
        "type": "object",
        "properties": {"mood": {"type": "string", "maxLength": 140}, "genre": {"type": "string", "maxLength": 140}},
        "required": ["mood", "genre"],
        "additionalProperties": False,
    }
    assert list(made["properties"]) == ["mood", "genre"]
    assert "maxLength" not in json.dumps(structured.schema(("mood",), None))


def test_keys_are_plain_and_differ_whatever_the_names_are() -> None:
    names = ("director and cast", "Crème & co.", "sci-fi", "sci fi", "音乐", "情节", "3-D")
    keys = factor_keys(factors_named(*names))
    assert list(keys) == ["director_and_cast", "creme_co", "sci_fi", "sci_fi_4", "factor_5", "factor_6", "3_d"]
    assert tuple(keys.values()) == names


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12, unique_by=str.casefold))
def test_every_list_of_factors_has_as_many_keys_of_plain_letters(names: list[str]) -> None:
    keys = factor_keys(factors_named(*names))
    assert list(keys.values()) == names
    assert all(key and set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") for key in keys)


def test_the_tokens_asked_for_hold_every_text_at_its_longest() -> None:
    longest = json.dumps(dict.fromkeys(KEYS, "abc " * 35))
    assert structured.answer_tokens(KEYS, 140) >= len(longest) / 4


# ---- reading


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        f"  \n{WHOLE}\n\n",
        f"```json\n{WHOLE}\n```",
        f"```\n{WHOLE}\n```  ",
        json.dumps(READ, indent=4),
        '{"plot":"Two brothers fall out.","mood":"bitter","genre":"a\\u0020dark\\n comedy "}',
    ],
)
def test_an_object_with_exactly_the_keys_is_read_in_the_factors_order(text: str) -> None:
    found = read_factors(text, KEYS)
    assert found == READ
    assert list(found) == list(KEYS)


WRONG = {
    "prose": "It is a dark comedy about two brothers.",
    "empty": "",
    "a key too few": '{"genre": "a", "mood": "b"}',
    "a key too many": '{"genre": "a", "mood": "b", "plot": "c", "age": "40"}',
    "another key": '{"Genre": "a", "mood": "b", "plot": "c"}',
    "a key twice": '{"genre": "a", "mood": "b", "plot": "c", "plot": "d"}',
    "a nested object": '{"genre": {"a": "b"}, "mood": "b", "plot": "c"}',
    "a list": '{"genre": ["a"], "mood": "b", "plot": "c"}',
    "a number": '{"genre": 1, "mood": "b", "plot": "c"}',
    "null": '{"genre": null, "mood": "b", "plot": "c"}',
    "not a number": '{"genre": NaN, "mood": "b", "plot": "c"}',
    "a list around it": f"[{WHOLE}]",
    "a string around it": json.dumps(WHOLE),
    "two of them": f"{WHOLE}\n{WHOLE}",
    "words before it": f"Here it is: {WHOLE}",
    "cut": WHOLE[:-20],
    "a trailing comma": WHOLE.replace("}", ",}"),
    "a raw line break in a text": '{"genre": "a\nb", "mood": "b", "plot": "c"}',
    "very deep": '{"genre":' * 100_000,
    "a huge number": '{"genre": ' + "9" * 5_000 + "}",
    "a fence and nothing": "```json\n```",
    "half a fence": f"```json\n{WHOLE}",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_anything_else_is_not_read(text: str) -> None:
    assert read_factors(text, KEYS) is None


def test_a_factor_that_the_model_does_not_know_is_empty() -> None:
    found = read_factors('{"genre": "", "mood": "Unknown.", "plot": "N/A"}', KEYS)
    assert found == {"genre": "", "mood": "", "plot": ""}
    assert read_answer('{"genre": "horror", "mood": ",.", "plot": "…"}', KEYS).factors == {"genre": "horror"}
    assert read_answer('{"genre": "horror", "mood": "not sure", "plot": " "}', KEYS).factors == {"genre": "horror"}


def test_a_lone_surrogate_and_a_nul_do_not_reach_the_tables() -> None:
    found = read_factors('{"genre": "a \\ud83d b", "mood": "\\ud83d\\ude00 fun", "plot": "x\\u0000y"}', KEYS)
    assert found == {"genre": "a \ufffd b", "mood": "😀 fun", "plot": "x y"}
    assert all(text.encode() for text in found.values())


@pytest.mark.parametrize("filling", ["a", " ", "\n", "```", '{"', '\\"', "\\u00e9", "[", '"a":'])
def test_100_kb_of_anything_is_read_at_once(filling: str) -> None:
    many = filling * (100_000 // len(filling))
    started = time.process_time()
    for text in (many, "{" + many, '{"genre": "' + many, f"```json\n{many}x", f"```json\n{many}\n```"):
        assert read_factors(text, KEYS) is None
    assert time.process_time() - started < 1.0


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.sampled_from([*KEYS, "age", ""]), json_values) | json_values, st.integers(0, 400))
def test_no_json_cut_anywhere_raises_and_what_is_read_has_the_keys_and_encodable_texts(value: object, cut: int) -> None:
    text = json.dumps(value)
    for part in (text, text[:cut], text[cut:]):
        found = read_factors(part, KEYS)
        assert found is None or (tuple(found) == KEYS and all(t.encode() or t == "" for t in found.values()))
        assert read_answer(part, KEYS).kind in ("factors", "prose", "broken")


@given(st.text(st.characters(codec=None)) | st.text('{}[]":,\\ug`enrmodplt \n'))
def test_no_text_raises(text: str) -> None:
    read_answer(text, KEYS)


@given(st.dictionaries(st.sampled_from(KEYS), st.text(), min_size=3))
def test_every_object_of_texts_with_the_keys_is_read(value: dict[str, str]) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), f"```json\n{json.dumps(value, indent=1)}\n```"):
        found = read_factors(text, KEYS)
        assert found is not None
        assert all(" ".join(value[k].replace("\x00", " ").split()) == found[k] or found[k] == "" for k in KEYS)


# ---- what kind of answer it is


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (WHOLE, "factors"),
        ('{"genre": "", "mood": "", "plot": ""}', "factors"),
        ("It is a dark comedy.", "prose"),
        ('"Alien" is a horror film.', "prose"),
        ("[REC] is a Spanish horror film.", "prose"),
        ("", "prose"),
        (WHOLE[:-20], "broken"),
        ('{"title": "Alien"}', "broken"),
        ('[{"genre": "horror"}]', "broken"),
        ("```json\n{", "broken"),
    ],
)
def test_factors_prose_and_broken_json_are_told_apart(text: str, kind: str) -> None:
    assert read_answer(text, KEYS).kind == kind


# ---- as prose


def test_factors_read_as_sentences_in_their_order_without_the_empty_ones() -> None:
    names = {"genre": "genre", "mood": "mood and tone", "plot": "plot"}
    assert as_text(READ, names) == "Genre: a dark comedy. Mood and tone: bitter. Plot: Two brothers fall out."
    assert as_text({"plot": "Why?", "genre": "horror"}, names) == "Genre: horror. Plot: Why?"
    assert as_text({}, names) == ""


def test_what_the_gate_judges_holds_none_of_our_own_words() -> None:
    assert spoken({"genre": "a dark comedy", "mood": "", "plot": "Two brothers fall out."}) == "a dark comedy. Two brothers fall out."
