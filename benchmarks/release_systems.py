"""One measured process of `benchmarks.release`: one system, one task, in windows; seconds by the clock and of the processor.

    python -m benchmarks.release_systems '{"what": "join", "system": "duckdb", "folder": "…"}'

The peers are given what is best for them: the versions as one Parquet file of (id, published_at, row) that holds no vectors. They join users
alone; kar joins users and items.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import main


@dataclass(frozen=True)
class Task:
    """What one process does.

    Args:
        what: draw, publish, floor, night, join, stream or open.
        folder: what `benchmarks.release` wrote: published/, examples.parquet, …
        users, items, text: of the sides that are drawn.
        bytes: to be written (floor).
        windows: how often; each is reported.
    """

    what: str
    system: str
    folder: str
    users: int = 0
    items: int = 0
    text: bool = False
    bytes: int = 0
    windows: int = 3


def run(task: Task) -> dict[str, Any]:
    """Wall and processor seconds of each window under "wall_s" and "cpu_s", and what else the task says."""
    acts = {"draw": _draw, "publish": _publish, "floor": _floor_publish, "night": _night, "join": _join, "stream": _stream, "open": _open}
    return acts[task.what](task)


def _timed(windows: int, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    said: dict[str, Any] = {"wall_s": [], "cpu_s": []}
    for _ in range(windows):
        started, cpu_from = time.perf_counter(), _cpu_s()
        found = act()
        said["wall_s"].append(time.perf_counter() - started)
        said["cpu_s"].append(_cpu_s() - cpu_from)
        said |= found
    return said


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _draw(task: Task) -> dict[str, Any]:
    from benchmarks import release_world as world

    for name, rows, seed, knowledge in (("item", task.items, 2, 8), ("user", task.users, 1, 0)):
        world.save(world.side(name, rows, seed, text=task.text, knowledge=knowledge), Path(task.folder))
    return {}


def _publish(task: Task) -> dict[str, Any]:
    """A whole release of both sides, verified; what was drawn is memory-mapped, as a stage with as many rows would have it."""
    from benchmarks import release_world as world
    from kar.release.publish import publish

    sides = (world.load("user", Path(task.folder)), world.load("item", Path(task.folder)))
    numbers = iter(range(task.windows))

    def act() -> dict[str, Any]:
        folder = Path(task.folder) / f"publish-{next(numbers)}"
        done = publish(folder, sides, world.facts(0))
        written = world.written_bytes(done.path)
        shutil.rmtree(folder)
        return {"bytes": written}

    with _AnonymousPeak() as peak:
        said = _timed(task.windows, act)
    return said | {"anonymous_mb": peak.mb}


class _AnonymousPeak:
    """Highest memory that no file stands behind, looked at every 20 ms; what is mapped the kernel may drop, this it may not."""

    def __init__(self) -> None:
        self.mb = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _AnonymousPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        status = Path("/proc/self/status")
        while status.exists() and not self._done.wait(0.02):
            self.mb = max(self.mb, int(status.read_text().split("RssAnon:")[1].split()[0]) * 1024 / 1e6)


def _floor_publish(task: Task) -> dict[str, Any]:
    """The same bytes to the same disk: hashed, written, fsynced and read back."""
    path = Path(task.folder) / "floor"
    data = np.random.default_rng(1).bytes(1 << 24)

    def act() -> dict[str, Any]:
        sha = hashlib.sha256()
        with path.open("wb") as stream:
            for _ in range(task.bytes >> 24):
                sha.update(data)
                stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        with path.open("rb") as stream:
            hashlib.file_digest(stream, "sha256")
        path.unlink()
        return {}

    return _timed(task.windows, act)


def _night(task: Task) -> dict[str, Any]:
    """The publication after a night in which 1 % of both sides changed, beside the full one before it."""
    from benchmarks import release_world as world
    from kar.release.publish import publish

    users, items = world.side("user", task.users, 1), world.side("item", task.items, 2)
    folder = Path(task.folder) / "night"
    said: dict[str, Any] = {}
    for name, day in (("full", 0), ("night", 1)):
        if day:
            users, items = world.changed(users, 0.01, day, 11), world.changed(items, 0.01, day, 12)
        started, cpu_from = time.perf_counter(), _cpu_s()
        done = publish(folder, (users, items), world.facts(day))
        said |= {f"{name}_wall_s": time.perf_counter() - started, f"{name}_cpu_s": _cpu_s() - cpu_from}
        said[f"{name}_bytes"] = world.written_bytes(done.path)
    shutil.rmtree(folder)
    return said


def _join(task: Task) -> dict[str, Any]:
    """From Parquet to a row number for every example; every system must say the same hits and the same sum of rows."""
    folder = Path(task.folder)
    act = {"kar": _kar_rows, "duckdb": _duckdb_rows, "polars": _polars_rows, "pandas": _pandas_rows}[task.system]

    def once() -> dict[str, Any]:
        rows = act(folder)
        return {"hits": int((rows >= 0).sum()), "sum": int(rows[rows >= 0].sum())}

    if task.system == "kar":  # reading is every system's first half: say what it costs alone
        import pyarrow.parquet as pq

        import kar.release

        examples = pq.read_table(folder / "examples.parquet", columns=["user_id", "item_id", "event_at"])
        alone = _timed(task.windows, lambda: {"n": len(kar.release.join(folder / "published", examples))})
        del examples
        return _timed(task.windows, once) | {"read_before_wall_s": alone["wall_s"], "read_before_cpu_s": alone["cpu_s"]}
    return _timed(task.windows, once)


def _kar_rows(folder: Path) -> np.ndarray:
    import pyarrow.parquet as pq

    import kar.release

    examples = pq.read_table(folder / "examples.parquet", columns=["user_id", "item_id", "event_at"])
    return kar.release.join(folder / "published", examples).user_rows


def _duckdb_rows(folder: Path) -> np.ndarray:
    import duckdb

    with duckdb.connect() as connection:
        found = connection.execute(
            f"select coalesce(v.row, -1) as row from read_parquet('{folder}/examples.parquet') e "
            f"asof left join read_parquet('{folder}/versions.parquet') v on e.user_id = v.user_id and e.event_at >= v.published_at"
        ).fetchnumpy()
    return np.asarray(found["row"])


def _polars_rows(folder: Path) -> np.ndarray:
    import polars as pl

    examples = pl.scan_parquet(folder / "examples.parquet").select("user_id", "event_at")  # in order of time already
    versions = pl.scan_parquet(folder / "versions.parquet").sort("published_at")
    joined = examples.join_asof(
        versions, left_on="event_at", right_on="published_at", by="user_id", strategy="backward", check_sortedness=False
    )
    return joined.select(pl.col("row").fill_null(-1)).collect(engine="streaming")["row"].to_numpy()


def _pandas_rows(folder: Path) -> np.ndarray:
    import pandas as pd

    examples = pd.read_parquet(folder / "examples.parquet", columns=["user_id", "event_at"])
    versions = pd.read_parquet(folder / "versions.parquet").sort_values("published_at")
    joined = pd.merge_asof(examples, versions, left_on="event_at", right_on="published_at", by="user_id")
    return np.asarray(joined["row"].fillna(-1), np.int64)


def _stream(task: Task) -> dict[str, Any]:
    """Batches of 8,192 with the vectors of user and item, summed up once so that every float is touched by nobody but the reader."""
    folder = Path(task.folder)
    act = {"kar": _kar_stream, "kar, shuffled": _kar_stream, "pyarrow, materialised": _pyarrow_stream, "floor": _floor_stream}[task.system]
    return _timed(task.windows, lambda: {"rows": act(folder, task.system == "kar, shuffled")})


def _kar_stream(folder: Path, shuffled: bool) -> int:
    import kar.release

    stream = kar.release.Stream(folder / "published", folder / "stream.parquet", columns=["label"], seed=1 if shuffled else None)
    return sum(len(batch) for batch in stream)


def _pyarrow_stream(folder: Path, _: bool) -> int:
    import pyarrow.dataset as ds

    columns = [
        "label",
        "user_preference_adapted_vector",
        "user_preference_is_missing",
        "item_facts_adapted_vector",
        "item_facts_is_missing",
    ]
    count = 0
    for batch in ds.dataset(folder / "joined.parquet").to_batches(columns=columns, batch_size=8192):
        for name in columns[1::2]:
            column = batch.column(name)
            column.flatten().to_numpy().reshape(len(column), -1)  # `values` would be those of the whole row group
        count += len(batch)
    return count


def _floor_stream(folder: Path, _: bool) -> int:
    """What the memory alone takes: rows gathered at random from the matrices, batch by batch, by row numbers that are there already."""
    import pyarrow.parquet as pq

    import kar.release

    release = kar.release.open(folder / "published")
    count = int(pq.read_metadata(folder / "stream.parquet").num_rows)
    matrices = [np.asarray(release.matrix(view)) for view in ("user.preference", "item.facts")]
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, len(matrix), count, np.int32) for matrix in matrices]
    for first in range(0, count, 8192):
        for matrix, some in zip(matrices, rows, strict=True):
            np.take(matrix, some[first : first + 8192], axis=0)
    return count


def _open(task: Task) -> dict[str, Any]:
    """Open the release that is served and look 10,000 random ids up, again and again: what a warm file cache gives."""
    import kar.release

    folder = Path(task.folder) / "published"
    ids = kar.release.open(folder).ids("user")
    rng = np.random.default_rng(4)
    questions = iter([ids.take(rng.integers(0, len(ids), 10_000)) for _ in range(task.windows + 1)])

    def act() -> dict[str, Any]:
        vectors, _ = kar.release.open(folder).vectors("user", "user.preference", next(questions))
        return {"shape": list(vectors.shape)}

    _timed(1, act)
    return _timed(task.windows, act)


if __name__ == "__main__":
    main(Task, run)
