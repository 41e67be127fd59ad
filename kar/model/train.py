"""The joint training of one backbone, arm and seed: BCE, early stopping on valid, the test examples predicted once at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kar import log, metrics
from kar.errors import ModelError
from kar.log import Progress
from kar.model.batches import Batch, Kind, TrainingData
from kar.model.data import ITEM_MEAN
from kar.model.distributed import ALONE, Ranks
from kar.model.knowledge import Float32
from kar.model.pools import Pool, Pools, Resident
from kar.model.ranker import Ranker, build
from kar.model.resume import Epoch, State
from kar.model.vocabulary import UNKNOWN, Int64
from kar.settings import AdaptorSettings, RerankSettings

_PREDICT_ROWS = 2048


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Args:
        ranker: with the chosen epoch's weights, in evaluation mode; None: let go of, to save memory.
        parameter_count: of the ranker.
        epochs: as they went.
        chosen: the epoch with the best AUC on valid, 0-based.
        valid_logit, test_logit: of the chosen weights, in the order of `split_rows`.
        rows_per_s: training examples a second, evaluation left out.
    """

    ranker: Ranker | None
    parameter_count: int
    epochs: list[Epoch]
    chosen: int
    valid_logit: Float32
    test_logit: Float32
    rows_per_s: float

    @property
    def valid_auc(self) -> float:
        """Of the chosen epoch."""
        return self.epochs[self.chosen].valid_auc


def train(
    backbone: str,
    data: TrainingData,
    kinds: Sequence[Kind],
    width: int,
    settings: AdaptorSettings,
    seed: int,
    what: str,
    *,
    pools: Pools | None = None,
    state_path: Path | None = None,
    ranks: Ranks = ALONE,
    is_shown: bool = True,
    with_test: bool = True,
) -> Trained:
    """Train, choose the epoch on valid, predict test once.

    Args:
        kinds: the arm's knowledge; none: the base arm.
        width: of the knowledge vectors.
        what: names the training in the progress and in errors.
        pools: the examples, where they do not all lie in `data`, which then holds labels and ids of valid and test alone.
        state_path: where the state is kept after each epoch; a training that was killed goes on from it, a finished one is read back.
        ranks: this process among those that train together; all call this with the same arguments.
        is_shown: whether to show progress; not where several train side by side.
        with_test: False: the test examples are left alone, and there are no test logits (a hyper-parameter trial).

    Raises:
        ModelError: the loss is no longer finite.
    """
    pools = pools or Resident(data, kinds)
    ranker = build(backbone, data, kinds, width, settings, seed)
    optimizer = optimizer_of(ranker, settings)
    state = State(ranker, optimizer, torch.Generator().manual_seed(seed))
    valid_label = data.label_E.cpu().numpy()[data.split_rows["valid"]]
    count = pools.count("train")
    with repeatable(seed, settings.threads), Progress(what, total=count * settings.epochs, is_shown=is_shown) as progress:
        if state_path is not None and state.restore(state_path):
            log.info(f"{what}: goes on", epochs=len(state.epochs), is_finished=state.test_logit is not None)
            progress.advance(count * len(state.epochs))
        while state.test_logit is None and not state.is_over(settings):
            started, number = time.perf_counter(), len(state.epochs)
            ranks.seed(seed, number)
            loss = _epoch(ranker, optimizer, pools, settings, state.draw, progress, ranks)
            seconds = time.perf_counter() - started
            if not np.isfinite(loss):
                raise ModelError(f"{what}: the loss of epoch {number} is {loss}", "lower adaptor.learning_rate")
            logit = _predict_split(ranker, pools, "valid", ranks)
            state.add(Epoch(loss, metrics.auc(valid_label, logit), metrics.logloss(valid_label, logit), seconds), logit)
            progress.tick(epoch=number, valid_auc=state.epochs[-1].valid_auc)
            if state_path is not None and ranks.rank == 0:
                state.save(state_path)
        ranker.load_state_dict(state.best)
        ranker.eval()
        if state.test_logit is None or (with_test and not len(state.test_logit)):
            state.test_logit = _predict_split(ranker, pools, "test", ranks) if with_test else np.empty(0, np.float32)
            if state_path is not None and ranks.rank == 0:
                state.save(state_path)
    rows_per_s = count * len(state.epochs) / sum(epoch.seconds for epoch in state.epochs)
    return Trained(ranker, ranker.parameter_count(), state.epochs, state.chosen, state.valid_logit, state.test_logit, rows_per_s)


def _epoch(
    ranker: Ranker,
    optimizer: torch.optim.Optimizer,
    pools: Pools,
    settings: AdaptorSettings,
    draw: torch.Generator,
    progress: Progress,
    ranks: Ranks,
) -> float:
    """One pass in a new order; returns the mean loss, which leaves the device once per pool."""
    ranker.train()
    total = 0.0
    for pool in pools.pools("train", draw):
        total += train_pool(ranker, optimizer, pool, settings, draw, progress, ranks)
        del pool  # before the next one is read
    return total / pools.count("train")


def train_pool(
    ranker: Ranker,
    optimizer: torch.optim.Optimizer,
    pool: Pool,
    settings: AdaptorSettings,
    draw: torch.Generator,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> float:
    """One pass over a pool; returns the sum of the losses of its rows."""
    order = shuffled(len(pool.rows), settings.block_rows, draw).to(pool.rows.device)
    total = torch.zeros((), dtype=torch.float64, device=pool.rows.device)
    for chunk in torch.split(pool.rows[order], settings.batch_size):
        share = ranks.share(len(chunk))
        mine, hidden = chunk[share], draw_hidden(len(chunk), pool.data, settings, draw)
        batch = None
        if len(mine):
            batch = hide(pool.data.batch(mine, pool.kinds), pool.data, {name: is_B[share] for name, is_B in hidden.items()})
        total += step(ranker, optimizer, batch, len(mine) / len(chunk), ranks) * len(mine)
        progress.advance(len(chunk))
    return float(ranks.sum(total))


def step(
    ranker: Ranker, optimizer: torch.optim.Optimizer, batch: Batch | None, share: float = 1.0, ranks: Ranks = ALONE
) -> torch.Tensor | float:
    """Learn from one batch; returns its mean loss, which stays on the device.

    Args:
        batch: this process's rows of it; None: it has none.
        share: how many of the rows those are, as a share.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = None if batch is None else ranker.loss(batch)
    if loss is not None:
        (loss if share == 1.0 else loss * share).backward()  # type: ignore[no-untyped-call]
    ranks.sum_gradients(ranker)
    optimizer.step()
    return 0.0 if loss is None else loss.detach()


def optimizer_of(ranker: nn.Module, settings: AdaptorSettings | RerankSettings) -> torch.optim.Optimizer:
    """AdamW in one pass over all weights."""
    return torch.optim.AdamW(ranker.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def hide_ids(batch: Batch, data: TrainingData, settings: AdaptorSettings, draw: torch.Generator) -> Batch:
    """Id dropout: the batch with the target's item id, and the user's id, replaced by the unknown code in a drawn share of the rows.

    So that a ranker learns to use what it knows of an item or user without an id. Histories keep their ids. The mean rating of an item whose
    id is hidden is hidden with it: an item that nobody has rated has neither.
    """
    return hide(batch, data, draw_hidden(len(batch.single_BS), data, settings, draw))


def draw_hidden(count: int, data: TrainingData, settings: AdaptorSettings, draw: torch.Generator) -> dict[str, torch.Tensor]:
    """Field → in which of a batch's rows it is hidden, on the CPU."""
    shares = {"item_id": settings.item_id_dropout, "user_id": settings.user_id_dropout}
    names = (*data.target_fields, *data.profile_fields)
    return {name: torch.rand(count, generator=draw) < share for name, share in shares.items() if share and name in names}


def hide(batch: Batch, data: TrainingData, hidden_B: dict[str, torch.Tensor]) -> Batch:
    """The batch with fields hidden in some rows; see `hide_ids`."""
    if not hidden_B:
        return batch
    names = (*data.target_fields, *data.profile_fields)
    single_BS = batch.single_BS.clone()
    for name, is_drawn_B in hidden_B.items():
        is_hidden_B = is_drawn_B.to(single_BS.device)
        for hidden in (name, ITEM_MEAN) if name == "item_id" and ITEM_MEAN in names else (name,):
            single_BS[:, names.index(hidden)].masked_fill_(is_hidden_B, data.fields.offset(hidden) + UNKNOWN)
    return replace(batch, single_BS=single_BS)


def shuffled(count: int, block: int, generator: torch.Generator) -> torch.Tensor:
    """A permutation of `count` rows in which blocks of neighbours stay together; where blocks begin is drawn anew each time.

    Neighbouring training rows are of one user, so that a batch holds fewer distinct users and the adaptor has less to do.
    """
    first = int(torch.randint(block, (1,), generator=generator))
    blocks = torch.randperm((count + first + block - 1) // block, generator=generator)
    order = (blocks[:, None] * block + torch.arange(block) - first).flatten()
    return order[(order >= 0) & (order < count)]


@torch.inference_mode()
def predict(ranker: Ranker, data: TrainingData, kinds: Sequence[Kind], examples: Int64) -> Float32:
    """Logits of some examples, in their order; leaves the ranker in evaluation mode."""
    ranker.eval()
    rows = torch.from_numpy(examples).to(data.device)
    return torch.cat([ranker(data.batch(chunk, kinds)) for chunk in torch.split(rows, _PREDICT_ROWS)]).cpu().numpy()


def _predict_split(ranker: Ranker, pools: Pools, split: str, ranks: Ranks) -> Float32:
    """Logits of a split's examples, in file order; each rank predicts its share."""
    return np.concatenate([_predict_pool(ranker, pool, ranks) for pool in pools.pools(split)])


def _predict_pool(ranker: Ranker, pool: Pool, ranks: Ranks) -> Float32:
    rows, share = pool.rows.cpu().numpy(), ranks.share(len(pool.rows))
    logit = np.zeros(len(rows), np.float32)
    if len(rows[share]):
        logit[share] = predict(ranker, pool.data, pool.kinds, rows[share])
    return ranks.sum(torch.from_numpy(logit)).numpy()


@contextlib.contextmanager
def repeatable(seed: int, threads: int | None) -> Iterator[None]:
    """Seed dropout and set the thread count, both for the block only."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        torch.set_num_threads(threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)
