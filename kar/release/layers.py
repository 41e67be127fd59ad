"""What of a release must be written: per bucket nothing, a layer of what changed, or all of it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.release import content, hashes, layout, manifest
from kar.release.index import base_rows
from kar.release.logical import Logical
from kar.release.manifest import Part
from kar.release.rows import Layering, SideRows, ViewRows

_ROWS = layout.ROW_GROUP


@dataclass(frozen=True)
class NewPart:
    """A part to be written.

    Args:
        rows: of the side's rows, ascending; a slice where that is all of them.
        removed: ids of which the part holds tombstones, ascending.
        base_row: of its rows and tombstones, in order of their ids; see `kar.release.index`. None for layer 0.
    """

    bucket: int
    layer: int
    rows: slice | np.ndarray
    removed: pa.Array
    base_row: np.ndarray | None = None


@dataclass(frozen=True)
class Plan:
    """How one side comes to lie in files.

    Args:
        buckets: how many.
        kept: parts of the release before that are taken as they are.
        new: parts to be written.
    """

    buckets: int
    kept: list[Part]
    new: list[NewPart]


def plan(side: SideRows, digests: dict[str, str], before: Logical | None, found: dict[str, Any], layering: Layering) -> Plan:
    """Compare a side with the release before, row by row.

    Args:
        digests: of the side's content, as `kar.release.write.side_content` gives them.
        before: the side as the release before has it; None: there is none that this one could share files with.
        found: that release's manifest.
    """
    if before is None:
        return _whole(side, layering.bucket_count(len(side.ids), None))
    table = found["tables"][layout.table_name(side.side)]
    buckets = layering.bucket_count(len(side.ids), table["buckets"])
    if buckets != table["buckets"]:
        return _whole(side, buckets)
    if digests == table["content"]:
        return Plan(buckets, before.parts, [])
    return _by_bucket(side, before, layering, buckets)


def shares_files(side: SideRows, found: dict[str, Any]) -> bool:
    """Whether a release's files of a side may serve another: layers, the same type of ids, the same views of the same widths."""
    if not manifest.has_layers(found) or found["id_types"][side.side] != str(side.ids.type):
        return False
    return list(manifest.widths(found, side.side).items()) == [(view.view, view.widths) for view in side.views]


def _whole(side: SideRows, buckets: int) -> Plan:
    none = side.ids.slice(0, 0)
    if buckets == 1:
        return Plan(1, [], [NewPart(0, 0, slice(0, len(side.ids)), none)])
    bucket_of = hashes.buckets_of(side.ids, buckets)
    return Plan(buckets, [], [NewPart(bucket, 0, np.flatnonzero(bucket_of == bucket), none) for bucket in range(buckets)])


def _by_bucket(side: SideRows, before: Logical, layering: Layering, buckets: int) -> Plan:
    rows_before = before.rows(side.ids)
    is_changed = changed(side, before, rows_before)
    is_gone = np.ones(before.count, bool)
    is_gone[rows_before[rows_before >= 0]] = False
    gone = before.ids.filter(pa.array(is_gone))
    bucket_of, gone_bucket_of = hashes.buckets_of(side.ids, buckets), hashes.buckets_of(gone, buckets)
    kept: list[Part] = []
    new: list[NewPart] = []
    for bucket in range(buckets):
        parts = [part for part in before.parts if part.bucket == bucket]
        in_bucket = bucket_of == bucket
        rows = np.flatnonzero(in_bucket & is_changed)
        removed = gone.filter(pa.array(gone_bucket_of == bucket))
        layered = sum(part.rows for part in parts[1:]) + len(rows) + len(removed)
        count = int(in_bucket.sum())
        if not len(rows) and not len(removed):
            kept += parts
        elif layered > layering.compact_at * count or len(parts) > layering.most_layers:
            all_rows = slice(0, len(side.ids)) if buckets == 1 else np.flatnonzero(in_bucket)
            new.append(NewPart(bucket, 0, all_rows, side.ids.slice(0, 0)))
        else:
            kept += parts
            ids, _ = merged_ids(side.ids.take(pa.array(rows)), removed)
            new.append(NewPart(bucket, parts[-1].layer + 1, rows, removed, base_rows(before.index(before.parts.index(parts[0])), ids)))
    return Plan(buckets, kept, new)


def merged_ids(ids: pa.Array, removed: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Two ascending arrays as one, and for each place the one it came from: row in `ids`, or len(ids) + row in `removed`."""
    both = pa.concat_arrays([ids, removed])
    order: np.ndarray = pc.sort_indices(both).to_numpy()
    return both.take(pa.array(order)), order.astype(np.int64)


def changed(side: SideRows, before: Logical, rows_before: np.ndarray) -> np.ndarray:
    """bool [N]: whether a row is new or differs in any bit from the release before.

    Args:
        rows_before: int64 [N], the row of each id in that release, -1: not in it.
    """
    is_changed = rows_before < 0
    for view in side.views:
        told = {part: before.column(layout.column(view.view, part), as_dictionary=part in layout.WORDS) for part in layout.TOLD}
        mask = before.mask(view.view)
        for first in range(0, len(rows_before), _ROWS):
            rows = slice(first, first + _ROWS)
            known = np.flatnonzero(rows_before[rows] >= 0)
            is_changed[rows][known] |= _differs(view, first + known, before, rows_before[rows][known], mask, told)
            before.let_go()
    return is_changed


def _differs(
    view: ViewRows, rows: np.ndarray, before: Logical, rows_before: np.ndarray, mask: np.ndarray, told: dict[str, pa.Array]
) -> np.ndarray:
    """bool [len(rows)]: whether this view's columns differ between `rows` and `rows_before` of the release before."""
    differs: np.ndarray = view.is_missing[rows] != mask[rows_before]
    for kind in view.widths.kinds:
        now, then = np.ascontiguousarray(view.matrix(kind)[rows]), np.ascontiguousarray(before.gather(view.view, rows_before, kind))
        differs |= (now.view(np.uint32) != then.view(np.uint32)).any(axis=1)
    here, there = pa.array(rows), pa.array(rows_before)
    for name in ("evidence_newest_at", "asked_at"):
        differs |= content.instants(getattr(view, name).take(here)) != content.instants(told[name].take(there))
    for name in layout.WORDS:
        now_told, then_told = getattr(view, name).take(here).cast(pa.string()), told[name].take(there).cast(pa.string())
        is_same = pc.equal(now_told, then_told).fill_null(False)
        both_null = pc.and_(now_told.is_null(), then_told.is_null())
        differs |= ~pc.or_(is_same, both_null).to_numpy(zero_copy_only=False)
    return differs
