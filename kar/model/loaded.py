"""The stage's tables as trainings take them: read once a process, resident or streamed, their vectors memory-mapped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import log
from kar.errors import ModelError
from kar.model import arms, knowledge, stream
from kar.model.arms import Arms
from kar.model.bases import base_of
from kar.model.batches import TrainingData
from kar.model.data import Fitted, fit
from kar.model.knowledge import Vectors
from kar.model.resume import Work
from kar.model.stream import Segments, Streamed
from kar.settings import AdaptorSettings
from kar.settings.schema import Arm, Backbone, Base

Chosen = dict[tuple[Base, Backbone, Arm], dict[str, Any]]
"""What the hyper-parameter trials of each base, backbone and arm chose: setting → value."""
_ALLOWED = ["split", "has_user_knowledge", "has_item_knowledge"]


@dataclass(frozen=True)
class Tables:
    """The Parquet files that a training needs."""

    example: Path
    example_item: Path
    sequence: Path
    user_attribute: Path
    item_attribute: Path
    knowledge_vector: Path

    def paths(self) -> dict[str, Path]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Loaded:
    """The tables of a run, each base's examples loaded when first asked for; the last base's are kept.

    Args:
        cap: events that a prompt may show (histories.cap).
        chosen: what the hyper-parameter trials chose.
        work: where trainings keep their states, and knowledge vectors lie to be mapped; None: states are not kept, vectors are in memory.

    Raises:
        ModelError: as `arms.prepare`, or pca_init with streamed examples; `data` as `data.fit`.
    """

    def __init__(
        self, tables: Tables, settings: AdaptorSettings, cap: int, *, chosen: Chosen | None = None, work: Work | None = None
    ) -> None:
        self.tables, self.settings, self.cap, self.work = tables, settings, cap, work
        self.chosen: Chosen = chosen or {}
        processes = settings.processes or (len(os.sched_getaffinity(0)) if settings.device == "cpu" else 1)
        self.stream_rows = stream.pool_rows(tables.example, tables.sequence, settings, processes)
        if self.stream_rows and settings.pca_init:
            raise ModelError(
                "adaptor.pca_init looks at the items of all examples, which are streamed",
                "set adaptor.stream_rows = 0, or pca_init = false",
            )
        self._segments = Segments.of(tables.example, tables.sequence, self.stream_rows or stream.PART_ROWS)
        self.arms = self._prepare()
        self._held: tuple[Base, Fitted, TrainingData] | None = None

    def data(self, base: Base) -> TrainingData:
        """The examples as a base sees them; where they are streamed, those of valid and test alone, without their histories."""
        return self._load(base)[1]

    def count(self, base: Base, split: str) -> int:
        """Examples of a split."""
        return self._load(base)[0].counts[split]

    def pools(self, base: Base, arm: Arm, seed: int) -> Streamed | None:
        """The pools of a training; None: all examples are in `data`."""
        if not self.stream_rows:
            return None
        fitted, data = self._load(base)
        return Streamed(self._segments, fitted, self.arms, arm, self.arms.joins(arm, data, seed), self.settings.device)

    def settings_of(self, base: Base, backbone: Backbone, arm: Arm) -> AdaptorSettings:
        """The settings of some trainings: the arm's form of the adaptor, and what its trials chose."""
        return self.settings.model_copy(update={"form": self.arms.plans[arm].form, **self.chosen.get((base, backbone, arm), {})})

    def _load(self, base: Base) -> tuple[Fitted, TrainingData]:
        if self._held is None or self._held[0] != base:
            self._held = None  # before the next is loaded: two need not fit
            self._held = base, *self._fit_and_gather(base)
        return self._held[1:]

    def _fit_and_gather(self, base: Base) -> tuple[Fitted, TrainingData]:
        tables, device = self.tables, self.settings.device
        item, of_user, of_item = (pq.read_table(path) for path in (tables.example_item, tables.user_attribute, tables.item_attribute))
        seen = base_of(base, self.settings, self.cap)
        fitted = fit(self._segments.parts(), item, of_user, of_item, seen)
        if not self.stream_rows:
            return fitted, stream.resident(self._segments, fitted, device)
        log.info("adaptor: the examples are streamed", events_in_memory=self.stream_rows, segments=len(self._segments))
        return fitted, stream.judged(self._segments, fitted, device)

    def _prepare(self) -> Arms:
        path = self.tables.knowledge_vector
        example = self._allowed()
        if self.work is None:
            return arms.prepare(pq.read_table(path), example, self.settings)
        keys, folder = pq.read_table(path, columns=["view", "subject_id", "encoder_id"]), self.work.folder / "vectors"

        def read_views(views: Sequence[str]) -> dict[str, Vectors]:
            return knowledge.mapped(path, keys, views, folder)

        return arms.prepare(keys, example, self.settings, read_views)

    def _allowed(self) -> pa.Table:
        """Whether knowledge may serve the examples of `data`."""
        if not self.stream_rows:
            return pq.read_table(self.tables.example, columns=_ALLOWED[1:])
        with pq.ParquetFile(self.tables.example, pre_buffer=False) as file:
            parts = [pa.Table.from_batches([batch]) for batch in file.iter_batches(1 << 17, columns=_ALLOWED)]
            return pa.concat_tables([part.filter(pc.not_equal(part["split"], "train")).drop_columns("split") for part in parts])
