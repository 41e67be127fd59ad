"""A release as a pandas data frame: nothing of kar, only the Parquet files that the manifest names.

python examples/plain_pandas.py $KAR_HOME/movielens-100k/published
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

published = Path(sys.argv[1])
# CURRENT is read once: whatever is published from here on, this job stays with the release it found
release = published / "releases" / json.loads((published / "CURRENT").read_text())["release"]
manifest = json.loads((release / "manifest.json").read_text())


def table(side: str) -> pd.DataFrame:
    """A side's rows, one per subject, by id. From format 3 on a row may lie in several layers, and the newest counts."""
    rows = pd.concat(pd.read_parquet(release / file["path"]) for file in manifest["tables"][f"{side}_knowledge"]["files"])
    if manifest["format"] >= 3:
        rows = rows.sort_values("layer").drop_duplicates(f"{side}_id", keep="last").query("not is_removed")
    return rows.sort_values(f"{side}_id").set_index(f"{side}_id")


for view, entry in manifest["views"].items():
    rows, short = table(entry["side"]), view.split(".")[1].replace(":", "_")
    known = rows[~rows[f"{short}_is_missing"]]
    vectors = np.stack(known[f"{short}_adapted_vector"].to_list()) if len(known) else np.zeros((0, entry["adapted_width"]), np.float32)
    norm = np.linalg.norm(vectors, axis=1).mean() if len(known) else float("nan")
    print(f"{view:<24} {len(rows):,} {entry['side']}s, {len(known):,} with knowledge, matrix {vectors.shape}, mean norm {norm:.4f}")
