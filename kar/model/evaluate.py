"""Judge trainings: metrics per slice, paired comparisons of arms, the tables' rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kar import metrics
from kar.metrics import Bootstrap
from kar.model.batches import Bool, TrainingData
from kar.model.knowledge import Float32
from kar.model.train import Trained
from kar.settings.schema import Arm, Backbone, Base

PAIRS: tuple[tuple[Arm, Arm], ...] = (
    ("knowledge", "base"),
    ("knowledge", "text"),
    ("knowledge", "permuted"),
    ("text", "base"),
    ("permuted", "base"),
)
SLICES = ("all", "warm", "cold", "covered", "uncovered")
Row = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """One base, backbone, arm and seed, trained."""

    base: Base
    backbone: Backbone
    arm: Arm
    seed: int
    result: Trained


def slices(data: TrainingData, covered_E: Bool, cold_count: int) -> dict[str, Bool]:
    """Slice → which examples belong to it.

    cold: the target item has fewer than `cold_count` training examples; warm: the others.
    covered: every side with views has knowledge of the subject that may serve the example; uncovered: the others.
    """
    is_cold = data.train_count_E < cold_count
    return {"all": np.ones(len(is_cold), bool), "warm": ~is_cold, "cold": is_cold, "covered": covered_E, "uncovered": ~covered_E}


def metric_rows(training: Training, data: TrainingData, members: dict[str, Bool]) -> list[Row]:
    """Rows of the table metric: one per split, slice and metric."""
    rows: list[Row] = []
    for split, logit in (("valid", training.result.valid_logit), ("test", training.result.test_logit)):
        examples = data.split_rows[split]
        user, label = data.user_E[examples], data.label_E.cpu().numpy()[examples]
        for name in SLICES:
            chosen = members[name][examples]
            found = metrics.values(user[chosen], label[chosen], logit[chosen])
            rows += [
                {
                    "base": training.base,
                    "backbone": training.backbone,
                    "arm": training.arm,
                    "seed": training.seed,
                    "split": split,
                    "slice": name,
                    "metric": metric,
                    "value": found[metric],
                    "example_count": int(chosen.sum()),
                    "user_count": len(np.unique(user[chosen])),
                }
                for metric in metrics.METRICS
            ]
    return rows


def comparison_rows(
    trainings: list[Training], data: TrainingData, members: dict[str, Bool], resamples: int, advance: Callable[[], None]
) -> list[Row]:
    """Rows of the table comparison, on the test examples: one per base, backbone, pair of arms, slice and metric.

    Args:
        advance: called after each arm's resampling, for the progress.
    """
    examples = data.split_rows["test"]
    user, label = data.user_E[examples], data.label_E.cpu().numpy()[examples]
    rows: list[Row] = []
    for name in SLICES:
        chosen = members[name][examples]
        bootstrap = Bootstrap(user[chosen], label[chosen], resamples)
        for base, backbone in sorted({(training.base, training.backbone) for training in trainings}):
            by_arm = _logits(trainings, base, backbone)
            drawn = {}
            for arm, logits in by_arm.items():
                for metric in metrics.METRICS:
                    drawn[arm, metric] = bootstrap.arm(metric, [logit[chosen] for logit in logits])
                advance()
            for arm_a, arm_b in PAIRS:
                if arm_a not in by_arm or arm_b not in by_arm:
                    continue
                for metric in metrics.METRICS:
                    interval = bootstrap.difference(drawn[arm_a, metric], drawn[arm_b, metric])
                    rows.append(
                        {
                            "base": base,
                            "backbone": backbone,
                            "arm_a": arm_a,
                            "arm_b": arm_b,
                            "slice": name,
                            "metric": metric,
                            "difference": interval.difference,
                            "low": interval.low,
                            "high": interval.high,
                            "seed_count": len(by_arm[arm_a]),
                            "user_count": bootstrap.users,
                            "resamples": resamples,
                        }
                    )
    return rows


def prediction_columns(trainings: list[Training], data: TrainingData) -> dict[str, Any]:
    """Columns of the table prediction: logits on the test examples, seeds averaged."""
    example_id = data.example_id_E[data.split_rows["test"]]
    parts = [(t.base, t.backbone, t.arm) for t in trainings]
    columns: dict[str, Any] = {"base": [], "backbone": [], "arm": [], "example_id": [], "logit": []}
    for base, backbone, arm in dict.fromkeys(parts):
        columns["base"].append(np.full(len(example_id), base))
        columns["backbone"].append(np.full(len(example_id), backbone))
        columns["arm"].append(np.full(len(example_id), arm))
        columns["example_id"].append(example_id)
        columns["logit"].append(np.mean(_logits(trainings, base, backbone)[arm], axis=0, dtype=np.float64).astype(np.float32))
    return {name: np.concatenate(values) for name, values in columns.items()}


def epoch_rows(training: Training) -> list[Row]:
    """Rows of the table epoch."""
    return [
        {
            "base": training.base,
            "backbone": training.backbone,
            "arm": training.arm,
            "seed": training.seed,
            "epoch": number,
            "train_loss": epoch.train_loss,
            "valid_auc": epoch.valid_auc,
            "valid_logloss": epoch.valid_logloss,
            "is_chosen": number == training.result.chosen,
        }
        for number, epoch in enumerate(training.result.epochs)
    ]


def _logits(trainings: list[Training], base: str, backbone: str) -> dict[Arm, list[Float32]]:
    """Arm → test logits of each seed."""
    found: dict[Arm, list[Float32]] = {}
    for training in trainings:
        if (training.base, training.backbone) == (base, backbone):
            found.setdefault(training.arm, []).append(training.result.test_logit)
    return found
