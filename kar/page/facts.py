"""What the page is made of: the manifests and the tables of one date, as the report stage gathered them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from kar.page.drift import Drift
from kar.page.factors import ByFactor
from kar.page.item_map import ItemMap
from kar.page.nights import Nights
from kar.release.shelf import Service
from kar.settings import AdaptorSettings, Settings
from kar.store import Manifest


@dataclass(frozen=True)
class Chosen:
    """The rows of the users and items that are printed to be read, and no others."""

    history: pa.Table
    item_profile: pa.Table
    plan: pa.Table
    request: pa.Table
    knowledge: pa.Table
    refused: pa.Table


@dataclass(frozen=True)
class Facts:
    """One date's run.

    Args:
        date: the partition date.
        as_of: when the page is made, UTC.
        settings: today's. What a stage ran with is asked of its manifest first (`ran_with`).
        published: the folder, or the uri in a store, that holds CURRENT and releases/.
        manifests: stage → its manifest; a stage that has none is absent.
        metric, comparison, calibration, gate_weight, view_use, study, epoch, release: whole tables, as declared.
        example: columns split, label, user_id, has_user_knowledge, has_item_knowledge.
        plan: without the bodies and the evidence.
        knowledge: without the texts and the evidence, but with their `words`.
        refused, pace: whole tables.
        knowledge_vector: columns view, n_tokens, truncated.
        user_count: users with a history.
        item_count: items.
        chosen: what is printed in full.
        by_factor: what the texts say factor by factor.
        drift: since the last release; None: there is none to compare with.
        nights: what the nights up to this one cost.
        item_map: the most popular items by their knowledge.
        service: what CURRENT says of the release as the page is made.
        trainings: sentences about trainings that are not used, or are used against their gate.
    """

    date: dt.date
    as_of: dt.datetime
    settings: Settings
    published: Path | str
    manifests: dict[str, Manifest]
    metric: pa.Table
    comparison: pa.Table
    calibration: pa.Table
    gate_weight: pa.Table
    view_use: pa.Table
    study: pa.Table
    epoch: pa.Table
    example: pa.Table
    plan: pa.Table
    knowledge: pa.Table
    refused: pa.Table
    pace: pa.Table
    knowledge_vector: pa.Table
    release: pa.Table
    user_count: int
    item_count: int
    chosen: Chosen
    by_factor: ByFactor = field(default_factory=ByFactor)
    drift: Drift | None = None
    nights: Nights = field(default_factory=lambda: Nights([], [], []))
    item_map: ItemMap = field(default_factory=ItemMap)
    service: Service = field(default_factory=Service)
    trainings: tuple[str, ...] = ()

    def ran_with(self, stage: str, section: str, key: str) -> Any:
        """A setting as the stage's recipe recorded it, else as the settings say now."""
        recipe = self.manifests[stage].recipe if stage in self.manifests else {}
        recorded = recipe.get("settings", {}).get(section, {})
        return recorded[key] if key in recorded else getattr(getattr(self.settings, section), key)

    def adaptor_settings(self) -> AdaptorSettings:
        """[adaptor] as the training ran with it."""
        return trained_with(self.manifests.get("adaptor"), self.settings)

    def figure(self, stage: str, key: str) -> Any:
        """A figure of a stage's manifest; None if it recorded none of that name."""
        return self.manifests[stage].figures.get(key) if stage in self.manifests else None

    def number(self, stage: str, key: str) -> float | None:
        """A figure that is a number; None for anything else."""
        value = self.figure(stage, key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def subject_count(self, view: str) -> int:
        """How many subjects a view could cover."""
        return self.user_count if view.startswith("user.") else self.item_count


def trained_with(manifest: Manifest | None, settings: Settings) -> AdaptorSettings:
    """[adaptor] as a training ran with it; what its recipe does not tell as the settings say now."""
    recorded = manifest.recipe.get("settings", {}).get("adaptor", {}) if manifest else {}
    return AdaptorSettings(**{name: recorded.get(name, value) for name, value in settings.adaptor.model_dump().items()})
