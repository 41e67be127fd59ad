"""Publish the releases anew without some subjects, and let the pointer name the new ones.

A release that holds a subject in any of its files, a removed row's layer included, is read, published without the subject beside the
others, and takes the old one's place in CURRENT (the same instants, so as-of joins go on) and among the pins. Then the old one goes,
unless a reader holds a lease on it.

What is published anew shares no file with the old release: a shared file would keep the subject's bytes. A kill at any
instant leaves CURRENT naming releases that are there, and the same call goes on.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import shutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.errors import ReleaseCorrupt, ReleaseError
from kar.release import audit, durable, layout, leases, manifest, pointer
from kar.release.collect import remove
from kar.release.layout import SIDES, Side
from kar.release.publish import publish
from kar.release.reader import Release
from kar.release.rows import Facts, Pooled, SideRows, ViewRows

_BESIDE = ".forgetting"
Active = Callable[[dict[str, Any], Side, pa.Array], np.ndarray | None]


@dataclass
class Rewritten:
    """What became of the releases.

    Args:
        new_ids: old id → new id.
        rows: subjects' rows that the new ones lack, over all of them.
        still_leased: old releases that a reader holds → who, and until when.
        damaged: releases that cannot be read → why; they may hold the subject.
    """

    new_ids: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    still_leased: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def holding(published: Path, subjects: Mapping[Side, Set[str]]) -> tuple[dict[str, int], dict[str, str]]:
    """The releases that hold one of the subjects in any file.

    Args:
        subjects: side → ids as text.

    Returns:
        Release → rows of such subjects, and what cannot be read → why.
    """
    found, damaged = {}, {}
    for name in pointer.ids(published):
        try:
            rows = sum(_rows_about(layout.releases_folder(published) / name, side, subjects.get(side, frozenset())) for side in SIDES)
        except (pa.ArrowException, OSError) as error:
            damaged[name] = str(error).splitlines()[0]
            continue
        if rows:
            found[name] = rows
    return found, damaged


def met(published: Path, subjects: Mapping[Side, Set[str]]) -> dict[Side, set[str]]:
    """Which of the subjects any release holds, by side. A release that cannot be read is passed over."""
    found: dict[Side, set[str]] = {side: set() for side in SIDES}
    for name in pointer.ids(published):
        for side in SIDES:
            wanted = subjects.get(side, frozenset()) - found[side]
            for path in sorted((layout.releases_folder(published) / name / layout.table_name(side)).glob("*.parquet")) if wanted else ():
                with contextlib.suppress(pa.ArrowException, OSError):
                    ids = pq.read_table(path, columns=[layout.id_column(side)]).column(0)
                    found[side] |= {str(one) for one in ids.filter(_is_one_of(ids, wanted)).to_pylist()}
    return found


def publish_anew(published: Path, subjects: Mapping[Side, Set[str]], active: Active = lambda found, side, ids: None) -> Rewritten:
    """Publish every release that holds one of the subjects without them, and point CURRENT and the pins at the new ones.

    Args:
        active: a release's manifest, a side and its ids → who of them was active by then; None: nobody can tell any more.

    Raises:
        ReleaseCorrupt: CURRENT cannot be read.
        ReleaseError: no room, no right to write.
    """
    made = Rewritten()
    found, made.damaged = holding(published, subjects)
    if not found:
        return made
    try:
        shutil.rmtree(published / _BESIDE, ignore_errors=True)
        for name, rows in found.items():
            try:
                made.new_ids[name] = _publish_one(published, name, subjects, active)
                made.rows += rows
            except ReleaseCorrupt as error:
                made.damaged[name] = error.what
        with durable.publisher_lock(published):
            _repoint(published, made.new_ids)
    except OSError as error:
        raise ReleaseError(f"the releases in {published} were not published anew: {error}", "make room, then run again") from error
    finally:
        shutil.rmtree(published / _BESIDE, ignore_errors=True)
    return made


def collect_old(published: Path, made: Rewritten, at: dt.datetime) -> None:
    """Take the old releases away; those under a lease are named and stay. Call it once nothing names them any more.

    Raises:
        ReleaseCorrupt: a lease cannot be read.
    """
    with durable.publisher_lock(published, doing="forgetting"):
        for left in layout.releases_folder(published).glob(".*"):  # half written or half removed, by somebody who is no more
            shutil.rmtree(left)
        held = leases.live(published, at)
        for name in (name for name, new in made.new_ids.items() if name != new):
            if name in held:
                made.still_leased[name] = str(held[name][0])
            elif (layout.releases_folder(published) / name).exists():
                remove(published, name, at, "kar forget")


def _rows_about(folder: Path, side: Side, subjects: Set[str]) -> int:
    """Rows of subjects in the Parquet files of one side, rows that a newer layer replaced or removed among them."""
    count = 0
    for path in sorted((folder / layout.table_name(side)).glob("*.parquet")) if subjects else ():
        ids = pq.read_table(path, columns=[layout.id_column(side)]).column(0)
        count += int(pc.sum(_is_one_of(ids, subjects)).as_py() or 0)
    return count


def _is_one_of(ids: pa.Array | pa.ChunkedArray, subjects: Set[str]) -> Any:
    wanted = sorted(subjects)
    values = pa.array([int(one) for one in wanted], pa.int64()) if pa.types.is_integer(ids.type) else pa.array(wanted, ids.type)
    return pc.is_in(ids, value_set=values)


def _publish_one(published: Path, name: str, subjects: Mapping[Side, Set[str]], active: Active) -> str:
    """Publish one release without the subjects; returns its new id, which a run before this one may have given already."""
    old = layout.releases_folder(published) / name
    found = audit.verify(old)
    release = Release(old, found)
    sides = [_without(release, side, subjects.get(side, frozenset())) for side in SIDES]
    sides = [replace(side, is_active=active(found, side.side, side.ids)) for side in sides]
    beside = published / _BESIDE  # a folder of its own: no parent there, so no file is shared with a release that holds the subject
    new = publish(beside, (sides[0], sides[1]), _facts(found), promote=False)
    new_id = str(new.manifest["release"])
    target = layout.releases_folder(published) / new_id
    with durable.publisher_lock(published):
        if not target.exists() or any(_rows_about(target, side, subjects.get(side, frozenset())) for side in SIDES):
            _finish_manifest(new.path, found)
            _put_in_place(new.path, target)
    return new_id


def _without(release: Release, side: Side, subjects: Set[str]) -> SideRows:
    """One side's rows as they were published, but for the subjects."""
    ids = release.ids(side)
    is_kept = np.ones(len(ids), bool)
    if subjects:
        is_kept = ~np.asarray(_is_one_of(ids, subjects).to_numpy(zero_copy_only=False))
    rows, keep = np.flatnonzero(is_kept), pa.array(is_kept)
    views = release.views(side)
    told = ("is_missing", *layout.TOLD)
    table = release.table(side, [layout.column(view, part) for view in views for part in told]).filter(keep)
    return SideRows(side, ids.filter(keep), tuple(_view(release, view, table, rows) for view in views))


def _view(release: Release, view: str, table: pa.Table, rows: np.ndarray) -> ViewRows:
    def column(part: str) -> pa.Array:
        return table.column(layout.column(view, part)).combine_chunks()

    pooled = release.manifest["views"][view].get("pooled_from")
    knowledge = np.zeros((len(rows), 0), np.float32) if pooled else release.gather(view, rows, "knowledge")
    return ViewRows(
        view=view,
        is_missing=column("is_missing").to_numpy(zero_copy_only=False),
        adapted=release.gather(view, rows),
        knowledge=knowledge,
        default=release.default(view),
        evidence_newest_at=column("evidence_newest_at"),
        asked_at=column("asked_at"),
        origin=column("origin"),
        model=column("model"),
        pooled_from=Pooled(**pooled) if pooled else None,
    )


def _facts(found: dict[str, Any]) -> Facts:
    """What the manifest says of a release, as its publisher said it."""
    told = {f.name: found[f.name] for f in fields(Facts) if f.name in found}
    told |= {"date": dt.date.fromisoformat(found["date"]), "published_at": manifest.from_text(found["published_at"])}
    return Facts(**told | {"normalisation": found["space"]["normalisation"]})


def _finish_manifest(folder: Path, old: dict[str, Any]) -> None:
    """What is no content and stays true: the parent and what the gate said."""
    new = manifest.read(folder)
    kept = {key: old[key] for key in ("parent", "gate") if key in old}
    durable.replace(folder / layout.MANIFEST, manifest.to_bytes(new | kept))


def _put_in_place(new: Path, target: Path) -> None:
    """Rename the new folder to its id. Where a release of the same content is (a removed row in a layer below), it takes its place."""
    target.parent.mkdir(exist_ok=True)
    old = target.with_name(f".{target.name}.forgotten.partial")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    durable.sync_folder(target.parent)


def _repoint(published: Path, new_ids: Mapping[str, str]) -> None:
    """Let CURRENT, its list of served releases, the pins and the parents name the new releases. The caller holds the publisher's lock."""
    releases = layout.releases_folder(published)
    for name in pointer.ids(published):
        if new_ids.get(name, name) != name:
            continue  # an old one, on its way out
        found = manifest.read(releases / name)
        if (parent := str(found.get("parent"))) in new_ids:
            durable.replace(releases / name / layout.MANIFEST, manifest.to_bytes(found | {"parent": new_ids[parent]}))
    with leases.keeping(published, alone=True):
        for path in (published / "pins.json", layout.current_path(published)):
            if path.is_file():
                _rename_in(path, new_ids, releases)


def _rename_in(path: Path, new_ids: Mapping[str, str], releases: Path) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReleaseCorrupt(f"{path} cannot be read: {error}", "name a release to serve: kar release rollback ID") from error
    renamed = _renamed(found, new_ids)
    if isinstance(renamed, dict) and "manifest_sha256" in renamed:
        renamed["manifest_sha256"] = durable.file_sha(releases / str(renamed["release"]) / layout.MANIFEST)
    if renamed != found:
        durable.replace(path, (json.dumps(renamed, indent=1) + "\n").encode())


def _renamed(value: Any, new_ids: Mapping[str, str]) -> Any:
    """JSON with every release id that was replaced, as a value or a key, by the new one."""
    if isinstance(value, str):
        return new_ids.get(value, value)
    if isinstance(value, list):
        return [_renamed(one, new_ids) for one in value]
    if isinstance(value, dict):
        return {new_ids.get(key, key): _renamed(one, new_ids) for key, one in value.items()}
    return value
