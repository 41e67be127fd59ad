"""adaptor: train the hybrid-expert adaptor jointly with each backbone, in four arms, and judge the arms.

reads   example, example_item, sequence, user_attribute, item_attribute, knowledge_vector; history, to hold the examples against it
writes  metric, comparison, calibration, prediction, epoch, study, gate_weight, view_use; beside them checkpoints/<backbone>/ of the
        knowledge arm

The partition is made in any case. Whether readers may use its checkpoint says the gate (`kar.training_gate`), on valid alone; what fails is
held back (`kar.store.trainings`), and they stay with the training before it. The verdicts are figures, not tables: they depend on which
training was in use when this one was made, and so do not take part in what the partition is.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kar import metrics, training_gate
from kar.errors import GateFailed
from kar.log import Progress
from kar.model import checkpoint, evaluate, leakage, tuning, use
from kar.model.arms import Arms
from kar.model.bases import seen
from kar.model.batches import SPLITS, Bool, TrainingData
from kar.model.evaluate import Training
from kar.model.loaded import Loaded, Tables
from kar.model.parallel import train_all
from kar.model.resume import Work
from kar.model.slices import slices
from kar.settings import AdaptorSettings, Settings
from kar.store import Home, Inputs, Manifest, Output, json_sha, trainings
from kar.tables import from_rows
from kar.tables.counting import template_counts
from kar.training_gate import Measured
from kar.verdict import verdict

_LEAK_ROWS = 1_000_000


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    """Train every base × backbone × arm × seed, write the tables and the published arm's checkpoints."""
    ours = settings.adaptor
    tables = Tables(**{field.name: _path(inputs, field.name) for field in dataclasses.fields(Tables)})
    _refuse_leaks(inputs)
    cap = settings.histories.cap
    loaded = Loaded(tables, ours, cap, work=Work.of(inputs.work, tables.paths(), {"cap": cap}))
    data, prepared = loaded.data(ours.bases[0]), loaded.arms  # what is judged below is the same for every base
    for sentence in warnings(prepared, data, ours):
        out.warn(sentence)
    trials = tuning.tune(loaded)
    loaded.chosen = tuning.chosen(trials)
    trained = train_all(loaded)

    members = slices(data, prepared.covered(data), ours.cold_count)
    with Progress("adaptor: arms resampled", total=evaluate.resampling_steps(trained, members)) as progress:
        comparisons = evaluate.comparison_rows(trained, data, members, ours.resamples, progress.advance)
    head_I = evaluate.head_items(data)
    measured = [row for t in trained for row in evaluate.metric_rows(t, data, members, head_I)]
    out.write("metric", from_rows("metric", measured))
    out.write("comparison", from_rows("comparison", comparisons))
    out.write("calibration", from_rows("calibration", [row for t in trained for row in evaluate.calibration_rows(t, data)]))
    out.write("prediction", pa.table(evaluate.prediction_columns(trained, data)))
    out.write("epoch", from_rows("epoch", [row for t in trained for row in evaluate.epoch_rows(t)]))
    out.write("study", from_rows("study", [trial.row() for trial in trials]))
    gate_weights, view_uses = use.rows(trained, loaded)
    out.write("gate_weight", from_rows("gate_weight", gate_weights))
    out.write("view_use", from_rows("view_use", view_uses))
    counts = {split: loaded.count(ours.bases[0], split) for split in SPLITS}
    out.record(example_counts=counts, stream_rows=loaded.stream_rows)  # 0: all in memory
    out.record(**_figures(trained, data, members, head_I))
    out.record(tie_share=_tie_share(inputs))
    out.record(chosen_parameters={" ".join(name): parameters for name, parameters in loaded.chosen.items()})
    out.record(relative_improvement=_relative_improvement(measured))
    both = seen(ours.published_base, ours, settings.histories.cap)
    judged = verdict(comparisons, ours.published_backbone, ours.published_base, both)
    out.record(verdict=judged.sentence, power=judged.power)
    out.record(checkpoint_shas=_save_checkpoints(trained, loaded, out))
    out.record(templates=_templates(inputs, settings))
    _judge(_measured(inputs, ours, trained, data, measured, members["covered"]), inputs, out, ours)


def held_back(home: Home, made: Manifest) -> GateFailed | None:
    """What to end with after a training that its gate held back; None: all is well, or a newer training or a person's word goes before it.

    Asked again, it says so again.

    Args:
        made: the manifest of this stage's partition.
    """
    partition = home.partition(made.stage, dt.date.fromisoformat(made.date))
    used = trainings.latest_promoted(home, dt.date.max)
    if not trainings.is_held_back(partition) or (used is not None and used.date > partition.date):
        return None
    instead = f"that of {used.date} stays in use" if used is not None else "there is no other to use"
    return GateFailed(
        f"the training of {made.date} is made and held back, and {instead}: {trainings.why_held_back(partition)}",
        "look at it: kar evaluate, kar training list; mend the cause and train again, or use it as it is: "
        f"kar training promote --date {made.date}",
    )


def _measured(
    inputs: Inputs, settings: AdaptorSettings, trained: list[Training], data: TrainingData, rows: list[evaluate.Row], covered: Bool
) -> Measured:
    """What the gate judges: the published backbone over the published base, on valid."""
    base, backbone = settings.published_base, settings.published_backbone
    published = [t for t in trained if (t.base, t.backbone, t.arm) == (base, backbone, "knowledge")]
    auc, seed_count = training_gate.valid_auc(rows, base, backbone, "knowledge")
    valid, test = data.split_rows["valid"], data.split_rows["test"]
    examples = inputs.partitions["examples", "example"]
    assert examples is not None
    return Measured(
        date=inputs.date.isoformat(),
        protocol=json_sha(Manifest.read(examples.manifest_path).recipe.get("settings", {})),
        base=base,
        backbone=backbone,
        auc=auc,
        base_auc=training_gate.valid_auc(rows, base, backbone, "base")[0],
        seed_count=seed_count,
        users=len(np.unique(data.user_E[valid])),
        examples=len(valid),
        test_users=len(np.unique(data.user_E[test])),
        covered_share=round(float(covered[valid].mean()), 4) if len(valid) else None,
        not_finite=sum(int((~np.isfinite(t.result.valid_logit)).sum()) for t in published),
    )


def _judge(now: Measured, inputs: Inputs, out: Output, settings: AdaptorSettings) -> None:
    """Hold the training against the one in use, and write down what was measured and said."""
    used = trainings.latest_promoted(inputs.home, inputs.date)
    last = None if used is None else training_gate.told(Manifest.read(used.manifest_path).figures)
    verdicts = training_gate.judge(now, last, settings.gate)
    failed = [one for one in verdicts if not one.is_passed]
    out.record(valid=now.figures(), gate=[dataclasses.asdict(one) for one in verdicts])
    out.record(gate_failed=[one.check for one in failed], held_back=bool(failed))
    for one in failed:
        out.warn(f"trained but held back: {one.check}: {one.why}")


def _templates(inputs: Inputs, settings: Settings) -> dict[str, dict[str, int]]:
    """View → template version → texts, of the knowledge that the examples could meet; empty if its partition is gone.

    For `kar training due` alone: the vectors that were trained on are declared, and what asked for their texts changes nothing here.
    """
    path = inputs.home.partition("knowledge", settings.snapshot_date(inputs.date)).table("knowledge")
    if not path.is_file():
        return {}
    return template_counts(pq.read_table(path, columns=["view", "template_version"]))


def _refuse_leaks(inputs: Inputs) -> None:
    """Raises LeakError as `leakage.refuse` does."""
    history = inputs.table("history").select(["user_id", "position"])
    leakage.refuse(inputs.stream("example", list(leakage.COLUMNS), _LEAK_ROWS), history, inputs.table("example_item"))


def _tie_share(inputs: Inputs) -> float | None:
    """Share of the examples with another event of their user in the same second, where the order is the hash's; as the examples stage counted."""
    examples = inputs.partitions["examples", "example"]
    assert examples is not None
    share: float | None = Manifest.read(examples.manifest_path).figures.get("tie_share")
    return share


def _path(inputs: Inputs, table: str) -> Path:
    path = inputs.path(table)
    assert path is not None, "only at=previous may be absent"
    return path


def warnings(prepared: Arms, data: TrainingData, settings: AdaptorSettings) -> list[str]:
    """What a reader of the verdict must know, as sentences."""
    found = []
    empty = [view for views in prepared.knowledge.views.values() for view in views if not len(prepared.vectors[view].vectors_NT)]
    if empty and {"knowledge", "permuted"} & set(settings.arms):
        found.append(f"no knowledge vectors of {', '.join(empty)}: every example gets the learned default there")
    if "knowledge" not in settings.arms:
        found.append("the knowledge arm was not trained, so there is no checkpoint to publish")
    test = data.split_rows["test"]
    if len(np.unique(data.label_E.cpu().numpy()[test])) < 2:
        found.append(f"all {len(test)} test examples have one label, so AUC is not defined on them")
    return found


def _figures(trainings: list[Training], data: TrainingData, members: dict[str, Bool], head_I: Bool) -> dict[str, Any]:
    """What was trained, how large, how fast; lists hold one number per seed."""
    by_arm: dict[str, list[Training]] = {}
    for training in trainings:
        by_arm.setdefault(f"{training.base} {training.backbone} {training.arm}", []).append(training)
    test = data.split_rows["test"]
    return {
        "parameters": {name: found[0].result.parameter_count for name, found in by_arm.items()},
        "rows_per_s": {name: [round(t.result.rows_per_s) for t in found] for name, found in by_arm.items()},
        "chosen_epochs": {name: [t.result.chosen for t in found] for name, found in by_arm.items()},
        "epoch_seconds": {name: [[round(e.seconds, 2) for e in t.result.epochs] for t in found] for name, found in by_arm.items()},
        "test_touched": {name: len(found) for name, found in by_arm.items()},  # each training predicts them once, after its last epoch
        "test_covered_share": round(float(members["covered"][test].mean()), 4),
        "test_cold_share": round(float(members["cold"][test].mean()), 4),
        "test_head_share": round(float(head_I[data.item_E[test]].mean()), 4),  # of all examples: what a blind order would show
    }


def _relative_improvement(measured: list[evaluate.Row]) -> dict[str, float]:
    """ "<base> <backbone> <arm>" → RelaImpr of its test AUC over the base arm's, seeds averaged; from rows of the table metric."""
    aucs: dict[str, dict[str, list[float]]] = {}
    for row in measured:
        if (row["split"], row["slice"], row["metric"]) == ("test", "all", "auc"):
            aucs.setdefault(f"{row['base']} {row['backbone']}", {}).setdefault(row["arm"], []).append(row["value"])
    return {
        f"{name} {arm}": round(metrics.relative_improvement(float(np.mean(found)), float(np.mean(arms_of["base"]))), 5)
        for name, arms_of in aucs.items()
        for arm, found in arms_of.items()
        if arm != "base" and "base" in arms_of
    }


def _save_checkpoints(trainings: list[Training], loaded: Loaded, out: Output) -> dict[str, str]:
    """The knowledge arm of each backbone over the published base, the seed with the best AUC on valid. Returns backbone → digest."""
    settings, shas = loaded.settings, dict[str, str]()
    for best in evaluate.best_seeds(trainings):
        if best.base != settings.published_base:
            continue
        assert best.result.ranker is not None
        origin = checkpoint.Origin(
            base=best.base,
            backbone=best.backbone,
            arm=best.arm,
            seed=best.seed,
            encoder_id=loaded.arms.encoder_id,
            views={"user": settings.user_views, "item": settings.item_views},
            settings=loaded.settings_of(best.base, best.backbone, best.arm).recipe(),
            valid_auc=best.result.valid_auc,
            field_sizes=loaded.data(best.base).fields.sizes,
        )
        shas[best.backbone] = checkpoint.save(out.folder / "checkpoints" / best.backbone, best.result.ranker, origin)
    return shas
