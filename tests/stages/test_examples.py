"""The examples stage: labels, splits, and above all that no text an example meets has seen what it asks about."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kar.errors import LeakError, NotMade, SettingsError, StageError
from kar.store import Home, Manifest, file_sha
from kar.tables import IdTypes, conform
from tests.stages import shop
from tests.stages.shop import DAY, NOON
from tests.warehouse.filled import knowledge

HEAD = "user_id,item_id,at,stars,words\n"
COLUMNS = {"user_id": "user_id", "item_id": "item_id", "event_at": "at", "rating": "stars", "text": "words"}
USERS, ITEMS = range(1, 41), range(1, 13)


def when(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def usual_events() -> str:
    """Forty users with six events each, a day apart."""
    first = NOON - 5 * 86_400
    return "".join(
        f"{user},{1 + (user + place * 5) % 12},{first + place * 86_400 + user},{1 + (user + place) % 5},w\n"
        for user in USERS
        for place in range(6)
    )


def asked(data: Path, mode: str, **sections: Any) -> Any:
    return shop.settings(data, {"interactions": {"columns": COLUMNS}}, histories={"mode": mode, "cap": 3}, **sections)


def world(folder: Path, events: str, mode: str = "per_user", titles: bool = True, **sections: Any) -> Any:
    """Settings over these events; sources and histories of the day and of the snapshot are made."""
    data = shop.write(
        folder / "data",
        events__csv=HEAD + events,
        users__csv="user_id,age\n" + "".join(f"{u},20\n" for u in USERS),
        items__csv="item_id,title,genres\n" + "".join(f"{i},{f'Item {i}' if titles else ''},a\n" for i in ITEMS),
    )
    chosen = asked(data, mode, **sections)
    for date in {chosen.snapshot_date(DAY), DAY}:
        shop.make("sources", chosen, folder / "home", date)
        shop.make("histories", chosen, folder / "home", date)
    return chosen


Usual = Callable[..., Any]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Usual:
    """The world of the usual events, made once per mode and copied into a test's folder."""
    shelf = tmp_path_factory.mktemp("shelf")
    for mode in ("per_user", "time"):
        world(shelf / mode, usual_events(), mode, examples={"window_days": 4})

    def copy(folder: Path, mode: str = "per_user", **examples: Any) -> Any:
        shutil.copytree(shelf / mode / "home", folder / "home")
        return asked(shelf / mode / "data", mode, examples={"window_days": 4, **examples})

    return copy


def know(folder: Path, chosen: Any, *rows: dict[str, object]) -> None:
    """A knowledge partition of the snapshot date, as its stage would leave it."""
    place = Home.of("shop", folder / "home").partition("knowledge", chosen.snapshot_date(DAY))
    place.path.mkdir(parents=True, exist_ok=True)
    pq.write_table(conform("knowledge", knowledge(list(rows)), IdTypes()), place.table("knowledge"))
    Manifest("knowledge", place.date.isoformat(), "", {}, {"knowledge": {"sha": file_sha(place.table("knowledge"))}}).write(place.path)


def made(folder: Path, chosen: Any) -> tuple[Manifest, list[dict[str, Any]]]:
    manifest, partition = shop.make("examples", chosen, folder / "home")
    return manifest, shop.rows(partition, "example")


def histories(folder: Path, chosen: Any) -> dict[int, dict[str, Any]]:
    place = Home.of("shop", folder / "home").partition("histories", chosen.snapshot_date(DAY))
    return {row["user_id"]: row for row in shop.rows(place, "history")}


def own(folder: Path, chosen: Any) -> list[dict[str, object]]:
    """What the prompts of this snapshot have really seen, as knowledge rows."""
    return [
        {
            "view": "user.preference",
            "subject_id": row["subject_id"],
            "evidence_users": [row["subject_id"]] * len(row["item_ids"]),
            "evidence_items": [str(item) for item in row["item_ids"]],
            "evidence_newest_at": row["newest_event_at"],
        }
        for row in histories(folder, chosen).values()
    ]


def test_per_user_the_examples_are_what_comes_after_the_history(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path)
    know(tmp_path, chosen, *own(tmp_path, chosen), {"view": "item.facts", "subject_id": "4", "origin": "import"})
    manifest, examples = made(tmp_path, chosen)
    assert len(examples) == 40 * 3
    assert {row["position"] for row in examples} == {3, 4, 5}
    assert [row["example_id"] for row in examples] == list(range(120))
    assert manifest.rejected == {}
    assert manifest.figures["leaks"] == []
    assert manifest.tables["sequence"]["rows"] == 240
    assert all(row["has_user_knowledge"] for row in examples)
    assert {row["item_id"] for row in examples if row["has_item_knowledge"]} == {4}


def test_labels_follow_the_rule(tmp_path: Path, usual: Usual) -> None:
    for rule, liked in (("rating > 3", {4, 5}), ("rating >= 3", {3, 4, 5}), ("rating == 2", {2})):
        chosen = usual(tmp_path / rule[-4:], label=rule)
        know(tmp_path / rule[-4:], chosen)
        manifest, examples = made(tmp_path / rule[-4:], chosen)
        stars = {(u, p): 1 + (u + p) % 5 for u in USERS for p in range(6)}
        assert [row["label"] for row in examples] == [int(stars[row["user_id"], row["position"]] in liked) for row in examples]
        assert manifest.figures["label_mean"] == pytest.approx(sum(row["label"] for row in examples) / len(examples))


def test_by_user_a_user_is_in_one_split_and_stays_there_when_others_come(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path / "one", valid_share=0.25, test_share=0.25)
    know(tmp_path / "one", chosen)
    split = {row["user_id"]: row["split"] for row in made(tmp_path / "one", chosen)[1]}
    fewer = "".join(f"{user},{item},{NOON + item},3,w\n" for user in USERS if user % 2 for item in ITEMS)
    other = world(tmp_path / "two", events=fewer, examples={"valid_share": 0.25, "test_share": 0.25})
    know(tmp_path / "two", other)
    examples = made(tmp_path / "two", other)[1]
    assert {(row["user_id"], row["split"]) for row in examples} == {(user, name) for user, name in split.items() if user % 2}
    counts = [list(split.values()).count(name) for name in ("train", "valid", "test")]
    assert sum(counts) == 40
    assert all(count > 3 for count in counts)


def test_another_seed_draws_other_users(tmp_path: Path, usual: Usual) -> None:
    drawn = []
    for seed in (1, 2):
        chosen = usual(tmp_path / str(seed), seed=seed, test_share=0.3)
        know(tmp_path / str(seed), chosen)
        drawn.append({row["user_id"] for row in made(tmp_path / str(seed), chosen)[1] if row["split"] == "test"})
    assert drawn[0] != drawn[1]


def test_the_users_that_a_file_names_are_tested_and_the_others_train_and_validate(tmp_path: Path, usual: Usual) -> None:
    contents = {"list": [3, "7", 9], "kar": {"train_raw_user_ids": [1, 2], "test_raw_user_ids": [3, 7, 9]}, "test": {"test": [9, 7, 3]}}
    for name, content in contents.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        chosen = usual(tmp_path / name, test_users=str(path), valid_share=0.25, test_share=0.9)
        know(tmp_path / name, chosen)
        split = {row["user_id"]: row["split"] for row in made(tmp_path / name, chosen)[1]}
        assert {user for user, found in split.items() if found == "test"} == {3, 7, 9}
        counts = [list(split.values()).count(found) for found in ("train", "valid")]
        assert sum(counts) == 37
        assert 3 < counts[1] < 16  # a quarter of them


def test_another_file_of_tested_users_makes_the_examples_anew(tmp_path: Path, usual: Usual) -> None:
    path = tmp_path / "users.json"
    path.write_text("[3]")
    chosen = usual(tmp_path, test_users=str(path))
    know(tmp_path, chosen)
    first = made(tmp_path, chosen)[0]
    assert made(tmp_path, chosen)[0] == first
    path.write_text("[4]")
    assert {row["user_id"] for row in made(tmp_path, chosen)[1] if row["split"] == "test"} == {4}


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"train": [1]}', '{"test": 3}'])
def test_a_file_that_names_no_tested_users_is_a_settings_error(tmp_path: Path, usual: Usual, content: str | None) -> None:
    path = tmp_path / "users.json"
    if content is not None:
        path.write_text(content)
    chosen = usual(tmp_path, test_users=str(path))
    know(tmp_path, chosen)
    with pytest.raises(SettingsError, match=r"users\.json"):
        made(tmp_path, chosen)


# ---- cold items


def held_out(folder: Path) -> set[int]:
    place = Home.of("shop", folder / "home").partition("examples", DAY)
    return {row["item_id"] for row in shop.rows(place, "example_item") if row["is_held_out"]}


@pytest.mark.parametrize("split", ["by_user", "by_time"])
def test_held_out_items_are_never_trained_on_and_are_judged_in_valid_and_test(tmp_path: Path, usual: Usual, split: str) -> None:
    for name, share in (("none", 0.0), ("some", 0.4)):
        chosen = usual(tmp_path / name, held_out_items=share, split=split, valid_share=0.25, test_share=0.25)
        know(tmp_path / name, chosen)
    _, before = made(tmp_path / "none", usual_again(chosen, 0.0))
    manifest, examples = made(tmp_path / "some", chosen)
    cold = held_out(tmp_path / "some")
    assert not held_out(tmp_path / "none")
    assert 2 <= len(cold) <= 7  # of twelve
    of_split = {name: {row["item_id"] for row in examples if row["split"] == name} for name in ("train", "valid", "test")}
    assert not of_split["train"] & cold
    assert of_split["valid"] & cold
    assert of_split["test"] & cold
    # nothing else changes: the same splits, and only training examples of those items are left out, and counted
    kept = [row for row in before if row["split"] != "train" or row["item_id"] not in cold]
    assert [row | {"example_id": 0} for row in examples] == [row | {"example_id": 0} for row in kept]
    assert manifest.rejected == {"held_out": len(before) - len(kept)}
    assert manifest.rejected_examples["held_out"][0]["item_id"] in cold


def usual_again(chosen: Any, share: float) -> Any:
    return chosen.model_copy(update={"examples": chosen.examples.model_copy(update={"held_out_items": share})})


def test_an_item_stays_held_out_when_others_come_and_another_seed_holds_out_others(tmp_path: Path, usual: Usual) -> None:
    fewer = "".join(f"{user},{item},{NOON + item},3,w\n" for user in USERS for item in ITEMS if item % 2)
    drawn = []
    for name, chosen in (
        ("all", usual(tmp_path / "all", held_out_items=0.4)),
        ("odd", world(tmp_path / "odd", fewer, examples={"held_out_items": 0.4})),
        ("seed", usual(tmp_path / "seed", held_out_items=0.4, seed=2)),
    ):
        know(tmp_path / name, chosen)
        made(tmp_path / name, chosen)
        drawn.append(held_out(tmp_path / name))
    assert drawn[1] == {item for item in drawn[0] if item % 2}
    assert drawn[2] != drawn[0]


def test_an_items_newest_evidence_is_that_of_all_texts_on_it(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path)
    of_item = [
        {"view": view, "subject_id": "4", "evidence_users": ["1"], "evidence_items": ["4"], "evidence_newest_at": when(NOON - 86_400 * age)}
        for view, age in (("item.facts", 9), ("item.tags", 8))
    ]
    know(tmp_path, chosen, *({"origin": "import"} | row for row in of_item), {"view": "user.preference", "subject_id": "5"})
    made(tmp_path, chosen)
    rows = {row["item_id"]: row for row in shop.rows(Home.of("shop", tmp_path / "home").partition("examples", DAY), "example_item")}
    assert rows[4]["evidence_newest_at"] == when(NOON - 86_400 * 8)
    assert rows[5]["evidence_newest_at"] is None
    assert set(rows) == set(ITEMS)


def test_the_sequence_holds_the_label_of_every_event(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path, label="rating >= 3")
    know(tmp_path, chosen)
    made(tmp_path, chosen)
    rows = shop.rows(Home.of("shop", tmp_path / "home").partition("examples", DAY), "sequence")
    assert [row["label"] for row in rows] == [int(row["rating"] >= 3) for row in rows]
    assert len(rows) == 240


def test_by_time_the_newest_are_tested_and_the_ones_before_validate(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path, split="by_time", valid_share=0.25, test_share=0.25)
    know(tmp_path, chosen)
    examples = made(tmp_path, chosen)[1]
    times = {name: [row["event_at"] for row in examples if row["split"] == name] for name in ("train", "valid", "test")}
    assert [len(times[name]) for name in ("train", "valid", "test")] == [60, 30, 30]
    assert max(times["train"]) < min(times["valid"])
    assert max(times["valid"]) < min(times["test"])


def test_short_histories_are_left_out_and_counted(tmp_path: Path) -> None:
    events = f"1,1,{NOON},3,w\n1,2,{NOON + 1},4,w\n2,1,{NOON},5,w\n2,2,{NOON + 1},1,w\n2,3,{NOON + 2},1,w\n"
    chosen = world(tmp_path, events=events, examples={"min_history": 2})
    know(tmp_path, chosen)
    manifest, examples = made(tmp_path, chosen)
    assert [(row["user_id"], row["position"]) for row in examples] == [(2, 2)]
    assert manifest.rejected == {"short_history": 1}
    assert manifest.rejected_examples["short_history"][0]["user_id"] == 1
    assert any("split is empty" in sentence for sentence in manifest.warnings)


def test_events_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = "".join(f"{user},{item},{NOON + item},{'1' if item % 3 else ''},w\n" for user in USERS for item in ITEMS)
    data = shop.write(tmp_path / "data", events__csv=HEAD + lines, users__csv="user_id,age\n" + "".join(f"{u},20\n" for u in USERS))
    columns = {"user_id": "user_id", "item_id": "item_id", "event_at": "at", "click": "stars"}
    chosen = shop.settings(
        data, {"items": None, "interactions": {"columns": columns}}, histories={"mode": "per_user"}, examples={"label": "click"}
    )
    for stage in ("sources", "histories"):
        shop.make(stage, chosen, tmp_path / "home")
    know(tmp_path, chosen)
    manifest, examples = made(tmp_path, chosen)
    assert manifest.rejected == {"no_label": 40 * 2}
    assert {row["label"] for row in examples} == {1}
    assert manifest.warnings == [f"the {name} split has labels of one class only" for name in ("train", "valid", "test")]


def test_a_label_rule_on_a_column_that_is_not_mapped_is_a_settings_error(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path, label="click")
    know(tmp_path, chosen)
    with pytest.raises(SettingsError, match="no event has a value in click"):
        made(tmp_path, chosen)


# ---- leaks: planted in knowledge rows


def planted(**row: object) -> dict[str, object]:
    """User 7's own prompt; its examples are the events at places 3, 4 and 5: items 1 + (7 + 5 · place) % 12 = 11, 4 and 9."""
    return {
        "view": "user.preference",
        "subject_id": "7",
        "evidence_users": ["7"],
        "evidence_items": ["8"],
        "evidence_newest_at": None,
    } | row


AT = {place: when(NOON - 86_400 * (5 - place) + 7) for place in range(6)}
LEAKS: dict[str, tuple[dict[str, object], dict[str, int]]] = {
    "a labelled pair in a user's evidence": (planted(evidence_users=["7", "7"], evidence_items=["8", "4"]), {"in_evidence": 1}),
    "a labelled pair and its time": (
        planted(evidence_users=["7", "7"], evidence_items=["8", "4"], evidence_newest_at=AT[4]),
        {"in_evidence": 1, "before_evidence": 1},
    ),
    "evidence newer than an example": (planted(evidence_newest_at=AT[4]), {"before_evidence": 1}),
    "evidence newer than all examples": (planted(evidence_newest_at=AT[5] + dt.timedelta(seconds=1)), {"before_evidence": 3}),
    "a labelled pair in an item's evidence": (
        {"view": "item.facts", "subject_id": "4", "evidence_users": ["7"], "evidence_items": ["4"], "evidence_newest_at": AT[0]},
        {"in_evidence": 1},
    ),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_of_our_own_prompts_stops_the_run_and_is_named(tmp_path: Path, usual: Usual, name: str) -> None:
    chosen = usual(tmp_path)
    row, rejected = LEAKS[name]
    know(tmp_path, chosen, row)
    with pytest.raises(
        LeakError, match=rf"the prompts of {sum(rejected.values())} labelled events have seen them.*first user 7 and item \d+ at 2026-01-0"
    ):
        made(tmp_path, chosen)
    assert not Home.of("shop", tmp_path / "home").partition("examples", DAY).exists()
    assert not list((tmp_path / "home").rglob("*.partial"))


@pytest.mark.parametrize("name", LEAKS)
def test_what_imported_texts_have_seen_is_left_out_and_counted(tmp_path: Path, usual: Usual, name: str) -> None:
    chosen = usual(tmp_path)
    row, rejected = LEAKS[name]
    know(tmp_path, chosen, row | {"origin": "import"})
    manifest, examples = made(tmp_path, chosen)
    assert manifest.rejected == rejected
    assert len(examples) == 120 - sum(rejected.values())
    assert sum(leak["leak_count"] for leak in manifest.figures["leaks"]) >= sum(rejected.values())
    assert all(leak["fault_count"] == 0 for leak in manifest.figures["leaks"])


def test_as_many_leaks_as_the_settings_allow_are_left_out(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path, max_leaks=1)
    know(tmp_path, chosen, LEAKS["evidence newer than an example"][0])
    manifest, _ = made(tmp_path, chosen)
    assert manifest.rejected == {"before_evidence": 1}
    assert manifest.figures["leaks"][0]["fault_count"] == 1


def test_an_event_in_the_second_of_the_newest_evidence_but_after_it_in_order_is_no_leak(tmp_path: Path) -> None:
    events = "".join(f"1,{item},{NOON},3,w\n" for item in ITEMS)
    chosen = world(tmp_path, events=events)
    know(tmp_path, chosen, *own(tmp_path, chosen))
    manifest, examples = made(tmp_path, chosen)
    assert len(examples) == 9
    assert manifest.figures["tie_share"] == 1.0


def test_an_event_in_the_second_of_the_newest_evidence_and_before_it_in_order_is_a_leak(tmp_path: Path) -> None:
    events = "".join(f"1,{item},{NOON},3,w\n" for item in ITEMS)
    chosen = world(tmp_path, events=events)
    order = sorted(ITEMS, key=lambda item: (NOON * 2654435761 + item * 40503) % 1000003)
    seen = [order[0], order[5]]
    row = {"view": "user.preference", "subject_id": "1", "evidence_users": ["1"] * 2, "evidence_newest_at": when(NOON)}
    know(tmp_path, chosen, row | {"evidence_items": [str(item) for item in seen]})
    with pytest.raises(LeakError, match="the prompts of 3 labelled events have seen them"):
        made(tmp_path, chosen)


def test_a_repeat_of_a_pair_that_the_prompt_saw_is_left_out_but_is_no_fault(tmp_path: Path) -> None:
    events = f"1,1,{NOON},3,w\n1,2,{NOON + 1},3,w\n1,1,{NOON + 2},5,w\n1,3,{NOON + 3},5,w\n"
    chosen = world(tmp_path, events=events)
    know(tmp_path, chosen, *own(tmp_path, chosen))
    manifest, examples = made(tmp_path, chosen)
    assert manifest.rejected == {"in_evidence": 1}
    assert [row["item_id"] for row in examples] == [3]


def test_per_user_examples_older_than_another_users_review_of_the_item_are_left_out(tmp_path: Path) -> None:
    events = (
        f"1,1,{NOON},3,w\n1,2,{NOON + 10},5,w\n"  # user 1 is asked about item 2 at +10 …
        f"2,2,{NOON + 20},3,a later review\n2,1,{NOON + 30},5,w\n"  # … which user 2's history reviews at +20
    )
    chosen = world(tmp_path, events=events, titles=False)
    know(tmp_path, chosen)
    manifest, examples = made(tmp_path, chosen)
    assert manifest.rejected == {"before_evidence": 1}
    assert [(row["user_id"], row["item_id"]) for row in examples] == [(2, 1)]
    assert manifest.figures["leaks"] == [
        {"view": "item.raw", "is_imported": False, "reason": "before_evidence", "leak_count": 1, "fault_count": 0}
    ]


# ---- time mode: knowledge of the snapshot date


def test_in_time_mode_examples_are_newer_than_the_snapshot(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path, "time")
    know(tmp_path, chosen, *own(tmp_path, chosen))
    manifest, examples = made(tmp_path, chosen)
    assert {row["position"] for row in examples} == {3, 4, 5}
    assert min(row["event_at"] for row in examples) >= dt.datetime(2026, 1, 7, tzinfo=dt.UTC)
    assert manifest.rejected == {}


def test_in_time_mode_a_user_without_history_at_the_snapshot_has_examples_too(tmp_path: Path) -> None:
    events = f"1,1,{NOON - 86_400 * 8},3,w\n1,2,{NOON},5,w\n2,3,{NOON},5,w\n2,4,{NOON + 1},5,w\n"
    chosen = world(tmp_path, events=events, mode="time", examples={"window_days": 4})
    know(tmp_path, chosen, *own(tmp_path, chosen))
    manifest, examples = made(tmp_path, chosen)
    assert [(row["user_id"], row["position"], row["has_user_knowledge"]) for row in examples] == [(1, 1, True), (2, 1, False)]
    assert manifest.rejected == {"short_history": 1}


def test_in_time_mode_an_item_text_that_has_seen_the_future_is_a_leak(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path, "time")
    seen = {
        "view": "item.facts",
        "subject_id": "4",
        "evidence_users": ["1"],
        "evidence_items": ["4"],
        "evidence_newest_at": when(NOON + 99),
    }
    know(tmp_path, chosen, seen)
    with pytest.raises(LeakError, match=r"item 4 at .* item\.facts is before_evidence"):
        made(tmp_path, chosen)


def test_a_snapshot_with_another_cutoff_is_refused(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path, "time")
    know(tmp_path, chosen)
    place = Home.of("shop", tmp_path / "home").partition("histories", chosen.snapshot_date(DAY)).table("history")
    table = pq.read_table(place)
    column = table.schema.get_field_index("cutoff_at")
    later = [value + dt.timedelta(days=1) for value in table.column("cutoff_at").to_pylist()]
    pq.write_table(table.set_column(column, table.schema.field(column), [later]), place)
    with pytest.raises(StageError, match="the snapshot's history is cut at"):
        made(tmp_path, chosen)


def test_without_the_snapshots_knowledge_the_command_that_makes_it_is_named(tmp_path: Path, usual: Usual) -> None:
    chosen = usual(tmp_path, "time")
    with pytest.raises(NotMade, match="kar run knowledge --date 2026-01-06"):
        made(tmp_path, chosen)
