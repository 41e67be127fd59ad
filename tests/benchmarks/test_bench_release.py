"""The machinery of `make bench-release`: drawn releases, and what each system answers on them. No figure is judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import kar.release
from benchmarks import release_systems, release_world
from benchmarks.release import Bench
from benchmarks.release_systems import Task


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nights of 300 users and 200 items, 3,000 examples over them and 1,200 after the last."""
    return Bench(tmp_path_factory.mktemp("bench"), 0.0003, 1).published(text=False)


def test_the_drawn_releases_and_examples_have_the_shape_that_they_say(drawn: Path) -> None:
    release, examples = kar.release.open(drawn / "published", verify=True), pq.read_table(drawn / "examples.parquet")
    assert [len(release.ids(side)) for side in ("user", "item")] == [300, 200]  # type: ignore[arg-type]
    assert 0.1 < release.is_missing("user", "user.preference").mean() < 0.3
    vectors = release.matrix("user.preference")
    assert len(np.unique(np.round(vectors, 4), axis=0)) > 200
    assert np.abs(vectors).max() <= 1
    joined = kar.release.join(drawn / "published", examples)
    served = np.bincount(joined.release_numbers + 1, minlength=4) / len(joined)
    assert (np.abs(served - [0.1, 0.3, 0.3, 0.3]) < 0.05).all()
    assert len(examples) == 3000
    assert pc.min(pq.read_table(drawn / "stream.parquet")["event_at"]).as_py() >= release.published_at
    again = release_world.side("user", 300, 1)
    assert np.array_equal(again.views[0].adapted, release_world.side("user", 300, 1).views[0].adapted)


@pytest.mark.parametrize("system", ["kar", "duckdb", "polars", "pandas"])
def test_every_system_finds_the_same_rows(drawn: Path, system: str) -> None:
    if system in ("polars", "pandas"):
        pytest.importorskip(system)
    said = release_systems.run(Task("join", system, str(drawn), windows=1))
    joined = kar.release.join(drawn / "published", pq.read_table(drawn / "examples.parquet"))
    assert (said["hits"], said["sum"]) == (int((joined.user_rows >= 0).sum()), int(joined.user_rows[joined.user_rows >= 0].sum()))
    assert 2000 < said["hits"] < 3000


def test_every_reader_reads_every_example(drawn: Path) -> None:
    kar.release.join_files(drawn / "published", drawn / "stream.parquet", drawn / "joined.parquet")
    for system in ("kar", "kar, shuffled", "pyarrow, materialised", "floor"):
        assert release_systems.run(Task("stream", system, str(drawn), windows=1))["rows"] == 1200
    assert release_systems.run(Task("open", "kar", str(drawn), windows=1))["shape"] == [10_000, 32]


def test_a_published_and_a_changed_night_are_counted_in_bytes(tmp_path: Path) -> None:
    release_systems.run(Task("draw", "kar", str(tmp_path), users=300, items=200))
    said = release_systems.run(Task("publish", "kar", str(tmp_path), users=300, items=200, windows=1))
    assert said["bytes"] > 300 * 32 * 4
    night = release_systems.run(Task("night", "kar", str(tmp_path), users=30_000, items=200))
    assert 0 < night["night_bytes"] < 0.2 * night["full_bytes"]  # of so few rows the manifest is a good part
