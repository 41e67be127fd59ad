"""A torch DataLoader with workers over a release: every worker gathers from the same memory maps, so that none copies the matrices.

python examples/torch_loader.py $KAR_HOME/movielens-100k/published example.parquet
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

import kar.release

BATCH, WORKERS = 1024, 2
PER_EXAMPLE = ("release_numbers", "user_rows", "item_rows", "event_us")


class Gathered(Dataset[dict[str, torch.Tensor]]):
    """Batches of examples by their places: ids stay where they are, vectors are gathered when a batch is asked for."""

    def __init__(self, joined: kar.release.Joined, label: np.ndarray) -> None:
        self.joined, self.label = joined, label

    def __getitem__(self, places: list[int]) -> dict[str, torch.Tensor]:
        batch, rows = {"label": torch.from_numpy(self.label[places])}, np.asarray(places)
        of_batch = replace(self.joined, **{name: getattr(self.joined, name)[rows] for name in PER_EXAMPLE})
        for side in ("user", "item"):
            for view in self.joined.views(side):
                vectors, is_missing = of_batch.vectors(side, view)
                batch[view], batch[f"{view} is missing"] = torch.from_numpy(vectors), torch.from_numpy(is_missing)
        return batch


def main() -> None:
    examples = pq.read_table(sys.argv[2])
    joined = kar.release.join(sys.argv[1], examples, clock="evidence")
    data = Gathered(joined, examples.column("label").to_numpy().astype(np.float32))
    places = BatchSampler(RandomSampler(range(len(joined))), BATCH, drop_last=False)
    started, rows, covered = time.monotonic(), 0, {view: 0 for side in ("user", "item") for view in joined.views(side)}
    for batch in DataLoader(data, sampler=places, batch_size=None, num_workers=WORKERS):
        rows += len(batch["label"])
        covered = {view: n + int((~batch[f"{view} is missing"]).sum()) for view, n in covered.items()}
    shares = ", ".join(f"{view} {n / max(rows, 1):.1%}" for view, n in covered.items())
    print(
        f"{rows:,} examples in {len(places)} batches by {WORKERS} workers, {rows / (time.monotonic() - started):,.0f} rows/s; covered: {shares}"
    )


if __name__ == "__main__":
    main()
