"""Partitions without the forgotten: each is written beside itself and takes its own place; recipes then name what the tables are now."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import flow
from kar import run as runner
from kar.errors import NotMade
from kar.forget.gather import STAGES, Gathered
from kar.forget.journal import Journal
from kar.forget.rows import Cut, Gone, is_gone, left_of, quoting
from kar.forget.subjects import Subjects, named_in
from kar.settings import Settings
from kar.stages import prompts
from kar.store import Home, Manifest, Partition, file_sha, json_sha, write_whole
from kar.store.forgotten import list_path
from kar.store.stream import StreamWriter
from kar.tables import TABLES, IdTypes, grown

_ROWS = 16_384
_NEW, _OLD = "forgetting", "forgotten"


@dataclass
class Work:
    """A home, what is to be taken out of it, and what was so far."""

    home: Home
    ids: IdTypes
    subjects: Subjects
    gathered: Gathered
    journal: Journal
    now: dt.datetime
    is_dry: bool


def beside(partition: Partition, what: str) -> Path:
    return partition.path.parent / f".{partition.path.name}.{what}"


def recover(home: Home) -> None:
    """End what a killed run left half renamed: a partition is either as it was or whole without the forgotten."""
    for stage in STAGES:
        for path in sorted((home.path / stage).glob(f".date=*.{_NEW}")) + sorted((home.path / stage).glob(f".date=*.{_OLD}")):
            partition = Partition(path.with_name(path.name[1:].rpartition(".")[0]))
            if not partition.path.exists() and (path / "manifest.json").is_file():
                path.rename(partition.path)
            else:
                shutil.rmtree(path)


def rewrite(work: Work) -> None:
    """Rewrite every partition that holds something of the subjects, the last stage first: a stage's cut is told by the ones before it."""
    for stage in reversed(STAGES):
        for partition in work.home.partitions(stage):
            _rewrite_one(work, stage, partition)


def _rewrite_one(work: Work, stage: str, partition: Partition) -> None:
    manifest = Manifest.read(partition.manifest_path)
    cut = _cut_of(work, stage, partition)
    names = [name for name in manifest.tables if name in TABLES and partition.table(name).is_file()]
    names = [name for name in names if not work.journal.has_made(f"{stage}.{name}", str(manifest.tables[name]["sha"]))]
    lost = {name: _lost(partition, name, cut, work) for name in names}
    lost = {name: found for name, found in lost.items() if found != (0, 0)}
    words = work.subjects.words()
    is_named = named_in(manifest.rejected_examples, words) or named_in(manifest.warnings, words)
    for name, (removed, edited) in lost.items():
        work.journal.add(f"{stage}.{name}", partition.path.name, rows_removed=removed, rows_edited=edited)
    if not lost and not is_named:
        return
    if is_named:
        work.journal.add(f"{stage} manifests", partition.path.name, rows_no_longer_shown=1)
    if not work.is_dry:
        _write_anew(work, stage, partition, manifest, cut, {name: removed for name, (removed, _) in lost.items()})


def _lost(partition: Partition, name: str, cut: Cut, work: Work) -> tuple[int, int]:
    """Rows that go and rows that change."""
    if name == "release":
        return 0, int(_released(pq.read_table(partition.table(name)), work) != pq.read_table(partition.table(name)))
    columns = [column.name for column in TABLES[name].columns if column.type != "vector"]
    removed = edited = 0
    for part in _parts(partition.table(name), columns):
        left = left_of(name, part, cut)
        removed, edited = removed + left.removed, edited + left.edited
    return removed, edited


def _parts(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])


def _write_anew(work: Work, stage: str, partition: Partition, manifest: Manifest, cut: Cut, removed: dict[str, int]) -> None:
    """Write the partition beside itself, note the digests, and swap."""
    new, old = beside(partition, _NEW), beside(partition, _OLD)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for path in sorted(partition.path.rglob("*")):
        target = new / path.relative_to(partition.path)
        if path.is_dir():
            target.mkdir()
        elif path != partition.manifest_path and (path.parent != partition.path or path.stem not in removed):
            _link(path, target)
    for name in removed:
        writer = StreamWriter(name, new / f"{name}.parquet", work.ids)
        for part in [_released(pq.read_table(partition.table(name)), work)] if name == "release" else _parts(partition.table(name)):
            writer.add(part if name == "release" else left_of(name, grown(name, part, TABLES[name].column_names), cut).table)
        made = writer.close()
        work.journal.changed(f"{stage}.{name}", str(manifest.tables[name]["sha"]), str(made["sha"]))
        manifest.tables[name] = made
    _note(work, stage, manifest, removed)
    manifest.write(new)
    work.journal.write(work.home)
    for path in new.rglob("*.parquet"):
        _sync(path)
    partition.path.rename(old)
    new.rename(partition.path)
    shutil.rmtree(old)


def _note(work: Work, stage: str, manifest: Manifest, removed: dict[str, int]) -> None:
    """What the manifest says of it: how many rows, when; never who."""
    words = work.subjects.words()
    manifest.rejected_examples = {
        reason: kept for reason, rows in manifest.rejected_examples.items() if (kept := [row for row in rows if not named_in(row, words)])
    }
    manifest.warnings = [sentence for sentence in manifest.warnings if not named_in(sentence, words)]
    manifest.figures["forgotten"] = [
        *manifest.figures.get("forgotten", []),
        {"at": work.now.isoformat(), "rows": {name: count for name, count in removed.items() if count}},
    ]
    if "forgotten" in flow.stage_named(stage).rejects and stage == "sources":
        rows = sum(removed.get(name, 0) for name in ("user", "item", "interaction"))
        manifest.rejected["forgotten"] = manifest.rejected.get("forgotten", 0) + rows


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---- what a partition loses -----------------------------------------------------------------------------------------


def _cut_of(work: Work, stage: str, partition: Partition) -> Cut:
    """What goes, told by tables of the same date that are rewritten after this one."""
    cut = Cut(work.subjects, work.gathered.quotes, work.ids, quoting_keys=frozenset(work.gathered.quoting_keys))
    if stage in ("adaptor", "examples", "rerank"):
        sequence = _table_of(work, "examples", partition, "sequence", ["user_id", "item_id", "position"])
        cut.gone = _gone(cut, sequence, None if sequence is None else sequence.column("position").to_numpy())
    if stage in ("adaptor", "examples"):
        example = _table_of(work, "examples", partition, "example", ["example_id", "user_id", "item_id"])
        cut.examples = _numbers_gone("example", example, "example_id", cut)
    if stage == "histories":
        events = _table_of(work, "sources", partition, "interaction", ["user_id", "item_id"])
        cut.gone = _gone(cut, events, None if events is None else _places(events.column("user_id")))
        cut.reviews = work.gathered.reviews
        recipe = Manifest.read(partition.manifest_path).recipe
        cut.review_chars = int(recipe.get("settings", {}).get("histories", {}).get("review_chars", 0))
    if stage == "prompts":
        cut.places = _numbers_gone("request", pq.read_table(partition.table("request")), "place", cut)
    if stage in ("knowledge", "vectors"):
        cut.quoting = _quoting(work, partition)
    return cut


def _table_of(work: Work, stage: str, partition: Partition, name: str, columns: list[str]) -> pa.Table | None:
    path = work.home.partition(stage, partition.date).table(name)
    return pq.read_table(path, columns=columns) if path.is_file() else None


def _places(users: pa.ChunkedArray) -> np.ndarray:
    """Place of each event in its user's order, of a table in that order."""
    codes = pc.index_in(users, value_set=pc.unique(users)).to_numpy()
    is_first = np.concatenate([[True], codes[1:] != codes[:-1]]) if len(codes) else np.zeros(0, bool)
    starts = np.flatnonzero(is_first)
    return np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))


def _gone(cut: Cut, events: pa.Table | None, places: np.ndarray | None) -> Gone:
    """Events of users who stay, with items that go."""
    if events is None or places is None or not cut.subjects.items:
        return cut.gone
    goes = pc.and_(cut.subjects.are("item", events.column("item_id")), pc.invert(cut.subjects.are("user", events.column("user_id"))))
    return Gone(events.column("user_id").filter(goes).combine_chunks(), places[goes.to_numpy()])


def _numbers_gone(name: str, table: pa.Table | None, column: str, cut: Cut) -> np.ndarray:
    if table is None:
        return np.zeros(0, np.int64)
    numbers: np.ndarray = np.sort(table.column(column).filter(is_gone(name, table, cut)).to_numpy())
    return numbers


def _quoting(work: Work, partition: Partition) -> frozenset[str]:
    """Whose knowledge of this date quotes the forgotten, in any of its texts."""
    found: set[str] = set()
    for name in ("knowledge", "factor_knowledge"):
        table = _table_of(work, "knowledge", partition, name, ["view", "subject_id", "text"])
        if table is not None and work.gathered.quotes:
            found |= quoting(table, table.column("text"), work.gathered.quotes)
    return frozenset(found)


def _released(table: pa.Table, work: Work) -> pa.Table:
    """The row about a release, naming the new one and what its manifest says now."""
    rows = table.to_pylist()
    for row in rows:
        row["release_id"] = work.journal.releases.get(row["release_id"], row["release_id"])
        path = work.home.published / "releases" / row["release_id"] / "manifest.json"
        if path.is_file():
            told = json.loads(path.read_bytes())
            for side in ("user", "item"):
                row[f"{side}_count"] = told["tables"][f"{side}_knowledge"]["rows"]
                row[f"{side}_covered_share"] = told["tables"][f"{side}_knowledge"]["covered_share"]
            row["manifest_sha"] = file_sha(path)
    return pa.Table.from_pylist(rows, schema=table.schema)


# ---- recipes --------------------------------------------------------------------------------------------------------


def note_manifests(home: Home, journal: Journal) -> None:
    """Write down what every manifest is before anything changes; a run that goes on keeps what the first one wrote."""
    for stage in STAGES:
        for partition in home.partitions(stage):
            journal.manifests.setdefault(str(partition.manifest_path.relative_to(home.path)), file_sha(partition.manifest_path))


def note_replays(work: Work, settings: Settings) -> None:
    """Write down what each night's plan says of replays; a run that goes on keeps what the first one wrote."""
    for partition in work.home.partitions("prompts"):
        if (sha := _replayed(work, partition, settings)) is not None:
            work.journal.facts.setdefault(partition.path.name, sha)


def _replayed(work: Work, partition: Partition, settings: Settings) -> str | None:
    """None where what the plan was made from is no longer there."""
    with contextlib.suppress(NotMade):
        return prompts.replayed_sha(runner.inputs_of(flow.PROMPTS, settings, work.home, partition.date, work.now))
    return None


def reseal(work: Work, settings: Settings) -> None:
    """Let every recipe name the tables and files as they are now, so that a rerun of the night does nothing."""
    for stage in STAGES:
        for partition in work.home.partitions(stage):
            manifest = Manifest.read(partition.manifest_path)
            before = json_sha([manifest.recipe, manifest.figures])
            _reseal_one(work, stage, partition, manifest)
            facts = manifest.recipe.get("facts", {})
            if stage == "prompts" and facts.get("replayed_sha", "") == work.journal.facts.get(partition.path.name):
                facts["replayed_sha"] = _replayed(work, partition, settings)
            if json_sha([manifest.recipe, manifest.figures]) != before:
                manifest.recipe_sha = json_sha(manifest.recipe)
                _write_manifest(manifest, partition)


def _reseal_one(work: Work, stage: str, partition: Partition, manifest: Manifest) -> None:
    recipe, journal = manifest.recipe, work.journal
    if "inputs" in recipe:
        recipe["inputs"] = {name: journal.newest(name, sha) for name, sha in recipe["inputs"].items()}
    files = recipe.get("files", {})
    for name, sha in files.items():
        if journal.manifests.get(name) == sha and (work.home.path / name).is_file():
            files[name] = file_sha(work.home.path / name)
    reads_list = stage == "sources" or (stage == "knowledge" and recipe.get("settings", {}).get("knowledge", {}).get("imports"))
    if reads_list:
        files[str(list_path(work.home).relative_to(work.home.path))] = file_sha(list_path(work.home))
    if "release_id" in manifest.figures:
        manifest.figures["release_id"] = journal.releases.get(manifest.figures["release_id"], manifest.figures["release_id"])


def _write_manifest(manifest: Manifest, partition: Partition) -> None:
    scratch = beside(partition, "manifest")
    scratch.mkdir(exist_ok=True)
    manifest.write(scratch)
    write_whole(partition.manifest_path, (scratch / "manifest.json").read_text(encoding="utf-8"))
    shutil.rmtree(scratch)
