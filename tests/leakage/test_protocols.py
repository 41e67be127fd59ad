"""The three protocols through the real stages: who is tested, what is held out, and that no ranker is shown what it must not see.

A loopback server writes the users' texts, a hash encoder reads them.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kar import run as runner
from kar.model.bases import base_of
from kar.model.batches import TrainingData
from kar.model.data import load
from kar.model.vocabulary import UNKNOWN
from kar.settings import Settings
from kar.store import Home, Manifest
from tests import world
from tests.llm.loopback import loopback

DAY = world.LAST_DAY
NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
STAGES = ["sources", "histories", "prompts", "knowledge", "vectors", "examples", "adaptor"]
USERS, ITEMS = 40, 30
COLD: dict[str, Any] = {"held_out_items": 0.25}


def made(tmp_path: Path, histories: dict[str, Any], examples: dict[str, Any], adaptor: dict[str, Any]) -> tuple[Home, Settings]:
    """The stages up to the adaptor, over a generated world."""
    world.write(tmp_path / "data", users=USERS, items=ITEMS, events=14)
    home = Home.of("world", tmp_path / "home")
    with loopback() as server:
        settings = world.settings(
            tmp_path / "data", histories=histories, examples=examples, adaptor=adaptor, llm={"base_url": server.base_url}
        )
        runner.run_all(settings, home, DAY, lambda: NOW, STAGES)
    return home, settings


def table(home: Home, stage: str, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(home.partition(stage, DAY).table(name)).to_pylist()
    return rows


def as_trained(home: Home, settings: Settings) -> TrainingData:
    """What every ranker of the run is shown."""
    tables = {name: pq.read_table(home.partition("examples", DAY).table(name)) for name in ("example", "example_item", "sequence")}
    tables |= {name: pq.read_table(home.partition("sources", DAY).table(name)) for name in ("user_attribute", "item_attribute")}
    ours = settings.adaptor
    return load(**tables, base=base_of(ours.bases[0], ours, settings.histories.cap))


@pytest.fixture(scope="module", params=["by_user", "by_time"])
def cold(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Settings]:
    """Both splits with a quarter of the items held out, over the rich base and with id dropout."""
    rich = {"bases": ["rich"], "published_base": "rich", "user_fields": ["age"], "item_id_dropout": 0.15, "epochs": 1, "arms": ["base"]}
    return made(tmp_path_factory.mktemp("cold"), {}, {**COLD, "split": request.param}, rich)


def held_out(home: Home) -> set[int]:
    return {row["item_id"] for row in table(home, "examples", "example_item") if row["is_held_out"]}


def test_cold_items_are_never_trained_on_and_valid_and_test_both_hold_them(cold: tuple[Home, Settings]) -> None:
    home, _ = cold
    hidden, examples = held_out(home), table(home, "examples", "example")
    assert 3 <= len(hidden) <= 14  # of thirty
    of_split = {name: [row["item_id"] for row in examples if row["split"] == name] for name in ("train", "valid", "test")}
    assert len(of_split["train"]) > 100
    assert not hidden & set(of_split["train"])
    assert hidden & set(of_split["valid"])
    assert hidden & set(of_split["test"])
    left_out = Manifest.read(home.partition("examples", DAY).manifest_path).rejected["held_out"]
    assert left_out > 0.1 * len(of_split["train"])


def test_a_cold_items_id_is_hidden_at_the_target_and_in_every_history(cold: tuple[Home, Settings]) -> None:
    home, settings = cold
    data = as_trained(home, settings)
    is_hidden_I = np.isin(data.item_ids.to_numpy(), list(held_out(home)))
    unknown = data.fields.offset("item_id") + UNKNOWN
    of_target, of_event = data.single_ES[:, 0].numpy(), data.event_KV[0].numpy()
    assert (of_target[is_hidden_I[data.item_E]] == unknown).all()
    assert (of_event[is_hidden_I[data.item_V]] == unknown).all()
    assert is_hidden_I[data.item_E].sum() > 5
    assert is_hidden_I[data.item_V].sum() > 50
    # others are known, and nothing else that is shown of a cold item is its own: its genre is many items', its mean is hidden
    assert (of_event[~is_hidden_I[data.item_V]] != unknown).mean() > 0.9
    assert not set(data.vocabularies["item_id"].values.to_pylist()) & held_out(home)
    of_mean = data.single_ES[:, len(data.target_fields) + data.profile_fields.index("mean of item")].numpy()
    assert (of_mean[is_hidden_I[data.item_E]] == data.fields.offset("mean of item") + UNKNOWN).all()
    assert data.train_count_E[is_hidden_I[data.item_E]].max() == 0


def test_a_vocabulary_that_knew_a_cold_items_id_would_show(cold: tuple[Home, Settings]) -> None:
    """The same tables with nothing marked as held out: the ids are in the training histories, and the test above would fail."""
    home, settings = cold
    tables = {name: pq.read_table(home.partition("examples", DAY).table(name)) for name in ("example", "example_item", "sequence")}
    tables |= {name: pq.read_table(home.partition("sources", DAY).table(name)) for name in ("user_attribute", "item_attribute")}
    hidden = held_out(home)
    marks = tables["example_item"]
    place = marks.column_names.index("is_held_out")
    tables["example_item"] = marks.set_column(place, "is_held_out", [[False] * marks.num_rows])
    data = load(**tables, base=base_of("same_evidence", settings.adaptor, settings.histories.cap))
    assert set(data.vocabularies["item_id"].values.to_pylist()) & hidden


def test_the_users_that_a_file_names_are_tested_and_meet_no_other_split(tmp_path: Path) -> None:
    tested = [2, 3, 5, 7, 11, 13, 17, 19]
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train_raw_user_ids": [1, 4], "test_raw_user_ids": tested}))
    home, _ = made(tmp_path, {"mode": "per_user"}, {"test_users": str(split)}, {"arms": ["base", "knowledge"], "epochs": 1})
    examples = table(home, "examples", "example")
    users = {name: {row["user_id"] for row in examples if row["split"] == name} for name in ("train", "valid", "test")}
    assert users["test"] == set(tested)
    assert users["valid"]
    assert not users["valid"] & users["train"]
    assert users["valid"] | users["train"] == set(range(1, USERS + 1)) - set(tested)
    # what the prompts saw is no example: KAR's cut, the first half of a user's events, at most `cap`
    shown = {(row["user_id"], item) for row in table(home, "histories", "history") for item in row["item_ids"]}
    assert not shown & {(row["user_id"], row["item_id"]) for row in examples}
    figures = Manifest.read(home.partition("adaptor", DAY).manifest_path).figures
    assert figures["example_counts"]["test"] == sum(row["split"] == "test" for row in examples)
    assert figures["tie_share"] == Manifest.read(home.partition("examples", DAY).manifest_path).figures["tie_share"]


def test_by_time_every_tested_example_is_newer_than_all_that_came_before(tmp_path: Path) -> None:
    home, _ = made(tmp_path, {"mode": "time"}, {"window_days": 25, "split": "by_time"}, {"arms": ["base", "knowledge"], "epochs": 1})
    examples = table(home, "examples", "example")
    at = {name: [row["event_at"] for row in examples if row["split"] == name] for name in ("train", "valid", "test")}
    assert max(at["train"]) < min(at["valid"])
    assert max(at["valid"]) < min(at["test"])
    snapshot = home.partition("knowledge", DAY - dt.timedelta(days=25))
    newest = [row for row in pq.read_table(snapshot.table("knowledge"))["evidence_newest_at"].to_pylist() if row is not None]
    assert len(newest) >= USERS - 1
    assert max(newest) < min(at["train"])
