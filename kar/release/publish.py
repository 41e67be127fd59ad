"""Publish a release: write beside the target, re-read and verify, fsync, judge, rename, and only then swap CURRENT.

A crash at any instant leaves CURRENT as it was or as it shall be; what was half written is removed by the next publisher. Files that the
release served now holds already are linked, not written (`kar.release.layers`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import shutil
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kar.errors import ReleaseCorrupt, ReleaseError, ReleaseNotFound
from kar.release import audit, durable, layout, manifest, pointer
from kar.release.layers import Plan, plan, shares_files
from kar.release.layout import SIDES
from kar.release.logical import Logical
from kar.release.reader import Release
from kar.release.rows import Facts, Layering, SideRows, ViewRows, check_shapes
from kar.release.stats import age_histogram
from kar.release.verdicts import Gate, GateVerdict
from kar.release.write import newest, side_content, write_side


@dataclass(frozen=True)
class Published:
    """What came of it.

    Args:
        is_new: false if the same content had been published before; that release is verified and used again.
        is_promoted: whether CURRENT points at it now.
        gate: what the gate said tonight; a release that had been published before keeps in its manifest what was said then.
        written_bytes: of the files that were written; those that were linked from the release before are not counted.
    """

    path: Path
    manifest: dict[str, Any]
    manifest_sha: str
    is_new: bool
    is_promoted: bool
    gate: tuple[GateVerdict, ...] = field(default=())
    written_bytes: int = 0


@dataclass(frozen=True)
class _Served:
    """The release that CURRENT points at."""

    folder: Path
    manifest: dict[str, Any]


def publish(
    published: Path,
    sides: tuple[SideRows, SideRows],
    facts: Facts,
    *,
    promote: bool = True,
    gate: Gate | None = None,
    layering: Layering = Layering(),  # noqa: B008  (frozen)
    wait_s: float = durable.WAIT_S,
) -> Published:
    """Publish users and items as one release.

    Args:
        published: `<home>/published`; made if it does not exist.
        sides: users and items.
        promote: move CURRENT to it if its data_cutoff is newer (`pointer.promotes_over`); False: never.
        gate: judges the release once it is written and verified; unless every verdict passes, CURRENT stays.
        layering: how it is cut into files.
        wait_s: how long to wait for another publisher.

    Raises:
        ReleaseBusy: another publisher worked all that time; it is named.
        ReleaseCorrupt: what was written does not verify; nothing is published.
        ReleaseError: the rows do not fit each other or are not finite, or the file system refuses (full, read-only).
    """
    for side in sides:
        check_shapes(side)
    try:
        with durable.publisher_lock(published, wait_s):
            releases = layout.releases_folder(published)
            releases.mkdir(exist_ok=True)
            for left in releases.glob(".*.partial"):  # of a publisher that died: we hold the lock, so nobody writes it
                shutil.rmtree(left)
            served = _served(published)
            found = _described(sides, facts, served)
            path = releases / str(found["release"])
            is_new = not path.exists()
            if is_new:
                partial = releases / f".{uuid.uuid4().hex[:12]}.partial"
                try:
                    kept, verdicts = _write(partial, sides, found, served, gate, layering)
                    partial.rename(path)
                    durable.sync_folder(releases)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
            else:
                kept = audit.verify(path)
                verdicts = _judged(Release(path, kept), served, gate)
            passes = promote and all(verdict.is_passed for verdict in verdicts)
            is_promoted = _promote_if_newer(published, kept, served, facts.published_at, allowed=passes)
            written = kept["bytes"]["written"] if is_new else 0
            return Published(path, kept, durable.file_sha(path / layout.MANIFEST), is_new, is_promoted, verdicts, written)
    except OSError as error:
        raise ReleaseError(
            f"nothing was published in {published}: {error}", "make room or give the right to write, then run again"
        ) from error


def _served(published: Path) -> _Served | None:
    current = pointer.maybe_current(published)
    if current is None:
        return None
    folder = pointer.folder_of(published, current.release)
    return _Served(folder, manifest.read(folder, current.manifest_sha256))


def _described(sides: tuple[SideRows, SideRows], facts: Facts, served: _Served | None) -> dict[str, Any]:
    """The manifest but for the files: all that the release says, and so its id."""
    widths = {view.view: view.widths for side in sides for view in side.views if view.pooled_from is None}
    space = manifest.space_of(facts.encoder_id, str(facts.adaptor["sha"]), widths, facts.normalisation)
    times = [t for side in sides if (t := newest(side)) is not None]
    found: dict[str, Any] = {
        "format": manifest.FORMAT,
        "parent": served.manifest["release"] if served else None,
        "scenario": facts.scenario,
        "date": facts.date.isoformat(),
        "data_cutoff": manifest.to_text(max(times)) if times else None,
        "published_at": manifest.to_text(facts.published_at),
        "is_reconstructed": facts.is_reconstructed,
        "space_id": manifest.space_id(space),
        "space": space,
        "encoder_id": facts.encoder_id,
        "adaptor": facts.adaptor,
        "templates": facts.templates,
        "models": facts.models,
        "inputs": facts.inputs,
        "uplift": facts.uplift,
        "cost": facts.cost,
        "active_days": facts.active_days,
        "code_version": facts.code_version,
        "id_types": {side.side: str(side.ids.type) for side in sides},
        "views": {view.view: _view_entry(view) for side in sides for view in side.views},
        "tables": {layout.table_name(side.side): _table_entry(side) for side in sides},
        "age": {view.view: age_histogram(view.asked_at, facts.date) for side in sides for view in side.views if view.pooled_from is None},
        "gate": [],
    }
    found["release"] = manifest.release_id(found)
    return found


def _view_entry(view: ViewRows) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "side": layout.side_of(view.view),
        "adapted_width": view.widths.adapted,
        "knowledge_width": view.widths.knowledge,
        "default_adapted_vector": [float(x) for x in view.default],
    }
    return entry if view.pooled_from is None else entry | {"pooled_from": asdict(view.pooled_from)}


def _table_entry(side: SideRows) -> dict[str, Any]:
    schema = layout.schema(side.side, side.ids.type, {view.view: view.widths for view in side.views})
    written = [~view.is_missing for view in side.views if view.pooled_from is None]
    is_covered = np.logical_or.reduce(written) if written else np.zeros(len(side.ids), bool)
    active = None if side.is_active is None else int(side.is_active.sum())
    return {
        "rows": len(side.ids),
        "views": [view.view for view in side.views],
        "schema": layout.plain_schema(schema),
        "content": side_content(side),
        "coverage": {view.view: audit.share(int((~view.is_missing).sum()), len(side.ids)) for view in side.views},
        "covered_share": audit.share(int(is_covered.sum()), len(side.ids)),
        "active_count": active,
        "covered_active_share": None if active is None else audit.share(int((is_covered & side.is_active).sum()), active),
    }


def _write(
    partial: Path,
    sides: tuple[SideRows, SideRows],
    described: dict[str, Any],
    served: _Served | None,
    gate: Gate | None,
    layering: Layering,
) -> tuple[dict[str, Any], tuple[GateVerdict, ...]]:
    """Write all files of a release, verify them by reading them back, and let the gate judge; returns the manifest and the verdicts."""
    try:
        found = _written_and_verified(partial, sides, described, served, layering)
    except (ReleaseCorrupt, ReleaseNotFound, FileNotFoundError):
        if served is None:
            raise
        # a damaged file of the release before must not be handed on: write everything anew, and if it was not that, fail again
        shutil.rmtree(partial, ignore_errors=True)
        found = _written_and_verified(partial, sides, described, None, layering)
    verdicts = _judged(Release(partial, found), served, gate)
    if verdicts:
        found["gate"] = [_plain(verdict) for verdict in verdicts]
        durable.write_bytes(partial / layout.MANIFEST, manifest.to_bytes(found))
    for folder in (*(partial / layout.table_name(side) for side in SIDES), partial):
        durable.sync_folder(folder)
    return found, verdicts


def _written_and_verified(
    partial: Path, sides: tuple[SideRows, SideRows], described: dict[str, Any], served: _Served | None, layering: Layering
) -> dict[str, Any]:
    partial.mkdir()
    found = described | {"tables": {name: dict(table) for name, table in described["tables"].items()}, "matrices": {}, "indexes": {}}
    kept: set[str] = set()
    for side in sides:
        planned = _plan(side, found["tables"][layout.table_name(side.side)]["content"], served, layering)
        kept_from, before = (served.folder, served.manifest) if served else (None, {})
        written = write_side(partial, side, planned, kept_from, before)
        found["tables"][layout.table_name(side.side)] |= {"buckets": planned.buckets, "files": written.files}
        found["matrices"] |= written.matrices
        found["indexes"] |= written.indexes
        kept |= {name for part in planned.kept for name in part.files({view.view: view.widths for view in side.views})}
    found["stats"] = _write_stats(partial, found)
    sizes = {name: entry["bytes"] for name, entry in manifest.files(found).items()}
    linked = sum(sizes[name] for name in kept)
    found["bytes"] = {"written": sum(sizes.values()) - linked, "linked": linked}
    durable.write_bytes(partial / layout.MANIFEST, manifest.to_bytes(found))
    audit.verify_content(partial, manifest.read(partial), served.manifest if served else None)
    return found


def _plan(side: SideRows, digests: dict[str, str], served: _Served | None, layering: Layering) -> Plan:
    if served is None or not shares_files(side, served.manifest):
        return plan(side, digests, None, {}, layering)
    return plan(side, digests, Logical(served.folder, served.manifest, side.side), served.manifest, layering)


def _write_stats(partial: Path, found: dict[str, Any]) -> dict[str, Any]:
    data = manifest.to_bytes(audit.compute_stats([Logical(partial, found, side) for side in SIDES], found))
    durable.write_bytes(partial / layout.STATS, data)
    return {"path": layout.STATS, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _judged(new: Release, served: _Served | None, gate: Gate | None) -> tuple[GateVerdict, ...]:
    if gate is None:
        return ()
    return tuple(gate(new, Release(served.folder, served.manifest) if served else None))


def _plain(verdict: GateVerdict) -> dict[str, Any]:
    """A verdict as JSON has it, which knows no NaN."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in asdict(verdict).items()}


def _promote_if_newer(published: Path, found: dict[str, Any], served: _Served | None, at: dt.datetime, *, allowed: bool) -> bool:
    if served is not None and served.manifest["release"] == found["release"]:
        return True
    if not allowed or (served is not None and not pointer.promotes_over(found, served.manifest)):
        return False
    pointer.swap(published, str(found["release"]), at)
    return True
