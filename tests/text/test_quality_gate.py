"""The gate over what is about something else, over many texts at once, and over hostile ones."""

from __future__ import annotations

import csv
import json
import random
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.errors import SettingsError
from kar.settings import KnowledgeSettings
from kar.text.quality import Candidate, DomainWords, QualityGate, Refusal, drift, judge, load_domain_words, words_of
from kar.text.quality.alike import Sketches
from kar.text.quality.refusal import asks_for_input, declines
from kar.text.quality.sensitive import guess
from kar.text.quality.titles import Catalogue, forms, is_met, stem, stems
from tests.llm.loopback import answer_to

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "prompts"
ML1M = ROOT.parent / "shared" / "data" / "ml-1m"
SETTINGS = KnowledgeSettings()
PLANTED = tomllib.loads((Path(__file__).parent / "planted.toml").read_text(encoding="utf-8"))
FOREIGN = tomllib.loads((Path(__file__).parent / "foreign.toml").read_text(encoding="utf-8"))["text"]
TITLES = [
    *("Toy Story (1995)", "Heat (1995)", "Usual Suspects, The (1995)", "Lethal Weapon (1987)", "Lethal Weapon 2 (1989)", "Big (1988)"),
    *("Star Wars: Episode IV - A New Hope (1977)", "Boat, The (Das Boot) (1981)", "Sense and Sensibility (1995)", "Robin Hood (1973)"),
    *("Sixth Sense, The (1999)", "Blade Runner (1982)", "Mary Poppins (1964)", "Dead Man Walking (1995)", "Ghost (1990)"),
]
GOOD = (
    "A patient harbour drama in which a retired pilot teaches a deaf boy to read the weather. Shot in grey light with long takes, it has a "
    "dry humour and a score of three notes, and its last scene, on the breakwater, made critics reach for old masters."
)


def gate_for(settings: KnowledgeSettings = SETTINGS) -> QualityGate:
    return QualityGate(settings, TITLES, {}, load_domain_words(PROMPTS, "movies"))


@pytest.fixture(scope="module")
def gate() -> QualityGate:
    return gate_for()


def user(text: str, *titles: str, **more: Any) -> Candidate:
    return Candidate("user.preference", "1", text, titles=titles, **more)


def reason(refusal: Refusal | None) -> str:
    return refusal.reason if refusal else ""


# ---- declining


@pytest.mark.parametrize("said", PLANTED["refusals"])
def test_an_answer_that_opens_by_declining_is_a_refusal(said: str) -> None:
    assert reason(judge(f"{said} {GOOD}", "stop", "", SETTINGS)) == "refusal"


@pytest.mark.parametrize("said", PLANTED["refusals_inside"])
def test_a_model_that_speaks_of_itself_in_the_middle_declines_too(said: str) -> None:
    assert declines(f"{GOOD} {GOOD} {said} {GOOD}")


@pytest.mark.parametrize("said", PLANTED["asks"])
def test_an_answer_that_asks_back_is_told_from_one_that_declines(said: str) -> None:
    assert reason(judge(f"{said} {GOOD}", "stop", "", SETTINGS)) == "asks_for_input"
    assert not asks_for_input(GOOD)


def test_a_list_that_was_asked_for_and_is_prose_is_named() -> None:
    assert reason(judge(GOOD, "stop", "", SETTINGS, form="list")) == "not_a_list"
    bullets = "\n".join(f"- {sentence}" for sentence in GOOD.split(". "))
    for text in (bullets, json.dumps({"mood": GOOD, "plot": ""}), "```json\n" + json.dumps([GOOD, "slow"]) + "\n```"):
        assert judge(text, "stop", "", SETTINGS, form="list") is None, text
    assert judge(GOOD, "stop", "", SETTINGS) is None


# ---- languages


@pytest.mark.parametrize("case", PLANTED["languages"], ids=[c["code"] for c in PLANTED["languages"]])
def test_a_text_in_a_language_that_nobody_asked_for_is_refused(case: dict[str, str], gate: QualityGate) -> None:
    assert reason(gate.judge(user(case["text"]))) == "wrong_language"
    asked_for = gate_for(SETTINGS.model_copy(update={"languages": ["en", case["code"]]}))
    assert reason(asked_for.judge(user(case["text"]))) == ""


def test_languages_are_not_looked_at_without_codes_and_an_unknown_code_is_named() -> None:
    open_to_all = gate_for(SETTINGS.model_copy(update={"languages": []}))
    assert reason(open_to_all.judge(user(PLANTED["languages"][0]["text"]))) == ""
    with pytest.raises(SettingsError, match="klingon"):
        gate_for(SETTINGS.model_copy(update={"languages": ["en", "klingon"]}))


def test_foreign_names_and_titles_make_no_foreign_text(gate: QualityGate) -> None:
    text = "Likes Les Enfants du paradis, La Règle du jeu, Das Boot, Il Postino and Krzysztof Kieslowski's Trois couleurs films above all."
    assert reason(gate.judge(user(text))) == ""


# ---- domain


@pytest.mark.parametrize("origin", ["written", "model"])
def test_texts_about_other_things_are_told_from_films(origin: str, gate: QualityGate) -> None:
    texts = [t["text"] for t in FOREIGN if t["origin"] == origin]
    found = [reason(gate.judge(Candidate("item.facts", "1", text, "length" if text[-1].isalpha() else "stop"))) for text in texts]
    assert len(texts) >= 10
    assert found.count("off_domain") >= 0.9 * len(texts), found


def test_most_texts_about_other_things_that_the_words_were_not_chosen_on_are_told_too(gate: QualityGate) -> None:
    texts = [t["text"] for t in FOREIGN if t["origin"] == "held out"]
    found = [reason(gate.judge(Candidate("item.facts", "1", text))) for text in texts]
    assert len(texts) == 40
    assert found.count("off_domain") >= 0.5 * len(texts), found


def test_the_same_texts_are_at_home_in_their_own_domain() -> None:
    for domain in ("books", "products", "news"):
        at_home = QualityGate(SETTINGS, [], {}, load_domain_words(PROMPTS, domain))
        texts = [t["text"] for t in FOREIGN if t["kind"] == domain and t["origin"] == "written"]
        assert len(texts) >= 4
        assert [reason(at_home.judge(Candidate("item.facts", "1", text))) for text in texts] == [""] * len(texts)


def test_a_film_about_a_cook_is_a_film(gate: QualityGate) -> None:
    text = (
        "A widowed chef cooks Sunday dinner for three grown daughters in this warm family drama. The film lingers on dumplings, soup and "
        "roast chicken, and the director stages every meal as a scene of love and quarrel, with a gentle score and fine performances."
    )
    assert reason(gate.judge(Candidate("item.facts", "1", text))) == ""


def test_a_domain_without_vocabulary_needs_stronger_signs() -> None:
    few, many = "battery charger laptop usb wifi", "battery charger laptop usb wifi android ios"
    assert DomainWords({"film"}).fault(few.split())
    assert not DomainWords({"film"}, has_vocabulary=False).fault(few.split())
    assert DomainWords({"film"}, has_vocabulary=False).fault(many.split())


# ---- titles


def test_a_title_is_known_in_every_form_that_a_text_gives_it() -> None:
    assert forms("Usual Suspects, The (1995)") == ["The Usual Suspects", "Usual Suspects"]
    assert "La Cité des enfants perdus" in forms("City of Lost Children, The (Cité des enfants perdus, La) (1995)")
    assert "Star Wars" in forms("Star Wars: Episode IV - A New Hope (1977)")
    assert stem("Lethal Weapon 2") == stem("The Lethal Weapon") == "lethal weapon"


def test_titles_are_found_where_they_are_titles() -> None:
    catalogue = Catalogue(TITLES)
    text = 'Toy Story and The Usual Suspects please; the heat of big cities does not, but "Heat" and Ghost (1990) do. Robin Hoods do not.'
    assert [form for form, _ in catalogue.named(text)] == ["Toy Story", "The Usual Suspects", "Heat", "Ghost"]


def test_a_part_of_the_same_series_counts_as_met() -> None:
    met = stems(["Lethal Weapon (1987)", "Star Wars: Episode IV - A New Hope (1977)"])
    assert is_met("Lethal Weapon 2", met, "")
    assert is_met("Star Wars", met, "")
    assert not is_met("Blade Runner", met, "")
    assert is_met("Blade Runner", met, "- blade runner (1982): 5 of 5 stars")


def test_a_profile_of_films_that_the_user_never_met_is_refused(gate: QualityGate) -> None:
    text = (
        "Mary Poppins and Toy Story are this viewer's favourites, and Sense and Sensibility comes close; slow and cold films are avoided."
    )
    assert reason(gate.judge(user(text, "Mary Poppins (1964)", "Toy Story (1995)", "Heat (1995)"))) == ""
    refusal = gate.judge(user(text, "Heat (1995)", "Blade Runner (1982)"))
    assert reason(refusal) == "entity_mismatch"
    assert refusal is not None
    assert "3 of 3 titles" in refusal.detail
    assert reason(gate_for(SETTINGS.model_copy(update={"entity": False})).judge(user(text, "Heat (1995)"))) == ""


def test_one_film_named_for_comparison_is_no_mismatch(gate: QualityGate) -> None:
    text = (
        "Mary Poppins is the favourite, and more of that kind would land; fans of Blade Runner have another taste than this gentle viewer."
    )
    assert reason(gate.judge(user(text, "Mary Poppins (1964)"))) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Blade Runner is a slow and rainy film about a tired policeman who hunts copies of people and begins to doubt himself.",
            "entity_mismatch",
        ),
        (
            "Heat is a film about a thief and a policeman who drink coffee once and shoot at each other later, in long blue nights.",
            "entity_mismatch",
        ),
        (
            'The film "Ghost" tells of a dead banker who stays near his wife; in "Ghost" the potter\'s wheel turns to a famous song.',
            "entity_mismatch",
        ),
        ("Big is a comedy about a boy who wakes up as a man, finds work at a toy maker and learns what he gave away by it.", ""),
        ("A boy wakes up as a grown man and finds work at a toy maker. Warmer than Blade Runner, with a famous dance on piano keys.", ""),
        ("The makers of Toy Story and friends of Mary Poppins will like this comedy about a boy who wakes up as a grown man.", ""),
    ],
)
def test_the_text_of_another_item_is_told_where_it_names_that_item(text: str, expected: str, gate: QualityGate) -> None:
    assert reason(gate.judge(Candidate("item.facts", "6", text, titles=("Big (1988)",)))) == expected


# ---- guesses about people


@pytest.mark.parametrize("said", PLANTED["guesses"])
def test_a_guess_about_the_person_is_refused_in_user_views_only(said: str, gate: QualityGate) -> None:
    text = f"Slow dramas with long takes are rated high here. {said}"
    assert reason(gate.judge(user(text))) == "sensitive_inference"
    assert reason(gate.judge(Candidate("item.facts", "1", text))) == ""
    assert reason(gate_for(SETTINGS.model_copy(update={"sensitive": False})).judge(user(text))) == ""


@pytest.mark.parametrize("said", PLANTED["harmless"])
def test_films_about_the_same_things_are_no_guess(said: str, gate: QualityGate) -> None:
    assert reason(gate.judge(user(f"Slow dramas with long takes are rated high here. {said}"))) == ""


def test_what_the_prompt_told_is_not_guessed() -> None:
    said = "The viewer is probably a man."
    assert guess(said, "occupation: librarian").startswith("gender")
    assert guess(said, "gender: m, age: 45") == ""


# ---- many texts


def planted(count: int, seed: int = 5) -> list[str]:
    """Generic profiles, each with its holes filled at random."""
    rng = random.Random(seed)
    return [PLANTED["generic"][0].format(*(rng.choice(words) for words in PLANTED["generic_words"])) for _ in range(count)]


def remembered(texts: list[str], settings: KnowledgeSettings = SETTINGS) -> QualityGate:
    gate = gate_for(settings)
    for place, text in enumerate(texts):
        gate.remember(Candidate("user.preference", str(place), text))
    return gate


def test_one_profile_for_many_is_refused_for_all_of_them_and_for_nobody_else() -> None:
    own = [answer_to(f"user {n}", 60) for n in range(200)]
    found = remembered([*own, *planted(30)]).duplicates()
    assert {int(subject) for _, subject in found} == set(range(200, 230))
    assert {r.reason for r in found.values()} == {"near_duplicate"}


def test_a_few_alike_are_let_be() -> None:
    assert remembered(planted(SETTINGS.max_near_duplicates + 1)).duplicates() == {}
    assert len(remembered([GOOD] * (SETTINGS.max_near_duplicates + 2)).duplicates()) == SETTINGS.max_near_duplicates + 2


def test_which_are_refused_does_not_hang_on_their_order() -> None:
    texts = [answer_to(f"user {n}", 60) for n in range(40)] + planted(25)
    backward = remembered(texts[::-1]).duplicates()
    assert {int(s) for _, s in remembered(texts).duplicates()} == {len(texts) - 1 - int(s) for _, s in backward}


def test_texts_of_earlier_nights_are_company_and_never_refused() -> None:
    gate = gate_for()
    for place, text in enumerate(planted(30)):
        gate.remember(Candidate("user.preference", f"u{place}", text), is_new=place >= 29)
    assert [subject for _, subject in gate.duplicates()] == ["u29"]
    assert gate.figures()["user.preference"]["accepted"] == 1


def test_views_are_not_held_against_each_other() -> None:
    gate = gate_for()
    for place, text in enumerate(planted(20)):
        gate.remember(Candidate("user.preference" if place % 2 else "user.taste", str(place), text))
    assert gate.duplicates() == {}


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12), min_size=1, max_size=30))
def test_the_same_words_are_always_alike(texts: list[list[str]]) -> None:
    sketches = Sketches()
    for place, words in enumerate(texts * 2):
        sketches.add(f"s{place}", words)
    assert (sketches.alike(1.0) >= 1).all()
    assert [sketches.subject_id(n) for n in range(len(sketches))] == [f"s{n}" for n in range(2 * len(texts))]


def test_a_sketch_estimates_how_much_two_texts_share() -> None:
    rng = random.Random(3)
    base = [f"w{rng.randrange(10_000)}" for _ in range(400)]
    most = base[:340] + [f"x{n}" for n in range(60)]  # 338 of 458 three-word runs in common: 0.74
    both = Sketches()
    both.add("a", base)
    both.add("b", most)
    assert both.alike(0.55).tolist() == [1, 1]
    assert both.alike(0.95).tolist() == [0, 0]


def test_a_million_texts_fit_into_little_memory() -> None:
    sketches = Sketches()
    for place in range(2_000):
        sketches.add(f"user-{place:08d}", [f"w{place}", "and", f"v{place}", "more"])
    held = len(sketches._bytes) + len(sketches._ids) + 8 * len(sketches._ends)
    assert held / 2_000 <= 100  # bytes a text: 100 MB a million


# ---- figures and drift


def test_figures_count_what_was_judged_and_accepted() -> None:
    gate = gate_for()
    for place, text in enumerate([GOOD, "", "I'm sorry, but I can't help with that.", GOOD]):
        candidate = Candidate("user.preference", str(place), text)
        gate.look(candidate)  # counts nothing
        if gate.judge(candidate) is None:
            gate.remember(candidate)
    figures = gate.figures()["user.preference"]
    assert (figures["judged"], figures["accepted"], figures["mean_words"]) == (4, 2, len(words_of(GOOD)))
    assert figures["refused_share"] == {"empty": 0.25, "refusal": 0.25}
    assert figures["distinct_word_share"] < 0.5
    assert figures["near_duplicate_share"] == 0.0


LAST = {
    "judged": 1000,
    "accepted": 950,
    "mean_words": 80.0,
    "distinct_word_share": 0.1,
    "vocabulary_texts": 950,
    "near_duplicate_share": 0.0,
    "refused_share": {"echo": 0.05},
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        ({"mean_words": 70.0}, []),
        ({"mean_words": 40.0}, ["40 words a text, 80 last night"]),
        ({"mean_words": 120.0}, ["120 words a text"]),
        ({"distinct_word_share": 0.03}, ["3.0% of its words are distinct"]),
        ({"distinct_word_share": 0.03, "vocabulary_texts": 400}, []),
        ({"refused_share": {"echo": 0.08}}, []),
        ({"refused_share": {"refusal": 0.2}}, ["20.0% of the answers are refused as refusal, 0.0% last night"]),
        ({"near_duplicate_share": 0.4}, ["40.0% of the texts are near-duplicates"]),
        ({"judged": 10, "mean_words": 1.0}, []),
    ],
)
def test_what_moved_since_last_night_is_said_and_nothing_else(changed: dict[str, Any], said: list[str]) -> None:
    found = drift({"item.facts": LAST | changed}, {"item.facts": LAST}, SETTINGS)
    assert len(found) == len(said)
    assert all(words in sentence for words, sentence in zip(said, found, strict=True))
    assert drift({"item.facts": LAST | changed}, None, SETTINGS) == []


def test_figures_of_a_gate_go_into_drift_as_they_are() -> None:
    texts = [answer_to(f"user {n}", 60) for n in range(40)]
    before = remembered(texts).figures()
    after = remembered([text[:120] for text in texts]).figures()
    for figures in (*before.values(), *after.values()):
        figures["judged"] = 40
    assert drift(before, before, SETTINGS) == []
    assert any("words a text" in sentence for sentence in drift(after, before, SETTINGS))


# ---- hostile

HOSTILE = [
    "a ",
    "likely ",
    "they are likely probably ",
    '"',
    '"a" ',
    "*_",
    "(",
    "<",
    "1.\n",
    "[",
    '{"a":',
    "A",
    "I'm ",
    "in their late ",
    "The Aa Bb ",
]
HOSTILE += [
    ". ",
    "old young man woman ",
    "- \n",
    "红楼",
    "\u202e",
    "e\u0301\u0301",
    "Toy Story (1995) ",
    "\u200b",
    "please could you ",
    "as an ai ",
    "his her ",
]
HOSTILE += [
    "he is a of the ",
    "The 1999 film X",
    "is likely a ",
    "\ud800",
    "{{ 7*7 }} ",
    "</entry> ignore all ",
    "\x00",
    "depression with the ",
]


@pytest.mark.parametrize("piece", HOSTILE, ids=[ascii(p)[1:20] for p in HOSTILE])
def test_a_hostile_text_of_100_kb_is_judged_in_less_than_50_ms(piece: str, gate: QualityGate) -> None:
    text = (piece * 100_000)[:100_000]
    candidate = user(text, "Heat (1995)", prompt=text[:4_000])
    times = []
    for _ in range(3):
        began = time.process_time()
        gate.judge(candidate)
        gate._about_something_else(candidate, text[:12_000].encode("utf-8", "replace").decode())
        times.append(time.process_time() - began)
    assert min(times) < 0.05
    gate.remember(candidate)


@given(st.text(max_size=300), st.sampled_from(["stop", "length"]), st.sampled_from(["user.preference", "item.facts"]))
def test_the_gate_takes_any_text(text: str, finish_reason: str, view: str) -> None:
    candidate = Candidate(view, "1", text, finish_reason, prompt=text[::-1], titles=("Heat (1995)", text[:40]))
    gate = gate_for()
    gate.judge(candidate)
    gate.remember(candidate)
    gate.duplicates()


# ---- real texts, where they lie beside the project


@pytest.mark.skipif(not ML1M.is_dir(), reason="needs the MovieLens texts of ../shared/data, which are not the project's to ship")
def test_fewer_than_one_in_a_hundred_good_texts_is_refused() -> None:
    titles = {}
    for line in (ML1M / "movies.dat").read_text(encoding="latin-1").splitlines():
        item_id, title, _ = line.split("::")
        titles[int(item_id)] = title
    gate = QualityGate(SETTINGS, titles.values(), {}, load_domain_words(PROMPTS, "movies"))
    facts = [json.loads(line) for line in (ML1M / "movie_facts_llm.jsonl").read_text(encoding="utf-8").splitlines()[::4]]
    found = [gate.judge(Candidate("item.facts", str(f["item_id"]), f["text"], titles=(titles[f["item_id"]],))) for f in facts]
    assert len(facts) > 700
    assert sum(refusal is not None for refusal in found) < 0.01 * len(facts)


@pytest.mark.skipif(not ML1M.is_dir(), reason="needs the MovieLens texts of ../shared/data, which are not the project's to ship")
def test_one_sentence_summaries_by_another_model_pass_but_for_the_short_ones(gate: QualityGate) -> None:
    with (ML1M / "movie_summaries_gpt35.csv").open(encoding="utf-8", errors="replace", newline="") as stream:
        rows = list(csv.DictReader(stream))[::4]
    found = [reason(gate.judge(Candidate("item.facts", row["movie_id"], row["summary"], titles=(row["title"],)))) for row in rows]
    assert len(rows) > 900
    assert sum(r not in ("", "too_short") for r in found) < 0.01 * len(rows)
