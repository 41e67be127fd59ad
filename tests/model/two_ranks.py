"""One of several processes that train together: `python -m tests.model.two_ranks FOLDER`, RANK and the others in the environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kar.model import arms, distributed
from kar.model.distributed import ALONE, Ranks
from kar.model.train import Trained, train
from tests.model.conftest import make_world, small_settings


def trained(ranks: Ranks = ALONE, state_path: Path | None = None) -> dict[str, Trained]:
    """Both kinds of backbone, with id dropout; 69 training rows in batches of 17: in the last one a rank has no row."""
    torch.set_num_threads(1)
    found, world = {}, make_world()
    for backbone in ("fibinet", "din"):
        settings: Any = small_settings(batch_size=17, learning_rate=1e-3, weight_decay=0.1, item_id_dropout=0.3, block_rows=2)
        data = world.load(settings)
        assert len(data.split_rows["train"]) % settings.batch_size == 1
        prepared = arms.prepare(world.knowledge_vector, world.example, settings)
        kinds = prepared.kinds("knowledge", data, 1)
        found[backbone] = train(backbone, data, kinds, prepared.width, settings, 1, "ranks", ranks=ranks, state_path=state_path)
    return found


if __name__ == "__main__":
    joined = distributed.join()
    for name, result in trained(joined).items():
        np.savez(
            Path(sys.argv[1]) / f"{name}-{joined.rank}.npz",
            valid=result.valid_logit,
            test=result.test_logit,
            loss=[epoch.train_loss for epoch in result.epochs],
            auc=[epoch.valid_auc for epoch in result.epochs],
            **{f"weight.{key}": value.numpy() for key, value in result.ranker.state_dict().items()} if result.ranker else {},
        )
    distributed.leave()
