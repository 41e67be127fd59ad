"""A release with polars, lazily: nothing of kar, only the Parquet files that the manifest names.

python examples/plain_polars.py $KAR_HOME/movielens-100k/published
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl

published = Path(sys.argv[1])
# CURRENT is read once: whatever is published from here on, this job stays with the release it found
release = published / "releases" / json.loads((published / "CURRENT").read_text())["release"]
manifest = json.loads((release / "manifest.json").read_text())


def table(side: str) -> pl.LazyFrame:
    """A side's rows, one per subject. From format 3 on a row may lie in several layers, and the newest counts."""
    rows = pl.scan_parquet([release / file["path"] for file in manifest["tables"][f"{side}_knowledge"]["files"]])
    if manifest["format"] < 3:
        return rows
    return rows.filter(pl.col("layer") == pl.col("layer").max().over(f"{side}_id")).filter(~pl.col("is_removed"))


for view, entry in manifest["views"].items():
    short = view.split(".")[1].replace(":", "_")
    vector = pl.col(f"{short}_adapted_vector").filter(~pl.col(f"{short}_is_missing"))
    found = table(entry["side"]).select(
        rows=pl.len(),
        known=(~pl.col(f"{short}_is_missing")).sum(),
        norm=vector.arr.eval(pl.element().cast(pl.Float64).pow(2)).arr.sum().sqrt().mean(),
    )
    rows, known, norm = found.collect().row(0)
    print(f"{view:<24} {rows:,} {entry['side']}s, {known:,} with knowledge, mean norm {float('nan') if norm is None else norm:.4f}")
