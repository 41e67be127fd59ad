"""Hyper-parameters, chosen on valid: for every base, backbone and arm the same number of trials over the same space.

learning_rate 1e-4 … 3e-3 (log) · weight_decay 0, 1e-5 … 1e-2 · dropout 0 … 0.5 · batch_size 256 … 2,048
arms with an adaptor also: adaptor_dropout 0 … 0.5; where it has experts, own_experts 2 … 6

KAR's own grid is over the learning rate, the batch size and the own experts. The space is widened to hold the settings' own values, and the
first trial is the settings as they are, so that no arm is worse off on valid for having been tuned. A study is optuna's TPE, seeded; no trial is cut short by another's epochs
(arms learn at different speeds, and a pruner would favour the fast ones). All trials of all arms train with one seed, the first of the
settings, and no trial predicts the test examples. The best parameters then train every seed.

The trials of one study follow each other, for each learns from those before; the studies run side by side. What they find does not depend on
how many processes there are; a run that was killed goes on behind the trials that it finished.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kar import log
from kar.errors import ModelError
from kar.log import Progress
from kar.model import parallel
from kar.model.batches import Kind
from kar.model.loaded import Chosen, Loaded
from kar.model.train import train
from kar.settings import AdaptorSettings
from kar.settings.schema import Arm, Backbone, Base

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_WEIGHT_DECAYS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
_BATCH_SIZES = (256, 512, 1024, 2048)
_RANDOM_SHARE = 4
"""One trial in so many, five at least, is drawn at random before TPE learns from them; optuna's own ten would be all of a short study."""


@dataclass(frozen=True)
class Study:
    """The trials of one base, backbone and arm."""

    base: Base
    backbone: Backbone
    arm: Arm

    def __str__(self) -> str:
        return f"adaptor: trials of {self.backbone} over {self.base}, {self.arm}"


@dataclass(frozen=True)
class Trial:
    """One trial; see the table study.

    Args:
        valid_auc: NaN: its loss was no longer finite.
    """

    study: Study
    number: int
    valid_auc: float
    seconds: float
    parameters: dict[str, Any]
    is_chosen: bool = False

    def row(self) -> dict[str, Any]:
        """Of the table study."""
        return {
            "base": self.study.base,
            "backbone": self.study.backbone,
            "arm": self.study.arm,
            "trial": self.number,
            "state": "complete" if self.valid_auc == self.valid_auc else "failed",
            "valid_auc": self.valid_auc,
            "seconds": self.seconds,
            "parameters": json.dumps(self.parameters, sort_keys=True),
            "is_chosen": self.is_chosen,
        }


def space(settings: AdaptorSettings, *, has_adaptor: bool) -> dict[str, BaseDistribution]:
    """What may be tried, setting → distribution.

    Args:
        settings: the arm's; their own values are within.
        has_adaptor: whether the arm has one.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def choices(values: tuple[float, ...], own: float) -> CategoricalDistribution:
        return CategoricalDistribution(tuple(sorted({*values, own})))

    own = _as_set(settings)
    found: dict[str, BaseDistribution] = {
        "learning_rate": FloatDistribution(min(1e-4, own["learning_rate"]), max(3e-3, own["learning_rate"]), log=True),
        "weight_decay": choices(_WEIGHT_DECAYS, own["weight_decay"]),
        "dropout": FloatDistribution(0.0, max(0.5, own["dropout"])),
        "batch_size": choices(_BATCH_SIZES, own["batch_size"]),
    }
    if has_adaptor:
        found["adaptor_dropout"] = FloatDistribution(0.0, max(0.5, own["adaptor_dropout"]))
    if has_adaptor and settings.form == "experts":
        found["own_experts"] = IntDistribution(min(2, own["own_experts"]), max(6, own["own_experts"]))
    return found


def _as_set(settings: AdaptorSettings) -> dict[str, Any]:
    dropout = settings.dropout if settings.adaptor_dropout is None else settings.adaptor_dropout
    names = ("learning_rate", "weight_decay", "dropout", "batch_size", "own_experts")
    return {**{name: getattr(settings, name) for name in names}, "adaptor_dropout": dropout}


def tune(loaded: Loaded) -> list[Trial]:
    """Every study's trials, in the order of the settings; none if `adaptor.trials` is 0.

    Raises:
        ModelError: a process died (out of memory).
    """
    settings = loaded.settings
    if not settings.trials:
        return []
    studies = [Study(base, backbone, arm) for base in settings.bases for arm in settings.arms for backbone in settings.backbones]
    rows = loaded.count(settings.bases[0], "train")
    count = min(len(studies), parallel.process_count(len(studies) * settings.trials, rows, settings))
    with Progress("adaptor: studies", total=len(studies)) as progress:
        found: dict[Study, list[Trial]] = {}
        for trials in _one_by_one(studies, loaded) if count == 1 else _side_by_side(studies, loaded, count, progress.tick):
            found[trials[0].study] = trials
            _say(trials)
            progress.advance()
    return [trial for study in studies for trial in found[study]]


def chosen(trials: Iterable[Trial]) -> Chosen:
    """The parameters that each study chose. A study without a trial that ended chose none: the settings stand."""
    return {(t.study.base, t.study.backbone, t.study.arm): t.parameters for t in trials if t.is_chosen}


def _one_by_one(studies: list[Study], loaded: Loaded) -> Iterator[list[Trial]]:
    return (run(study, loaded) for study in studies)


def _side_by_side(studies: list[Study], loaded: Loaded, count: int, tick: Callable[[], None]) -> Iterator[list[Trial]]:
    """Each study as it is done. `tick` is called while none is."""
    # spawn: a forked process would inherit the parent's OpenMP state, which hangs
    alone = loaded.settings.model_copy(update={"threads": 1})
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, spawn, parallel._start, (loaded.tables, alone, loaded.cap, {}, loaded.work)) as pool:
        waiting = {pool.submit(_run, study) for study in studies}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=5.0, return_when=FIRST_COMPLETED)
                tick()
                yield from [each.result() for each in done]
        except BrokenProcessPool as error:
            raise ModelError("a process with hyper-parameter trials died", "give it more memory, or set adaptor.processes lower") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run(study: Study) -> list[Trial]:
    return run(study, parallel._loaded)


def run(study: Study, loaded: Loaded) -> list[Trial]:
    """All trials of one study, one after the other; at most one of them is chosen."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings, seed = loaded.settings_of(study.base, study.backbone, study.arm), loaded.settings.seeds[0]
    kinds = loaded.arms.kinds(study.arm, loaded.data(study.base), seed)
    tried = space(settings, has_adaptor=bool(kinds))
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(5, settings.trials // _RANDOM_SHARE))
    kept = optuna.create_study(direction="maximize", sampler=sampler, pruner=optuna.pruners.NopPruner())
    kept.enqueue_trial({name: value for name, value in _as_set(settings).items() if name in tried})
    trials = []
    for number in range(settings.trials):
        started = time.perf_counter()
        asked = kept.ask(tried)
        attempt, what = settings.model_copy(update=asked.params), f"{study}, {number}"
        try:
            auc = _valid_auc(study, loaded, attempt, kinds, what)
            kept.tell(asked, auc)
        except ModelError:  # its loss was no longer finite
            auc = float("nan")
            kept.tell(asked, state=optuna.trial.TrialState.FAIL)
        trials.append(Trial(study, number, auc, time.perf_counter() - started, dict(asked.params)))
    return _with_choice(trials)


def _valid_auc(study: Study, loaded: Loaded, settings: AdaptorSettings, kinds: list[Kind], what: str) -> float:
    """Train without a look at test; a trial that a killed run finished is read back."""
    path = loaded.work.file(what.removeprefix("adaptor: "), settings) if loaded.work else None
    data, seed = loaded.data(study.base), settings.seeds[0]
    pools, width = loaded.pools(study.base, study.arm, seed), loaded.arms.width
    found = train(study.backbone, data, kinds, width, settings, seed, what, pools=pools, state_path=path, is_shown=False, with_test=False)
    return found.valid_auc


def _with_choice(trials: list[Trial]) -> list[Trial]:
    """The best on valid marked, the earliest of equals."""
    ended = [trial for trial in trials if trial.valid_auc == trial.valid_auc]
    best = max(ended, key=lambda trial: (trial.valid_auc, -trial.number), default=None)
    return [Trial(t.study, t.number, t.valid_auc, t.seconds, t.parameters, is_chosen=t is best) for t in trials]


def _say(trials: list[Trial]) -> None:
    best = next((trial for trial in trials if trial.is_chosen), None)
    log.info(
        str(trials[0].study),
        trials=len(trials),
        as_set=round(trials[0].valid_auc, 4),
        best=round(best.valid_auc, 4) if best else "none",
        seconds=round(sum(trial.seconds for trial in trials)),
    )
