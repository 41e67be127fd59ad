"""Trainings side by side: each backbone, arm and seed is a process of its own with one thread.

Two threads on one small training gain little and stall when the machine is busy; independent trainings share nothing.
A process reads the stage's tables itself (seconds) and gives back what it trained. The results do not depend on how
many processes there are.

Where a work folder is given, each training keeps its state there after every epoch (`kar.model.resume`), and a run that was killed does
only what is missing.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kar import log
from kar.log import Progress
from kar.model import distributed
from kar.model.distributed import ALONE, Ranks
from kar.model.evaluate import Training
from kar.model.loaded import Chosen, Loaded, Tables
from kar.model.resume import Work
from kar.model.train import train
from kar.settings import AdaptorSettings
from kar.settings.schema import Arm, Backbone, Base

WORTH_A_PROCESS = 50_000
"""Training examples × trainings below which starting processes (about 5 s each) costs more than it saves."""


@dataclass(frozen=True)
class Job:
    """One training to do."""

    base: Base
    backbone: Backbone
    arm: Arm
    seed: int

    def __str__(self) -> str:
        return f"adaptor: {self.backbone} over {self.base}, {self.arm}, seed {self.seed}"


def jobs(settings: AdaptorSettings) -> list[Job]:
    """Every base × backbone × arm × seed, in the order of the settings."""
    return [
        Job(base, backbone, arm, seed)
        for base in settings.bases
        for arm in settings.arms
        for seed in settings.seeds
        for backbone in settings.backbones
    ]


def train_all(loaded: Loaded) -> list[Training]:
    """Do every training, side by side where it pays; in the order of the settings, however they finished."""
    settings, todo = loaded.settings, jobs(loaded.settings)
    # a base at a time; within it the models that attend and the arms with an adaptor take longest and come first, so that the end is short
    slow_first = sorted(todo, key=lambda job: (settings.bases.index(job.base), job.arm == "base", job.backbone not in ("din", "dien")))
    count = process_count(len(todo), loaded.count(settings.bases[0], "train"), settings)
    ranks = distributed.current()
    if ranks.count > 1:
        done: Iterable[Training] = (_train_in_step(job, loaded, ranks) for job in slow_first)
    elif count == 1:
        done = (train_job(job, loaded, is_shown=True) for job in slow_first)
    else:
        done = _side_by_side(slow_first, loaded, count)
    found = {Job(t.base, t.backbone, t.arm, t.seed): t for t in done}
    return [found[job] for job in todo]


def _train_in_step(job: Job, loaded: Loaded, ranks: Ranks) -> Training:
    ranks.tell(_announcement(job, loaded))
    return train_job(job, loaded, ranks=ranks, is_shown=True)


def _announcement(job: Job, loaded: Loaded) -> dict[str, Any]:
    """What the others must know of a training."""
    return {
        "tables": {name: str(path) for name, path in loaded.tables.paths().items()},
        "settings": loaded.settings.model_dump(mode="json"),
        "cap": loaded.cap,
        "chosen": [[*key, value] for key, value in loaded.chosen.items()],
        "work": str(loaded.work.folder) if loaded.work else None,
        "stream_rows": loaded.stream_rows,
        "job": asdict(job),
    }


def process_count(job_count: int, row_count: int, settings: AdaptorSettings, worth: int = WORTH_A_PROCESS) -> int:
    """How many trainings go side by side.

    Args:
        row_count: training rows of each.
        worth: rows × trainings below which one process does them all, unless `settings.processes` says otherwise.
    """
    if settings.device != "cpu" or (settings.processes is None and row_count * job_count < worth):
        return 1
    return min(job_count, settings.processes or len(os.sched_getaffinity(0)))


def _side_by_side(todo: list[Job], loaded: Loaded, count: int) -> Iterator[Training]:
    # spawn: a forked process would inherit the parent's OpenMP state, which hangs
    alone = loaded.settings.model_copy(update={"threads": 1})
    pool = multiprocessing.get_context("spawn").Pool(count, _start, (loaded.tables, alone, loaded.cap, loaded.chosen, loaded.work))
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


_loaded: Loaded


def _start(tables: Tables, settings: AdaptorSettings, cap: int, chosen: Chosen, work: Work | None) -> None:
    """In a new process: read the tables once, for all of its trainings."""
    global _loaded
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _loaded = Loaded(tables, settings, cap, chosen=chosen, work=work)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: killed, it cannot stop its pool, and the next run would train beside it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _run(job: Job) -> Training:
    return train_job(job, _loaded, is_shown=False)


def train_job(job: Job, loaded: Loaded, *, ranks: Ranks = ALONE, is_shown: bool) -> Training:
    """One training of a run; `ranks`: together with other processes."""
    data = loaded.data(job.base)
    kinds = loaded.arms.kinds(job.arm, data, job.seed)
    settings = loaded.settings_of(job.base, job.backbone, job.arm)
    as_it_is = settings.model_copy(update={"stream_rows": loaded.stream_rows})
    path = loaded.work.file(str(job).removeprefix("adaptor: "), as_it_is) if loaded.work else None
    pools = loaded.pools(job.base, job.arm, job.seed)
    width, what = loaded.arms.width, str(job)
    result = train(job.backbone, data, kinds, width, settings, job.seed, what, pools=pools, state_path=path, ranks=ranks, is_shown=is_shown)
    training = Training(job.base, job.backbone, job.arm, job.seed, result)
    if is_shown:
        _say(training)
    return training


def _say(training: Training) -> None:
    result = training.result
    what = str(Job(training.base, training.backbone, training.arm, training.seed))
    log.info(what, epochs=len(result.epochs), valid_auc=round(result.valid_auc, 4), rows_per_s=round(result.rows_per_s))
