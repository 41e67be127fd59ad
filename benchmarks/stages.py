"""The stages prompts and knowledge as they are, on so many users with 30 events each: speed and peak memory of each process.

python -m benchmarks.stages '{"stage": "prompts", "folder": "…", "users": 10000, "base_url": "http://127.0.0.1:8000/v1"}'
"""

from __future__ import annotations

import datetime as dt
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks import mock_server, rendering, replies
from benchmarks.child import measure, report
from benchmarks.table import Row, rounded
from kar import flow
from kar.settings import Settings
from kar.store import Home, Inputs, Manifest, Output, Partition
from kar.store.stream import StreamWriter
from kar.tables import TABLES, IdTypes

DATE = dt.date(2026, 11, 19)
CUTOFF = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
_PART = 10_000


@dataclass(frozen=True)
class Task:
    """One stage over the tables in `folder`; the stage "histories" makes them up."""

    stage: str
    folder: str
    users: int
    base_url: str
    in_flight: int


def settings_for(task: Task) -> Settings:
    """Users only, no budget."""
    return Settings.model_validate(
        {
            "scenario": {"name": "bench", "domain": "movies"},
            "sources": {"interactions": {"path": "none.parquet", "format": "parquet", "columns": {}}},
            "prompts": {"views": ["user.preference"], "folder": str(Path(__file__).parents[1] / "prompts")},
            "llm": {
                "provider": "openai",
                "model": replies.MODEL,
                "revision": "bench",
                "base_url": task.base_url,
                "concurrency": task.in_flight,
            },
        }
    )


def write_tables(folder: Path, users: int) -> None:
    """A history for every user; the other tables are empty."""
    ids = IdTypes()
    for name in ("item_profile", "user_attribute", "item_attribute", "interaction"):
        StreamWriter(name, folder / f"{name}.parquet", ids).close()
    writer = StreamWriter("history", folder / "history.parquet", ids)
    for start in range(0, users, _PART):
        count = min(_PART, users - start)
        made = rendering.histories(count, seed=start)
        numbers = range(start, start + count)
        events = [[CUTOFF - dt.timedelta(hours=30 - place) for place in range(rendering.EVENTS)]] * count
        columns: dict[str, Any] = {
            "user_id": list(numbers),
            "subject_id": [str(number) for number in numbers],
            "cutoff_at": [CUTOFF] * count,
            "position": [rendering.EVENTS] * count,
            "event_ats": events,
            "evidence_sha": [f"{number:064x}" for number in numbers],
        }
        schema = TABLES["history"].schema(ids)
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns else made.column(field.name).cast(field.type)
            for field in schema
        ]
        writer.add(pa.table(arrays, schema=schema))
    writer.close()


def run(task: Task) -> dict[str, int]:
    """Run one stage; returns rows by table."""
    folder = Path(task.folder)
    if task.stage == "histories":
        write_tables(folder, task.users)
        return {"history": task.users}
    stage = flow.stage_named(task.stage)
    here = Partition(folder)
    partitions = {(read.stage, read.table): None if read.at == "previous" else here for read in stage.reads}
    inputs = Inputs(stage, DATE, CUTOFF, CUTOFF + dt.timedelta(hours=1), Home(folder, "bench"), IdTypes(), partitions)
    out = Output(stage, folder, IdTypes())
    importlib.import_module(f"kar.stages.{task.stage}").run(inputs, out, settings_for(task))
    Manifest(task.stage, DATE.isoformat(), recipe_sha="", recipe={}, tables=out.tables).write(folder)
    return {name: int(made["rows"]) for name, made in out.tables.items()}


def rows(counts: tuple[int, ...], in_flight: int = 64) -> Iterator[Row]:
    """Peak memory and speed of both stages for each number of users; answers come at once and are all different."""
    first: dict[str, float] = {}
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="kar-bench-") as folder, mock_server.serving(0, is_varied=True) as mock:
            for stage in ("histories", "prompts", "knowledge"):
                started = time.perf_counter()
                done = measure("benchmarks.stages", vars(Task(stage, folder, count, mock.base_url, in_flight)))
                seconds = time.perf_counter() - started
                print(f"  {stage} {count:,}: {done.said}, {done.peak_mb:.0f} MB, {seconds:.0f} s", file=sys.stderr)
                if stage == "histories":
                    continue
                base = first.setdefault(stage, done.peak_mb)
                what = f"stage {stage}, {count:,} users of {rendering.EVENTS} events"
                yield Row(
                    f"peak memory: {what} (ratio to {counts[0]:,})", "kar", rounded(done.peak_mb), "MB", round(done.peak_mb / base, 3)
                )
                yield Row(f"speed: {what}, 0 ms", "kar", rounded(count / seconds), "users/s")


if __name__ == "__main__":
    report(run(Task(**json.loads(sys.argv[1]))))
