"""Boosted trees without and with the vectors of a release: what knowledge adds where there are no ids to learn.

python examples/lightgbm_train.py $KAR_HOME/movielens-100k/published example.parquet
"""

from __future__ import annotations

import sys

import lightgbm as lgb
import numpy as np
import pyarrow.parquet as pq

import kar.release


def auc(label: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve; equal scores count half."""
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = label.sum()
    return float((rank[label == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(label) - positives)))


def main() -> None:
    examples = pq.read_table(sys.argv[2])
    # old data, a release published later: by evidence. In production leave the clock out: what was served at the example's time
    joined = kar.release.join(sys.argv[1], examples, clock="evidence")
    split, label = examples.column("split").to_numpy(), examples.column("label").to_numpy()
    _, user_place, user_count = np.unique(examples.column("user_id").to_numpy(), return_inverse=True, return_counts=True)
    base = [np.log1p(user_count[user_place])[:, None]]
    found = [joined.vectors(side, view) for side in ("user", "item") for view in joined.views(side)]
    # LightGBM has a branch of its own for what is missing
    knowledge = [np.where(is_missing[:, None], np.nan, vectors) for vectors, is_missing in found]
    user, item = knowledge[0], knowledge[-1]
    if user.shape == item.shape:
        knowledge.append(user * item)  # trees cannot multiply
    for name, parts in (("without", base), ("with", base + knowledge)):
        x = np.hstack(parts).astype(np.float32)
        train, valid = (lgb.Dataset(x[split == part], label[split == part]) for part in ("train", "valid"))
        settings = {
            "objective": "binary",
            "metric": "auc",
            "num_leaves": 15,
            "learning_rate": 0.1,
            "seed": 1,
            "num_threads": 1,
            "verbosity": -1,
        }
        model = lgb.train(settings, train, 200, valid_sets=[valid], callbacks=[lgb.early_stopping(20, verbose=False)])
        score = np.asarray(model.predict(x[split == "test"]))
        print(f"{name:<8} {x.shape[1]:>4} columns   test AUC {auc(label[split == 'test'], score):.4f}")


if __name__ == "__main__":
    main()
