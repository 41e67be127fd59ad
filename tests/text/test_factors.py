from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kar.errors import TemplateError
from kar.text.factors import Factor, load_factors, parse_list, suggest

REPO_PROMPTS = Path(__file__).parents[2] / "prompts"


def names(answer: str) -> list[str]:
    return [factor.name for factor in parse_list(answer)]


def test_the_four_domains_that_kar_brings_have_six_to_ten_factors() -> None:
    domains = ["books", "movies", "news", "products"]
    assert sorted(path.name for path in REPO_PROMPTS.iterdir()) == ["any", *domains]
    assert all(6 <= len(load_factors(REPO_PROMPTS, domain).factors) <= 10 for domain in domains)


def test_a_rating_is_written_without_needless_digits_and_not_at_all_where_there_is_none(prompts_folder: Path) -> None:
    factors = load_factors(prompts_folder, "films")
    assert factors.rated(4.0) == "4 of 5 stars"
    assert factors.rated(3.5) == "3.5 of 5 stars"
    assert factors.rated(float("nan")) == ""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('verb = "rated"', 'verb = "rated"\ncolour = "red"', "unknown key colour"),
        ('verb = "rated"', "", "missing key verb"),
        ('id = "films"', 'id = "movies"', "its folder is 'films'"),
        ('name = "mood"', 'name = "Genre"', "named twice: genre"),
        ('"{rating} of 5 stars"', '"stars"', "write {rating} once"),
        ("version = 1", "version = one", "is no TOML"),
    ],
)
def test_a_wrong_factors_file_is_a_template_error_that_names_the_fault(prompts_folder: Path, old: str, new: str, told: str) -> None:
    path = prompts_folder / "films" / "factors.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(TemplateError, match=r"factors\.toml") as error:
        load_factors(prompts_folder, "films")
    assert told in error.value.what


def test_a_domain_that_is_not_there_is_an_error_that_names_those_that_are(prompts_folder: Path) -> None:
    with pytest.raises(TemplateError, match="domains here: films"):
        load_factors(prompts_folder, "games")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("1. Genre: kind of game\n2. Number of players: how many can play", ["genre", "number of players"]),
        ("Sure! Here are the factors:\n\n- **Theme** – the world it plays in\n- *Luck*\n* Price.", ["theme", "luck", "price"]),
        ("1) Theme\n2) Theme\n3) theme: again", ["theme"]),
        ("Theme: the world\nLuck: dice or cards\nI hope that helps!", ["theme", "luck"]),
        ("The most important factors are: theme, luck, number of players, and price.", ["theme", "luck", "number of players", "price"]),
        ("## 1. Theme\ntext\n## 2. Luck\ntext", ["theme", "luck"]),
        ("1. The first factor is how much a person enjoys playing with friends and family\n2. Luck", ["luck"]),
        ("\n".join(f"{n}. quality {chr(96 + n)}" for n in range(1, 20)), [f"quality {chr(96 + n)}" for n in range(1, 13)]),
        ("I am a small model and I do not know.", []),
        ("", []),
    ],
)
def test_a_list_is_found_in_what_a_small_model_rambles(answer: str, expected: list[str]) -> None:
    assert names(answer) == expected


def test_a_hint_is_kept_short() -> None:
    (factor,) = parse_list("- Luck: how much dice and cards decide, which some like and some do not. It is often said so.")
    assert factor == Factor(name="luck", hint="how much dice and cards decide, which some like and")


def test_a_suggestion_is_a_draft_that_loads_and_says_so_at_every_factor(tmp_path: Path) -> None:
    asked: list[list[dict[str, str]]] = []

    def ask(messages: list[dict[str, str]]) -> str:
        asked.append(messages)
        return '1. Theme: "the world" it plays in\n2. Luck \\ dice\n3. Length'

    text = suggest("games", "board game", ask)
    (tmp_path / "games").mkdir()
    (tmp_path / "games" / "factors.toml").write_text(text)
    factors = load_factors(tmp_path, "games")
    assert "board game" in asked[0][-1]["content"]
    assert factors.item.plural == "board games"
    assert [f.name for f in factors.factors] == ["theme", "luck \\ dice", "length"]
    assert text.count("[[factors]]  # draft: keep, reword or delete") == 3
    assert text.startswith("# DRAFT")


@pytest.mark.parametrize("answer", ["I cannot help with that.", "Skill, and luck.", "1. I cannot\n2. I cannot\n3. Luck"])
def test_an_answer_without_a_list_of_three_is_an_error_that_shows_it(answer: str) -> None:
    with pytest.raises(TemplateError, match=answer[:8]):
        suggest("games", "board game", lambda messages: answer)


def test_a_hostile_answer_still_gives_toml() -> None:
    text = suggest("games", "board game", lambda messages: '- a"]\x00 = "b\n- c\\\n- [[factors]]: """\n')
    assert tomllib.loads(text)["factors"]
