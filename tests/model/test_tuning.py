"""Hyper-parameter trials: the same number for every arm, judged on valid, the study kept, test left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from kar.model import checkpoint, tuning
from kar.model.loaded import Loaded, Tables
from kar.model.parallel import train_all
from kar.model.resume import Work
from kar.model.train import train
from kar.model.tuning import Study, Trial, chosen, space, tune
from kar.settings import AdaptorSettings
from kar.store import Home
from kar.tables import IdTypes, conform
from tests.model.test_stage import DATE, run, settings_of, table_of

CAP = 5
Make = Callable[..., Loaded]


@pytest.fixture
def loaded_with(world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path) -> Make:
    """loaded_with(**settings): the small world's tables as files, and what trains on them."""

    def make(changed: Any = world, **changes: Any) -> Loaded:
        paths = {field.name: tmp_path / f"{field.name}.parquet" for field in fields(Tables)}
        for name, path in paths.items():
            pq.write_table(getattr(changed, name), path)
        base: dict[str, Any] = {"backbones": ["fibinet"], "arms": ["base", "knowledge"], "trials": 3, "epochs": 1, "seeds": [1, 2]}
        return Loaded(Tables(**paths), settings_with(**{**base, **changes}), CAP)

    return make


def test_every_base_backbone_and_arm_has_the_same_number_of_trials(loaded_with: Make) -> None:
    trials = tune(loaded_with(bases=["thin", "same_evidence"], trials=2))
    assert [(t.study.base, t.study.arm, t.number) for t in trials] == [
        (base, arm, number) for base in ("thin", "same_evidence") for arm in ("base", "knowledge") for number in (0, 1)
    ]


def test_the_first_trial_is_the_settings_as_they_are(loaded_with: Make) -> None:
    loaded = loaded_with(trials=1, dropout=0.25, batch_size=32, learning_rate=0.02)
    base, knowledge = tune(loaded)
    assert base.parameters == {"learning_rate": 0.02, "weight_decay": 0.0, "dropout": 0.25, "batch_size": 32}
    assert knowledge.parameters == {**base.parameters, "adaptor_dropout": 0.25, "own_experts": 2}
    trained = {t.arm: t.result.valid_auc for t in train_all(loaded) if t.seed == 1}
    assert (base.valid_auc, knowledge.valid_auc) == (trained["base"], trained["knowledge"])


def test_a_trial_trains_with_the_parameters_that_its_row_tells(loaded_with: Make) -> None:
    loaded = loaded_with()
    for trial in tuning.run(Study("same_evidence", "fibinet", "knowledge"), loaded):
        settings = loaded.settings.model_copy(update=trial.parameters)
        data = loaded.data("same_evidence")
        again = train("fibinet", data, loaded.arms.kinds("knowledge", data, 1), loaded.arms.width, settings, 1, "again")
        assert again.valid_auc == trial.valid_auc


def test_the_best_on_valid_is_chosen_and_the_trainings_take_it(loaded_with: Make) -> None:
    loaded = loaded_with(trials=4)
    trials = tune(loaded)
    loaded.chosen = chosen(trials)
    assert set(loaded.chosen) == {("same_evidence", "fibinet", "base"), ("same_evidence", "fibinet", "knowledge")}
    trained = {t.arm: t.result.valid_auc for t in train_all(loaded) if t.seed == 1}
    for arm in ("base", "knowledge"):
        own = [t for t in trials if t.study.arm == arm]
        (best,) = [t for t in own if t.is_chosen]
        assert best.valid_auc == max(t.valid_auc for t in own) == trained[arm]


def test_no_trial_depends_on_the_test_examples(loaded_with: Make, world: Any) -> None:
    """With all labels of test turned around not a digit of any trial may move."""
    flipped = pc.if_else(pc.equal(world.example["split"], "test"), pc.subtract(1, world.example["label"]), world.example["label"])
    place = world.example.column_names.index("label")
    other = world.having(example=world.example.set_column(place, "label", flipped.cast(world.example["label"].type)))
    first, second = tune(loaded_with(trials=2)), tune(loaded_with(other, trials=2))
    assert [(t.parameters, t.valid_auc) for t in first] == [(t.parameters, t.valid_auc) for t in second]


def test_a_training_without_test_predicts_none_of_it_and_is_else_the_same(loaded_with: Make) -> None:
    data = (loaded := loaded_with()).data("same_evidence")
    without, whole = (train("fibinet", data, [], 1, loaded.settings, 1, "one", with_test=with_test) for with_test in (False, True))
    assert (without.test_logit.shape, whole.test_logit.shape) == ((0,), data.split_rows["test"].shape)
    assert np.array_equal(without.valid_logit, whole.valid_logit)


def test_the_space_holds_the_settings_own_values_and_experts_only_where_there_are_some(
    settings_with: Callable[..., AdaptorSettings],
) -> None:
    settings = settings_with(learning_rate=0.05, weight_decay=0.3, batch_size=100, own_experts=9, dropout=0.7)
    found = space(settings, has_adaptor=True)
    inside = {"learning_rate": 0.05, "weight_decay": 0.3, "batch_size": 100, "own_experts": 9, "dropout": 0.7, "adaptor_dropout": 0.7}
    assert set(found) == set(inside)
    assert all(found[name]._contains(found[name].to_internal_repr(value)) for name, value in inside.items())
    assert "own_experts" not in space(settings_with(form="linear"), has_adaptor=True)
    assert set(space(settings, has_adaptor=False)) == {"learning_rate", "weight_decay", "batch_size", "dropout"}


def test_a_trial_whose_loss_is_not_finite_counts_and_is_never_chosen(loaded_with: Make, world: Any) -> None:
    huge = pa.FixedSizeListArray.from_arrays(pa.array(np.full(world.knowledge_vector.num_rows * 16, 3e38, np.float32)), 16)
    place = world.knowledge_vector.column_names.index("vector")
    broken = world.having(knowledge_vector=world.knowledge_vector.set_column(place, "vector", huge))
    trials = tune(loaded_with(broken, trials=2))
    states = [(t.study.arm, t.row()["state"], t.is_chosen) for t in trials]
    assert [s[:2] for s in states] == [("base", "complete"), ("base", "complete"), ("knowledge", "failed"), ("knowledge", "failed")]
    assert [s[2] for s in states].count(True) == 1
    assert set(chosen(trials)) == {("same_evidence", "fibinet", "base")}


def test_the_rows_are_the_declared_table(loaded_with: Make) -> None:
    trials = tune(loaded_with(trials=1))
    table = conform("study", pa.Table.from_pylist([t.row() for t in trials]), IdTypes())
    assert [json.loads(text) for text in table["parameters"].to_pylist()] == [t.parameters for t in trials]
    assert table["is_chosen"].to_pylist() == [True, True]


def test_of_equal_trials_the_earliest_is_chosen() -> None:
    study = Study("thin", "din", "base")
    trials = [Trial(study, n, auc, 1.0, {}) for n, auc in enumerate([0.6, 0.7, 0.7, float("nan")])]
    assert [t.is_chosen for t in tuning._with_choice(trials)] == [False, True, False, False]


def test_without_trials_nothing_is_tried_and_the_settings_stand(loaded_with: Make) -> None:
    assert tune(loaded_with(trials=0)) == []
    assert chosen([]) == {}


@pytest.mark.slow
def test_studies_side_by_side_find_what_they_find_one_after_the_other(loaded_with: Make) -> None:
    found = [[(t.study, t.parameters, t.valid_auc) for t in tune(loaded_with(processes=n, trials=3))] for n in (1, 2)]
    assert found[0] == found[1]


def test_a_run_that_was_killed_reads_its_finished_trials_back(loaded_with: Make, tmp_path: Path) -> None:
    loaded = loaded_with(trials=2)
    loaded.work = Work(tmp_path / "work")
    first = tune(loaded)
    states = sorted((tmp_path / "work").iterdir())
    assert len(states) == 4
    written = [path.stat().st_mtime_ns for path in states]
    again = tune(loaded)
    assert [(t.parameters, t.valid_auc) for t in again] == [(t.parameters, t.valid_auc) for t in first]
    assert [path.stat().st_mtime_ns for path in states] == written


def test_the_stage_writes_the_study_and_trains_and_publishes_with_what_it_chose(
    world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path
) -> None:
    ours = settings_with(arms=["base", "knowledge"], backbones=["fibinet"], epochs=1, trials=3)
    home = Home(tmp_path, "world")
    manifest = run(world, home, settings_of(ours))
    study = table_of(home, "study").to_pylist()
    assert [(row["arm"], row["trial"]) for row in study] == [(arm, trial) for arm in ("base", "knowledge") for trial in range(3)]
    best = {row["arm"]: row for row in study if row["is_chosen"]}
    assert manifest.figures["chosen_parameters"] == {
        f"same_evidence fibinet {arm}": json.loads(row["parameters"]) for arm, row in best.items()
    }
    trained = {row["arm"]: row["valid_auc"] for row in table_of(home, "epoch").to_pylist() if row["is_chosen"]}
    assert trained == {arm: row["valid_auc"] for arm, row in best.items()}
    origin = checkpoint.load(home.partition("adaptor", DATE).path / "checkpoints" / "fibinet").origin
    assert {name: origin.settings[name] for name in json.loads(best["knowledge"]["parameters"])} == json.loads(
        best["knowledge"]["parameters"]
    )
    assert manifest.figures["test_touched"] == dict.fromkeys(("same_evidence fibinet base", "same_evidence fibinet knowledge"), 1)
