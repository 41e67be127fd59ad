"""The joint training of one backbone, arm and seed: BCE, early stopping on valid, the test examples predicted once at the end."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from kar import metrics
from kar.errors import ModelError
from kar.log import Progress
from kar.model.batches import Batch, Kind, TrainingData
from kar.model.knowledge import Float32
from kar.model.ranker import Ranker, build
from kar.model.vocabulary import UNKNOWN, Int64
from kar.settings import AdaptorSettings

_PREDICT_ROWS = 8192


@dataclass(frozen=True)
class Epoch:
    """One pass over the training examples; see the table epoch."""

    train_loss: float
    valid_auc: float
    valid_logloss: float
    seconds: float


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
    is_shown: bool = True,
    with_test: bool = True,
) -> Trained:
    """Train, choose the epoch on valid, predict test once.

    Args:
        kinds: the arm's knowledge; none: the base arm.
        width: of the knowledge vectors.
        what: names the training in the progress and in errors.
        is_shown: whether to show progress; not where several train side by side.
        with_test: False: the test examples are left alone, and there are no test logits (a hyper-parameter trial).

    Raises:
        ModelError: the loss is no longer finite.
    """
    ranker = build(backbone, data, kinds, width, settings, seed)
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    train_rows = torch.from_numpy(data.split_rows["train"]).to(data.device)
    valid = data.split_rows["valid"]
    valid_label = data.label_E.cpu().numpy()[valid]
    shuffle = torch.Generator().manual_seed(seed)
    epochs: list[Epoch] = []
    best: dict[str, torch.Tensor] = {}
    best_logit: Float32 = np.empty(0, np.float32)
    chosen = -1
    with _repeatable(seed, settings.threads), Progress(what, total=len(train_rows) * settings.epochs, is_shown=is_shown) as progress:
        for number in range(settings.epochs):
            started = time.perf_counter()
            loss = _epoch(ranker, optimizer, data, kinds, train_rows, settings, shuffle, progress)
            seconds = time.perf_counter() - started
            if not np.isfinite(loss):
                raise ModelError(f"{what}: the loss of epoch {number} is {loss}", "lower adaptor.learning_rate")
            logit = predict(ranker, data, kinds, valid)
            epochs.append(Epoch(loss, metrics.auc(valid_label, logit), metrics.logloss(valid_label, logit), seconds))
            progress.tick(epoch=number, valid_auc=epochs[-1].valid_auc)
            if chosen < 0 or epochs[-1].valid_auc > epochs[chosen].valid_auc:
                chosen, best_logit, best = number, logit, copy.deepcopy(ranker.state_dict())
            elif number - chosen >= settings.patience:
                break
        ranker.load_state_dict(best)
        test_logit = predict(ranker, data, kinds, data.split_rows["test"]) if with_test else np.empty(0, np.float32)
    rows_per_s = len(train_rows) * len(epochs) / sum(epoch.seconds for epoch in epochs)
    return Trained(ranker, ranker.parameter_count(), epochs, chosen, best_logit, test_logit, rows_per_s)


def _epoch(
    ranker: Ranker,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    kinds: Sequence[Kind],
    rows: torch.Tensor,
    settings: AdaptorSettings,
    shuffle: torch.Generator,
    progress: Progress,
) -> float:
    """One pass in a new order; returns the mean loss. The loss leaves the device once, at the end."""
    ranker.train()
    order = shuffled(len(rows), settings.block_rows, shuffle).to(rows.device)
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for chunk in torch.split(rows[order], settings.batch_size):
        batch = hide_ids(data.batch(chunk, kinds), data, settings, shuffle)
        loss = functional.binary_cross_entropy_with_logits(ranker(batch), batch.label_B)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(chunk)
        progress.advance(len(chunk))
    return float(total) / len(rows)


def hide_ids(batch: Batch, data: TrainingData, settings: AdaptorSettings, draw: torch.Generator) -> Batch:
    """Id dropout: the batch with the target's item id, and the user's id, replaced by the unknown code in a drawn share of the rows.

    So that a ranker learns to use what it knows of an item or user without an id. Histories keep their ids.
    """
    shares = {"item_id": settings.item_id_dropout, "user_id": settings.user_id_dropout}
    names = (*data.target_fields, *data.profile_fields)
    dropped = {name: share for name, share in shares.items() if share and name in names}
    if not dropped:
        return batch
    single_BS = batch.single_BS.clone()
    for name, share in dropped.items():
        is_hidden_B = (torch.rand(len(single_BS), generator=draw) < share).to(single_BS.device)
        single_BS[:, names.index(name)].masked_fill_(is_hidden_B, data.fields.offset(name) + UNKNOWN)
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


@contextlib.contextmanager
def _repeatable(seed: int, threads: int | None) -> Iterator[None]:
    """Seed dropout and set the thread count, both for the block only."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        torch.set_num_threads(threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)
