"""The stage retrieval through the runner, and what `kar retrieve` tells of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kar import flow, retrieved
from kar.errors import LeakError, ModelError, NotMade, SettingsError
from kar.run import run_all, run_stage
from kar.settings import RetrievalSettings, Settings
from kar.store import Home, Manifest

DATE = dt.date(2026, 11, 19)
AS_OF = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
LATE = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
EARLY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TRAINED = ["id", "original", "item.facts", "item.tags", "all", "permuted"]
Made = Callable[..., RetrievalSettings]
Scenario = Callable[..., Settings]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, world: Any, small_of: Made, scenario_of: Scenario) -> tuple[Home, Manifest]:
    """Both protocols, two random splits, two seeds."""
    home, settings = Home(tmp_path_factory.mktemp("home"), "world"), scenario_of(small_of(seeds=[1, 2], epochs=2))
    world.seal(home, settings)
    return home, run_stage("retrieval", settings, home, DATE, AS_OF)


def rows_of(home: Home, name: str) -> list[dict[str, Any]]:
    return pq.read_table(home.partition("retrieval", DATE).table(f"retrieval_{name}")).to_pylist()  # type: ignore[no-any-return]


def test_every_protocol_arm_split_and_seed_has_its_rows(run: tuple[Home, Manifest]) -> None:
    found = rows_of(run[0], "metric")
    places = {(row["protocol"], row["arm"], row["split"], row["seed"]) for row in found}
    expected = {("random", arm, split, seed) for arm in TRAINED for split in (0, 1) for seed in (1, 2)}
    expected |= {("temporal", arm, 0, seed) for arm in TRAINED for seed in (1, 2)}
    expected |= {("random", "popularity", 0, 0), ("random", "popularity", 1, 0), ("temporal", "popularity", 0, 0)}
    assert places == expected
    assert all(0 <= row["value"] <= 1 and row["user_count"] > 10 and not row["has_seen"] for row in found)


def test_comparisons_hold_the_difference_of_the_means(run: tuple[Home, Manifest]) -> None:
    metric, comparison = rows_of(run[0], "metric"), rows_of(run[0], "comparison")
    assert {(row["arm_a"], row["arm_b"]) for row in comparison} == {
        ("all", "original"),
        ("all", "permuted"),
        ("all", "id"),
        ("original", "id"),
        ("original", "popularity"),
        ("id", "popularity"),
        ("item.facts", "original"),
        ("item.tags", "original"),
    }

    def mean(arm: str) -> float:
        values = [r["value"] for r in metric if (r["protocol"], r["arm"], r["metric"]) == ("temporal", arm, "ndcg@10")]
        return sum(values) / len(values)

    [row] = [r for r in comparison if (r["protocol"], r["arm_a"], r["arm_b"], r["metric"]) == ("temporal", "all", "original", "ndcg@10")]
    assert row["difference"] == pytest.approx(mean("all") - mean("original"))
    assert (row["split_count"], row["seed_count"]) == (1, 2)


def test_it_is_told_in_tables_with_a_deviation_where_there_are_several_splits(run: tuple[Home, Manifest]) -> None:
    text = retrieved.told(run[0], DATE)
    random, temporal = text.split("temporal: 1 split")
    lines = [line.split("  ")[0] for line in random.splitlines()]
    arms = ["popularity", "id", "original", "item.facts", "item.tags", "all", "permuted"]
    assert [line for line in lines if line in arms] == arms
    assert "random: 2 splits" in random
    assert "±" in random
    assert "±" not in temporal
    assert "all − permuted" in text
    assert "*" not in text


def test_figures_say_what_was_cut_and_trained(run: tuple[Home, Manifest], world: Any) -> None:
    figures = run[1].figures
    assert figures["pairs"] == world.sequence.num_rows
    assert set(figures["candidates"]) == {"random split 0", "random split 1", "temporal split 0"}
    assert figures["covered_items"] == {"item.raw": 30, "item.facts": 29, "item.tags": 29}
    assert len(figures["chosen_epochs"]["random all"]) == 4
    assert figures["seen_texts"] == {}
    assert set(run[1].rejected) <= set(flow.RETRIEVAL.rejects)


def test_a_second_run_does_nothing_and_it_is_no_part_of_run_all(world: Any, small_of: Made, scenario_of: Scenario, tmp_path: Path) -> None:
    assert "retrieval" not in flow.NAMES
    assert "retrieval" in flow.ASIDE_NAMES
    home, settings = Home(tmp_path, "world"), scenario_of(small_of(arms=["popularity"]))
    with pytest.raises(NotMade, match="retrieval reads examples"):
        run_all(settings, home, DATE, lambda: AS_OF, ["retrieval"])
    world.seal(home, settings)
    [made] = run_all(settings, home, DATE, lambda: AS_OF, ["retrieval"])
    assert run_all(settings, home, DATE, lambda: AS_OF, ["retrieval"]) == [made]


def test_popularity_alone_reads_no_view(
    world_of: Callable[..., Any], vectors_with: Any, small_of: Made, scenario_of: Any, tmp_path: Path
) -> None:
    home, settings = Home(tmp_path, "world"), scenario_of(small_of(arms=["popularity", "id"], epochs=1))
    world_of(vectors=vectors_with(["item.raw"])).seal(home, settings)
    run_stage("retrieval", settings, home, DATE, AS_OF)
    assert {row["arm"] for row in rows_of(home, "metric")} == {"popularity", "id"}


def test_a_single_view_and_all_views_are_then_one_training(
    world_of: Callable[..., Any], vectors_with: Any, small_of: Made, scenario_of: Any, tmp_path: Path
) -> None:
    home, settings = Home(tmp_path, "world"), scenario_of(small_of(arms=["views", "all"], epochs=1))
    world_of(vectors=vectors_with(["item.facts"])).seal(home, settings)
    run_stage("retrieval", settings, home, DATE, AS_OF)
    values = {arm: [row["value"] for row in rows_of(home, "metric") if row["arm"] == arm] for arm in ("item.facts", "all")}
    assert values["item.facts"] == values["all"] != []


def test_text_ids_give_the_same_figures_as_numbers(
    world_of: Any, sequence_with: Any, vectors_with: Any, small_of: Made, scenario_of: Scenario, tmp_path: Path
) -> None:
    found = {}
    for ids in ("int", "string"):
        vectors = vectors_with(["item.raw", "item.facts"])
        if ids == "string":
            subjects = pa.array([f"item é {int(subject):04d}" for subject in vectors["subject_id"].to_pylist()])
            vectors = vectors.set_column(1, "subject_id", subjects)
        home, settings = Home(tmp_path / ids, "world"), scenario_of(small_of(arms=["original", "views"], epochs=1), ids)
        world_of(sequence=sequence_with(is_text=ids == "string"), vectors=vectors).seal(home, settings)
        run_stage("retrieval", settings, home, DATE, AS_OF)
        found[ids] = rows_of(home, "metric")
    assert found["int"] == found["string"]


def seen_world(world_of: Any) -> Any:
    """Texts of item.tags tell of neighbours without listing a pair; the newest event is late."""
    return world_of(evidence={("item.tags", str(item)): ([], LATE) for item in range(4, 9)})


def test_a_view_that_has_seen_what_is_asked_stops_the_stage_by_name(
    world_of: Any, small_of: Made, scenario_of: Scenario, tmp_path: Path
) -> None:
    home, settings = Home(tmp_path, "world"), scenario_of(small_of())
    seen_world(world_of).seal(home, settings)
    with pytest.raises(LeakError, match=r"5 texts of item.tags have seen .* of the random split(.|\n)*retrieval.seen = \"leave_out\""):
        run_stage("retrieval", settings, home, DATE, AS_OF)
    assert not home.partition("retrieval", DATE).path.exists()


def test_evidence_from_before_every_event_stops_nothing(world_of: Any, small_of: Made, scenario_of: Scenario, tmp_path: Path) -> None:
    home, settings = Home(tmp_path, "world"), scenario_of(small_of(arms=["views"], epochs=1, protocols=["temporal"]))
    world_of(evidence={("item.tags", "4"): ([], EARLY)}).seal(home, settings)
    assert run_stage("retrieval", settings, home, DATE, AS_OF).figures["seen_texts"] == {}


def test_reviews_in_the_items_own_text_count_as_evidence_too(world_of: Any, small_of: Made, scenario_of: Scenario, tmp_path: Path) -> None:
    home, settings = Home(tmp_path, "world"), scenario_of(small_of(arms=["original"], protocols=["random"]))
    everyone = [(str(user), "4") for user in range(1, 41)]
    world_of(evidence={("item.raw", "4"): (everyone, LATE)}).seal(home, settings)
    with pytest.raises(LeakError, match=r"1 texts of item.raw"):
        run_stage("retrieval", settings, home, DATE, AS_OF)


def test_such_a_view_can_be_left_out_or_marked(world_of: Any, small_of: Made, scenario_of: Scenario, tmp_path: Path) -> None:
    for seen in ("leave_out", "mark"):
        home, settings = Home(tmp_path / seen, "world"), scenario_of(small_of(arms=["views", "all", "original"], epochs=1, seen=seen))
        seen_world(world_of).seal(home, settings)
        made = run_stage("retrieval", settings, home, DATE, AS_OF)
        marked = {row["arm"]: row["has_seen"] for row in rows_of(home, "metric")}
        text = retrieved.told(home, DATE)
        if seen == "leave_out":
            assert marked == {"item.facts": False, "all": False, "original": False}
            assert [w for w in made.warnings if w.startswith("random: left out") and w.endswith("item.tags")] != []
            assert "*" not in text
        else:
            assert marked == {"item.facts": False, "item.tags": True, "all": True, "original": False}
            assert {row["has_seen"] for row in rows_of(home, "comparison") if row["arm_a"] == "all"} == {True}
            assert "all *" in text
            assert "no fair row" in text


def test_where_every_view_has_seen_too_much_the_other_arms_stay(
    world_of: Any, small_of: Made, scenario_of: Scenario, tmp_path: Path
) -> None:
    home, settings = Home(tmp_path, "world"), scenario_of(small_of(epochs=1, seen="leave_out", protocols=["random"]))
    world_of(evidence={(view, "4"): ([], LATE) for view in ("item.tags", "item.facts")}).seal(home, settings)
    run_stage("retrieval", settings, home, DATE, AS_OF)
    assert {row["arm"] for row in rows_of(home, "metric")} == {"popularity", "id", "original"}


def test_the_noise_arm_is_refused_by_name_without_its_vectors_and_runs_with_them(
    world: Any, world_of: Any, vectors_with: Any, small_of: Made, scenario_of: Scenario, tmp_path: Path
) -> None:
    settings = scenario_of(small_of(arms=["noise", "all"], epochs=1))
    home = Home(tmp_path / "without", "world")
    world.seal(home, settings)
    with pytest.raises(ModelError, match=r"the noise arm needs vectors of item.facts@noise and item.tags@noise"):
        run_stage("retrieval", settings, home, DATE, AS_OF)
    home = Home(tmp_path / "with", "world")
    world_of(vectors=vectors_with(["item.facts", "item.facts@noise"])).seal(home, settings)
    run_stage("retrieval", settings, home, DATE, AS_OF)
    assert {(row["arm_a"], row["arm_b"]) for row in rows_of(home, "comparison")} == {("all", "noise")}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": ["best"]}, "retrieval.arms"),
        ({"arms": ["id", "id"]}, "names something twice"),
        ({"views": ["user.preference"]}, "no view of knowledge about items"),
        ({"views": ["item.facts@noise"]}, "the controls are arms"),
        ({"seen": "yes"}, "retrieval.seen"),
    ],
)
def test_what_cannot_be_set_is_a_settings_error(scenario_of: Scenario, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        scenario_of(changes)
