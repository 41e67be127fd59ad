"""The machinery of `make bench-train`: drawn examples, what each system is given, and the processes that train. No figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import train_floor, train_kar, train_systems, train_world
from benchmarks.train import Bench
from benchmarks.train_systems import Task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("examples")
    train_kar.write(train_world.make(users=80, items=300), made)
    return made


def test_the_drawn_examples_have_the_shape_of_movielens_1m() -> None:
    world = train_world.make(users=1_000)
    length = np.bincount(world.sequence["user_id"].to_numpy())[1:]
    assert length.min() >= 20
    assert 80 < np.median(length) < 112
    assert 140 < length.mean() < 190
    pairs = world.sequence.group_by(["user_id", "item_id"]).aggregate([])
    assert pairs.num_rows == world.sequence.num_rows  # no item twice to a user
    assert 0.5 < world.example["label"].to_numpy().mean() < 0.65
    assert world.sequence.equals(train_world.make(users=1_000).sequence)


def test_the_peers_are_given_what_kar_sees(folder: Path) -> None:
    columns = train_systems.columns(folder)
    data = train_world.read(folder).load("thin", train_kar.settings_for(Task("kar", "din", str(folder))), 30)
    rows = np.random.default_rng(1).permutation(data.split_rows["train"])
    assert len(columns["label"]) == len(rows)
    assert (columns["label"] == data.label_E.numpy()[rows]).all()
    assert (columns["item"] - 1 == data.single_ES[rows, 0].numpy() - data.fields.offset("item_id")).all()
    assert ((columns["history_item"] > 0).sum(axis=1) == data.length_E.numpy()[rows]).all()
    last = columns["history_rating"][np.arange(len(rows)), data.length_E.numpy()[rows] - 1]
    assert (last - 1 == data.event_KV[2, (data.start_E + data.length_E - 1)[rows]].numpy() - data.fields.offset("rating")).all()


@pytest.mark.parametrize("knowledge", ["none", "target", "history"])
def test_kar_s_steps_are_counted_in_rows_and_in_flop(folder: Path, knowledge: str) -> None:
    task = Task("kar", "fibinet", str(folder), knowledge=knowledge, width=16, batch=64, seconds=0.02, windows=2)
    said = train_systems.run(task)
    assert len(said["rows_per_s"]) == len(said["rows_per_cpu_s"]) == 2  # type: ignore[arg-type]
    assert min(said["rows_per_s"]) > 0  # type: ignore[type-var]
    assert said["flop"] > 6 * 640 * 200  # type: ignore[operator]  # at least the final MLP's first layer, there and back
    assert (said["subjects"] > 0) == (knowledge != "none")  # type: ignore[operator]


def test_neighbouring_rows_share_subjects_and_so_cost_fewer_flop(folder: Path) -> None:
    task = {"knowledge": "target", "width": 64, "batch": 64, "seconds": 0.01, "windows": 1}
    alone, together = (train_systems.run(Task("kar", "din", str(folder), block_rows=block, **task)) for block in (1, 32))  # type: ignore[arg-type]
    assert together["subjects"] < alone["subjects"]  # type: ignore[operator]
    assert together["flop"] < alone["flop"]  # type: ignore[operator]


def test_the_floor_is_of_real_products() -> None:
    assert 0 < train_floor.gflop_per_s("float32", 64, 64) < 100_000


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["din", "fibinet"])
def test_deepctrs_fit_trains_on_the_columns(folder: Path, backbone: str) -> None:
    bench = Bench(folder, sys.executable, 0.05, 1)
    said = bench.run(bench.task("deepctr-torch", backbone, batch=256))
    assert said is not None
    assert said["rows_per_s"] > 0


def test_a_package_that_is_not_installed_is_named(folder: Path) -> None:
    bare = [
        sys.executable,
        "-S",
        "-m",
        "benchmarks.train_systems",
        json.dumps({"system": "fuxictr", "backbone": "din", "folder": str(folder)}),
    ]
    said = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["missing"] == "torch"  # an interpreter without site-packages holds not even that


@pytest.mark.slow
def test_two_processes_side_by_side_train_at_the_same_time_and_are_summed(folder: Path) -> None:
    bench = Bench(folder, sys.executable, 0.3, 1)
    said = bench.run(bench.task("kar", "din", batch=64, side_by_side=2))
    assert said is not None
    assert len(list(folder.glob("here-*"))) == 2
