"""Trainings side by side: each backbone, arm and seed is a process of its own with one thread.

Two threads on one small training gain little and stall when the machine is busy; independent trainings share nothing.
A process reads the stage's tables itself (seconds) and gives back what it trained. The results do not depend on how
many processes there are.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from kar import log
from kar.log import Progress
from kar.model import arms, batches
from kar.model.arms import Arms
from kar.model.batches import TrainingData
from kar.model.evaluate import Training
from kar.model.train import train
from kar.settings import AdaptorSettings
from kar.settings.schema import Arm

WORTH_A_PROCESS = 50_000
"""Training examples × trainings below which starting processes (about 5 s each) costs more than it saves."""


@dataclass(frozen=True)
class Tables:
    """The Parquet files that a training needs."""

    example: Path
    sequence: Path
    user_attribute: Path
    item_attribute: Path
    knowledge_vector: Path

    def load(self, settings: AdaptorSettings) -> tuple[TrainingData, Arms]:
        """Examples and vectors as resident tensors. Raises ModelError as `batches.load` and `arms.prepare` do."""
        example = pq.read_table(self.example)
        sequence, user_attribute, item_attribute = (pq.read_table(p) for p in (self.sequence, self.user_attribute, self.item_attribute))
        data = batches.load(example, sequence, user_attribute, item_attribute, settings)
        return data, arms.prepare(pq.read_table(self.knowledge_vector), example, settings)


@dataclass(frozen=True)
class Job:
    """One training to do."""

    backbone: str
    arm: Arm
    seed: int

    def __str__(self) -> str:
        return f"adaptor: {self.backbone} {self.arm} seed {self.seed}"


def jobs(settings: AdaptorSettings) -> list[Job]:
    """Every backbone × arm × seed; DIN and the arms with an adaptor take longest and come first, so that the end is short."""
    found = [Job(backbone, arm, seed) for arm in settings.arms for seed in settings.seeds for backbone in settings.backbones]
    return sorted(found, key=lambda job: (job.arm == "base", job.backbone != "din"))


def train_all(tables: Tables, data: TrainingData, prepared: Arms, settings: AdaptorSettings) -> list[Training]:
    """Do every training, side by side where it pays; in the order of the settings, however they finished."""
    todo = jobs(settings)
    count = _process_count(len(todo), len(data.split_rows["train"]), settings)
    if count == 1:
        done = [_train(job, data, prepared, settings, is_shown=True) for job in todo]
    else:
        done = list(_side_by_side(todo, tables, settings, count))
    order = {(t.arm, t.seed, t.backbone): t for t in done}
    return [order[arm, seed, backbone] for arm in settings.arms for seed in settings.seeds for backbone in settings.backbones]


def _process_count(job_count: int, example_count: int, settings: AdaptorSettings) -> int:
    if settings.device != "cpu" or (settings.processes is None and example_count * job_count < WORTH_A_PROCESS):
        return 1
    return min(job_count, settings.processes or len(os.sched_getaffinity(0)))


def _side_by_side(todo: list[Job], tables: Tables, settings: AdaptorSettings, count: int) -> Iterator[Training]:
    # spawn: a forked process would inherit the parent's OpenMP state, which hangs
    alone = settings.model_copy(update={"threads": 1})
    pool = multiprocessing.get_context("spawn").Pool(count, _start, (tables, alone))
    with pool, Progress("adaptor: trainings", total=len(todo)) as progress:
        results = pool.imap_unordered(_run, todo)
        for _ in todo:
            while True:
                try:
                    found = results.next(timeout=5.0)
                    break
                except multiprocessing.TimeoutError:
                    progress.tick()
            _say(found)
            progress.advance()
            yield found


_loaded: tuple[TrainingData, Arms, AdaptorSettings]


def _start(tables: Tables, settings: AdaptorSettings) -> None:
    """In a new process: read the tables once, for all of its trainings."""
    global _loaded
    _loaded = (*tables.load(settings), settings)


def _run(job: Job) -> Training:
    data, prepared, settings = _loaded
    return _train(job, data, prepared, settings, is_shown=False)


def _train(job: Job, data: TrainingData, prepared: Arms, settings: AdaptorSettings, *, is_shown: bool) -> Training:
    kinds = prepared.kinds(job.arm, data, job.seed)
    result = train(job.backbone, data, kinds, prepared.width, settings, job.seed, str(job), is_shown=is_shown)
    training = Training(job.backbone, job.arm, job.seed, result)
    if is_shown:
        _say(training)
    return training


def _say(training: Training) -> None:
    result = training.result
    what = str(Job(training.backbone, training.arm, training.seed))
    log.info(what, epochs=len(result.epochs), valid_auc=round(result.valid_auc, 4), rows_per_s=round(result.rows_per_s))
