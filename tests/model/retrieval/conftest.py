"""Two tastes over texts that tell them: users of odd number like odd items, and met them some months ago or lately."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kar.flow import stage_named
from kar.model.retrieval.splits import Pairs
from kar.run import id_types
from kar.settings import RetrievalSettings, Settings, parse
from kar.store import Home, Manifest, Output
from kar.tables import from_rows

START = dt.datetime(2026, 9, 1, tzinfo=dt.UTC)
DATE = dt.date(2026, 11, 19)
WIDTH = 12
EVIDENCE_AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def small(**changes: Any) -> RetrievalSettings:
    base: dict[str, Any] = {
        "arms": ["popularity", "id", "original", "views", "all", "permuted"],
        "splits": 2,
        "hidden": 8,
        "width": 8,
        "dropout": 0.0,
        "batch_size": 128,
        "learning_rate": 2e-2,
        "epochs": 3,
        "resamples": 100,
    }
    return RetrievalSettings(**{**base, **changes})


def sequence_of(users: int = 40, items: int = 30, events: int = 16, *, is_text: bool = False) -> pa.Table:
    """Each user met most of the items of their own taste and some of the other, in a drawn order; liked are those of their own."""
    draw = np.random.default_rng(4)
    rows = []
    for user in range(1, users + 1):
        likes = np.array([item for item in range(1, items + 1) if item % 2 == user % 2])
        others = np.array([item for item in range(1, items + 1) if item % 2 != user % 2])
        own = draw.permutation(likes)[: events - 4 + user % 3]
        chosen = draw.permutation(np.concatenate([own, draw.permutation(others)[:4]]))
        for position, item in enumerate(chosen.tolist()):
            rows.append(
                {
                    "user_id": f"user 🙂 {user:04d}" if is_text else user,
                    "position": position,
                    "item_id": f"item é {item:04d}" if is_text else item,
                    "event_at": START + dt.timedelta(hours=24 * position + user % 7),
                    "rating": 5.0 if item % 2 == user % 2 else 1.0,
                    "label": int(item % 2 == user % 2),
                }
            )
    table = pa.Table.from_pylist(rows)
    return table.set_column(5, "label", table["label"].cast(pa.int32()))


def vectors_of(views: list[str], items: int = 30, missing: tuple[int, ...] = (3,)) -> pa.Table:
    """Vectors that tell the taste in their first place, beside much else."""
    draw = np.random.default_rng(5)
    rows = []
    for view in views:
        for item in range(1, items + 1):
            vector = draw.normal(0, 0.5, WIDTH) + 3.0
            vector[0] += 2.0 if item % 2 else -2.0
            if item not in missing or view == "item.raw":
                rows.append((view, str(item), vector.astype(np.float32)))
    flat = pa.array(np.concatenate([row[2] for row in rows]))
    count = len(rows)
    return pa.table(
        {
            "view": [row[0] for row in rows],
            "subject_id": [row[1] for row in rows],
            "text_sha": [""] * count,
            "encoder_id": ["hash:test"] * count,
            "n_tokens": pa.array([1] * count, pa.int32()),
            "truncated": [False] * count,
            "vector": pa.FixedSizeListArray.from_arrays(flat, WIDTH),
        }
    )


def settings_of(of: RetrievalSettings | dict[str, Any], ids: str = "int") -> Settings:
    return parse(
        {
            "scenario": {"name": "world", "domain": "movies", "user_id": ids, "item_id": ids},
            "sources": {"interactions": {"path": "none.csv", "format": "csv", "columns": {}}},
            "histories": {"mode": "per_user"},
            "retrieval": of if isinstance(of, dict) else of.model_dump(mode="json"),
        }
    )


@dataclass(frozen=True)
class World:
    """What the stage reads. `evidence`: (view, item) → the pairs that its text saw, and the newest time."""

    sequence: pa.Table = field(default_factory=sequence_of)
    vectors: pa.Table = field(default_factory=lambda: vectors_of(["item.raw", "item.facts", "item.tags"]))
    evidence: dict[tuple[str, str], tuple[list[tuple[str, str]], dt.datetime | None]] = field(default_factory=dict)

    def seal(self, home: Home, settings: Settings) -> None:
        """Leave the partitions of the stages before as the runner would."""
        knowledge = [
            {**_seen(self.evidence.get((view, subject))), "view": view, "subject_id": subject}
            | dict.fromkeys(("text", "origin", "model", "model_revision", "template_version", "request_key", "evidence_sha"), "")
            | {"cutoff_at": EVIDENCE_AT, "asked_at": EVIDENCE_AT, "prompt_tokens": 0, "completion_tokens": 0, "neighbour_items": []}
            for view, subject in zip(self.vectors["view"].to_pylist(), self.vectors["subject_id"].to_pylist(), strict=True)
            if view != "item.raw" and "@" not in view
        ]
        item_type = self.sequence["item_id"].type
        profile = [
            {**_seen(self.evidence.get(("item.raw", str(item)))), "item_id": item, "subject_id": str(item), "cutoff_at": EVIDENCE_AT}
            | {"title": "", "text": "words", "event_count": 0, "rating_mean": None, "evidence_sha": ""}
            for item in sorted(set(self.sequence["item_id"].to_pylist()))
        ]
        profile_table = pa.Table.from_pylist(profile).drop(["item_id", "rating_mean"])
        profile_table = profile_table.append_column("item_id", pa.array([row["item_id"] for row in profile], item_type))
        profile_table = profile_table.append_column("rating_mean", pa.nulls(len(profile), pa.float64()))
        tables = {
            "histories": {"item_profile": _typed(profile_table)},
            "knowledge": {"knowledge": from_rows("knowledge", knowledge)},
            "vectors": {"knowledge_vector": self.vectors},
            "examples": {"sequence": self.sequence},
        }
        for name, of_stage in tables.items():
            folder = home.partition(name, DATE).path
            folder.mkdir(parents=True, exist_ok=True)
            out = Output(stage_named(name), folder, id_types(settings))
            for table_name, table in of_stage.items():
                out.write(table_name, table)
            Manifest(stage=name, date=DATE.isoformat(), recipe_sha="", recipe={}, tables=out.tables).write(folder)


def _seen(found: tuple[list[tuple[str, str]], dt.datetime | None] | None) -> dict[str, Any]:
    pairs, newest = found or ([], None)
    return {"evidence_users": [u for u, _ in pairs], "evidence_items": [i for _, i in pairs], "evidence_newest_at": newest}


def _typed(table: pa.Table) -> pa.Table:
    """Lists without a member and times without a value have no type of their own."""
    for name, kind in (
        ("evidence_users", pa.list_(pa.string())),
        ("evidence_items", pa.list_(pa.string())),
        ("evidence_newest_at", pa.timestamp("us", "UTC")),
    ):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    return table


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def pairs(world: World) -> Pairs:
    return Pairs.of(world.sequence)


@pytest.fixture(scope="session")
def world_of() -> Callable[..., World]:
    return World


@pytest.fixture(scope="session")
def small_of() -> Callable[..., RetrievalSettings]:
    return small


@pytest.fixture(scope="session")
def scenario_of() -> Callable[..., Settings]:
    return settings_of


@pytest.fixture(scope="session")
def sequence_with() -> Callable[..., pa.Table]:
    return sequence_of


@pytest.fixture(scope="session")
def vectors_with() -> Callable[..., pa.Table]:
    return vectors_of
