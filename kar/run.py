"""The only stage runner: resolve inputs, skip what is made, run, seal. The CLI and the DAGs both call `run_stage`.

A stage module offers `run(inputs, out, settings)` and, if it reads files beside its tables (templates, the user's
own data, checkpoints), `files(settings, inputs) -> list[Path]`, whose digests join the recipe. What it depends on and
neither tables nor files hold (the served model's revision) it tells by `facts(settings, inputs) -> dict[str, object]`:
asked once a run, part of the recipe, handed to the stage as `inputs.facts`. One whose work a gate may hold back tells of a finished partition
by `held_back(home, made) -> GateFailed | None`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import importlib
import importlib.metadata
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from kar import flow, lineage, log
from kar.errors import GateFailed, NotMade, StageError
from kar.flow import Read, Stage
from kar.settings import Settings
from kar.store import Home, Inputs, Manifest, Output, Partition, file_sha, json_sha, trainings
from kar.store.forgotten import nobody_is_forgotten
from kar.store.locking import locked
from kar.tables import IdTypes

_PACKAGES = ("duckdb", "pyarrow", "numpy", "torch", "sentence-transformers", "transformers", "deepctr-torch")


def run_all(
    settings: Settings, home: Home, date: dt.date, clock: Callable[[], dt.datetime], stages: list[str] | None = None
) -> list[Manifest]:
    """Run the flow for one date, each stage only if its recipe changed.

    In `time` mode the training examples of the date meet knowledge of an earlier date: the nightly stages of that
    snapshot date run first if they have never run.

    Args:
        clock: read as each stage starts: a release must not say it was published hours before it was.
        stages: names to run, in flow order, those aside of it last; None: all of the flow, none aside.

    Returns:
        The manifests of the date, in flow order.
    """
    names = list(flow.NAMES) if stages is None else [name for name in (*flow.NAMES, *flow.ASIDE_NAMES) if name in stages]
    snapshot = settings.snapshot_date(date)
    if snapshot != date and flow.TRAINING & set(names):
        for name in flow.NIGHTLY:
            run_stage(name, settings, home, snapshot, clock())
    return [run_stage(name, settings, home, date, clock()) for name in names]


def held_back(home: Home, made: list[Manifest]) -> GateFailed | None:
    """What to end with after stages whose work is done and that a gate holds back; None: nothing is held back."""
    modules = [(importlib.import_module(f"kar.stages.{manifest.stage}"), manifest) for manifest in made]
    failed: list[GateFailed] = [
        f for module, manifest in modules if hasattr(module, "held_back") and (f := module.held_back(home, manifest))
    ]
    if len(failed) < 2:
        return failed[0] if failed else None
    return GateFailed("; and ".join(one.what for one in failed), "; ".join(one.do for one in failed))


def run_stage(name: str, settings: Settings, home: Home, date: dt.date, as_of: dt.datetime) -> Manifest:
    """Make one stage's partition for one date, or do nothing if the same recipe made it already.

    Raises:
        NotMade: an input has not been made yet.
        AlreadyRunning: another process makes this partition, or `kar forget` is at work.
        KarError: whatever the stage itself raises; the partition is then as it was before.
    """
    only_maker = locked(home.partition(name, date).lock, f"another process is running {name} for {date}", "wait for it, or stop it")
    with nobody_is_forgotten(home), only_maker:
        return run_held(name, settings, home, date, as_of)


def run_held(name: str, settings: Settings, home: Home, date: dt.date, as_of: dt.datetime) -> Manifest:
    """As `run_stage`, for a caller that holds the home's locks."""
    stage, partition = flow.stage_named(name), home.partition(name, date)
    inputs = inputs_of(stage, settings, home, date, as_of)
    module = importlib.import_module(f"kar.stages.{name}")
    if hasattr(module, "facts"):
        inputs = dataclasses.replace(inputs, facts=module.facts(settings, inputs))
    recipe = _recipe(stage, module, settings, inputs)
    if partition.exists() and (made := Manifest.read(partition.manifest_path)).recipe_sha == json_sha(recipe):
        log.info(f"{name}: nothing to do", date=date, rows={t: v["rows"] for t, v in made.tables.items()})
        return made
    with lineage.told(inputs, recipe, partition):
        return _make(stage, module, settings, inputs, partition, recipe)


def inputs_of(stage: Stage, settings: Settings, home: Home, date: dt.date, as_of: dt.datetime) -> Inputs:
    """What a stage gets to read for a date. Raises NotMade."""
    return Inputs(stage, date, cutoff_of(date), as_of, home, id_types(settings), resolve(stage, settings, home, date))


def resolve(stage: Stage, settings: Settings, home: Home, date: dt.date) -> dict[tuple[str, str], Partition | None]:
    """Every declared input of a stage → its partition for this date. Raises NotMade with the command that makes it."""
    return {(read.stage, read.table): _partition(stage, read, settings, home, date) for read in stage.reads}


def _partition(stage: Stage, read: Read, settings: Settings, home: Home, date: dt.date) -> Partition | None:
    if read.at == "previous":
        earlier = home.latest(read.stage, date, before=True)
        return earlier if earlier is not None and _holds(earlier, read.table) else None
    if read.at == "latest":
        found = _latest(read.stage, home, date)
    else:
        wanted = settings.snapshot_date(date) if read.at == "snapshot" else date
        found = home.partition(read.stage, wanted)
    if found is None or not found.exists():
        when = "at or before " + date.isoformat() if read.at == "latest" else found.date.isoformat() if found else ""
        command = f"kar run {read.stage} --date {found.date if found else date}"
        if read.at == "latest" and read.stage == trainings.STAGE and (held := trainings.newer_held_back(home, date)):
            why = trainings.why_held_back(held[-1])
            raise NotMade(
                f"{stage.name} reads the newest training, and every one {when} is held back; that of {held[-1].date}: {why}",
                f"train again, or use it all the same: kar training promote --date {held[-1].date}",
            )
        raise NotMade(f"{stage.name} reads {read.stage}, which has not been made for {when}", f"run: {command}")
    if not _holds(found, read.table):
        raise NotMade(
            f"{stage.name} reads {read.table}, and {read.stage} of {found.date} was made by an earlier version, which wrote none",
            f"run: kar run {read.stage} --date {found.date}",
        )
    return found


def _latest(stage: str, home: Home, date: dt.date) -> Partition | None:
    """The newest partition at or before the date. Of trainings the newest that is not held back, and of their examples those that it met."""
    training = trainings.latest_promoted(home, date) if stage in (trainings.STAGE, "examples") else None
    if stage == trainings.STAGE:
        return training
    met = home.partition(stage, training.date) if training is not None else None
    return met if met is not None and met.exists() else home.latest(stage, date)


def _holds(partition: Partition, table: str) -> bool:
    """Whether a finished partition has the table; one that an earlier version made may lack a new one."""
    return table in Manifest.read(partition.manifest_path).tables


def _make(
    stage: Stage, module: ModuleType, settings: Settings, inputs: Inputs, partition: Partition, recipe: dict[str, object]
) -> Manifest:
    """Run the stage into a partial folder beside the target, seal it, and rename it into place."""
    started = time.monotonic()
    log.info(f"{stage.name}: running", date=inputs.date)
    partial = partition.path.parent / f".{partition.path.name}-{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir(parents=True)
    try:
        out = Output(stage, partial, inputs.ids)
        module.run(inputs, out, settings)
        unwritten = set(stage.writes) - set(out.tables)
        if unwritten:
            raise StageError(f"stage {stage.name} ended without writing {sorted(unwritten)}")
        manifest = Manifest(
            stage=stage.name,
            date=inputs.date.isoformat(),
            recipe_sha=json_sha(recipe),
            recipe=recipe,
            tables=out.tables,
            rejected=out.rejected,
            rejected_examples=out.rejected_examples,
            figures=out.figures,
            warnings=out.warnings,
            seconds=round(time.monotonic() - started, 3),
            made_at=inputs.as_of.isoformat(),
            packages=_packages(),
        )
        manifest.write(partial)
        _replace(partial, partition.path)
        shutil.rmtree(partition.work, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for sentence in out.warnings:
        log.warning(sentence, stage=stage.name)
    log.info(
        f"{stage.name}: done",
        seconds=round(manifest.seconds, 1),
        rows={t: v["rows"] for t, v in out.tables.items()},
        rejected=manifest.rejected or 0,
    )
    return manifest


def _replace(partial: Path, target: Path) -> None:
    """Put the finished folder in the target's place. A crash in between leaves no partition, never half of one."""
    old = target.parent / f".{target.name}-{uuid.uuid4().hex[:8]}.replaced"
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _recipe(stage: Stage, module: ModuleType, settings: Settings, inputs: Inputs) -> dict[str, object]:
    files: list[Path] = module.files(settings, inputs) if hasattr(module, "files") else []
    recipe: dict[str, object] = {
        "stage": stage.name,
        "version": stage.version,
        "date": inputs.date.isoformat(),
        "settings": {section: getattr(settings, section).recipe() for section in stage.settings},
        "inputs": {f"{s}.{t}": _digest(part, t) for (s, t), part in inputs.partitions.items()},
        "files": _file_digests(files, inputs.home),
    }
    return recipe | ({"facts": inputs.facts} if hasattr(module, "facts") else {})


def _file_digests(files: list[Path], home: Home) -> dict[str, str]:
    """Name of each file → digest. A name is the place below the home, else the last two parts (a whole path would tie
    the recipe to a machine); equal names get a number."""
    found: dict[str, str] = {}
    for path in files:
        name = str(path.relative_to(home.path)) if path.is_relative_to(home.path) else f"{path.parent.name}/{path.name}"
        same = sum(1 for other in found if other.split("#")[0] == name)
        found[f"{name}#{same + 1}" if same else name] = file_sha(path)
    return found


def _digest(partition: Partition | None, table: str) -> str | None:
    return None if partition is None else str(Manifest.read(partition.manifest_path).tables[table]["sha"])


def cutoff_of(date: dt.date) -> dt.datetime:
    """The end of the date in UTC: the first instant that is not seen."""
    return dt.datetime.combine(date + dt.timedelta(days=1), dt.time(), dt.UTC)


def id_types(settings: Settings) -> IdTypes:
    return IdTypes(settings.scenario.user_id, settings.scenario.item_id)


@functools.cache
def _packages() -> dict[str, str]:
    """Versions of what the stages compute with; read once a process, for every manifest."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
