"""A torch DataLoader whose workers gather vectors from the same memory maps, so that none copies the matrices or joins beforehand.

python examples/torch_loader.py $KAR_HOME/movielens-100k/published example.parquet
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from torch.utils.data import DataLoader

import kar.release

EPOCHS, WORKERS = 2, 2


def main() -> None:
    # CURRENT is read once, here: every epoch and every worker sees the same releases. By evidence: old data, a release published later
    stream = kar.release.Stream(sys.argv[1], sys.argv[2], columns=["label"], clock="evidence", batch_rows=1024, seed=1)
    loader = DataLoader(kar.release.torch_dataset(stream), batch_size=None, num_workers=WORKERS, persistent_workers=True)
    for epoch in range(EPOCHS):
        started, rows, batches, known = time.monotonic(), 0, 0, Counter[str]()
        for batch in loader:
            rows, batches = rows + len(batch["columns"]["label"]), batches + 1
            for view, is_missing in batch["is_missing"].items():
                assert batch["vectors"][view].shape[0] == len(is_missing)
                known[view] += int((~is_missing).sum())
        shares = ", ".join(f"{view} {count / max(rows, 1):.1%}" for view, count in known.items())
        print(
            f"epoch {epoch}: {rows:,} examples in {batches} batches, {rows / (time.monotonic() - started):,.0f} rows/s; covered: {shares}"
        )


if __name__ == "__main__":
    main()
