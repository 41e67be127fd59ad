"""Control texts: what is masked, what stays, and what noise is made of."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.model.arms import plan
from kar.settings import AdaptorSettings
from kar.stages.vectors import Texts, add_controls, judge
from kar.text.controls import Mask, Masked, Row, noise
from kar.text.quality.words import words_of

CATALOGUE = ["Matrix, The (1999)", "Star Wars: Episode IV - A New Hope (1977)", "Heat (1995)", "Sound of Music, The (1965)", "Big (1988)"]
# the view's other texts, which tell plain words from names
PLAIN = Row("A big western with heat, a cowboy and a hunt. When the matrix breaks, it directs people.")


def mask(text: str, own: str | None = None, met: tuple[str, ...] = (), others: tuple[Row, ...] = (PLAIN,)) -> Masked:
    return next(Mask([Row(text, own, met), *others], CATALOGUE, "film").apply())


@pytest.mark.parametrize(
    ("text", "own", "masked"),
    [
        ("The Matrix is a dream.", "Matrix, The (1999)", "This film is a dream."),
        ("In Matrix, The (1999) nothing is real.", "Matrix, The (1999)", "In this film nothing is real."),
        ("It looks like The Sound of Music (1965), only faster.", "Matrix, The (1999)", "It looks like another film, only faster."),
        ("Fans of Mary Poppins, The Sound of Music and tea.", "Mary Poppins (1964)", "Fans of this film, another film and tea."),
        ('Less than "Heat" it is loud.', None, 'Less than "another film" it is loud.'),
        ("Heat rises in the desert.", "Heat (1995)", "Heat rises in the desert."),  # a plain word that opens a sentence
        ("One thinks of Heat at once.", "Heat (1995)", "One thinks of this film at once."),
        ("One thinks of Heat at once.", None, "One thinks of Heat at once."),  # a plain word, and nobody showed the title
    ],
)
def test_titles_are_replaced_the_own_one_and_others_apart(text: str, own: str | None, masked: str) -> None:
    assert mask(text, own).text == masked


def test_of_a_title_that_the_prompt_showed_one_word_is_enough() -> None:
    met = ("Raiders of the Lost Ark (1981)", "Godfather: Part II, The (1974)", "Heat (1995)")
    found = mask("Loves Raiders, Heat and Godfather II, and hates westerns.", met=met)
    assert found == Masked("Loves another film, another film and another film, and hates westerns.", 3, 0)
    assert mask("Loves raiders of the lost ark.", met=met).text == "Loves another film."


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("It stars Tom Hanks, and Hanks is good.", "It stars Person A, and Person A is good."),
        ("It stars Tom Hanks and Meg Ryan; Ryan's charm wins.", "It stars Person A and Person B; Person B's charm wins."),
        ("Music by Ludwig van Beethoven and J. S. Bach here.", "Music by Person A and Person B here."),
        ("A drama of Mr. Ripley in Rome.", "A drama of Person A in Person B."),
        ("The FBI hunts an Italian cowboy.", "The FBI hunts an Italian cowboy."),
        ("When it ends. Cowboy music plays.", "When it ends. Cowboy music plays."),
        ("We hear of Kurosawa often. Kurosawa directs it.", "We hear of Person A often. Person A directs it."),
        ("Kurosawa directs it.", "Kurosawa directs it."),  # only ever at a sentence's start: nothing tells it from a plain word
        ("Bonnie Hunt directs, says Bonnie Hunt.", "Person A directs, says Person A."),
        ("a film about nothing.", "a film about nothing."),
        ("日本の映画です。", "日本の映画です。"),
        ("", ""),
    ],
)
def test_proper_names_are_replaced_and_the_same_name_is_the_same_person(text: str, masked: str) -> None:
    assert mask(text).text == masked


def test_a_word_that_another_text_writes_in_lower_case_is_no_name() -> None:
    assert mask("Here the Muppets sing.", others=()).text == "Here the Person A sing."
    assert mask("Here the Muppets sing.", others=(Row("some muppets"),)).text == "Here the Muppets sing."


def test_what_stands_in_many_texts_is_a_term_that_stays_and_is_told() -> None:
    rows = [Row(f"It won an Oscar for Person{'abcdefghijklmnopqrstuvwxyz'[n]} then.") for n in range(21)]
    found = Mask(rows, CATALOGUE, "film")
    assert found.terms == ["Oscar"]
    assert next(found.apply()).text == "It won an Oscar for Person A then."
    assert Mask(rows[:20], CATALOGUE, "film").terms == []


def test_the_twenty_seventh_name_is_person_aa() -> None:
    names = [f"Name{a}{b}" for a in "abc" for b in "abcdefghij"]
    found = mask("We met " + ", ".join(names) + ".")
    assert found.names == 30
    assert "Person Z, Person AA, Person AB" in found.text


words = st.lists(
    st.sampled_from(["The", "Matrix", "Heat", "Tom", "Hanks", "van", "a", "big", "(1999)", ".", ",", "Star Wars", '"', "É", "I"])
)


@given(words)
def test_masking_never_fails_and_masking_twice_gives_the_same(parts: list[str]) -> None:
    text = " ".join(parts)
    assert mask(text, "Matrix, The (1999)", ("Heat (1995)",)) == mask(text, "Matrix, The (1999)", ("Heat (1995)",))


@given(words)
def test_a_text_without_a_capital_letter_holds_no_proper_name(parts: list[str]) -> None:
    assert mask(" ".join(parts).lower(), others=()).names == 0


# ---- noise

TEXTS = ["the the the the cat sat", "a dog", ""]


def test_noise_has_as_many_words_as_the_text_and_only_words_of_its_view() -> None:
    made = noise("item.facts", ["1", "2", "3"], TEXTS)
    assert [len(words_of(text)) for text in made] == [6, 2, 0]
    assert {word for text in made for word in text.split()} <= {"the", "cat", "sat", "a", "dog"}


def test_noise_draws_words_by_their_frequency() -> None:
    texts = ["often often often rare"] * 500
    counts = Counter(word for text in noise("item.facts", [str(n) for n in range(500)], texts) for word in text.split())
    assert counts["often"] / sum(counts.values()) == pytest.approx(0.75, abs=0.04)  # 2,000 draws: sd 0.0097


def test_noise_depends_on_view_and_subject_and_not_on_the_order() -> None:
    texts = ["one two three four five six seven eight"] * 3
    first = noise("item.facts", ["1", "2", "3"], texts)
    assert first == noise("item.facts", ["3", "2", "1"], texts)[::-1]
    assert len({*first, *noise("item.tags", ["1", "2", "3"], texts)}) == 6


# ---- among the views


def some() -> Texts:
    return Texts(
        ["item.facts", "item.facts", "user.preference", "item.raw", "user.preference:mood"],
        ["1", "3", "9", "1", "9"],
        ["The Matrix with Keanu Reeves.", "Heat by Michael Mann.", "Likes Heat.", "Matrix, The (1999)", "Hot like Heat."],
    )


TITLES = {"1": "Matrix, The (1999)", "3": "Heat (1995)"}


def test_every_view_of_knowledge_has_its_controls_and_raw_views_have_none() -> None:
    texts = some()
    figures = add_controls(texts, ["masked", "noise"], TITLES, {("user.preference", "9"): ["3", "44"]}, "film")
    found = {(v, s): t for v, s, t in zip(texts.views, texts.subjects, texts.texts, strict=True)}
    assert found["item.facts@masked", "1"] == "This film with Person A."
    assert found["item.facts@masked", "3"] == "This film by Person A."
    assert found["user.preference@masked", "9"] == "Likes another film."
    assert found["user.preference:mood@masked", "9"] == "Hot like another film."  # what its whole text was shown
    assert len(found["item.facts@noise", "1"].split()) == 5
    assert {view for view, _ in found if "@" in view} == {
        f"{view}@{control}" for view in ("item.facts", "user.preference", "user.preference:mood") for control in ("masked", "noise")
    }
    assert figures["item.facts@masked"] == {"texts": 2, "titles_replaced": 2, "names_replaced": 2, "texts_changed": 2, "terms_kept": []}
    assert figures["item.facts@noise"] == {"texts": 2, "words": 9}


def test_a_text_about_an_item_loses_the_names_of_those_that_stood_beside_it() -> None:
    texts = Texts(["item.engagement"], ["1"], ["The Matrix is as cold as Heat."])
    add_controls(texts, ["masked"], TITLES, {("item.engagement", "1"): ["3"]}, "film")
    assert texts.texts[-1] == "This film is as cold as another film."


def test_the_arms_ask_for_the_views_that_are_made() -> None:
    texts, settings = some(), AdaptorSettings(user_views=["user.preference", "user.preference:mood"], item_views=["item.facts"])
    add_controls(texts, ["masked", "noise"], TITLES, {}, "film")
    for arm in ("masked", "noise"):
        asked = {view for views in plan(arm, settings).views.values() for view in views}
        assert asked == {view for view in texts.views if view.endswith(f"@{arm}")}


def test_a_control_that_is_cut_warns_and_stops_nothing() -> None:
    assert "item.facts@noise" in judge({"item.facts@noise": {"truncated_share": 0.9}}, 0.05)[0]
