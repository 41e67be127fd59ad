"""A whole night from sources to promoted release, at the mock server: the first one, and the one after it in which 1 % had new events.

    python -m benchmarks.release_night '{"folder": "…", "users": 200000, "items": 50000, "base_url": "http://127.0.0.1:8000/v1"}'

Every stage but training (examples, adaptor) is counted: it runs on its own clock, and the second night takes the first one's checkpoint. The
encoder is the hash encoder and the server answers at once, so the figures are what kar itself costs; a model costs as much as it is asked,
and the second night asks for a hundredth.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import kar.release
from benchmarks.child import report
from benchmarks.release_world import written_bytes
from kar import flow
from kar import run as runner
from kar.settings import Settings
from kar.store import Home

DAY = dt.date(2026, 11, 18)
_EVENTS = 12
_SPAN_S = 40 * 86_400


@dataclass(frozen=True)
class Task:
    """So many users with a dozen events each, and items; data and home below `folder`."""

    folder: str
    users: int
    items: int
    base_url: str
    share: float = 0.01


def write_sources(folder: Path, users: int, items: int, share: float) -> None:
    """Interactions of all until the end of DAY, and two more on the day after of a share of the users; genres; titles."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(9)
    end_s = int(dt.datetime.combine(DAY, dt.time(23), dt.UTC).timestamp())
    user = np.repeat(np.arange(1, users + 1), _EVENTS)
    # a user's items come from blocks of their own, one a rank: none twice, popular ones first
    item = (items * rng.random(len(user)) ** 2).astype(np.int64) // _EVENTS * _EVENTS + np.tile(np.arange(_EVENTS), users)
    at_s = end_s - np.sort(rng.integers(0, _SPAN_S, (users, _EVENTS)), axis=1)[:, ::-1].reshape(-1)
    again = np.repeat(np.sort(rng.choice(users, max(1, round(users * share)), replace=False)) + 1, 2)
    columns = {
        "user": np.concatenate([user, again]),
        "item": np.concatenate([item % items, rng.integers(0, items, len(again))]) + 1,
        "stars": rng.integers(1, 6, len(user) + len(again)),
        "at": np.concatenate([at_s, np.tile([end_s + 40_000, end_s + 50_000], len(again) // 2)]),
    }
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    genres = np.array(["Comedy", "Horror", "Drama", "Western", "Musical"])
    numbers = np.arange(1, items + 1)
    titles = [f"Film {n} ({1950 + n % 70})" for n in numbers.tolist()]
    pq.write_table(pa.table({"item": numbers, "name": titles, "genre": genres[numbers % 5]}), folder / "items.parquet")


def settings_for(task: Task) -> Settings:
    """Two views, one small model: what is measured is the night, not the training."""
    return Settings.model_validate(
        {
            "scenario": {"name": "night", "domain": "movies"},
            "sources": {
                "folder": str(Path(task.folder) / "data"),
                "rating_range": [1, 5],
                "items": {
                    "path": "items.parquet",
                    "format": "parquet",
                    "columns": {"item_id": "item", "title": "name", "attributes": {"genre": "genre"}},
                },
                "interactions": {
                    "path": "interactions.parquet",
                    "format": "parquet",
                    "columns": {"user_id": "user", "item_id": "item", "event_at": "at", "rating": "stars"},
                },
            },
            "histories": {"mode": "per_user", "cap": 30},
            "prompts": {"folder": str(Path(__file__).parents[1] / "prompts"), "min_new_events": 1},
            "llm": {"provider": "openai", "model": "bench-model", "revision": "bench", "base_url": task.base_url, "concurrency": 64},
            "vectors": {"encoder": "hash-64"},
            "examples": {"valid_share": 0.2, "test_share": 0.2},
            "adaptor": {
                "backbones": ["fibinet"], "epochs": 1, "embedding_dim": 8, "expert_hidden": 8, "mlp": [16], "batch_size": 2048, "resamples": 100,
                "arms": ["base", "knowledge"], "item_fields": ["genre"], "threads": 2,
            },
            # the drawn texts say nothing of taste, so that one epoch leaves all vectors nearly alike, and the gate rightly holds that back
            "features": {"gate": {"max_mean_cosine": 1.0, "min_effective_rank": 1.0, "min_effective_rank_share": 0.0}},
        }
    )  # fmt: skip


def run(task: Task) -> dict[str, Any]:
    """Seconds by stage of both nights, bytes that each published, and whether the second was promoted."""
    folder = Path(task.folder)
    write_sources(folder / "data", task.users, task.items, task.share)
    settings, home = settings_for(task), Home.of("night", folder / "home")
    said: dict[str, Any] = {}
    for number, name in enumerate(("first", "second")):
        date = DAY + dt.timedelta(days=number)
        now = dt.datetime.combine(date, dt.time(2), dt.UTC) + dt.timedelta(days=1)
        stages = [stage for stage in flow.NAMES if stage != "report" and not (number and stage in flow.TRAINING)]
        seconds = {}
        for stage in stages:
            started = time.perf_counter()
            runner.run_all(settings, home, date, lambda now=now: now, [stage])  # type: ignore[misc]
            seconds[stage] = round(time.perf_counter() - started, 3)
            print(f"    {name} night, {stage}: {seconds[stage]} s", file=sys.stderr)
        release = kar.release.open(home.published, verify=True)
        said[name] = {
            "seconds": {stage: used for stage, used in seconds.items() if stage not in flow.TRAINING},
            "bytes": written_bytes(release.path),
            "release": release.id,
        }
    return said


if __name__ == "__main__":
    report(run(Task(**json.loads(sys.argv[1]))))
