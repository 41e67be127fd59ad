"""The joint training of one re-ranker, arm and seed: a listwise loss, early stopping on valid NDCG, the test lists scored once at the end.

Trainings are processes of their own with one thread each where that pays, as in `kar.model.parallel`.
"""

from __future__ import annotations

import copy
import multiprocessing
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from kar import log, rank_metrics
from kar.errors import ModelError
from kar.log import Progress
from kar.model import forms
from kar.model.arms import Arms
from kar.model.knowledge import Float32
from kar.model.parallel import process_count
from kar.model.rerank import RERANKERS
from kar.model.rerank.base import ListRanker, shape_of
from kar.model.rerank.candidates import Candidates, ListBatch, ListData
from kar.model.train import optimizer_of, repeatable
from kar.model.vocabulary import UNKNOWN, Int64
from kar.settings import AdaptorSettings, RerankSettings
from kar.settings.schema import Arm, Reranker

CHOSEN_AT = 5
"""The epoch is chosen by NDCG at this cut, on valid."""
WORTH_A_PROCESS = 20_000
"""Train lists × trainings below which starting processes costs more than it saves."""
_PREDICT_LISTS = 2048


@dataclass(frozen=True)
class Epoch:
    """One pass over the train lists: mean loss, NDCG on valid, seconds of training."""

    train_loss: float
    valid_ndcg: float
    seconds: float


@dataclass(frozen=True)
class Reranked:
    """A finished training.

    Args:
        epochs: as they went.
        chosen: the epoch with the best NDCG on valid, 0-based.
        valid_score, test_score: [lists, places] of the chosen weights, lists in the order of `split_rows`, places in the initial order.
        lists_per_s: train lists a second, evaluation left out.
    """

    model: Reranker
    arm: Arm
    seed: int
    parameter_count: int
    epochs: list[Epoch]
    chosen: int
    valid_score: Float32
    test_score: Float32
    lists_per_s: float


@dataclass(frozen=True)
class Prepared:
    """What every training of a run shares."""

    candidates: Candidates
    arms: Arms
    adaptor: AdaptorSettings
    settings: RerankSettings

    def data(self, arm: Arm, seed: int) -> ListData:
        """The lists with an arm's knowledge."""
        return ListData(self.candidates, self.arms.kinds(arm, self.candidates.data, seed))


@dataclass(frozen=True)
class Job:
    """One training to do."""

    model: Reranker
    arm: Arm
    seed: int

    def __str__(self) -> str:
        return f"rerank: {self.model}, {self.arm}, seed {self.seed}"


def build(model: str, data: ListData, width: int, adaptor: AdaptorSettings, settings: RerankSettings, seed: int) -> ListRanker:
    """A re-ranker with fresh weights, drawn on the CPU from `seed`.

    Args:
        model: a name of `RERANKERS`.
        width: of the knowledge vectors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = RERANKERS[model](shape_of(data.data, data.kinds, adaptor, settings))
        found = forms.make([kind.view for kind in data.kinds], width, adaptor) if data.kinds else None
        return ListRanker(data.data.fields.total, adaptor.embedding_dim, found, body).to(data.data.device)


def train(job: Job, prepared: Prepared, *, is_shown: bool = True) -> Reranked:
    """Train, choose the epoch on valid, score the test lists once.

    Raises:
        ModelError: the loss is no longer finite.
    """
    settings, data = prepared.settings, prepared.data(job.arm, job.seed)
    adaptor = prepared.adaptor.model_copy(update={"form": prepared.arms.plans[job.arm].form})
    splits = prepared.candidates.lists.split_rows
    with repeatable(job.seed, prepared.adaptor.threads):
        ranker = build(job.model, data, prepared.arms.width, adaptor, settings, job.seed)
        optimizer = optimizer_of(ranker, settings)
        shuffle = torch.Generator().manual_seed(job.seed)
        epochs: list[Epoch] = []
        best: dict[str, torch.Tensor] = {}
        valid_score: Float32 = np.empty((0, 0), np.float32)
        chosen = -1
        with Progress(str(job), total=len(splits["train"]) * settings.epochs, is_shown=is_shown) as progress:
            for number in range(settings.epochs):
                started = time.perf_counter()
                loss = _epoch(ranker, optimizer, data, splits["train"], settings, shuffle, progress)
                seconds = time.perf_counter() - started
                if not np.isfinite(loss):
                    raise ModelError(f"{job}: the loss of epoch {number} is {loss}", "lower rerank.learning_rate")
                score = predict(ranker, data, splits["valid"])
                epochs.append(Epoch(loss, valid_ndcg(prepared.candidates, score), seconds))
                if chosen < 0 or epochs[-1].valid_ndcg > epochs[chosen].valid_ndcg:
                    chosen, valid_score, best = number, score, copy.deepcopy(ranker.state_dict())
                elif number - chosen >= settings.patience:
                    break
        ranker.load_state_dict(best)
        test_score = predict(ranker, data, splits["test"])
    lists_per_s = len(splits["train"]) * len(epochs) / sum(epoch.seconds for epoch in epochs)
    done = Reranked(job.model, job.arm, job.seed, ranker.parameter_count(), epochs, chosen, valid_score, test_score, lists_per_s)
    log.info(str(job), epochs=len(epochs), valid_ndcg=round(epochs[chosen].valid_ndcg, 4), lists_per_s=round(lists_per_s))
    return done


def valid_ndcg(candidates: Candidates, score_LN: Float32) -> float:
    """NDCG on the valid lists, by which the epoch is chosen."""
    rows = candidates.lists.split_rows["valid"]
    label_LN, is_item_LN = candidates.in_order(candidates.lists.label_LN)[rows], candidates.in_order(candidates.lists.is_item_LN)[rows]
    return float(rank_metrics.ndcg(rank_metrics.ranked(label_LN, score_LN, is_item_LN), CHOSEN_AT).mean())


def _epoch(
    ranker: ListRanker,
    optimizer: torch.optim.Optimizer,
    data: ListData,
    rows: Int64,
    settings: RerankSettings,
    shuffle: torch.Generator,
    progress: Progress,
) -> float:
    """One pass in a new order; returns the mean loss."""
    ranker.train()
    order = torch.from_numpy(rows)[torch.randperm(len(rows), generator=shuffle)].to(data.data.device)
    total = torch.zeros((), dtype=torch.float64, device=order.device)
    for chunk in torch.split(order, settings.batch_size):
        batch = hide_ids(data.batch(chunk), data, settings.item_id_dropout, shuffle)
        loss = ranker.body.loss(ranker(batch), batch.label_BN)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(chunk)
        progress.advance(len(chunk))
    return float(total) / len(rows)


def hide_ids(batch: ListBatch, data: ListData, share: float, draw: torch.Generator) -> ListBatch:
    """The batch with the item id of a drawn share of the candidates replaced by the unknown code."""
    if not share:
        return batch
    is_hidden_BN = (torch.rand(batch.is_item_BN.shape, generator=draw) < share).to(batch.code_BNT.device)
    code_BNT = batch.code_BNT.clone()
    code_BNT[..., 0].masked_fill_(is_hidden_BN, data.data.fields.offset("item_id") + UNKNOWN)
    return replace(batch, code_BNT=code_BNT)


@torch.inference_mode()
def predict(ranker: ListRanker, data: ListData, rows: Int64) -> Float32:
    """[lists, places] scores of some lists; leaves the ranker in evaluation mode."""
    ranker.eval()
    chunks = torch.split(torch.from_numpy(rows).to(data.data.device), _PREDICT_LISTS)
    return torch.cat([ranker(data.batch(chunk)) for chunk in chunks]).cpu().numpy()


def train_all(prepared: Prepared) -> list[Reranked]:
    """Every model × arm × seed, side by side where it pays; in the order of the settings, however they finished."""
    settings = prepared.settings
    todo = [Job(model, arm, seed) for model in settings.models for arm in settings.arms for seed in settings.seeds]
    side_by_side = prepared.adaptor.model_copy(update={"processes": settings.processes})
    count = process_count(len(todo), len(prepared.candidates.lists.split_rows["train"]), side_by_side, WORTH_A_PROCESS)
    if count == 1:
        return [train(job, prepared) for job in todo]
    slow_first = sorted(todo, key=lambda job: (job.arm == "base", job.model != "mir"))
    alone = replace(prepared, adaptor=prepared.adaptor.model_copy(update={"threads": 1}))
    # spawn: a forked process would inherit the parent's OpenMP state, which hangs
    pool = multiprocessing.get_context("spawn").Pool(count, _start, (alone,))
    with pool, Progress("rerank: trainings", total=len(todo)) as progress:
        found = {}
        for done in pool.imap_unordered(_run, slow_first):
            found[Job(done.model, done.arm, done.seed)] = done
            progress.advance()
    return [found[job] for job in todo]


_prepared: Prepared


def _start(prepared: Prepared) -> None:
    global _prepared
    _prepared = prepared


def _run(job: Job) -> Reranked:
    return train(job, _prepared, is_shown=False)
