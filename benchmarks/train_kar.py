"""kar's own training steps on the drawn examples, and the same examples as columns for the peers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import train_world
from kar.model.batches import Kind, TrainingData
from kar.model.ranker import Ranker, build
from kar.model.train import hide_ids, optimizer_of, shuffled, step
from kar.settings import AdaptorSettings

if TYPE_CHECKING:
    from benchmarks.train_systems import Advance, Task

_CAP = 30
_PEER_ROWS = 200_000


def settings_for(task: Task) -> AdaptorSettings:
    """As in the reference: embeddings of 32, 2 shared and 5 own experts a kind, expert MLP [128, 32], final MLP [200, 80]."""
    made: dict[str, Any] = {name: getattr(task, name) for name in ("block_rows", "precision", "compile")}
    return AdaptorSettings(item_fields=["genre"], batch_size=task.batch, **made)


def prepare(task: Task) -> tuple[Ranker, TrainingData, list[Kind], AdaptorSettings]:
    """A fresh ranker and the examples of its base, with vectors where the task says."""
    settings = settings_for(task)
    data = train_world.read(Path(task.folder)).load(task.base, settings, _CAP)  # type: ignore[arg-type]
    kinds = [] if task.knowledge == "none" else train_world.kinds(data, task.width, in_history=task.knowledge == "history")
    return build(task.backbone, data, kinds, task.width, settings, 1), data, kinds, settings


def start(task: Task) -> tuple[Advance, dict[str, float]]:
    """One batch after another through the steps of `kar.model.train`; and what a row costs: `flop` of its products, `subjects` of a batch."""
    ranker, data, kinds, settings = prepare(task)
    optimizer, draw = optimizer_of(ranker, settings), torch.Generator().manual_seed(1)
    chunks = _chunks(data, settings, draw)

    def advance() -> int:
        chunk = next(chunks)
        step(ranker, optimizer, hide_ids(data.batch(chunk, kinds), data, settings, draw))
        return len(chunk)

    ranker.train()
    batch = data.batch(next(chunks), kinds)
    with FlopCounterMode(display=False) as counter:
        step(ranker, optimizer, batch)
    subjects = sum(len(kind.vectors_NT) for kind in batch.knowledge)
    return advance, {"flop": counter.get_total_flops() / task.batch, "subjects": subjects / task.batch}


def _chunks(data: TrainingData, settings: AdaptorSettings, draw: torch.Generator) -> Iterator[torch.Tensor]:
    """Whole batches in the order of training, epoch after epoch."""
    rows = torch.from_numpy(data.split_rows["train"])
    while True:
        for chunk in torch.split(rows[shuffled(len(rows), settings.block_rows, draw)], settings.batch_size):
            if len(chunk) == min(settings.batch_size, len(rows)):
                yield chunk


def write(world: train_world.World, folder: Path) -> None:
    """Put the world down for the measured processes: as tables for kar, and some of its training rows as columns for the peers."""
    train_world.write(world, folder)
    data = world.load("thin", AdaptorSettings(item_fields=["genre"]), _CAP)
    rows = np.random.default_rng(1).permutation(data.split_rows["train"])[:_PEER_ROWS]
    batch = data.batch(torch.from_numpy(rows))
    place_BL, is_event_BL = batch.places()
    history = {
        f"history_{name}": torch.where(is_event_BL, batch.code_KH[at][place_BL] - data.fields.offset(field) + 1, 0).numpy()
        for at, (name, field) in enumerate((("item", "item_id"), ("genre", "genre"), ("rating", "rating")))
    }
    target = {
        name: batch.single_BS[:, at].numpy() - data.fields.offset(field) + 1
        for at, (name, field) in enumerate((("item", "item_id"), ("genre", "genre")))
    }
    np.savez(folder / "columns.npz", **target, **history, label=batch.label_B.numpy())  # type: ignore[arg-type]
