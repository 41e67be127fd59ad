"""What a ranker makes of its knowledge: gate weights and the views left out, with known answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kar import metrics
from kar.model import arms, use
from kar.model.batches import Kind, TrainingData
from kar.model.evaluate import Training, best_seeds
from kar.model.knowledge import Vectors, attach
from kar.model.ranker import Ranker, build
from kar.model.train import Trained, predict, train
from kar.settings import AdaptorSettings

Prepared = tuple[Ranker, TrainingData, list[Kind]]


def trained(world: Any, settings: AdaptorSettings) -> Prepared:
    data = world.load(settings)
    of_arms = arms.prepare(world.knowledge_vector, world.example, settings)
    kinds = of_arms.kinds("knowledge", data, 1)
    ranker = train("din", data, kinds, of_arms.width, settings, 1, "test").ranker
    assert ranker is not None
    return ranker, data, kinds


@pytest.fixture(scope="module")
def learned(world: Any) -> Prepared:
    """A ranker that has nothing but knowledge to tell the taste by."""
    settings = AdaptorSettings(
        embedding_dim=8, expert_hidden=8, shared_experts=1, own_experts=2, mlp=[16, 8], batch_size=32, learning_rate=1e-2,
        epochs=12, patience=12, history_events=1, threads=1,
    )  # fmt: skip
    return trained(world, settings)


def test_a_ranker_that_learned_from_knowledge_leans_on_it_and_the_drop_is_what_leaving_out_costs(learned: Prepared) -> None:
    ranker, data, kinds = learned
    rows = {(row["view"], row["left_out"]): row for row in use.view_uses(ranker, data, kinds)}
    assert list(rows) == [("user.preference", "everywhere"), *(("item.facts", place) for place in ("everywhere", "target", "history"))]
    assert rows["item.facts", "everywhere"]["auc_drop"] > 0.05

    valid = data.split_rows["valid"]
    label = data.label_E.numpy()[valid]
    none = Vectors.of(data.item_ids.slice(0, 0).cast("string"), np.zeros((0, 16), np.float32))
    bare = attach(data, "item.facts", "item", none, 16, None, None, in_history=True)
    whole, without = (predict(ranker, data, [kinds[0], other], valid) for other in (kinds[1], bare))
    row = rows["item.facts", "everywhere"]
    assert row["auc_drop"] == pytest.approx(metrics.auc(label, whole) - metrics.auc(label, without), abs=1e-6)
    assert row["logloss_rise"] == pytest.approx(metrics.logloss(label, without) - metrics.logloss(label, whole), abs=1e-6)
    assert row["example_count"] == len(valid)
    assert row["subject_count"] == 19  # of 20 items one has no vector
    assert math.isnan(row["residual_gate"])


def test_target_and_history_are_left_out_apart(learned: Prepared) -> None:
    _, _, kinds = learned
    parts = dict(use._left_out(kinds[1]))
    assert list(parts) == ["everywhere", "target", "history"]
    counts = {name: (int((kind.row_E > 0).sum()), int((kind.row_V > 0).sum())) for name, kind in parts.items() if kind.row_V is not None}
    target, history = int((kinds[1].row_E > 0).sum()), int((kinds[1].row_V > 0).sum())  # type: ignore[operator]
    assert counts == {"everywhere": (0, 0), "target": (0, history), "history": (target, 0)}
    at_target = replace(kinds[1], row_V=None)
    assert list(dict(use._left_out(at_target))) == list(dict(use._left_out(kinds[0]))) == ["everywhere"]


def test_a_view_whose_gate_is_shut_is_not_leaned_on(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    ranker, data, kinds = trained(world, settings_with(residual_gate=True, epochs=4))
    assert ranker.adaptor is not None
    with torch.no_grad():
        ranker.adaptor.residual[ranker.adaptor.key("item.facts")].zero_()
        ranker.adaptor.residual[ranker.adaptor.key("user.preference")].fill_(-2.0)
    rows = {row["view"]: row for row in use.view_uses(ranker, data, kinds) if row["left_out"] == "everywhere"}
    shut, opened = rows["item.facts"], rows["user.preference"]
    assert (shut["auc_drop"], shut["logloss_rise"], shut["mean_norm"], shut["residual_gate"]) == (0.0, 0.0, 0.0, 0.0)
    assert opened["logloss_rise"] != 0.0
    assert opened["residual_gate"] == -2.0
    vectors = kinds[0].vectors_RT[1:]
    expected = 2 * ranker.adaptor("user.preference", vectors).norm(dim=1).mean().item()
    assert opened["mean_norm"] == pytest.approx(expected, rel=1e-5)


def test_gate_weights_are_means_over_the_subjects_that_have_a_vector(world: Any, settings: AdaptorSettings) -> None:
    data = world.load(settings)
    of_arms = arms.prepare(world.knowledge_vector, world.example, settings)
    kinds = of_arms.kinds("knowledge", data, 1)
    adaptor = build("din", data, kinds, of_arms.width, settings, seed=1).adaptor
    assert adaptor is not None
    gate = adaptor.gate[adaptor.key("item.facts")]  # type: ignore[index]
    with torch.no_grad():
        gate.weight.zero_()
        gate.bias.copy_(torch.tensor([0.5, 0.2, 0.3]).log())
    found = {row["expert"]: row["weight"] for row in use.gate_weights(adaptor, kinds[1])}
    assert found == pytest.approx({"shared:0": 0.5, "own:0": 0.2, "own:1": 0.3})
    with torch.no_grad():
        gate.weight[1, 0] = 4.0  # the first number tells odd items from even ones
    expected = adaptor.gate_weights("item.facts", kinds[1].vectors_RT[1:]).mean(dim=0)  # type: ignore[union-attr]
    rows = use.gate_weights(adaptor, kinds[1])
    assert [row["weight"] for row in rows] == pytest.approx(expected.tolist())
    assert rows[1]["weight"] > 0.3
    assert {row["subject_count"] for row in rows} == {19}
    assert sum(row["weight"] for row in rows) == pytest.approx(1.0)


def test_a_view_without_vectors_has_no_gate_weights_and_no_length(world: Any, settings: AdaptorSettings) -> None:
    ranker, data, kinds = trained(world.having(knowledge_vector=world.knowledge_vector.slice(0, 0)), AdaptorSettings(
        **{**settings.model_dump(), "arms": ["knowledge"], "epochs": 1}
    ))  # fmt: skip
    assert ranker.adaptor is not None
    assert use.gate_weights(ranker.adaptor, kinds[1]) == []
    row = use.view_uses(ranker, data, kinds)[0]
    assert math.isnan(row["mean_norm"])
    assert (row["auc_drop"], row["subject_count"]) == (0.0, 0)


@pytest.mark.parametrize("form", ["mlp", "linear", "random"])
def test_a_form_without_gate_has_no_gate_weights(world: Any, settings_with: Callable[..., AdaptorSettings], form: str) -> None:
    ranker, data, kinds = trained(world, settings_with(form=form, epochs=1))
    assert ranker.adaptor is not None
    assert use.gate_weights(ranker.adaptor, kinds[0]) == []
    assert len(use.view_uses(ranker, data, kinds)) == 4


def test_the_best_seed_on_valid_of_each_base_and_backbone_is_looked_at() -> None:
    def training(base: Any, arm: Any, seed: int, auc: float) -> Training:
        class Result(Trained):
            @property
            def valid_auc(self) -> float:
                return auc

        nothing = np.empty(0, np.float32)
        return Training(base, "din", arm, seed, Result(None, 0, [], 0, nothing, nothing, 0.0))

    all_of_them = [
        training("thin", "knowledge", 1, 0.7),
        training("thin", "knowledge", 2, 0.8),
        training("thin", "knowledge", 3, 0.8),
        training("thin", "permuted", 4, 0.9),
        training("rich", "knowledge", 1, 0.6),
        training("rich", "base", 2, 0.9),
    ]
    assert [(t.base, t.seed) for t in best_seeds(all_of_them)] == [("thin", 2), ("rich", 1)]
