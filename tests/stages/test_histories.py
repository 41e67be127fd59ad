"""The histories stage: the cut in both modes, what stands for an item, and what describes it."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.stages import shop
from tests.stages.shop import NOON

HEAD = "user_id,item_id,at,stars,words\n"
COLUMNS = {"user_id": "user_id", "item_id": "item_id", "event_at": "at", "rating": "stars", "text": "words"}
MIDNIGHT = dt.datetime(2026, 1, 11, tzinfo=dt.UTC)


def event(user: int, item: int, after_s: float, stars: int = 3, words: str = "") -> str:
    return f"{user},{item},{NOON + after_s},{stars},{words}\n"


def made(
    folder: Path, events: str, mode: str = "per_user", sources: dict[str, Any] | None = None, **histories: Any
) -> tuple[Any, Any, Any]:
    """Run sources and histories; the manifest, the histories and the profiles by id."""
    data = shop.write(folder / "data", events__csv=HEAD + events, users__csv="user_id,age\n1,20\n2,30\n3,40\n")
    chosen = shop.settings(data, {"interactions": {"columns": COLUMNS}, **(sources or {})}, histories={"mode": mode, **histories})
    shop.make("sources", chosen, folder / "home")
    manifest, partition = shop.make("histories", chosen, folder / "home")
    return (
        manifest,
        {row["user_id"]: row for row in shop.rows(partition, "history")},
        {row["item_id"]: row for row in shop.rows(partition, "item_profile")},
    )


def items(count: int) -> str:
    return "item_id,title,genres\n" + "".join(f"{n},Item {n},a\n" for n in range(1, count + 1))


@pytest.mark.parametrize(
    ("event_count", "cap", "expected"), [(1, 30, 1), (2, 30, 1), (3, 30, 2), (10, 30, 5), (11, 30, 6), (11, 4, 4), (80, 30, 30)]
)
def test_per_user_the_first_half_of_the_events_up_to_the_cap_is_history(tmp_path: Path, event_count: int, cap: int, expected: int) -> None:
    events = "".join(event(1, 1 + n, n) for n in range(event_count))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "many.csv").write_text(items(80))
    _, history, profiles = made(tmp_path, events, cap=cap, sources={"items": {"path": "many.csv"}})
    assert history[1]["item_ids"] == list(range(1, expected + 1))
    assert history[1]["position"] == expected
    assert history[1]["cutoff_at"] == history[1]["newest_event_at"] == dt.datetime.fromtimestamp(NOON + expected - 1, dt.UTC)
    assert [profiles[n]["event_count"] for n in range(1, 81)] == [1] * expected + [0] * (80 - expected)


def test_in_time_mode_all_events_are_history_and_the_newest_are_shown(tmp_path: Path) -> None:
    events = "".join(event(1, 10 + 10 * (n % 2), n, 1 + n % 5) for n in range(7))
    _, history, profiles = made(tmp_path, events, mode="time", cap=3)
    assert history[1]["position"] == 7
    assert history[1]["item_ids"] == [10, 20, 10]
    assert history[1]["ratings"] == [5.0, 1.0, 2.0]
    assert history[1]["titles"] == ["Ten", "Twenty", "Ten"]
    assert history[1]["cutoff_at"] == MIDNIGHT
    assert profiles[10]["event_count"] == 4
    assert profiles[10]["rating_mean"] == pytest.approx((1 + 3 + 5 + 2) / 4)


def test_users_without_events_are_counted_and_named(tmp_path: Path) -> None:
    manifest, history, _ = made(tmp_path, event(1, 10, 0), mode="time")
    assert set(history) == {1}
    assert manifest.rejected == {"empty_history": 2}
    assert manifest.rejected_examples["empty_history"] == [{"user_id": 2}, {"user_id": 3}]


def test_ties_are_ordered_by_the_tie_key_not_by_the_item(tmp_path: Path) -> None:
    events = "".join(event(1, n, 0) for n in range(1, 41))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "many.csv").write_text(items(40))
    _, history, _ = made(tmp_path, events, mode="time", cap=40, sources={"items": {"path": "many.csv"}})
    expected = sorted(range(1, 41), key=lambda item: ((NOON * 2654435761 + item * 40503) % 1000003, item))
    assert history[1]["item_ids"] == expected
    assert expected != sorted(expected)


def test_an_item_is_told_by_title_attributes_and_description(tmp_path: Path) -> None:
    table = "item_id,title,genres,release_year,about\n10,Toy Story (1995),a|b,1995,A boy's toys.\n20,Why?,a,,\n30,,a,1990,Only prose\n40,,c,,\n50,,,,\n"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "i.csv").write_text(table)
    columns = {
        "item_id": "item_id",
        "title": "title",
        "description": "about",
        "attributes": {"genre": "genres", "release_year": "release_year"},
    }
    manifest, _, profiles = made(tmp_path, event(1, 10, 0), sources={"items": {"path": "i.csv", "columns": columns}})
    assert {item: row["text"] for item, row in profiles.items()} == {
        10: "Toy Story (1995). Genres: a, b. Release year: 1995. A boy's toys.",
        20: "Why? Genre: a.",
        30: "Genre: a. Release year: 1990. Only prose",
        40: "Genre: c.",
        50: "",
    }
    assert manifest.figures["empty_item_count"] == 1
    assert all(row["evidence_users"] == [] and row["evidence_newest_at"] is None for row in profiles.values())


NO_TITLES = {"items": {"path": "bare.csv", "columns": {"item_id": "item_id"}, "lists": {}}}


def bare(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "bare.csv").write_text("item_id\n10\n20\n")


def test_an_item_with_neither_is_told_by_its_newest_reviews_and_they_are_its_evidence(tmp_path: Path) -> None:
    bare(tmp_path)
    events = event(1, 10, 0, 3, "oldest") + event(2, 10, 5, 3, "w" * 50) + event(3, 10, 9, 3, "newest") + event(1, 20, 1)
    _, history, profiles = made(tmp_path, events, mode="time", sources=NO_TITLES, review_count=2, review_chars=20)
    assert profiles[10]["text"] == "newest | " + "w" * 20
    assert profiles[10]["evidence_users"] == ["2", "3"]
    assert profiles[10]["evidence_items"] == ["10", "10"]
    assert profiles[10]["evidence_newest_at"] == dt.datetime.fromtimestamp(NOON + 9, dt.UTC)
    assert profiles[20]["text"] == ""
    assert profiles[20]["evidence_newest_at"] is None
    assert history[1]["titles"] == ["oldest", "item 20"]


def test_per_user_only_reviews_of_history_events_describe_an_item(tmp_path: Path) -> None:
    bare(tmp_path)
    events = (
        event(1, 10, 0, 5, "seen") + event(1, 20, 1, 1, "asked about") + event(2, 20, 2, 2, "seen too") + event(2, 10, 3, 1, "also asked")
    )
    _, history, profiles = made(tmp_path, events, sources=NO_TITLES)
    assert profiles[10]["text"] == "seen"
    assert profiles[20]["text"] == "seen too"
    assert profiles[10]["rating_mean"] == 5.0
    assert (history[1]["titles"], history[2]["titles"]) == (["seen"], ["seen too"])


def test_no_reviews_are_told_when_review_count_is_zero(tmp_path: Path) -> None:
    bare(tmp_path)
    _, _, profiles = made(tmp_path, event(1, 10, 0, 5, "seen"), sources=NO_TITLES, review_count=0)
    assert profiles[10]["text"] == ""
    assert profiles[10]["evidence_users"] == []


def test_the_evidence_digest_follows_what_is_shown_and_nothing_else(tmp_path: Path) -> None:
    events = event(1, 10, 0, 3) + event(2, 10, 0, 3)
    _, one, profiles = made(tmp_path / "one", events, mode="time")
    _, again, _ = made(tmp_path / "again", events, mode="time")
    _, other, others = made(tmp_path / "other", event(1, 10, 0, 4) + event(2, 10, 0, 3), mode="time")
    assert one[1]["evidence_sha"] == again[1]["evidence_sha"] == one[2]["evidence_sha"]
    assert other[1]["evidence_sha"] != one[1]["evidence_sha"]
    assert other[2]["evidence_sha"] == one[2]["evidence_sha"]
    assert others[10]["evidence_sha"] == profiles[10]["evidence_sha"]


def test_the_evidence_digest_is_sha256_of_one_written_down_form(tmp_path: Path) -> None:
    _, history, _ = made(tmp_path, event(1, 10, 0, 3) + event(1, 20, 60, 5), mode="time")
    written = f'{{"item_ids":[10,20],"ratings":[3.0,5.0],"event_us":[{NOON}000000,{NOON + 60}000000]}}'
    assert history[1]["evidence_sha"] == hashlib.sha256(written.encode()).hexdigest()


def test_titles_that_the_source_writes_away_reach_no_prompt(tmp_path: Path) -> None:
    """What `kar.text.controls` advises to ask a model about items that it cannot remember: a query instead of the file of items."""
    query = "select item_id, 'Item ' || item_id || ' (1995)' as title, genres from 'items.csv'"
    events = "".join(event(1, item, n) for n, item in enumerate((10, 20, 10)))
    _, history, profiles = made(tmp_path, events, mode="time", sources={"items": {"path": query, "format": "duckdb"}})
    assert history[1]["titles"] == ["Item 10 (1995)", "Item 20 (1995)", "Item 10 (1995)"]
    assert profiles[20]["text"] == "Item 20 (1995). Genre: b."
    assert not any(word in str((history, profiles)) for word in ("Ten", "Twenty"))
