"""A small world with two tastes as the adaptor stage's tables, and settings that learn it in seconds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from kar.flow import stage_named
from kar.model.bases import base_of
from kar.model.batches import TrainingData
from kar.model.data import load
from kar.run import id_types
from kar.settings import AdaptorSettings, Settings
from kar.store import Home, Manifest, Output

WIDTH = 16
CAP = 5


@dataclass(frozen=True)
class World:
    """The stage's input tables."""

    example: pa.Table
    example_item: pa.Table
    sequence: pa.Table
    user_attribute: pa.Table
    item_attribute: pa.Table
    knowledge_vector: pa.Table

    def load(self, settings: AdaptorSettings) -> TrainingData:
        return load(
            self.example,
            self.example_item,
            self.sequence,
            self.user_attribute,
            self.item_attribute,
            base_of(settings.bases[0], settings, CAP),
            settings.device,
        )

    def history(self, more: int = 0) -> pa.Table:
        """The table history of prompts that were shown each user's events before his first example, and `more`."""
        firsts = self.example.group_by("user_id").aggregate([("position", "min")]).sort_by("user_id")
        users, at = firsts["user_id"], dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
        count = len(users)
        return pa.table(
            {
                "user_id": users,
                "subject_id": pc.cast(users, pa.string()),
                "cutoff_at": [at] * count,
                "position": pc.add(firsts["position_min"], more),
                "item_ids": pa.array([[]] * count, pa.list_(self.sequence["item_id"].type)),
                "ratings": pa.array([[]] * count, pa.list_(pa.float64())),
                "event_ats": pa.array([[]] * count, pa.list_(pa.timestamp("us", "UTC"))),
                "titles": pa.array([[]] * count, pa.list_(pa.string())),
                "newest_event_at": [at] * count,
                "evidence_sha": [""] * count,
            }
        )

    def seal(self, home: Home, settings: Settings, date: dt.date, history: pa.Table | None = None) -> None:
        """Leave the partitions of the stages before training as the runner would."""
        count = self.knowledge_vector.num_rows
        whole_vector = (
            self.knowledge_vector.append_column("text_sha", pa.array([""] * count))
            .append_column("n_tokens", pa.array([1] * count, pa.int32()))
            .append_column("truncated", pa.array([False] * count))
        )
        before = {
            "sources": {"user_attribute": self.user_attribute, "item_attribute": self.item_attribute},
            "histories": {"history": self.history() if history is None else history},
            "vectors": {"knowledge_vector": whole_vector},
            "examples": {"example": self.example, "example_item": self.example_item, "sequence": self.sequence},
        }
        for name, tables in before.items():
            folder = home.partition(name, date).path
            folder.mkdir(parents=True, exist_ok=True)
            out = Output(stage_named(name), folder, id_types(settings))
            for table_name, table in tables.items():
                out.write(table_name, table)
            sealed = Manifest(stage=name, date=date.isoformat(), recipe_sha="", recipe={}, tables=out.tables, figures={"tie_share": 0.25})
            sealed.write(folder)

    def having(self, **tables: pa.Table) -> World:
        return replace(self, **tables)


def likes(user: int, item: int) -> bool:
    """The known answer: every third user likes even items, the others odd ones."""
    return (user % 3 == 0) == (item % 2 == 0)


def make_world(users: int = 18, items: int = 20, events: int = 14, first_position: int = 2, is_text: bool = False) -> World:
    """Users 1 …, items 1 …; the last third of the users is tested, the third before validated. Item 20 is seen by tested users only."""
    draw = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for user in range(1, users + 1):
        is_tested = user > users * 2 // 3
        chosen = draw.permutation(np.arange(1, items + is_tested))[: events - user % 2]
        for position, item in enumerate(chosen.tolist()):
            rating = float(draw.integers(4, 6) if likes(user, item) else draw.integers(1, 3))
            rows.append(
                {"user_id": user, "position": position, "item_id": item, "rating": rating, "split_number": is_tested + (user > users // 3)}
            )
    at = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    sequence = [
        {
            **{k: row[k] for k in ("user_id", "position", "item_id", "rating")},
            "event_at": at + dt.timedelta(hours=row["position"]),
            "label": int(row["rating"] > 3),
        }
        for row in rows
    ]
    labelled = [row for row in rows if row["position"] >= first_position]
    example = [
        {
            "example_id": number,
            "user_id": row["user_id"],
            "item_id": row["item_id"],
            "event_at": at,
            "position": row["position"],
            "label": int(likes(row["user_id"], row["item_id"])),
            "split": ("train", "valid", "test")[row["split_number"]],
            "has_user_knowledge": True,
            "has_item_knowledge": row["item_id"] != 3,
        }
        for number, row in enumerate(labelled)
    ]
    world = World(
        pa.Table.from_pylist(example),
        pa.table(
            {
                "item_id": sorted({row["item_id"] for row in rows}),
                "is_held_out": [False] * len({row["item_id"] for row in rows}),
                "evidence_newest_at": pa.nulls(len({row["item_id"] for row in rows}), pa.timestamp("us", "UTC")),
            }
        ),
        pa.Table.from_pylist(sequence),
        pa.table({"user_id": list(range(1, users + 1)), "name": ["age"] * users, "value": [str(20 + user % 4) for user in range(users)]}),
        pa.Table.from_pylist(
            [
                {"item_id": item, "name": "genre", "value": genre, "place": place}
                for item in range(1, items + 1)
                for place, genre in enumerate(("Comedy", "Action") if item % 2 else ("Horror",))
            ]
        ),
        _vectors(users, items),
    )
    return _with_text_ids(world) if is_text else world


def _vectors(users: int, items: int) -> pa.Table:
    """Vectors that tell the taste in their first place; item 3 has none, and user 1 no knowledge but raw text."""
    draw = np.random.default_rng(5)
    rows = []
    for view, count in (("user.preference", users), ("user.raw", users), ("item.facts", items), ("item.raw", items)):
        for subject in range(1, count + 1):
            if (view, subject) in {("item.facts", 3), ("user.preference", 1)}:
                continue
            vector = draw.normal(0, 0.05, WIDTH)
            vector[0] = 1.0 if subject % (3 if view.startswith("user") else 2) == 0 else -1.0
            rows.append((view, str(subject), vector / np.linalg.norm(vector)))
    flat = pa.array(np.concatenate([row[2] for row in rows]).astype(np.float32))
    return pa.table(
        {
            "view": [row[0] for row in rows],
            "subject_id": [row[1] for row in rows],
            "encoder_id": ["hash-16:test"] * len(rows),
            "vector": pa.FixedSizeListArray.from_arrays(flat, WIDTH),
        }
    )


def _with_text_ids(world: World) -> World:
    """The same world with string ids that hold spaces and emoji, in the same order."""

    def renamed(table: pa.Table) -> pa.Table:
        for name, start in (("user_id", "user 🙂 "), ("item_id", "item é ")):
            if name in table.column_names:
                values = pa.array([f"{start}{value:04d}" for value in table[name].to_pylist()])
                table = table.set_column(table.column_names.index(name), name, values)
        return table

    return World(
        *(renamed(table) for table in (world.example, world.example_item, world.sequence, world.user_attribute, world.item_attribute)),
        world.knowledge_vector,
    )


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session")
def text_world() -> World:
    return make_world(is_text=True)


@pytest.fixture(scope="session")
def beginning_world() -> World:
    """With an example at every user's first event, whose history is empty."""
    return make_world(first_position=0)


@pytest.fixture
def settings() -> AdaptorSettings:
    return small_settings()


@pytest.fixture
def settings_with() -> Callable[..., AdaptorSettings]:
    return small_settings


def small_settings(**changes: Any) -> AdaptorSettings:
    """Small widths, one thread; `changes` go over them."""
    base: dict[str, Any] = {
        "item_fields": ["genre"],
        "embedding_dim": 8,
        "shared_experts": 1,
        "own_experts": 2,
        "expert_hidden": 8,
        "mlp": [16, 8],
        "batch_size": 32,
        "learning_rate": 1e-2,
        "epochs": 3,
        "cold_count": 2,
        "resamples": 100,
        "threads": 1,
    }
    return AdaptorSettings(**{**base, **changes})


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors: a second thread costs more than it gives."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world_of() -> Callable[..., World]:
    """A world of another size."""
    return make_world


@pytest.fixture(scope="session")
def small_settings_of() -> Callable[..., AdaptorSettings]:
    """`settings_with` for fixtures that live longer than a test."""
    return small_settings
