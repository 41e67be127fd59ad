"""Judge trainings: metrics per slice, calibration, paired comparisons of arms; the tables' rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kar import metrics
from kar.metrics import Bootstrap
from kar.model.batches import Bool, TrainingData
from kar.model.knowledge import Float32
from kar.model.slices import is_by_count, tells_ablations
from kar.model.train import Trained
from kar.settings.schema import Arm, Backbone, Base

MAIN: tuple[Arm, ...] = ("base", "text", "knowledge", "permuted")
MAIN_PAIRS: tuple[tuple[Arm, Arm], ...] = (
    ("knowledge", "base"),
    ("knowledge", "text"),
    ("knowledge", "permuted"),
    ("text", "base"),
    ("permuted", "base"),
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """One base, backbone, arm and seed, trained."""

    base: Base
    backbone: Backbone
    arm: Arm
    seed: int
    result: Trained

    @property
    def key(self) -> Row:
        return {"base": self.base, "backbone": self.backbone, "arm": self.arm, "seed": self.seed}


def best_seeds(trainings: Sequence[Training]) -> list[Training]:
    """The knowledge arm's trainings, of each base and backbone the seed with the best AUC on valid; the first of equals."""
    best: dict[tuple[str, str], Training] = {}
    for training in trainings:
        if training.arm == "knowledge":
            kept = best.setdefault((training.base, training.backbone), training)
            if training.result.valid_auc > kept.result.valid_auc:
                best[training.base, training.backbone] = training
    return list(best.values())


def pairs(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Which arms are compared: the usual five pairs; each ablation with the knowledge arm, which it lacks something of, and with the base."""
    ablations = [arm for arm in arms if arm not in MAIN]
    wanted = [*MAIN_PAIRS, *(("knowledge", arm) for arm in ablations), *((arm, "base") for arm in ablations)]
    return [(arm_a, arm_b) for arm_a, arm_b in wanted if arm_a in arms and arm_b in arms]


def metric_rows(training: Training, data: TrainingData, members: dict[str, Bool], head_I: Bool) -> list[Row]:
    """Rows of the table metric: one per split, slice and metric.

    Args:
        members: slice → which examples; those by training count are judged on test alone, by AUC alone.
        head_I: which items are head items, per row of `data.item_ids`.
    """
    rows: list[Row] = []
    for split, predicted in (("valid", training.result.valid_logit), ("test", training.result.test_logit)):
        order = np.argsort(predicted, kind="stable")  # once: what is sorted already costs the metrics less
        examples, logit = data.split_rows[split][order], predicted[order]
        user, label = data.user_E[examples], data.label_E.cpu().numpy()[examples]
        for name, member in members.items():
            if is_by_count(name) and split != "test":
                continue
            chosen = member[examples]
            if is_by_count(name):
                found = {"auc": metrics.auc(label[chosen], logit[chosen])}
            else:
                found = metrics.values(user[chosen], label[chosen], logit[chosen])
            if name == "all":
                found["head_share"] = metrics.head_share(
                    data.user_E[data.split_rows[split]], predicted, head_I[data.item_E[data.split_rows[split]]]
                )
            counts = {"example_count": int(chosen.sum()), "user_count": len(np.unique(user[chosen]))}
            rows += [training.key | {"split": split, "slice": name, "metric": m, "value": v} | counts for m, v in found.items()]
    return rows


def calibration_rows(training: Training, data: TrainingData) -> list[Row]:
    """Rows of the table calibration: one per decile of the test examples."""
    found = metrics.deciles(data.label_E.cpu().numpy()[data.split_rows["test"]], training.result.test_logit)
    columns = (found.count.tolist(), found.predicted.tolist(), found.actual.tolist(), found.ratio.tolist())
    names = ("example_count", "predicted", "actual", "ratio")
    return [
        training.key | {"decile": place} | dict(zip(names, values, strict=True)) for place, values in enumerate(zip(*columns, strict=True))
    ]


def comparison_rows(
    trainings: list[Training], data: TrainingData, members: dict[str, Bool], resamples: int, advance: Callable[[], None]
) -> list[Row]:
    """Rows of the table comparison, on the test examples: one per base, backbone, pair of arms, slice and metric.

    Slices by training count are compared by AUC alone, and ablations on few slices: all, warm, cold and held_out.

    Args:
        advance: called after each arm's resampling, for the progress.
    """
    examples = data.split_rows["test"]
    user, label = data.user_E[examples], data.label_E.cpu().numpy()[examples]
    rows: list[Row] = []
    for name, member in members.items():
        chosen = member[examples]
        bootstrap = Bootstrap(user[chosen], label[chosen], resamples)
        counts = {"user_count": bootstrap.users, "example_count": int(chosen.sum()), "resamples": resamples}
        for base, backbone in sorted({(training.base, training.backbone) for training in trainings}):
            by_arm = {arm: of_arm for arm, of_arm in _logits(trainings, base, backbone).items() if arm in MAIN or tells_ablations(name)}
            drawn = {}
            for arm, logits in by_arm.items():
                compared = ("auc",) if is_by_count(name) else metrics.COMPARED
                drawn[arm] = bootstrap.metrics([logit[chosen] for logit in logits], compared)
                advance()
            for arm_a, arm_b in pairs(list(by_arm)):
                key = {"base": base, "backbone": backbone, "arm_a": arm_a, "arm_b": arm_b, "slice": name}
                seeds = {"seed_count": min(len(by_arm[arm_a]), len(by_arm[arm_b]))}
                rows += [key | row | seeds | counts for row in _differences(drawn[arm_a], drawn[arm_b])]
    return _corrected(rows)


def resampling_steps(trainings: list[Training], members: dict[str, Bool]) -> int:
    """How often `comparison_rows` calls its `advance`."""
    arms = {(t.base, t.backbone, t.arm) for t in trainings}
    return sum(1 for name in members for _, _, arm in arms if arm in MAIN or tells_ablations(name))


def _differences(arm_a: dict[str, metrics.Float], arm_b: dict[str, metrics.Float]) -> Iterator[Row]:
    for metric in arm_a:
        found = Bootstrap.difference(arm_a[metric], arm_b[metric])
        yield {
            "metric": metric,
            "difference": found.difference,
            "low": found.low,
            "high": found.high,
            "se": found.se,
            "p": found.p,
            "detectable": found.detectable,
        }


def _corrected(rows: list[Row]) -> list[Row]:
    """The rows with Holm's correction over each family. The main pairs over all examples stand alone: a verdict needs all of them at once."""
    families: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if {row["arm_a"], row["arm_b"]} <= set(MAIN):
            row["family"] = "" if row["slice"] == "all" else "slices"
            of = (row["arm_a"], row["arm_b"]) + ((row["slice"],) if row["slice"] == "all" else ())
        else:
            row["family"] = "ablations"
            of = (row["slice"], "knowledge less" if row["arm_a"] == "knowledge" else "over base")
        families.setdefault((row["family"], row["base"], row["backbone"], row["metric"], *of), []).append(row)
    for family in families.values():
        for row, adjusted in zip(family, metrics.holm([row["p"] for row in family]).tolist(), strict=True):
            row |= {"p_holm": adjusted, "family_count": len(family)}
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
        training.key
        | {
            "epoch": number,
            "train_loss": epoch.train_loss,
            "valid_auc": epoch.valid_auc,
            "valid_logloss": epoch.valid_logloss,
            "is_chosen": number == training.result.chosen,
        }
        for number, epoch in enumerate(training.result.epochs)
    ]


def head_items(data: TrainingData) -> Bool:
    """[items] which of them are head items, by their training examples."""
    return metrics.head_items(data.train_count_I)


def _logits(trainings: list[Training], base: str, backbone: str) -> dict[Arm, list[Float32]]:
    """Arm → test logits of each seed."""
    found: dict[Arm, list[Float32]] = {}
    for training in trainings:
        if (training.base, training.backbone) == (base, backbone):
            found.setdefault(training.arm, []).append(training.result.test_logit)
    return found
