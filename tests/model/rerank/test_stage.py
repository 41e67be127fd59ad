"""The stage rerank through the runner, and what `kar rerank` tells of it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kar import flow, rank_metrics, reranked
from kar.errors import LeakError, ModelError, NotMade, SettingsError
from kar.run import run_all, run_stage
from kar.settings import Settings, parse
from kar.store import Home, Manifest

DATE = dt.date(2026, 11, 19)
AS_OF = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)


def settings_of(adaptor: Any, rerank: Any, ids: str = "int") -> Settings:
    return parse(
        {
            "scenario": {"name": "world", "domain": "movies", "user_id": ids, "item_id": ids},
            "sources": {"interactions": {"path": "none.csv", "format": "csv", "columns": {}}},
            "histories": {"mode": "per_user"},
            "adaptor": adaptor.model_dump(mode="json"),
            "rerank": rerank if isinstance(rerank, dict) else rerank.model_dump(mode="json"),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, timed: Any, made: Any) -> tuple[Home, Manifest]:
    """Four models, four arms, two seeds of one of them."""
    settings = settings_of(made.adaptor, made.settings.model_copy(update={"seeds": [1, 2], "epochs": 1, "first_stage": "ranker"}))
    home = Home(tmp_path_factory.mktemp("home"), "world")
    timed.seal(home, settings, DATE)
    return home, run_stage("rerank", settings, home, DATE, AS_OF)


def rows_of(home: Home, name: str) -> list[dict[str, Any]]:
    return pq.read_table(home.partition("rerank", DATE).table(name)).to_pylist()  # type: ignore[no-any-return]


def test_every_model_arm_seed_split_metric_and_cut_has_a_row_and_the_initial_lists_too(run: tuple[Home, Manifest]) -> None:
    found = rows_of(run[0], "rerank_metric")
    assert len(found) == (4 * 4 * 2 + 1) * 2 * 3 * 4
    assert all(0 <= row["value"] <= 1 for row in found)
    assert {(row["model"], row["arm"]) for row in found if row["seed"] == 0} == {("initial", "first_stage")}
    comparison = rows_of(run[0], "rerank_comparison")
    assert len(comparison) == 4 * 6 * 3 * 4
    assert all(row["low"] <= row["difference"] <= row["high"] for row in comparison if row["low"] < row["high"])
    assert {row["seed_count"] for row in comparison} == {2}


def test_the_initial_lists_figures_are_those_of_the_written_lists(run: tuple[Home, Manifest]) -> None:
    home, manifest = run
    lists = [row for row in rows_of(home, "rerank_list") if row["split"] == "test"]
    assert len(lists) == manifest.figures["list_counts"]["test"] > 10
    for row in lists:
        assert len(row["item_ids"]) == len(row["labels"]) == len(row["scores"]) == len(row["positions"])
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert row["position"] == min(p for p in row["positions"] if p >= 0)
    by_hand = np.mean([rank_metrics.ndcg(np.array([row["labels"]]), 5)[0] for row in lists])
    told = next(
        r["value"]
        for r in rows_of(home, "rerank_metric")
        if (r["model"], r["split"], r["metric"], r["k"]) == ("initial", "test", "ndcg", 5)
    )
    assert told == pytest.approx(by_hand)


def test_groups_left_out_are_counted(run: tuple[Home, Manifest], made: Any) -> None:
    assert run[1].rejected == made.left_out
    assert set(run[1].rejected) == set(flow.RERANK.rejects)


def test_test_lists_are_scored_once_by_each_training(run: tuple[Home, Manifest]) -> None:
    assert run[1].figures["test_touched"] == {
        f"{m} {a}": 2 for m in ("dlcm", "prm", "setrank", "mir") for a in ("base", "text", "knowledge", "permuted")
    }
    assert run[1].figures["chosen_on"] == "valid NDCG@5"


def test_it_is_told_in_tables_and_a_sentence_for_each_model(run: tuple[Home, Manifest]) -> None:
    text = reranked.told(run[0], DATE)
    assert "first stage: ranker" in text
    for name in (
        "initial",
        "dlcm",
        "prm",
        "setrank",
        "mir",
        "MAP@1",
        "NDCG@7",
        "KAR's MAP@7",
        "knowledge − permuted",
        "base − first_stage",
    ):
        assert name in text
    assert sum(line.startswith(("dlcm: ", "prm: ", "setrank: ", "mir: ")) for line in text.splitlines()) == 4


def test_a_sentence_says_beats_only_where_the_interval_lies_above_0() -> None:
    def row(arm: str, difference: float, low: float, high: float) -> dict[str, Any]:
        return {
            "model": "prm",
            "arm_a": "knowledge",
            "arm_b": arm,
            "metric": "ndcg",
            "k": 5,
            "difference": difference,
            "low": low,
            "high": high,
        }

    found = reranked.sentences([row("text", 0.02, 0.01, 0.03), row("permuted", 0.01, -0.01, 0.03), row("base", -0.02, -0.03, -0.01)])
    assert found == [
        "prm: knowledge beats raw text by +0.0200 NDCG@5 (95 % +0.0100 … +0.0300); "
        "cannot be told from shuffled knowledge: +0.0100 NDCG@5 (95 % −0.0100 … +0.0300); loses to the base: −0.0200 NDCG@5 (95 % −0.0300 … −0.0100)."
    ]


def test_it_is_no_part_of_run_all_and_runs_by_its_name(timed: Any, made: Any, tmp_path: Path) -> None:
    assert "rerank" not in flow.NAMES
    assert "rerank" in flow.ASIDE_NAMES
    settings = settings_of(made.adaptor, made.settings.model_copy(update={"models": ["prm"], "arms": ["base", "knowledge"], "epochs": 1}))
    home = Home(tmp_path, "world")
    with pytest.raises(NotMade, match="rerank reads examples"):
        run_all(settings, home, DATE, lambda: AS_OF, ["rerank"])
    timed.seal(home, settings, DATE)
    [manifest] = run_all(settings, home, DATE, lambda: AS_OF, ["rerank"])
    assert manifest.stage == "rerank"
    [again] = run_all(settings, home, DATE, lambda: AS_OF, ["rerank"])
    assert again == manifest, "the same recipe does nothing"


def test_text_ids_give_the_same_figures_as_numbers(text_world: Any, timed: Any, made: Any, tmp_path: Path) -> None:
    changes = {"models": ["dlcm"], "arms": ["base"], "epochs": 1}
    at = timed.example["event_at"]
    texts = text_world.having(example=text_world.example.set_column(text_world.example.column_names.index("event_at"), "event_at", at))
    found = {}
    for ids, world in (("int", timed), ("string", texts)):
        settings = settings_of(made.adaptor, made.settings.model_copy(update=changes), ids)
        home = Home(tmp_path / ids, "world")
        world.seal(home, settings, DATE)
        run_stage("rerank", settings, home, DATE, AS_OF)
        found[ids] = rows_of(home, "rerank_metric")
    assert found["int"] == found["string"]


def test_lists_of_examples_that_a_prompt_has_seen_stop_the_stage(timed: Any, made: Any, tmp_path: Path) -> None:
    settings = settings_of(made.adaptor, made.settings.model_copy(update={"models": ["prm"], "arms": ["base"]}))
    home = Home(tmp_path, "world")
    timed.seal(home, settings, DATE, timed.history(more=1))
    with pytest.raises(LeakError, match="lie inside the history that their user's prompt was shown"):
        run_stage("rerank", settings, home, DATE, AS_OF)
    assert not home.partition("rerank", DATE).path.exists()


def test_a_loss_that_is_no_longer_finite_is_a_named_error(timed: Any, made: Any, tmp_path: Path) -> None:
    settings = settings_of(made.adaptor, made.settings.model_copy(update={"models": ["prm"], "arms": ["base"], "learning_rate": 1e30}))
    home = Home(tmp_path, "world")
    timed.seal(home, settings, DATE)
    with pytest.raises(ModelError, match=r"rerank: prm, base, seed 1: the loss of epoch 0"):
        run_stage("rerank", settings, home, DATE, AS_OF)
    assert not home.partition("rerank", DATE).path.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden": 30, "heads": 4}, "no multiple of heads"),
        ({"real_items": 11}, "do not fit a list of 10"),
        ({"models": ["prm", "prm"]}, "names something twice"),
        ({"arms": ["best"]}, "there is no arm 'best'"),
        ({"models": ["bert4rec"]}, "rerank.models"),
    ],
)
def test_what_cannot_be_set_is_a_settings_error(made: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        settings_of(made.adaptor, changes)


@pytest.mark.slow
def test_trainings_side_by_side_give_the_very_same_tables(timed: Any, made: Any, tmp_path: Path) -> None:
    found = {}
    for processes in (1, 2):
        changes = {"models": ["mir", "dlcm"], "arms": ["base", "knowledge"], "epochs": 1, "processes": processes}
        settings = settings_of(made.adaptor, made.settings.model_copy(update=changes))
        home = Home(tmp_path / str(processes), "world")
        timed.seal(home, settings, DATE)
        found[processes] = run_stage("rerank", settings, home, DATE, AS_OF).tables
    assert found[1] == found[2]
