"""Stream a release with Hugging Face `datasets`: many files, so that shuffling by file and several workers have something to share.

python examples/hugging_face.py $KAR_HOME/movielens-100k/published
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from datasets import load_dataset
from torch.utils.data import DataLoader

import kar.release
from kar.release.export import export

FILES, WORKERS = 24, 2  # with few files (< 20) `datasets` leaves all of them to the first worker once they are shuffled
BATCH = 256


def main() -> None:
    release = kar.release.open(sys.argv[1])
    view = release.views("user")[0]
    short = view.split(".")[1].replace(":", "_")
    with tempfile.TemporaryDirectory() as folder:
        export(release, Path(folder) / "plain", ("user",), files=FILES)
        files = [str(path) for path in sorted((Path(folder) / "plain" / "user_knowledge").glob("*.parquet"))]
        rows = load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=folder)
        rows = rows.select_columns(["user_id", f"{short}_is_missing", f"{short}_adapted_vector"])
        rows = rows.shuffle(seed=1, buffer_size=1024).with_format("arrow")  # ten times as fast as "numpy"
        seen, firsts = 0, list[int | str]()
        for batch in DataLoader(rows.batch(BATCH), batch_size=None, num_workers=WORKERS):  # an Arrow table of one row: lists of each column
            ids, vectors = (batch.column(name).combine_chunks().flatten() for name in ("user_id", f"{short}_adapted_vector"))
            matrix = vectors.flatten().to_numpy().reshape(len(ids), release.width(view))
            assert np.isfinite(matrix).all()
            seen, firsts = seen + len(ids), [*firsts, ids[0].as_py()]
    print(
        f"release {release.id}: {seen:,} users streamed from {rows.num_shards} shards by {WORKERS} workers, batches begin with {firsts[:5]}"
    )


if __name__ == "__main__":
    main()
