from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from kar.browse.app import application
from kar.store import Home
from tests.browse import planted
from tests.browse.planted import NIGHTS, TITLES
from tests.browse.read import Element, page


def get(client: TestClient, path: str, status: int = 200) -> Element:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return page(answer.text)


def found(client: TestClient, query: str) -> list[str]:
    return [
        hit.one("a").words
        for hit in get(client, f"/search?{query}").all("li")
        if hit.parent and "hits" in hit.parent.attributes.get("class", "")
    ]


# ---- search


def test_a_search_finds_by_id_by_prefix_by_substring_and_by_words_in_any_order(client: TestClient) -> None:
    assert found(client, "q=20&side=item") == [TITLES[1]]
    assert found(client, "q=the+gl") == [TITLES[0]]
    assert found(client, "q=detective") == [TITLES[4]]
    assert found(client, "q=lighthouse+under") == [TITLES[7]]
    assert found(client, "q=nobody+is+called+so") == []


def test_capitals_and_accents_do_not_matter_to_a_search(client: TestClient) -> None:
    assert found(client, "q=AMELIE") == found(client, "q=am%C3%A9lie") == [TITLES[1]]


def test_an_exact_id_comes_before_those_that_begin_with_it(client: TestClient) -> None:
    assert found(client, "q=1&side=user") == ["User 1"]
    assert found(client, "q=10&side=item")[0] == TITLES[0]
    assert TITLES[2] in found(client, "q=3&side=item")  # 30, by its id; and every title with a 3 in it


def test_an_empty_search_asks_for_words(client: TestClient) -> None:
    for query in ("", "q=", "q=%20%20"):
        assert "Write an id" in get(client, f"/search?{query}").words


def test_a_long_list_is_paged_and_every_hit_is_on_one_page(tmp_path: Path) -> None:
    world = planted.World(user_ids=list(range(100, 160)))
    client = TestClient(application(*planted.build(tmp_path, world)), base_url="http://127.0.0.1")
    pages = [found(client, f"q=1&side=user&page={n}") for n in (1, 2, 3, 4)]
    assert [len(hits) for hits in pages] == [25, 25, 10, 0]
    assert len({hit for hits in pages for hit in hits}) == 60
    second = get(client, "/search?q=1&side=user&page=2")
    assert [a.attributes["href"] for a in second.one("nav", class_="pager").all("a")] == [
        "/search?q=1&side=user&page=1",
        "/search?q=1&side=user&page=3",
    ]


# ---- one subject


def test_a_user_s_page_shows_history_knowledge_and_where_it_comes_from(client: TestClient) -> None:
    shown = get(client, "/user?id=2")
    assert shown.one("h1").words == "User 2"
    events = shown.one("ol", class_="history").all("li")
    assert len(events) == 4
    assert events[0].one("a").words == TITLES[4]  # newest first
    assert events[0].one("a").attributes["href"] == "/item?id=50"
    view = shown.one("article")
    assert view.one("h3").words == "user.preference accepted"
    assert "a sense of place, number 1" in view.one("p", class_="written").words
    assert "still the last good text" in view.words
    assert "tiny" in view.one("dl", class_="pairs").words


def test_an_item_s_page_shows_its_factors_its_prompt_and_why_it_was_asked(client: TestClient) -> None:
    shown = get(client, "/item?id=20")
    assert shown.one("h1").words == TITLES[1]
    view = shown.one("article")
    factors = view.one("dl", class_="factors")
    assert [dt.words for dt in factors.all("dt")] == ["genre", "mood"]
    assert [dd.words for dd in factors.all("dd")] == ["genre of it.", "mood of it."]
    assert "because enough new events had come since" in view.words
    assert [pre.words for pre in view.all("pre")] == ["You know films well.", "Say what is known of it."]


def test_a_refused_answer_is_shown_with_its_reason_and_what_the_reason_means(client: TestClient) -> None:
    lost = get(client, "/item?id=40").one("article")
    assert lost.one("h3").words == "item.facts refused"
    assert "Refused: entity mismatch. About titles that the user never met" in lost.words
    assert lost.one("blockquote").words == f"It is about {TITLES[0]}."
    kept = get(client, "/item?id=10").one("article")
    assert kept.one("h3").words == "item.facts accepted"
    assert "The last good text stands in." in kept.words
    assert "Seen: one line 12 times" in kept.words


def test_the_last_user_has_no_text_and_the_page_says_so(client: TestClient) -> None:
    view = get(client, "/user?id=6").one("article")
    assert view.one("h3").words == "user.preference no text"
    assert not view.all("p", class_="written")


def test_an_old_night_shows_what_was_known_then_and_links_to_the_newest(client: TestClient) -> None:
    before = get(client, f"/item?id=20&date={NIGHTS[0]}")
    assert "A patient story" in before.one("article").words
    assert "A quick comedy" not in before.words
    assert "/item?id=20" in [a.attributes["href"] for a in before.one("p", class_="eyebrow").all("a")]


# ---- over time


def test_nights_without_news_are_one_line_and_a_new_text_is_marked_with_its_cosine(client: TestClient) -> None:
    rows = get(client, "/item?id=20").one("table", class_="versions").rows
    assert [row[0] for row in rows] == ["2026-11-19", "2026-11-18 back to 2026-11-17, 2 nights"]
    assert rows[0][1].startswith("new text A quick comedy")
    assert rows[1][1].startswith("A patient story")
    assert [row[3] for row in rows] == ["0.500", "–"]  # it turned by 60 degrees
    assert rows[0][2].endswith("served")


def test_a_refusal_is_a_line_of_its_own_and_a_text_that_stayed_has_cosine_1(client: TestClient) -> None:
    rows = get(client, "/item?id=10").one("table", class_="versions").rows
    assert len(rows) == 2
    assert rows[0][1].startswith("repetition A patient story")
    assert rows[0][3] == "1.000"


def test_an_item_that_came_later_begins_where_it_came(client: TestClient) -> None:
    rows = get(client, "/item?id=30").one("table", class_="versions").rows
    assert [row[0] for row in rows] == ["2026-11-19 back to 2026-11-18, 2 nights"]


# ---- neighbours


def test_neighbours_are_ordered_by_cosine_and_leave_out_the_subject_and_those_without_knowledge(client: TestClient) -> None:
    rows = get(client, "/item?id=10").one("table", class_="near").rows
    # at 0 degrees; number 1 stands at 70 since the third night, number 3 has none
    assert [row[0] for row in rows] == [f"{TITLES[n]} {10 * (n + 1)}" for n in (2, 4, 5, 6, 1, 7)]
    assert [row[2] for row in rows] == ["0.940", "0.766", "0.643", "0.500", "0.342", "0.342"]


def test_a_subject_without_knowledge_has_no_neighbours_and_the_page_says_why(client: TestClient) -> None:
    assert "no knowledge of it" in get(client, "/item?id=40").one("section", id="near").words


# ---- releases


def test_the_list_of_releases_marks_the_served_one_and_shows_coverage(client: TestClient) -> None:
    rows = get(client, "/releases").one("table").rows
    assert [row[0][:10] for row in rows] == ["2026-11-19", "2026-11-18"]
    assert ["served" in row[0] for row in rows] == [True, False]
    assert rows[0][3:5] == ["83.3 %", "87.5 %"]


def test_a_release_s_page_shows_what_it_binds_its_coverage_and_its_uplift(client: TestClient) -> None:
    link = get(client, "/releases").one("table").all("a")[0].attributes["href"]
    shown = get(client, link)
    assert shown.one("section", id="uplift").one("table").rows[0][:3] == ["knowledge − base", "AUC", "+0.0041"]
    assert [row[0] for row in shown.one("section", id="coverage").one("table").rows] == ["item.facts", "user.preference"]
    assert "hash-3" in shown.one("section", id="binds").words
    assert [row[:2] for row in shown.one("section", id="gate").one("table").rows] == [
        ["rows item", "passed"],
        ["collapse item.facts", "passed"],
    ]
    # numbers 0, 2, 4 … did something, and all of them are known by now
    assert "100 % of 3 users" in shown.one("section", id="coverage").words
    assert "100 % of 4 items" in shown.one("section", id="coverage").words
    assert "7 on the day" in shown.one("section", id="age").words
    assert "night usd 0.0123" in shown.one("section", id="binds").words
    older = get(client, get(client, "/releases").one("table").all("a")[1].attributes["href"])
    assert "holds no verdicts" in older.one("section", id="gate").words


def test_verdicts_of_a_gate_are_shown_failed_ones_first(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.root, tmp_path / "home")
    copied = Home.of("planted", tmp_path / "home")
    path = sorted(copied.published.glob("releases/*/manifest.json"))[0]  # the one that CURRENT does not vouch for
    verdicts = [
        {"check": "rows", "measured": 8, "limit": 4, "is_passed": True, "why": "8 rows, at least 4"},
        {"check": "norm item.facts", "measured": 0.1, "limit": 0.5, "is_passed": False, "why": "0.1 is below <0.5>"},
    ]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gate": verdicts}))
    client = TestClient(application(planted.settings(planted.World(), tmp_path), copied), base_url="http://127.0.0.1")
    rows = get(client, f"/releases/{path.parent.name}").one("section", id="gate").one("table").rows
    assert rows == [["norm item.facts", "failed", "0.1 is below <0.5>"], ["rows", "passed", "8 rows, at least 4"]]
    assert "1 of 2 failed" in get(client, "/releases").words


# ---- what is missing or damaged


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404), ("/user", 404), ("/user?id=99", 404), ("/user?id=abc", 404), ("/user?id=01", 404), ("/user?id=1&date=yesterday", 400),
        ("/user?id=1&date=2020-01-01", 404), ("/item?id=99999999999999999999", 404), ("/releases/none", 404), ("/search?q=a&page=x", 200),
    ],
)  # fmt: skip
def test_a_wrong_address_is_answered_by_a_page_that_says_what_is_wrong(client: TestClient, path: str, status: int) -> None:
    shown = get(client, path, status)
    assert shown.one("h1").words


def test_a_home_without_anything_says_what_to_run(tmp_path: Path) -> None:
    client = TestClient(application(planted.settings(planted.World(), tmp_path), Home.of("planted", tmp_path)), base_url="http://127.0.0.1")
    assert "run kar run all" in get(client, "/").words
    assert "None is published yet" in get(client, "/releases").words
    get(client, "/search?q=1")
    get(client, "/user?id=1", 404)


def test_damaged_files_are_named_and_the_rest_of_the_page_stays(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.root, tmp_path / "home")
    copied = Home.of("planted", tmp_path / "home")
    client = TestClient(application(planted.settings(planted.World(), tmp_path), copied), base_url="http://127.0.0.1")
    (copied.published / "CURRENT").write_text("")
    shown = get(client, "/item?id=20")
    assert "CURRENT is empty" in shown.words
    assert "A quick comedy" in shown.words
    table = copied.partition("knowledge", NIGHTS[2]).table("knowledge")
    table.write_bytes(table.read_bytes()[:200])
    assert "cannot be read" in get(client, "/item?id=20", 500).words


def test_a_night_or_a_release_that_came_while_the_page_was_served_is_shown(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.root, tmp_path / "home")
    copied = Home.of("planted", tmp_path / "home")
    client = TestClient(application(planted.settings(planted.World(), tmp_path), copied), base_url="http://127.0.0.1")
    old = get(client, "/releases").one("table").rows
    gone = copied.published / "releases" / old[1][0]
    assert "A patient story" in get(client, "/item?id=20").words
    shutil.rmtree(gone)
    rows = get(client, "/item?id=20").one("table", class_="versions").rows
    assert [row[2] for row in rows][1] == "none"
    get(client, f"/releases/{gone.name}", 404)


def test_every_page_has_one_heading_a_language_landmarks_and_labels(client: TestClient) -> None:
    release = get(client, "/releases").one("table").all("a")[0].attributes["href"]
    paths = ["/", "/search?q=1", "/user?id=1", "/item?id=20", "/releases", release]
    for path in paths:
        shown = get(client, path)
        assert shown.one("html").attributes["lang"] == "en"
        assert len(shown.all("h1")) == len(shown.all("main")) == len(shown.all("header")) == 1
        assert shown.one("a", class_="skip").attributes["href"] == "#main"
        labelled = {label.attributes["for"] for label in shown.all("label")}
        assert {i.attributes["id"] for i in shown.all("input")} <= labelled
        ids = [e.attributes["id"] for e in shown.all() if "id" in e.attributes]
        assert len(ids) == len(set(ids))
        targets = [a.attributes["href"][1:] for a in shown.all("a") if a.attributes["href"].startswith("#")]
        assert set(targets) <= set(ids)
        levels = [int(e.tag[1]) for e in shown.all() if e.tag in ("h1", "h2", "h3", "h4")]
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), (path, levels)
        assert all(e.attributes.get("scope") for e in shown.all("th"))
