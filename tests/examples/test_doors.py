"""Each door runs from a shell as its line in the README says, over a small real release, and prints what is true of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import kar.release

ROOT = Path(__file__).resolve().parents[2]
LINES = dict(re.findall(r"^\| `python examples/(\w+)\.py ([^`]+)`", (ROOT / "README.md").read_text(), re.MULTILINE))
DOORS = [
    ("plain_duckdb", "duckdb", ["40 items, 40 with item.facts (100.0%)", "cosine 0.999"]),
    ("plain_pandas", "pandas", ["240 users, 192 with knowledge, matrix (192, 4)", "40 items, 40 with knowledge"]),
    ("plain_polars", "polars", ["240 users, 192 with knowledge, mean norm", "40 items, 40 with knowledge"]),
    ("lightgbm_train", "lightgbm", ["without", "test AUC 0.5000"]),
    pytest.param("hugging_face", "datasets", ["240 users streamed from 24 shards by 2 workers"], marks=pytest.mark.slow),
    pytest.param("torch_loader", "torch", ["3,840 examples", "user.preference 80.0%, item.facts 100.0%"], marks=pytest.mark.slow),
    pytest.param("feast_offline", "feast", ["200 rows asked, 200 given, 80 with user.preference of width 4, 0 of"], marks=pytest.mark.slow),
    pytest.param("fuxictr_train", "fuxictr", ["FiBiNET", "DIN", "640 test examples"], marks=pytest.mark.slow),
]
INTERPRETERS = {"feast": "FEAST_PYTHON", "fuxictr": "PEERS_PYTHON"}


def interpreter(package: str) -> str:
    """Who runs a door: this interpreter, or the one that a variable names for packages that do not fit beside kar's. Skips if it cannot."""
    variable = INTERPRETERS.get(package, "")
    chosen = os.environ.get(variable) or sys.executable
    if subprocess.run([chosen, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"]).returncode:
        where = f"; name an environment that has it: {variable}=…/bin/python" if variable else ": pip install -e .[doors]"
        pytest.skip(f"{package} is not installed here{where}")
    return chosen


def figures(door: str, package: str, folder: Path) -> str:
    line = LINES[door].replace("PUBLISHED", str(folder / "published")).replace("EXAMPLES", str(folder / "example.parquet"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "FEAST_USAGE": "False", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [interpreter(package), str(ROOT / "examples" / f"{door}.py"), *line.split()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_release_has_rows_in_layers_and_a_removed_one(planted: Path) -> None:
    files = kar.release.open(planted / "published").manifest["tables"]["user_knowledge"]["files"]
    tables = [pq.read_table(planted / "published" / "releases" / release_id(planted) / file["path"]) for file in files]
    assert sum(table.num_rows for table in tables) > 240
    assert any(True in table.column("is_removed").to_pylist() for table in tables)


def release_id(folder: Path) -> str:
    return str(kar.release.open(folder / "published").id)


def test_the_plain_doors_give_the_newest_layer_s_vectors(planted: Path) -> None:
    release = kar.release.open(planted / "published")
    vectors, is_missing = release.vectors("user", "user.preference", release.ids("user"))
    norm = np.linalg.norm(vectors[~is_missing].astype(np.float64), axis=1).mean()
    for door in ("plain_pandas", "plain_polars"):
        assert f"mean norm {norm:.4f}" in figures(door, door.removeprefix("plain_"), planted)


@pytest.mark.parametrize(("door", "package", "words"), DOORS)
def test_a_door_prints_what_is_true_of_the_release(planted: Path, door: str, package: str, words: list[str]) -> None:
    shown = figures(door, package, planted)
    for word in words:
        assert word in shown
    if door == "hugging_face":
        assert re.search(r"batches begin with \[\d+, \d+\]", shown)  # both workers were given shards
    if aucs := [float(auc) for auc in re.findall(r"(?:with|FiBiNET|DIN) .*AUC (0\.\d+)", shown)]:
        assert min(aucs) > 0.8  # nine in ten labels follow from the vectors


def test_the_readme_has_a_line_for_every_example_and_for_no_other() -> None:
    assert set(LINES) == {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert len(LINES) == 9
    assert set(LINES) == {(door.values[0] if hasattr(door, "values") else door[0]) for door in DOORS} | {"train_ctr"}


@pytest.mark.parametrize("door", [door for door in LINES if door != "train_ctr"])
def test_a_door_says_at_its_top_how_it_is_run(door: str) -> None:
    said = (ROOT / "examples" / f"{door}.py").read_text().split('"""')[1]
    assert re.search(rf"^python examples/{door}\.py \$KAR_HOME/movielens-100k/published( example\.parquet)?$", said, re.MULTILINE)
    assert ("example.parquet" in said) == ("EXAMPLES" in LINES[door])


@pytest.mark.parametrize("door", ["plain_duckdb", "plain_pandas", "plain_polars"])
def test_a_plain_door_needs_nothing_of_kar(door: str) -> None:
    assert not re.search(r"^(import|from) kar", (ROOT / "examples" / f"{door}.py").read_text(), re.MULTILINE)
