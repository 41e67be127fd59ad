"""Prompts a second on one core, as the prompts stage makes them: size, cut to fit, render, body, key."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import load
from benchmarks.table import Row, median_row
from kar.llm.key import body_bytes, request_key
from kar.settings import LLMSettings
from kar.text import asking
from kar.text.templates import load_template
from kar.text.tokens import TokenCounter

USERS, EVENTS, REPETITIONS = 20_000, load.HISTORY_EVENTS, 5
_PROMPTS = Path(__file__).parents[1] / "prompts"


def histories(users: int = USERS, events: int = EVENTS, seed: int = 1) -> pa.Table:
    """Rows of table history: everybody has `events` events, over 2,880 items of which some are met far more often."""
    draw = np.random.default_rng(seed)
    items = np.minimum(draw.pareto(0.8, users * events) * 20, load.ITEMS - 1).astype(np.int64)
    offsets = pa.array(np.arange(0, users * events + 1, events, dtype=np.int32))
    titles = pa.array([load.title(number) for number in range(load.ITEMS)]).take(pa.array(items))
    ratings = pa.array(draw.integers(1, 6, users * events).astype(np.float64))
    return pa.table(
        {
            "subject_id": [str(number) for number in range(users)],
            "item_ids": pa.ListArray.from_arrays(offsets, pa.array(items)),
            "titles": pa.ListArray.from_arrays(offsets, titles),
            "ratings": pa.ListArray.from_arrays(offsets, ratings),
            "newest_event_at": pa.array([dt.datetime(2026, 11, 19, tzinfo=dt.UTC)] * users, pa.timestamp("us", tz="UTC")),
        }
    )


def make(history: pa.Table, settings: LLMSettings) -> list[tuple[str, bytes]]:
    """Key and body of every user's request."""
    template = load_template(_PROMPTS, "movies", "user.preference")
    prompts = asking.user_prompts(template, history, {}, TokenCounter(None, "estimate"), settings.context_tokens - 180, 900)
    made = []
    for place in range(history.num_rows):
        body = body_bytes(asking.request_body(template, prompts.write(place), settings, {}))
        made.append((request_key(body, "r1"), body))
    return made


def rows(users: int = USERS, repetitions: int = REPETITIONS) -> Iterator[Row]:
    history, settings, speeds = histories(users), LLMSettings(provider="openai", model="mock-8b", context_tokens=8192), []
    for _ in range(repetitions):
        started = time.process_time()
        made = make(history, settings)
        speeds.append(users / (time.process_time() - started))
    size = sum(len(body) for _, body in made) / users / 1000
    if len({key for key, _ in made}) < 0.99 * users:
        raise RuntimeError("the prompts are not different: nothing was measured")
    name = f"rendering: {users:,} users, {EVENTS}-event histories, {size:.1f} kB bodies, to body and key"
    yield median_row(name, "kar, one core", speeds, "prompts/s")
