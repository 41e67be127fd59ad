"""One training: BPR over sampled negatives, early stopping by NDCG@10 on valid, the test part ranked once at the end.

Shape suffixes, this file only:  B positives of a batch · K items drawn for it · W width · P pairs · F pairs to be found · I items
Source of the loss: Rendle et al., BPR (2009), averaged over those of K items drawn for the batch that the user did not meet in train.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kar import log
from kar.errors import ModelError
from kar.model.knowledge import Float32
from kar.model.retrieval.splits import Int64, Pairs, Split
from kar.model.retrieval.texts import Feature
from kar.model.retrieval.towers import Towers
from kar.model.train import repeatable
from kar.rank_metrics import AT, found_at
from kar.settings import RetrievalSettings

SCORES_HELD = 1 << 22
"""Scores that are held at a time."""


@dataclass(frozen=True)
class Trained:
    """A finished training, or an order that needs none.

    Args:
        rank_F: 0-based place of each pair of `Split.test_P` among the user's candidates.
        valid_ndcg: after each epoch.
        chosen: the best of them, 0-based.
        seconds: of training, evaluation included.
    """

    rank_F: Int64
    valid_ndcg: list[float]
    chosen: int
    parameter_count: int
    seconds: float


def ranks(pairs: Pairs, split: Split, rows_F: Int64, score: Float32 | tuple[Float32, Float32], seed: int, held: int = SCORES_HELD) -> Int64:
    """[F] the 0-based place of some pairs' items among all candidates that their user did not meet in train.

    Equal scores stand in an order that is drawn once for the split, the same for every arm.

    Args:
        rows_F: rows of the pairs, rising.
        score: per item, the same for all users; or the towers of all users and of all items.
        seed: of the order of equals.
        held: scores in memory at a time.
    """
    count = len(pairs.item_ids)
    tie_I = np.random.default_rng([seed, split.number, 1]).permutation(count)
    train_user_P, train_item_P = pairs.user_P[split.train_P], pairs.item_P[split.train_P]
    users, of_F = np.unique(pairs.user_P[rows_F], return_inverse=True)
    found = np.empty(len(rows_F), np.int64)
    most = max(1, held // max(count, 1))
    for begin in range(0, len(rows_F), most):
        part = slice(begin, min(begin + most, len(rows_F)))
        mine, row_F = np.unique(of_F[part], return_inverse=True)
        score_UI = np.tile(score, (len(mine), 1)) if isinstance(score, np.ndarray) else score[0][users[mine]] @ score[1].T
        score_UI[:, ~split.is_candidate_I] = -np.inf
        place_U = np.full(len(pairs.user_ids), -1)
        place_U[users[mine]] = np.arange(len(mine))
        near = slice(*np.searchsorted(train_user_P, [users[mine[0]], users[mine[-1]] + 1]))
        place_P = place_U[train_user_P[near]]
        score_UI[place_P[place_P >= 0], train_item_P[near][place_P >= 0]] = -np.inf
        item_F = pairs.item_P[rows_F[part]]
        own_F = score_UI[row_F, item_F]
        score_FI = score_UI[row_F]
        found[part] = np.count_nonzero(score_FI > own_F[:, None], axis=1)
        level_F = np.count_nonzero(score_FI >= own_F[:, None], axis=1) - found[part]
        for place in np.flatnonzero(level_F > 1).tolist():
            is_level_I = score_FI[place] == own_F[place]
            found[begin + place] += np.count_nonzero(tie_I[is_level_I] < tie_I[item_F[place]])
    return found


def by_popularity(pairs: Pairs, split: Split, seed: int) -> Trained:
    """Items by how often they are positive in train."""
    liked = split.train_P[pairs.is_positive_P[split.train_P]]
    count_I = np.bincount(pairs.item_P[liked], minlength=len(pairs.item_ids)).astype(np.float32)
    return Trained(ranks(pairs, split, split.test_P, count_I, seed), [], -1, 0, 0.0)


def train(name: str, pairs: Pairs, split: Split, features: list[Feature], settings: RetrievalSettings, seed: int) -> Trained:
    """Train towers, choose the epoch on valid, rank the test part once.

    Args:
        name: of the arm, for messages.
        features: the views; none: a table of items.
        seed: of the weights, the order of the pairs and their negatives.

    Raises:
        ModelError: the loss is no longer finite.
    """
    started = time.perf_counter()
    liked = split.train_P[pairs.is_positive_P[split.train_P]]
    draw = Negatives(pairs, split, seed)
    valid_ndcg: list[float] = []
    chosen, best = -1, {}
    with repeatable(seed, settings.threads):
        towers = Towers(len(pairs.user_ids), len(pairs.item_ids), features, settings)
        optimizer = torch.optim.Adam(towers.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        for number in range(settings.epochs):
            loss = _epoch(towers, optimizer, pairs, liked, draw, settings)
            if not np.isfinite(loss):
                raise ModelError(f"retrieval: {name}, {split}: the loss of epoch {number} is {loss}", "lower retrieval.learning_rate")
            valid_ndcg.append(_ndcg(pairs, split, towers, settings))
            if chosen < 0 or valid_ndcg[-1] > valid_ndcg[chosen]:
                chosen, best = number, copy.deepcopy(towers.state_dict())
            elif number - chosen >= settings.patience:
                break
        towers.load_state_dict(best)
        rank_F = ranks(pairs, split, split.test_P, _tops(towers), settings.draw_seed)
    done = Trained(rank_F, valid_ndcg, chosen, towers.parameter_count(), time.perf_counter() - started)
    log.info(f"retrieval: {name}, {split}, seed {seed}", epochs=len(valid_ndcg), valid_ndcg=round(valid_ndcg[chosen], 4))
    return done


class Negatives:
    """Draws items, each alike, and says who did not meet them in train.

    Args:
        seed: of the draws.
    """

    def __init__(self, pairs: Pairs, split: Split, seed: int) -> None:
        self._met_P = pairs.item_P[split.train_P]
        self._count_U = np.bincount(pairs.user_P[split.train_P], minlength=len(pairs.user_ids))
        self._begin_U = np.cumsum(self._count_U) - self._count_U
        self._candidates = np.flatnonzero(split.is_candidate_I)
        self._item_count = len(pairs.item_ids)
        self._draw = np.random.default_rng([seed, split.number])

    def order(self, rows: Int64) -> Int64:
        """The rows in a new order."""
        return self._draw.permutation(rows)

    def of(self, user_B: Int64, count: int) -> tuple[Int64, Float32]:
        """[K] items, drawn once for the whole batch, and [B, K] 1 where the user did not meet the item in train."""
        item_K = self._draw.choice(self._candidates, size=min(count, len(self._candidates)), replace=False)
        place_I = np.full(self._item_count, -1)
        place_I[item_K] = np.arange(len(item_K))
        # each user's row once: those who liked much fill much of a batch
        users, of_B = np.unique(user_B, return_inverse=True)
        met_U = self._count_U[users]
        row = np.repeat(np.arange(len(users)), met_U)
        within = np.arange(len(row)) - np.repeat(np.cumsum(met_U) - met_U, met_U)
        place = place_I[self._met_P[np.repeat(self._begin_U[users], met_U) + within]]
        weight_UK = np.ones((len(users), len(item_K)), np.float32)
        weight_UK[row[place >= 0], place[place >= 0]] = 0
        return item_K, weight_UK[of_B]


def _epoch(
    towers: Towers, optimizer: torch.optim.Optimizer, pairs: Pairs, liked: Int64, draw: Negatives, settings: RetrievalSettings
) -> float:
    """One pass over the positives of train in a new order; returns the mean loss."""
    towers.train()
    order, total = draw.order(liked), 0.0
    for begin in range(0, len(order), settings.batch_size):
        rows = order[begin : begin + settings.batch_size]
        user_B = pairs.user_P[rows]
        item_K, weight_BK = draw.of(user_B, settings.negatives)
        loss = _loss(towers, user_B, pairs.item_P[rows], item_K, torch.from_numpy(weight_BK))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach()) * len(rows)
    return total / len(order)


def _loss(towers: Towers, user_B: Int64, item_B: Int64, negative_K: Int64, weight_BK: Tensor) -> Tensor:
    """BPR of each user's item against the negatives; each item goes through its tower once."""
    liked, place_B = np.unique(item_B, return_inverse=True)
    item_NW = towers.items(torch.from_numpy(np.concatenate([liked, negative_K])))
    user_BW = towers.users(torch.from_numpy(user_B))
    own_B = (user_BW * item_NW[torch.from_numpy(place_B)]).sum(dim=1)
    score_BK = user_BW @ item_NW[len(liked) :].T
    loss_BK = -functional.logsigmoid(own_B[:, None] - score_BK)
    return (loss_BK * weight_BK).sum() / weight_BK.sum().clamp(min=1.0)


@torch.inference_mode()
def _tops(towers: Towers) -> tuple[Float32, Float32]:
    """The towers of all users and of all items."""
    towers.eval()
    return towers.users(torch.arange(towers.user_table.num_embeddings)).numpy(), towers.items().numpy()


def _ndcg(pairs: Pairs, split: Split, towers: Towers, settings: RetrievalSettings) -> float:
    rank_F = ranks(pairs, split, split.valid_P, _tops(towers), settings.draw_seed)
    return float(found_at(rank_F, pairs.user_P[split.valid_P], AT)[2][:, -1].mean())
