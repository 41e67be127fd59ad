"""The small world's examples at the times of their events, and candidate lists made of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kar.model import arms
from kar.model.batches import TrainingData
from kar.model.rerank.candidates import Candidates
from kar.model.rerank.lists import Lists, build
from kar.model.rerank.train import Prepared
from kar.settings import AdaptorSettings, RerankSettings

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def small_rerank(**changes: Any) -> RerankSettings:
    base: dict[str, Any] = {
        "base": "thin",
        "first_stage": "popularity",
        "hidden": 16,
        "blocks": 1,
        "dropout": 0.0,
        "batch_size": 16,
        "epochs": 2,
        "resamples": 100,
        "processes": 1,
    }
    return RerankSettings(**{**base, **changes})


def with_times(world: Any) -> Any:
    """The world with every example at the time of its event."""
    at = [START + dt.timedelta(hours=position) for position in world.example["position"].to_pylist()]
    column = world.example.column_names.index("event_at")
    return world.having(example=world.example.set_column(column, "event_at", pa.array(at, pa.timestamp("us", "UTC"))))


@dataclass(frozen=True)
class Made:
    """A world, its examples and its lists."""

    world: Any
    data: TrainingData
    lists: Lists
    left_out: dict[str, int]
    adaptor: AdaptorSettings
    settings: RerankSettings

    def candidates(self) -> Candidates:
        return Candidates.of(self.data, self.lists)

    def prepared(self, candidates: Candidates | None = None, **changes: Any) -> Prepared:
        """Ready to train, in the drawn order unless the candidates say otherwise."""
        found = candidates or self.candidates()
        settings = self.settings.model_copy(update=changes)
        of_arms = arms.prepare(self.world.knowledge_vector, self.world.example, self.adaptor.model_copy(update={"arms": settings.arms}))
        everyone = np.ones(len(found.data.user_E), bool)
        return Prepared(found, replace(of_arms, is_allowed={"user": everyone, "item": everyone}), self.adaptor, settings)


@pytest.fixture(scope="session")
def made_of(small_settings_of: Callable[..., AdaptorSettings]) -> Callable[..., Made]:
    """world, changes of [rerank] → its lists."""

    def make(world: Any, adaptor: dict[str, Any] | None = None, **changes: Any) -> Made:
        of_adaptor = small_settings_of(bases=["thin"], published_base="thin", **(adaptor or {}))
        settings = small_rerank(**changes)
        data = world.load(of_adaptor)
        lists, left_out = build(data, world.example, world.example_item, world.sequence, settings)
        return Made(world, data, lists, left_out, of_adaptor, settings)

    return make


@pytest.fixture(scope="session")
def timed(world: Any) -> Any:
    return with_times(world)


@pytest.fixture(scope="session")
def crowd(world_of: Callable[..., Any], made_of: Callable[..., Made]) -> Made:
    """Users enough to learn from."""
    return made_of(with_times(world_of(users=150)))


@pytest.fixture(scope="session")
def made(timed: Any, made_of: Callable[..., Made]) -> Made:
    return made_of(timed)
