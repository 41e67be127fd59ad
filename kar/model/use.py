"""What a trained ranker makes of its knowledge: which experts the gates choose, and how much it leans on each view.

Left out means: at prediction time every vector of the view is replaced by the view's learned default, without drawing lots and without
training again. It tells how much this ranker leans on the view. What the view is worth is another question, which arms trained without
it answer (user_only, item_only, without:FACTOR): a ranker leans on a view that another view could replace, and a default that no
training example ever met is still zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kar import metrics
from kar.model.adaptor import Form
from kar.model.batches import Kind, TrainingData
from kar.model.evaluate import Training, best_seeds
from kar.model.loaded import Loaded
from kar.model.ranker import Ranker
from kar.model.train import predict
from kar.model.vocabulary import Int64

Row = dict[str, Any]
_CHUNK = 16_384
_EXAMPLES = 50_000
"""Valid examples that views are left out of, at most: a base, a backbone and a view cost one to three predictions of them."""


def rows(trainings: Sequence[Training], loaded: Loaded) -> tuple[list[Row], list[Row]]:
    """Rows of the tables gate_weight and view_use: of each base and backbone the knowledge arm's seed with the best AUC on valid."""
    gates: list[Row] = []
    views: list[Row] = []
    for training in best_seeds(trainings):
        ranker = training.result.ranker
        if ranker is None or ranker.adaptor is None:
            continue
        data = loaded.data(training.base)
        kinds: Sequence[Kind] = loaded.arms.kinds(training.arm, data, training.seed)
        if (pools := loaded.pools(training.base, training.arm, training.seed)) is not None:
            pool = next(pools.pools("valid"))  # the first valid examples; `data` has no histories
            data, kinds = pool.data, pool.kinds
        name = {"base": training.base, "backbone": training.backbone}
        gates += [name | row for kind in kinds for row in gate_weights(ranker.adaptor, kind)]
        views += [name | {"seed": training.seed} | row for row in view_uses(ranker, data, kinds)]
    return gates, views


@torch.inference_mode()
def gate_weights(adaptor: Form, kind: Kind) -> list[Row]:
    """One row per expert of the kind: its mean weight over the subjects that have a vector. None without vectors, or without a gate."""
    total = np.zeros(len(adaptor.expert_names))
    for vectors_NT in _vectors(kind):
        weights_NE = adaptor.gate_weights(kind.view, vectors_NT)
        if weights_NE is None:
            return []
        total += weights_NE.double().sum(dim=0).cpu().numpy()
    count = len(kind.vectors_RT) - 1
    named = zip(adaptor.expert_names, total, strict=True)
    return [{"view": kind.view, "expert": expert, "weight": float(sum_ / count), "subject_count": count} for expert, sum_ in named if count]


def view_uses(ranker: Ranker, data: TrainingData, kinds: Sequence[Kind]) -> list[Row]:
    """One row per view and place where it may be left out, on the valid examples (a fixed even choice of them where there are many)."""
    adaptor = ranker.adaptor
    assert adaptor is not None
    valid = data.split_rows["valid"]
    examples = valid[np.linspace(0, len(valid) - 1, min(len(valid), _EXAMPLES)).astype(np.int64)]
    whole = _quality(ranker, data, kinds, examples)
    found: list[Row] = []
    for number, kind in enumerate(kinds):
        of_view = {"view": kind.view, "subject_count": len(kind.vectors_RT) - 1, "example_count": len(examples)}
        of_view |= {"mean_norm": _mean_norm(adaptor, kind), "residual_gate": _residual_gate(adaptor, kind.view)}
        for place, without in _left_out(kind):
            auc, logloss = _quality(ranker, data, [*kinds[:number], without, *kinds[number + 1 :]], examples)
            found.append(of_view | {"left_out": place, "auc_drop": whole[0] - auc, "logloss_rise": logloss - whole[1]})
    return found


def _left_out(kind: Kind) -> Iterator[tuple[str, Kind]]:
    """Where a kind's vectors may be left out, and the kind without them there."""
    target, history = torch.zeros_like(kind.row_E), None if kind.row_V is None else torch.zeros_like(kind.row_V)
    yield "everywhere", replace(kind, row_E=target, row_V=history)
    if history is not None:
        yield "target", replace(kind, row_E=target)
        yield "history", replace(kind, row_V=history)


def _quality(ranker: Ranker, data: TrainingData, kinds: Sequence[Kind], examples: Int64) -> tuple[float, float]:
    """AUC and LogLoss of some examples."""
    label, logit = data.label_E.cpu().numpy()[examples], predict(ranker, data, kinds, examples)
    return metrics.auc(label, logit), metrics.logloss(label, logit)


@torch.inference_mode()
def _mean_norm(adaptor: Form, kind: Kind) -> float:
    """Mean length of the subjects' adapted vectors as they enter the backbone; NaN without vectors."""
    total = sum(float(adaptor.enter(kind.view, adaptor(kind.view, x)).norm(dim=1).double().sum()) for x in _vectors(kind))
    count = len(kind.vectors_RT) - 1
    return total / count if count else float("nan")


def _residual_gate(adaptor: Form, view: str) -> float:
    """NaN: the adaptor has none."""
    return adaptor.residual[adaptor.key(view)].item() if adaptor.is_gated else float("nan")


def _vectors(kind: Kind) -> Iterator[Tensor]:
    """The kind's knowledge vectors, some at a time."""
    yield from torch.split(kind.vectors_RT[1:], _CHUNK) if len(kind.vectors_RT) > 1 else ()
