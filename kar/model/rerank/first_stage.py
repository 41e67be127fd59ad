"""The first stage: what puts a list into its initial order. It sees one candidate at a time, and no knowledge.

ranker      the base FiBiNET, trained on the train lists' candidates. The users of train are halved; each half is scored by the ranker that was
            trained on the other half, valid and test by the mean of both: a re-ranker must not learn from scores that have seen their labels.
popularity  log(1 + training examples of the item by other users)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kar.model.batches import TrainingData
from kar.model.knowledge import Float32
from kar.model.rerank.candidates import Candidates
from kar.model.train import train
from kar.model.vocabulary import Int64
from kar.settings import AdaptorSettings, RerankSettings

_RANKER = "fibinet"


def scores(candidates: Candidates, data: TrainingData, adaptor: AdaptorSettings, settings: RerankSettings) -> Float32:
    """[candidates] first-stage scores, in the order of the candidates.

    Args:
        data: the examples that the lists were made of.

    Raises:
        ModelError: as `train`.
    """
    return popularity(candidates, data) if settings.first_stage == "popularity" else crossed(candidates.data, adaptor, settings)


def popularity(candidates: Candidates, data: TrainingData) -> Float32:
    """[candidates] by the training examples of other users alone: a list's own examples must not push their items up."""
    train_rows, items = data.split_rows["train"], len(data.item_ids)
    own, count = np.unique(data.user_E[train_rows] * items + data.item_E[train_rows], return_counts=True)
    wanted = candidates.data.user_E * items + candidates.data.item_E
    place = np.minimum(np.searchsorted(own, wanted), len(own) - 1)
    own_C = np.where(own[place] == wanted, count[place], 0)
    return np.asarray(np.log1p(candidates.data.train_count_E - own_C), dtype=np.float32)


def crossed(data: TrainingData, adaptor: AdaptorSettings, settings: RerankSettings) -> Float32:
    """[candidates] logits of the base ranker, none of which has seen a candidate of the user it scores in training."""
    # one thread, as every small training: two stall each other when the machine is busy
    changes = {"epochs": settings.first_stage_epochs, "item_id_dropout": settings.item_id_dropout, "threads": adaptor.threads or 1}
    simple = adaptor.model_copy(update=changes)
    halves = _halves(data, settings.draw_seed)
    logit_C = np.zeros(len(data.user_E), np.float32)
    judged = np.concatenate([data.split_rows["valid"], data.split_rows["test"]])
    for number, (fitted, scored) in enumerate((halves, halves[::-1])):
        rows = {"train": fitted, "valid": data.split_rows["valid"], "test": np.concatenate([scored, data.split_rows["test"]])}
        found = train(_RANKER, replace(data, split_rows=rows), [], 1, simple, number, f"rerank: first stage, half {number + 1} of 2")
        logit_C[rows["valid"]] += found.valid_logit
        logit_C[rows["test"]] += found.test_logit
    logit_C[judged] /= 2
    return logit_C


def _halves(data: TrainingData, seed: int) -> tuple[Int64, Int64]:
    """The train candidates of a drawn half of their users, and of the others; with one user alone, of each half of its candidates."""
    train_rows = data.split_rows["train"]
    users = np.unique(data.user_E[train_rows])
    if len(users) < 2:
        return train_rows[::2], train_rows[1::2]
    first = np.random.default_rng([seed, 1]).permutation(users)[: len(users) // 2]
    is_first = np.isin(data.user_E[train_rows], first)
    return train_rows[is_first], train_rows[~is_first]
