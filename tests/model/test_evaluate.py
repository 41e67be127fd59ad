"""Slices, and the rows of the tables metric, calibration and comparison, from logits that are made up."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kar import metrics
from kar.model import evaluate
from kar.model.batches import TrainingData
from kar.model.evaluate import Training
from kar.model.slices import slices
from kar.model.train import Trained

ABLATIONS = ("item_only", "masked", "without:mood")


@pytest.fixture(scope="module")
def data(world: Any) -> TrainingData:
    from tests.model.conftest import small_settings

    loaded: TrainingData = world.load(small_settings())
    return loaded


def of(arm: str, data: TrainingData, seed: int = 1, skill: float = 1.0, backbone: str = "din") -> Training:
    """A training that knows the labels of valid and test to some degree."""
    draw = np.random.default_rng([seed, len(arm), round(skill * 100)])
    logit = {
        split: (skill * (2 * data.label_E.numpy()[data.split_rows[split]] - 1) + draw.normal(size=len(data.split_rows[split]))).astype(
            np.float32
        )
        for split in ("valid", "test")
    }
    return Training("thin", backbone, arm, seed, Trained(None, 1, [], 0, logit["valid"], logit["test"], 1.0))  # type: ignore[arg-type]


def members_of(data: TrainingData, held_out: tuple[int, ...] = ()) -> dict[str, Any]:
    held_out_I = np.isin(data.item_ids.to_pylist(), held_out)
    return slices(replace(data, is_held_out_I=held_out_I), np.arange(len(data.item_E)) % 2 == 0, 2)


def comparisons(trainings: list[Training], data: TrainingData, members: dict[str, Any]) -> list[dict[str, Any]]:
    steps = []
    rows = evaluate.comparison_rows(trainings, data, members, 100, lambda: steps.append(1))
    assert len(steps) == evaluate.resampling_steps(trainings, members)
    return rows


def test_the_slices_by_training_count_part_the_test_examples(data: TrainingData) -> None:
    members = members_of(data)
    test = data.split_rows["test"]
    parts = [name for name in members if name.startswith("item:")]
    assert parts == ["item:0", "item:1-5", "item:6-20"]
    assert (sum(members[name].astype(int) for name in parts)[test] == 1).all()
    trained = data.item_E[data.split_rows["train"]].tolist()
    for row in test:
        count = trained.count(data.item_E[row])
        expected = "item:0" if count == 0 else "item:1-5" if count <= 5 else "item:6-20"
        assert members[expected][row]


def test_a_slice_that_holds_all_or_none_of_the_test_examples_is_left_out_but_not_a_named_one(data: TrainingData) -> None:
    members = slices(data, np.ones(len(data.item_E), bool), 0)
    assert not [name for name in members if name.startswith("user:")]  # no tested user is trained on: all have 0
    assert "held_out" not in members
    assert list(members)[:5] == ["all", "warm", "cold", "covered", "uncovered"]
    assert not members["cold"].any()


def test_held_out_items_are_a_slice_of_their_own(data: TrainingData) -> None:
    members = members_of(data, (3, 7))
    found = {data.item_ids[int(i)].as_py() for i in data.item_E[members["held_out"]]}
    assert found == {3, 7}


def test_users_are_sliced_by_their_training_examples_too(data: TrainingData) -> None:
    rows = dict(data.split_rows)
    first, rest = data.split_rows["test"][:1], data.split_rows["test"][1:]
    rows["train"] = np.concatenate([rows["train"], rest[data.user_E[rest] == data.user_E[first]]])  # one tested user is trained on
    rows["test"] = np.concatenate([first, rest[data.user_E[rest] != data.user_E[first]]])
    from dataclasses import replace

    counts = np.bincount(data.user_E[rows["train"]], minlength=len(data.user_ids))
    members = members_of(replace(data, split_rows=rows, train_count_U=counts))
    assert [name for name in members if name.startswith("user:")] == ["user:0", "user:6-20"]
    assert np.flatnonzero(members["user:6-20"][rows["test"]]).tolist() == [0]


def test_metrics_of_a_slice_are_those_of_its_rows_in_any_order(data: TrainingData) -> None:
    training, members = of("knowledge", data), members_of(data)
    head_I = evaluate.head_items(data)
    rows = evaluate.metric_rows(training, data, members, head_I)
    found = {(r["split"], r["slice"], r["metric"]): r for r in rows}
    assert len(found) == len(rows)
    test = data.split_rows["test"]
    for name in ("all", "cold", "item:6-20"):
        chosen = members[name][test]
        label, logit = data.label_E.numpy()[test][chosen], training.result.test_logit[chosen]
        assert found["test", name, "auc"]["value"] == pytest.approx(metrics.auc(label, logit), nan_ok=True)
        assert found["test", name, "auc"]["example_count"] == chosen.sum()
        assert found["test", name, "auc"]["user_count"] == len(set(data.user_E[test][chosen]))
        if ":" not in name:
            assert found["test", name, "gauc"]["value"] == pytest.approx(metrics.gauc(data.user_E[test][chosen], label, logit), nan_ok=True)
            assert found["test", name, "ece"]["value"] == pytest.approx(metrics.ece(label, logit))
    assert {r["metric"] for r in rows if r["slice"] == "item:6-20"} == {"auc"}
    assert not [r for r in rows if r["split"] == "valid" and ":" in r["slice"]]
    expected = metrics.head_share(data.user_E[test], training.result.test_logit, head_I[data.item_E[test]])
    assert found["test", "all", "head_share"]["value"] == pytest.approx(expected)


def test_head_items_are_counted_on_training_examples_alone(data: TrainingData) -> None:
    trained = np.bincount(data.item_E[data.split_rows["train"]], minlength=len(data.item_ids))
    assert trained[evaluate.head_items(data)].min() >= trained[~evaluate.head_items(data)].max()


def test_calibration_rows_add_up_to_the_ece_of_the_table_metric(data: TrainingData) -> None:
    training = of("text", data)
    rows = evaluate.calibration_rows(training, data)
    assert [row["decile"] for row in rows] == list(range(10))
    total = sum(row["example_count"] for row in rows)
    assert total == len(data.split_rows["test"])
    found = sum(r["example_count"] / total * abs(r["predicted"] - r["actual"]) for r in rows if r["example_count"])
    assert found == pytest.approx(metrics.ece(data.label_E.numpy()[data.split_rows["test"]], training.result.test_logit))
    positive = [r for r in rows if r["actual"] > 0]
    assert positive
    assert all(r["ratio"] == pytest.approx(r["predicted"] / r["actual"]) for r in positive)


def test_each_ablation_is_compared_with_knowledge_and_with_the_base() -> None:
    assert evaluate.pairs(["base", "knowledge", "masked"]) == [("knowledge", "base"), ("knowledge", "masked"), ("masked", "base")]
    assert evaluate.pairs(["masked", "text"]) == []
    assert len(evaluate.pairs([*evaluate.MAIN, *ABLATIONS])) == 5 + 2 * 3


def test_the_questions_of_the_verdict_stand_alone_and_ablations_and_slices_are_corrected_as_families(data: TrainingData) -> None:
    trainings = [of(arm, data, skill=0.3 + 0.1 * n) for n, arm in enumerate([*evaluate.MAIN, *ABLATIONS])]
    members = members_of(data)
    rows = comparisons(trainings, data, members)
    alone = [r for r in rows if r["family"] == ""]
    assert {(r["slice"], r["family_count"]) for r in alone} == {("all", 1)}
    assert all(r["p_holm"] == pytest.approx(r["p"], nan_ok=True) for r in alone)
    ablations = [r for r in rows if (r["family"], r["slice"], r["metric"], r["arm_a"]) == ("ablations", "all", "auc", "knowledge")]
    assert {r["arm_b"] for r in ablations} == set(ABLATIONS)
    assert [r["family_count"] for r in ablations] == [3] * 3
    assert [r["p_holm"] for r in ablations] == pytest.approx(metrics.holm([r["p"] for r in ablations]).tolist())
    assert {r["slice"] for r in rows if r["family"] == "ablations"} == {"all", "warm", "cold"}
    over_slices = [r for r in rows if (r["family"], r["metric"], r["arm_a"], r["arm_b"]) == ("slices", "auc", "knowledge", "text")]
    assert {r["slice"] for r in over_slices} == set(members) - {"all"}
    assert {r["family_count"] for r in over_slices} == {len(members) - 1}
    finite = [r for r in over_slices if math.isfinite(r["p"])]
    assert any(r["p_holm"] > r["p"] for r in finite)


def test_a_slice_by_training_count_is_compared_by_auc_alone(data: TrainingData) -> None:
    rows = comparisons([of("base", data), of("knowledge", data)], data, members_of(data))
    assert {r["metric"] for r in rows if ":" in r["slice"]} == {"auc"}
    assert {r["metric"] for r in rows if ":" not in r["slice"]} == {"auc", "gauc", "logloss"}


def test_the_power_is_that_of_the_standard_error(data: TrainingData) -> None:
    trainings = [of(arm, data, seed, 0.5) for arm in ("base", "knowledge") for seed in (1, 2)]
    row = next(r for r in comparisons(trainings, data, members_of(data)) if (r["slice"], r["metric"]) == ("all", "auc"))
    assert row["detectable"] == pytest.approx(2.8 * row["se"])
    assert row["low"] < row["difference"] < row["high"]
    assert (row["high"] - row["low"]) / 3.92 == pytest.approx(row["se"], rel=0.4)
    assert (row["seed_count"], row["example_count"]) == (2, len(data.split_rows["test"]))
