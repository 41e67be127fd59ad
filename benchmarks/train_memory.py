"""What a training holds in memory, and what streaming its examples costs: one process per figure, its peak read from the kernel.

Inputs are the six tables as Arrow holds them in memory, the vectors of the arm's views and no others among them. A process that has
imported what a training imports and read nothing is the baseline; it is taken off where memory is compared with inputs.

python -m benchmarks.train_memory [--large]       its first part is bench-train's section memory; --large: 50 million examples besides; 3 GB in the temporary folder while it runs
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.child import measure, report
from benchmarks.table import Row, rounded, text
from kar.store.stream import StreamWriter
from kar.tables import TABLES, IdTypes

_AT = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
_FIRST_POSITION = 5
_USERS_A_PART = 4_000


@dataclass(frozen=True)
class Shape:
    """A made-up world; every event from a user's sixth on is an example."""

    users: int
    items: int
    events: int
    width: int
    has_user_vectors: bool

    @property
    def examples(self) -> int:
        return self.users * (self.events - _FIRST_POSITION)


ML_1M = Shape(users=6_040, items=3_706, events=165, width=768, has_user_vectors=True)
ML_10M = Shape(users=60_400, items=3_706, events=165, width=768, has_user_vectors=True)
LARGE = Shape(users=526_400, items=100_000, events=100, width=384, has_user_vectors=False)


def write_world(folder: Path, shape: Shape) -> None:
    """The stage's tables, written part by part in the row groups that the stages write; one user of ten is valid, one test."""
    ids, draw = IdTypes(), np.random.default_rng(1)
    sequence = StreamWriter("sequence", folder / "sequence.parquet", ids)
    example = StreamWriter("example", folder / "example.parquet", ids)
    written = 0
    for first in range(0, shape.users, _USERS_A_PART):
        users = np.arange(first, min(first + _USERS_A_PART, shape.users)) + 1
        user, position = np.repeat(users, shape.events), np.tile(np.arange(shape.events), len(users))
        item = (shape.items * draw.random(len(user)) ** 2).astype(np.int64) + 1  # the first items are the popular ones
        rating = draw.integers(1, 6, len(user)).astype(np.float64)
        at = pa.array(np.full(len(user), np.datetime64(_AT.replace(tzinfo=None), "us")), pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
        label = (rating > 3).astype(np.int32)
        events = pa.table({"user_id": user, "position": position, "item_id": item, "event_at": at, "rating": rating, "label": label})
        sequence.add(events)
        chosen = events.filter(pa.array(position >= _FIRST_POSITION)).drop_columns("rating")
        split = np.array(["valid", "test", *["train"] * 8])[chosen["user_id"].to_numpy() % 10]
        columns: dict[str, Any] = {name: chosen[name] for name in chosen.column_names}
        columns |= {"example_id": np.arange(written, written + len(split)), "split": split}
        columns |= {name: np.ones(len(split), bool) for name in ("has_user_knowledge", "has_item_knowledge")}
        example.add(pa.table(columns))
        written += len(split)
    sequence.close()
    example.close()
    _write_subjects(folder, shape, draw)


def _write_subjects(folder: Path, shape: Shape, draw: np.random.Generator) -> None:
    ids, items = IdTypes(), np.arange(1, shape.items + 1)
    writer = StreamWriter("example_item", folder / "example_item.parquet", ids)
    never = pa.nulls(shape.items, pa.timestamp("us", "UTC"))
    writer.add(pa.table({"item_id": items, "is_held_out": np.zeros(shape.items, bool), "evidence_newest_at": never}))
    writer.close()
    writer = StreamWriter("item_attribute", folder / "item_attribute.parquet", ids)
    writer.add(pa.table({"item_id": items, "name": ["genre"] * shape.items, "value": items % 18, "place": np.zeros(shape.items, np.int32)}).cast(
        TABLES["item_attribute"].schema(ids)))  # fmt: skip
    writer.close()
    StreamWriter("user_attribute", folder / "user_attribute.parquet", ids).close()
    writer = StreamWriter("knowledge_vector", folder / "knowledge_vector.parquet", ids)
    counts = {"item.facts": shape.items} | ({"user.preference": shape.users} if shape.has_user_vectors else {})
    for view, count in counts.items():
        subjects = np.sort(np.arange(1, count + 1).astype(str))
        for first in range(0, count, 10_000):
            part = subjects[first : first + 10_000]
            vectors = draw.normal(0, shape.width**-0.5, (len(part), shape.width)).astype(np.float32)
            columns: dict[str, Any] = {"view": [view] * len(part), "subject_id": part, "encoder_id": ["bench"] * len(part)}
            columns |= {"vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), shape.width)}
            columns |= {"text_sha": [""] * len(part), "n_tokens": np.ones(len(part), np.int32), "truncated": np.zeros(len(part), bool)}
            writer.add(pa.table(columns))
    writer.close()


def input_bytes(folder: Path) -> int:
    """Of all tables, a row group at a time."""
    total = 0
    for path in folder.glob("*.parquet"):
        with pq.ParquetFile(path) as file:
            total += sum(batch.nbytes for batch in file.iter_batches(1 << 16))
    return total


def train(
    folder: Path, stream_rows: int, backbone: str, arm: str, has_users: bool, seconds: float, batches: int | None = None
) -> dict[str, Any]:
    """Fit, train until the epoch or the time is over, predict a pool of valid.

    Args:
        batches: of each pool, at most; None: all.
    """
    import torch

    from kar.model.loaded import Loaded, Tables
    from kar.model.pools import Pools, Resident
    from kar.model.ranker import build
    from kar.model.resume import Work
    from kar.model.train import predict
    from kar.settings import AdaptorSettings

    torch.set_num_threads(1)
    settings = AdaptorSettings(
        arms=["base", "knowledge"],
        user_views=["user.preference"] if has_users else [],
        item_fields=["genre"],
        history_events=30,
        stream_rows=stream_rows,
        embedding_dim=32 if has_users else 16,
        own_experts=5 if has_users else 2,
    )
    started = time.perf_counter()
    loaded = Loaded(Tables(**{field.name: folder / f"{field.name}.parquet" for field in fields(Tables)}), settings, 30, work=Work(folder))
    data = loaded.data("same_evidence")
    kinds = loaded.arms.kinds(arm, data, 1)
    pools: Pools = loaded.pools("same_evidence", arm, 1) or Resident(data, kinds)
    loaded_s = time.perf_counter() - started
    ranker = build(backbone, data, kinds, loaded.arms.width, settings, 1)
    rows, spent = _train_some(ranker, pools, settings, seconds, batches)
    valid = next(pools.pools("valid"))
    predict(ranker, valid.data, valid.kinds, valid.rows.numpy())
    return {"rows": rows, "rows_per_s": rows / spent, "load_s": loaded_s, "examples": sum(map(pools.count, ("train", "valid", "test")))}


def _train_some(ranker: Any, pools: Any, settings: Any, seconds: float, batches: int | None) -> tuple[int, float]:
    """Rows trained, and the processor seconds they took, reading of pools included: what else the machine does counts less so."""
    import torch

    from kar.log import Progress
    from kar.model import train as training
    from kar.model.pools import Pool

    optimizer = training.optimizer_of(ranker, settings)
    draw, started, rows = torch.Generator().manual_seed(1), time.process_time(), 0
    ranker.train()
    with Progress("rows") as progress:
        for pool in pools.pools("train", draw):
            most = None if batches is None else batches * settings.batch_size
            for part in torch.split(pool.rows[torch.randperm(len(pool.rows), generator=draw)][:most], 8 * settings.batch_size):
                training.train_pool(ranker, optimizer, Pool(pool.data, pool.kinds, part), settings, draw, progress)
                rows += len(part)
                if time.process_time() - started > seconds:
                    return rows, time.process_time() - started
    return rows, time.process_time() - started


def memory_rows(shape: Shape, name: str, seconds: float) -> list[Row]:
    """Memory over inputs, and streamed over resident, of a shape that is resident with ease."""
    baseline = measure("benchmarks.train_memory", {"do": "nothing"}).peak_mb
    with tempfile.TemporaryDirectory(prefix="kar-train-") as made:
        folder = Path(made)
        write_world(folder, shape)
        inputs = input_bytes(folder) / 1e6
        found = [
            Row("memory before anything is read", "kar", rounded(baseline), "MB"),
            Row(f"inputs, {name}", "kar", rounded(inputs), "MB"),
        ]
        for backbone, arm in (("fibinet", "base"), ("fibinet", "knowledge"), ("din", "knowledge")):
            speed: dict[int, float] = {}
            for rows, system in ((0, "kar, resident"), (200_000, "kar, streamed")):
                done = _measured(folder, rows, backbone, arm, True, seconds)
                speed[rows] = done["rows_per_s"]
                what, over = f"{name}, {backbone}, {arm}", done["peak_mb"] - baseline
                found.append(Row(f"{what}: memory above that (ratio to inputs)", system, rounded(over), "MB", round(over / inputs, 3)))
                figure = rounded(speed[rows])
                found.append(
                    Row(f"{what}: training (ratio to resident)", system, figure, "rows/s of one core", round(speed[rows] / speed[0], 3))
                )
    return found


def large_rows(seconds: float = 400.0) -> list[Row]:
    """50 million examples in pools of a million events: an epoch over every pool, of which four batches each are trained on."""
    with tempfile.TemporaryDirectory(prefix="kar-train-") as name:
        write_world(Path(name), LARGE)
        done = _measured(Path(name), 1_000_000, "fibinet", "knowledge", False, seconds, 4)
        stored = sum(path.stat().st_size for path in Path(name).glob("*.parquet")) / 1e6
    what = f"{done['examples'] / 1e6:.0f} M examples, streamed"
    return [
        Row(f"{what}: peak memory, all in all", "kar", rounded(done["peak_mb"]), "MB"),
        Row(f"{what}: vocabularies fitted, valid and test loaded", "kar", rounded(done["load_s"]), "s"),
        Row(f"{what}: tables on disk", "kar", rounded(stored), "MB"),
    ]


def _measured(
    folder: Path, stream_rows: int, backbone: str, arm: str, has_users: bool, seconds: float, batches: int | None = None
) -> dict[str, Any]:
    task = {"do": "train", "folder": str(folder), "stream_rows": stream_rows, "backbone": backbone, "arm": arm}
    task |= {"has_users": has_users, "seconds": seconds, "batches": batches}
    done = measure("benchmarks.train_memory", task)
    return {**done.said, "peak_mb": done.peak_mb}


def main(task: dict[str, Any]) -> None:
    """A measured process."""
    if task.pop("do") == "nothing":
        import torch

        import kar.model.loaded
        import kar.model.ranker
        import kar.model.train  # noqa: F401

        layer = torch.nn.Linear(8, 8)  # what the first step loads
        torch.optim.AdamW(layer.parameters(), fused=True)
        layer(torch.ones(8, 8)).sum().backward()
        report({})
    else:
        report(train(Path(task.pop("folder")), **task))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("{"):
        main(json.loads(sys.argv[1]))
    else:
        parts = [memory_rows(ML_1M, "ML-1M shape, 768-d", 20.0)]
        if "--large" in sys.argv:
            parts += [memory_rows(ML_10M, "ten times that", 10.0), large_rows()]
        print(text([row for part in parts for row in part]))
