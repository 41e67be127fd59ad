"""Examples in the shape of MovieLens-1M, all of them drawn: users, items, events, popularity and the lengths of histories are
like its own, what anybody likes is not.

Its counts: 6,040 users, 3,706 items, about a million ratings, at least 20 a user (half have fewer than 96); the training part of
KAR's split by user, about 670 thousand examples, none of them a user's first five.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kar.model.bases import base_of
from kar.model.batches import Kind, TrainingData
from kar.model.data import load
from kar.model.knowledge import Vectors, attach
from kar.settings import AdaptorSettings
from kar.settings.schema import Base

USERS, ITEMS, GENRES = 6_040, 3_706, 18
_FIRST_POSITION = 5
_AT = dt.datetime(2003, 2, 28, tzinfo=dt.UTC)


@dataclass(frozen=True)
class World:
    """The tables that `kar.model.data.load` takes, in its order."""

    example: pa.Table
    example_item: pa.Table
    sequence: pa.Table
    user_attribute: pa.Table
    item_attribute: pa.Table

    def load(self, base: Base, settings: AdaptorSettings, cap: int) -> TrainingData:
        tables = (self.example, self.example_item, self.sequence, self.user_attribute, self.item_attribute)
        return load(*tables, base_of(base, settings, cap), settings.device)


def write(world: World, folder: Path) -> None:
    """Put the tables down, for processes that read them."""
    for name, table in vars(world).items():
        pq.write_table(table, folder / f"{name}.parquet")


def read(folder: Path) -> World:
    return World(*(pq.read_table(folder / f"{field.name}.parquet") for field in fields(World)))


def make(users: int = USERS, items: int = ITEMS, seed: int = 1) -> World:
    """The same world for the same numbers: events as a log-normal law over users and a power law over items, no item twice to a user."""
    draw = np.random.default_rng(seed)
    length_U = np.clip(draw.lognormal(4.55, 1.03, users), 20, min(2_314, items // 2)).astype(np.int64)
    popularity_I = draw.permutation((np.arange(items) + 40.0) ** -1.1)
    # a user's events: the items with the highest key, so that a popular item comes to more users and none twice (Efraimidis, Spirakis)
    chosen = []
    for length in length_U:
        key_I = draw.exponential(size=items) / popularity_I
        chosen.append(draw.permutation(np.argpartition(key_I, length)[:length]))
    item_V = np.concatenate(chosen)
    user_V = np.repeat(np.arange(users), length_U)
    position_V = np.arange(len(user_V)) - np.repeat(np.cumsum(length_U) - length_U, length_U)
    rating_V = draw.choice(np.arange(1.0, 6.0), len(user_V), p=(0.06, 0.11, 0.26, 0.35, 0.22))
    sequence = pa.table(
        {
            "user_id": user_V + 1,
            "position": position_V,
            "item_id": item_V + 1,
            "rating": rating_V,
            "event_at": pa.array(np.full(len(user_V), np.datetime64(_AT.replace(tzinfo=None), "us")), pa.timestamp("us", "UTC")),
            "label": (rating_V > 3).astype(np.int64),
        }
    )
    genre = draw.integers(0, GENRES, items)
    return World(
        _examples(sequence, draw, users),
        pa.table(
            {
                "item_id": np.arange(items) + 1,
                "is_held_out": [False] * items,
                "evidence_newest_at": pa.nulls(items, pa.timestamp("us", "UTC")),
            }
        ),
        sequence,
        pa.table({"user_id": np.arange(users) + 1, "name": ["age"] * users, "value": [str(18 + user % 7) for user in range(users)]}),
        pa.table(
            {"item_id": np.arange(items) + 1, "name": ["genre"] * items, "value": [f"genre {n:02d}" for n in genre], "place": [0] * items}
        ),
    )


def _examples(sequence: pa.Table, draw: np.random.Generator, users: int) -> pa.Table:
    """Every event but a user's first five, of users drawn 9 : 1 and the training users 9 : 1 again, in (user, position) order."""
    part_U = draw.choice(np.array(["train", "valid", "test"]), users, p=(0.71, 0.19, 0.10))
    kept = sequence.filter(pa.array(sequence["position"].to_numpy() >= _FIRST_POSITION))
    count = kept.num_rows
    return pa.table(
        {
            "example_id": np.arange(count),
            **{name: kept[name] for name in ("user_id", "item_id", "event_at", "position", "label")},
            "split": part_U[kept["user_id"].to_numpy() - 1],
        }
    )


def kinds(data: TrainingData, width: int, *, in_history: bool, seed: int = 2) -> list[Kind]:
    """One drawn knowledge vector per user and per item, of unit length.

    Args:
        width: of the vectors.
        in_history: the items of the history carry theirs.
    """
    draw, found = np.random.default_rng(seed), []
    for view, side, ids in (("user.preference", "user", data.user_ids), ("item.facts", "item", data.item_ids)):
        vectors_NT = draw.normal(size=(len(ids), width)).astype(np.float32)
        vectors_NT /= np.linalg.norm(vectors_NT, axis=1, keepdims=True)
        found.append(attach(data, view, side, Vectors.of(ids.cast(pa.string()), vectors_NT), width, None, None, in_history=in_history))  # type: ignore[arg-type]
    return found
