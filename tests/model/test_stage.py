"""The adaptor stage through the runner: its tables, its checkpoints, its errors."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from kar.errors import LeakError, ModelError, SettingsError
from kar.model import checkpoint
from kar.run import run_stage
from kar.settings import AdaptorSettings, Settings, parse
from kar.store import Home, Manifest
from kar.verdict import verdict

DATE = dt.date(2026, 11, 19)
AS_OF = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)


def settings_of(adaptor: AdaptorSettings, ids: str = "int") -> Settings:
    scenario = {"name": "world", "domain": "movies", "user_id": ids, "item_id": ids}
    interactions = {"path": "none.csv", "format": "csv", "columns": {}}
    data = {"scenario": scenario, "sources": {"interactions": interactions}, "histories": {"mode": "per_user"}}
    return parse({**data, "adaptor": adaptor.model_dump(mode="json")})


def run(world: Any, home: Home, settings: Settings, history: pa.Table | None = None) -> Manifest:
    """Seal the stages before it as the runner would, then run the stage."""
    world.seal(home, settings, DATE, history)
    return run_stage("adaptor", settings, home, DATE, AS_OF)


def table_of(home: Home, name: str) -> pa.Table:
    return pq.read_table(home.partition("adaptor", DATE).table(name))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, world: Any) -> tuple[Home, Manifest, Settings]:
    """Both backbones, four arms, two seeds, one epoch."""
    adaptor = AdaptorSettings(
        seeds=[1, 2],
        item_fields=["genre"],
        history_events=5,
        embedding_dim=8,
        expert_hidden=8,
        mlp=[8],
        batch_size=64,
        epochs=2,
        cold_count=2,
        resamples=100,
        threads=1,
    )
    home, settings = Home(tmp_path_factory.mktemp("home"), "world"), settings_of(adaptor)
    return home, run(world, home, settings), settings


def test_every_backbone_arm_seed_slice_and_metric_has_a_row(made: tuple[Home, Manifest, Settings]) -> None:
    home, manifest, _ = made
    metric = table_of(home, "metric")
    # 2 backbones × 4 arms × 2 seeds; 5 named slices of valid and test by 4 metrics; items trained on 0, 1-5 and 6-20 times on test by AUC
    by_count = {name for name in metric["slice"].unique().to_pylist() if ":" in name}
    assert by_count == {"item:0", "item:1-5", "item:6-20"}
    assert metric.num_rows == 2 * 4 * 2 * (2 * (5 * 4 + 1) + 3)
    comparison = table_of(home, "comparison")
    assert comparison.num_rows == 2 * 5 * (5 * 3 + 3)
    assert table_of(home, "calibration").num_rows == 2 * 4 * 2 * 10
    pairs = {(row["arm_a"], row["arm_b"]) for row in comparison.to_pylist()}
    assert pairs == {("knowledge", "base"), ("knowledge", "text"), ("knowledge", "permuted"), ("text", "base"), ("permuted", "base")}
    assert manifest.rejected == {}


def test_predictions_metrics_and_comparisons_agree(made: tuple[Home, Manifest, Settings], world: Any) -> None:
    home, _, _ = made
    test = world.example.filter(pc.equal(world.example["split"], "test"))
    prediction, metric = table_of(home, "prediction"), table_of(home, "metric")
    assert prediction.num_rows == 2 * 4 * test.num_rows
    of = {}
    for arm in ("knowledge", "base"):
        rows = prediction.filter(pc.and_(pc.equal(prediction["arm"], arm), pc.equal(prediction["backbone"], "din")))
        assert rows["example_id"].to_pylist() == test["example_id"].to_pylist()
        assert np.isfinite(rows["logit"].to_numpy()).all()
        of[arm] = [
            row["value"]
            for row in metric.to_pylist()
            if (row["backbone"], row["arm"], row["split"], row["slice"], row["metric"]) == ("din", arm, "test", "all", "auc")
        ]
    row = next(
        row
        for row in table_of(home, "comparison").to_pylist()
        if (row["backbone"], row["arm_a"], row["arm_b"], row["slice"], row["metric"]) == ("din", "knowledge", "base", "all", "auc")
    )
    assert row["difference"] == pytest.approx(np.mean(of["knowledge"]) - np.mean(of["base"]))
    assert row["low"] <= row["difference"] <= row["high"]
    assert (row["seed_count"], row["user_count"], row["resamples"]) == (2, 6, 100)


def test_slices_hold_the_examples_that_their_names_say(made: tuple[Home, Manifest, Settings], world: Any) -> None:
    rows = [row for row in table_of(made[0], "metric").to_pylist() if row["split"] == "test" and row["metric"] == "logloss"]
    counts = {row["slice"]: row["example_count"] for row in rows}
    test = world.example.filter(pc.equal(world.example["split"], "test")).to_pylist()
    train = [row["item_id"] for row in world.example.to_pylist() if row["split"] == "train"]
    cold = sum(train.count(row["item_id"]) < 2 for row in test)
    assert cold > 0
    assert counts["all"] == counts["warm"] + counts["cold"] == counts["covered"] + counts["uncovered"] == len(test)
    assert counts["cold"] == cold
    assert counts["uncovered"] == sum(row["item_id"] == 3 for row in test)


def test_one_epoch_of_each_training_is_chosen_and_it_has_the_best_valid_auc(made: tuple[Home, Manifest, Settings]) -> None:
    trainings: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in table_of(made[0], "epoch").to_pylist():
        trainings.setdefault((row["backbone"], row["arm"], row["seed"]), []).append(row)
    assert len(trainings) == 16
    for rows in trainings.values():
        chosen = [row for row in rows if row["is_chosen"]]
        assert len(chosen) == 1
        assert chosen[0]["valid_auc"] == max(row["valid_auc"] for row in rows)


def test_the_gates_and_the_use_of_each_view_are_told_of_the_seed_that_is_published(made: tuple[Home, Manifest, Settings]) -> None:
    home, _, _ = made
    gates = table_of(home, "gate_weight").to_pylist()
    names = {f"shared:{number}" for number in range(2)} | {f"own:{number}" for number in range(5)}
    views = {"user.preference": 17, "item.facts": 19}
    for backbone in ("fibinet", "din"):
        seed = checkpoint.load(home.partition("adaptor", DATE).path / "checkpoints" / backbone).origin.seed
        for view, subjects in views.items():
            of_view = [row for row in gates if (row["base"], row["backbone"], row["view"]) == ("same_evidence", backbone, view)]
            assert {row["expert"] for row in of_view} == names
            assert sum(row["weight"] for row in of_view) == pytest.approx(1.0)
            assert {row["subject_count"] for row in of_view} == {subjects}
        uses = [row for row in table_of(home, "view_use").to_pylist() if row["backbone"] == backbone]
        found = {(row["view"], row["left_out"]) for row in uses}
        assert found == {("user.preference", "everywhere"), *(("item.facts", place) for place in ("everywhere", "target", "history"))}
        assert {row["seed"] for row in uses} == {seed}
        assert all(np.isfinite([row["auc_drop"], row["logloss_rise"], row["mean_norm"]]).all() for row in uses)
        assert any(row["logloss_rise"] != 0.0 for row in uses)
    assert len(gates) == 2 * 2 * 7


def test_the_knowledge_arms_best_seed_is_checkpointed_per_backbone(made: tuple[Home, Manifest, Settings]) -> None:
    home, manifest, settings = made
    best = {}
    for row in table_of(home, "epoch").to_pylist():
        if row["arm"] == "knowledge" and row["is_chosen"]:
            best[row["backbone"]] = max(best.get(row["backbone"], (0.0, 0)), (row["valid_auc"], row["seed"]))
    for backbone in ("fibinet", "din"):
        loaded = checkpoint.load(home.partition("adaptor", DATE).path / "checkpoints" / backbone)
        assert (loaded.origin.valid_auc, loaded.origin.seed) == best[backbone]
        assert loaded.origin.arm == "knowledge"
        assert loaded.encoder_id == "hash-16:test"
        assert loaded.views == {"user": ["user.preference"], "item": ["item.facts"]}
        assert loaded.origin.settings == settings.adaptor.recipe()
        assert manifest.figures["checkpoint_shas"][backbone] == loaded.sha
        assert loaded.adapt("item.facts", np.ones((3, 16), np.float32)).shape == (3, 8)


def test_the_manifest_says_what_was_trained_and_how_often_test_was_touched(made: tuple[Home, Manifest, Settings]) -> None:
    home, manifest, _ = made
    figures = manifest.figures
    names = {f"same_evidence {backbone} {arm}" for backbone in ("fibinet", "din") for arm in ("base", "text", "knowledge", "permuted")}
    assert set(figures["parameters"]) == names
    parameters = {name.removeprefix("same_evidence "): count for name, count in figures["parameters"].items()}
    assert parameters["din base"] < parameters["din text"] == parameters["din permuted"]
    assert figures["test_touched"] == dict.fromkeys(names, 2)
    assert figures["tie_share"] == 0.25  # as the examples stage counted it
    assert all(rate > 0 for rates in figures["rows_per_s"].values() for rate in rates)
    auc = {r["arm"]: [] for r in table_of(home, "metric").to_pylist()}
    for r in table_of(home, "metric").to_pylist():
        if (r["backbone"], r["split"], r["slice"], r["metric"]) == ("din", "test", "all", "auc"):
            auc[r["arm"]].append(r["value"])
    over = (np.mean(auc["text"]) - 0.5) / (np.mean(auc["base"]) - 0.5) - 1
    assert figures["relative_improvement"]["same_evidence din text"] == pytest.approx(over, abs=1e-5)
    assert figures["verdict"] == verdict(table_of(home, "comparison").to_pylist(), "fibinet", "same_evidence").sentence


def test_the_same_inputs_and_settings_give_the_same_tables(made: tuple[Home, Manifest, Settings], world: Any, tmp_path: Path) -> None:
    _, manifest, settings = made
    again = run(world, Home(tmp_path, "world"), settings)
    for name in ("metric", "comparison", "prediction", "gate_weight", "view_use"):
        assert again.tables[name]["sha"] == manifest.tables[name]["sha"], name
    assert again.figures["checkpoint_shas"] == manifest.figures["checkpoint_shas"]


def test_text_ids_give_the_same_figures_as_numbers(
    world: Any, text_world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path
) -> None:
    adaptor = settings_with(arms=["base"], backbones=["fibinet"], epochs=1)
    numbers, texts = Home(tmp_path / "numbers", "world"), Home(tmp_path / "texts", "world")
    run(world, numbers, settings_of(adaptor))
    run(text_world, texts, settings_of(adaptor, "string"))
    assert table_of(numbers, "prediction").equals(table_of(texts, "prediction"))


def test_without_any_vectors_the_knowledge_arm_runs_and_says_so(
    world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path
) -> None:
    home = Home(tmp_path, "world")
    none = world.having(knowledge_vector=world.knowledge_vector.slice(0, 0))
    manifest = run(none, home, settings_of(settings_with(arms=["base", "knowledge"], backbones=["fibinet"], epochs=1)))
    assert manifest.warnings == ["no knowledge vectors of user.preference, item.facts: every example gets the learned default there"]
    assert manifest.figures["test_covered_share"] == 0.0
    covered = [row for row in table_of(home, "comparison").to_pylist() if row["slice"] == "covered"]
    assert covered
    assert all(math.isnan(row["difference"]) for row in covered)


def test_the_base_arm_alone_has_nothing_to_compare_and_nothing_to_publish(
    world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path
) -> None:
    home = Home(tmp_path, "world")
    manifest = run(world, home, settings_of(settings_with(arms=["base"], backbones=["fibinet"], epochs=1)))
    assert table_of(home, "comparison").num_rows == 0
    assert manifest.figures["checkpoint_shas"] == {}
    assert manifest.warnings == ["the knowledge arm was not trained, so there is no checkpoint to publish"]
    assert manifest.figures["verdict"].startswith("Whether knowledge helps over the same evidence was not measured")


@pytest.mark.parametrize(("name", "value"), [("seeds", [1, 1]), ("arms", ["base", "base"]), ("item_views", ["item.facts", "item.facts"])])
def test_naming_something_twice_is_a_settings_error(settings_with: Callable[..., AdaptorSettings], name: str, value: list[object]) -> None:
    data = settings_of(settings_with()).model_dump(mode="json")
    data["adaptor"][name] = value
    with pytest.raises(SettingsError, match=rf"adaptor\.{name}.*names something twice"):
        parse(data)


def test_a_stage_that_fails_leaves_no_partition(world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path) -> None:
    home = Home(tmp_path, "world")
    without_raw = world.having(knowledge_vector=world.knowledge_vector.filter(pc.not_equal(world.knowledge_vector["view"], "user.raw")))
    with pytest.raises(ModelError, match=r"text arm needs vectors of user\.raw"):
        run(without_raw, home, settings_of(settings_with()))
    assert not home.partition("adaptor", DATE).path.exists()
    assert not list((home.path / "adaptor").glob("*.partial"))


@pytest.mark.slow
def test_trainings_side_by_side_give_the_very_same_tables_as_one_after_the_other(
    world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path
) -> None:
    found = {}
    for processes in (1, 2):
        home = Home(tmp_path / str(processes), "world")
        settings = settings_with(epochs=1, backbones=["fibinet", "din"], arms=["base", "knowledge"], processes=processes)
        manifest = run(world, home, settings_of(settings))
        found[processes] = (manifest.tables, manifest.figures["checkpoint_shas"])
    assert found[1] == found[2]


def test_a_training_is_a_process_of_its_own_only_where_that_pays(settings_with: Callable[..., AdaptorSettings]) -> None:
    from kar.model.parallel import WORTH_A_PROCESS, process_count

    assert process_count(4, 10, settings_with()) == 1
    assert process_count(4, WORTH_A_PROCESS, settings_with(device="cuda")) == 1
    assert process_count(1, WORTH_A_PROCESS, settings_with()) == 1
    assert process_count(8, 10, settings_with(processes=3)) == 3


def test_examples_that_a_prompt_has_seen_stop_the_stage(world: Any, settings: AdaptorSettings, tmp_path: Path) -> None:
    positions = world.example["position"].to_numpy() + np.where(world.example["user_id"].to_numpy() == 4, -1, 0)
    is_there = positions >= 1
    example = world.example.set_column(world.example.column_names.index("position"), "position", pa.array(positions)).filter(is_there)
    seen = world.having(example=example)
    home = Home(tmp_path, "world")
    with pytest.raises(LeakError, match="lie inside the history that their user's prompt was shown; the first: user 4"):
        run(seen, home, settings_of(settings), history=world.history())
    assert not home.partition("adaptor", DATE).exists()
