"""Releases that earlier versions wrote stay readable: formats 1 and 2, whole tables without layers, one matrix per view."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kar.release
from kar.errors import ReleaseCorrupt
from kar.release import durable, layout, manifest, pointer
from kar.release.rows import SideRows
from kar.release.stats import view_stats
from tests.release import world


def _old_release(published: Path, number: int, rows_per_part: int = 5) -> Path:
    """The small world's release as a version before this one laid it out, promoted."""
    partial = published / "releases" / "making"
    date = world.DAY.date()
    sides = world.sides()
    tables, matrices, views = {}, {}, {}
    for side in sides:
        (partial / layout.table_name(side.side)).mkdir(parents=True)
        tables[layout.table_name(side.side)] = _table(partial, side, rows_per_part)
        view = side.views[0]
        for kind in layout.KINDS:
            name = layout.matrix_name(view.view, kind)
            np.save(partial / name, view.matrix(kind))
            matrices[name] = {"view": view.view, "kind": kind, "shape": list(view.matrix(kind).shape), **_digest(partial / name)}
        default = [float(x) for x in view.default]
        views[view.view] = {"side": side.side, "adapted_width": world.A, "knowledge_width": world.T, "default_adapted_vector": default}
    space = manifest.space_of("hash-6", "a" * 64, {side.views[0].view: side.views[0].widths for side in sides}, "l2")
    found: dict[str, Any] = {
        "format": number, "parent": None, "scenario": "small", "date": date.isoformat(), "data_cutoff": manifest.to_text(world.DAY),
        "published_at": manifest.to_text(world.day(1)), "is_reconstructed": False, "space_id": manifest.space_id(space), "space": space,
        "id_types": {"user": "int64", "item": "string"}, "views": views, "tables": tables, "matrices": matrices,
    }  # fmt: skip
    # the digest of everything but when and how it was published, as those versions computed it
    said = {name: value for name, value in found.items() if name not in ("parent", "published_at", "is_reconstructed")}
    sha = hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
    found["release"] = f"{date}-{sha[:10]}"
    stats = {view: {kind: _stats(sides, view, kind) for kind in layout.KINDS} for view in views}
    durable.write_bytes(partial / "stats.json", manifest.to_bytes(stats))
    found["stats"] = {"path": "stats.json", **_digest(partial / "stats.json")}
    durable.write_bytes(partial / "manifest.json", manifest.to_bytes(found))
    path = partial.rename(partial.with_name(found["release"]))
    pointer.swap(published, found["release"], world.day(1))
    return path


def _digest(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": durable.file_sha(path)}


def _table(partial: Path, side: SideRows, rows_per_part: int) -> dict[str, Any]:
    view = side.views[0]
    schema = layout.schema(side.side, side.ids.type, {view.view: view.widths}, has_layers=False)
    vectors = [pa.array(list(view.matrix(kind)), layout.vector_type(view.matrix(kind).shape[1])) for kind in layout.KINDS]
    told = [view.evidence_newest_at, view.asked_at, view.origin, view.model]
    table = pa.Table.from_arrays([side.ids, pa.array(view.is_missing), *vectors, *told], schema=schema)
    files = []
    for number, first in enumerate(range(0, len(table), rows_per_part)):
        name = f"{layout.table_name(side.side)}/part-{number}.parquet"
        part = table.slice(first, rows_per_part)
        pq.write_table(part, partial / name)
        files.append({"path": name, "rows": len(part), **_digest(partial / name)})
    share = round(float((~view.is_missing).mean()), 6)
    plain = layout.plain_schema(schema)
    return {
        "rows": len(table),
        "views": [view.view],
        "schema": plain,
        "coverage": {view.view: share},
        "covered_share": share,
        "files": files,
    }


def _stats(sides: tuple[SideRows, SideRows], name: str, kind: layout.Kind) -> dict[str, Any]:
    view = next(side.views[0] for side in sides if side.views[0].view == name)
    return view_stats(lambda rows: view.matrix(kind)[rows], view.is_missing)


@pytest.mark.parametrize("number", [1, 2])
def test_a_release_of_an_earlier_format_is_read_verified_joined_and_listed(tmp_path: Path, number: int) -> None:
    path = _old_release(tmp_path, number)
    release = kar.release.open(tmp_path, verify=True)
    assert release.manifest["format"] == number
    assert release.ids("user").to_pylist() == world.user_ids().to_pylist()
    vectors, is_missing = release.vectors("user", "user.preference", [133, 103, 7, 115])
    assert vectors[:, 0].tolist() == [11.0, 1.0, 0.5, 0.5]
    assert is_missing.tolist() == [False, False, True, True]
    assert release.vectors("item", "item.facts", ["i04", "stranger"], kind="knowledge")[0][:, 0].tolist() == [-4.0, 0.0]
    assert isinstance(release.matrix("user.preference"), np.memmap)
    assert release.gather("item.facts", np.array([7, 3, 7]))[:, 0].tolist() == [7.0, 3.0, 7.0]
    assert release.table("user", ["user_id"]).column(0).to_pylist() == world.user_ids().to_pylist()
    joined = kar.release.join(tmp_path, world.examples([world.day(2)], [103], ["i03"]))
    assert joined.vectors("item", "item.facts")[0][0, 0] == 3.0
    assert [listed.id for listed in kar.release.list_releases(tmp_path)] == [path.name]


def test_the_next_night_is_promoted_over_an_earlier_format_and_shares_no_file_with_it(tmp_path: Path) -> None:
    old = _old_release(tmp_path, 2)
    done = world.publish_day(tmp_path, 3)
    assert done.is_promoted
    assert done.manifest["parent"] == old.name
    assert done.manifest["bytes"]["linked"] == 0
    kar.release.verify(tmp_path)
    kar.release.verify(old)


def test_a_difference_in_an_earlier_format_is_found_too(tmp_path: Path) -> None:
    path = _old_release(tmp_path, 2) / "users.preference.adapted.npy"
    matrix = np.load(path)
    matrix[11, 1] += 1
    np.save(path, matrix)
    found = json.loads((path.parent / "manifest.json").read_text())
    found["matrices"][path.name] |= _digest(path)
    found["release"] = manifest.release_id(found)
    (path.parent / "manifest.json").write_bytes(manifest.to_bytes(found))
    folder = path.parent.rename(path.parent.with_name(found["release"]))
    with pytest.raises(ReleaseCorrupt, match=r"part-2.parquet, preference_adapted_vector: not the floats of users.preference.adapted.npy"):
        kar.release.verify(folder)
