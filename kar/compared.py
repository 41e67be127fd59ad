"""What `kar release diff` prints: the figures of `kar.release.diff`, and the texts behind the vectors that turned furthest.

The texts come from the knowledge partitions that the two manifests name; the releases themselves hold none. Writes nothing.
"""

from __future__ import annotations

import datetime as dt
import textwrap
from collections.abc import Iterator
from dataclasses import asdict

import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import release as releasing
from kar.errors import ReleaseNotFound
from kar.release import layout, pointer
from kar.release.diff import SideDiff, ViewDiff
from kar.show import aligned, printed_json
from kar.store import Home, Manifest

_WIDTH = 100
_TEXT_CHARS = 400


def compared(home: Home, before: str | None, after: str | None, movers: int) -> str:
    """What moved between two releases, with the texts of the subjects that moved furthest."""
    first, second = _pair(home, before, after)
    told = releasing.diff(first, second, movers)
    lines = [f"{told.before} → {told.after}"]
    if not told.is_same_space:
        lines.append(f"  another space: {first.space_id} → {second.space_id}; adapted vectors of the two do not mix")
    for side in told.sides:
        lines += ["", *_side_lines(side)]
        for view in side.views:
            lines += ["", *_view_lines(view)]
            if view.movers:
                lines += ["  furthest turned:", *_mover_lines(home, first, second, view)]
    return "\n".join(lines)


def compared_json(home: Home, before: str | None, after: str | None, movers: int) -> str:
    """The same figures for programs, without texts."""
    return printed_json(asdict(releasing.diff(*_pair(home, before, after), movers)))


def _pair(home: Home, before: str | None, after: str | None) -> tuple[releasing.Release, releasing.Release]:
    second = releasing.open(pointer.named(home.published, after))
    if before is not None:
        return releasing.open(pointer.named(home.published, before)), second
    served = [entry.release for entry in pointer.read_current(home.published).served]
    there = [release for release in pointer.ids(home.published) if release != second.id]
    earlier = [release for release in served[: _last_place(served, second.id)] if release in there]
    if not earlier:
        raise ReleaseNotFound(
            f"no release was served before {second.id}", f"name the one to compare with: {', '.join(there) or 'there is none'}"
        )
    return releasing.open(pointer.folder_of(home.published, earlier[-1])), second


def _last_place(served: list[str], release: str) -> int:
    return len(served) - 1 - served[::-1].index(release) if release in served else len(served)


def _side_lines(side: SideDiff) -> list[str]:
    lines = [f"{side.side}s  {side.rows_before:,} → {side.rows_after:,}: {side.added:,} added, {side.lost:,} lost"]
    for label, ids, count in (("added", side.added_ids, side.added), ("lost", side.lost_ids, side.lost)):
        if ids:
            lines.append(f"  {label}  {', '.join(ids)}{f' and {count - len(ids):,} more' if count > len(ids) else ''}")
    for label, views in (("added", side.views_added), ("lost", side.views_lost)):
        if views:
            lines.append(f"  views {label}  {', '.join(views)}")
    return lines


def _view_lines(view: ViewDiff) -> list[str]:
    lines = [
        f"{view.view}  coverage {view.covered_before:.1%} → {view.covered_after:.1%}: {view.gained:,} gained knowledge, {view.lost:,} lost it",
        f"  of {view.kept:,} with knowledge in both, {view.asked_again:,} were asked again",
    ]
    if view.kind is None:
        return [*lines, f"  vectors not compared: {view.why_not}"]
    share = view.changed / view.kept if view.kept else 0.0
    lines[1] += f", {view.changed:,} have another {view.kind} vector ({share:.1%})"
    if view.cosine_mean is not None:
        lines.append(f"  cosine to before, mean over all {view.cosine_mean:.4f}" + ("; over those that changed:" if view.cosines else ""))
    if view.cosines:
        names = ["least", *(f"{quantile:.0%}" for quantile in list(view.cosines)[1:-1]), "most"]
        lines += [f"    {line}" for line in aligned([tuple(names), tuple(f"{value:.4f}" for value in view.cosines.values())])]
    return lines


def _mover_lines(home: Home, before: releasing.Release, after: releasing.Release, view: ViewDiff) -> Iterator[str]:
    subjects = [mover.subject_id for mover in view.movers]
    (then, why_not_then), (now, why_not_now) = (_texts(home, release, view.view, subjects) for release in (before, after))
    for why_not in dict.fromkeys(why for why in (why_not_then, why_not_now) if why):
        yield f"    ({why_not})"
    for mover in view.movers:
        yield f"    {mover.subject_id}  cosine {mover.cosine:.4f}"
        old, new = then.get(mover.subject_id), now.get(mover.subject_id)
        if old == new and old is not None:
            yield from _wrapped("text     ", old)
            continue
        if old is not None:
            yield from _wrapped("before   ", old)
        if new is not None:
            yield from _wrapped("after    ", new)


def _texts(home: Home, opened: releasing.Release, view: str, subjects: list[str]) -> tuple[dict[str, str], str]:
    """Subject → the text behind its vector in a release; and why not all can be told, or may be others, if so."""
    if opened.is_pooled(view):
        return {}, f"{view} is pooled from the items of each user's history, so that no one text stands behind it"
    made = opened.manifest.get("inputs", {}).get("knowledge")
    if made is None:
        return {}, f"the manifest of {opened.id} names no knowledge partition to take its texts from"
    partition = home.partition("knowledge", dt.date.fromisoformat(made["date"]))
    factor = view.partition(":")[2]
    path = partition.table("factor_knowledge" if factor else "knowledge")
    if not partition.exists() or not path.is_file():
        return {}, f"the texts of {opened.id} lay in the knowledge of {made['date']}, which is gone from this home"
    wanted = (pc.field("view") == layout.whole(view)) & pc.field("subject_id").isin(subjects)
    if factor:
        wanted = wanted & (pc.field("factor") == factor)
    found = pq.read_table(path, columns=["subject_id", "text"], filters=wanted).to_pylist()
    is_remade = Manifest.read(partition.manifest_path).recipe_sha != made["recipe_sha"]
    doubt = f"the knowledge of {made['date']} was made again after {opened.id}: its texts may be others" if is_remade else ""
    return {row["subject_id"]: " ".join(row["text"].split()) for row in found}, doubt


def _wrapped(label: str, text: str) -> list[str]:
    cut = text if len(text) <= _TEXT_CHARS else text[: _TEXT_CHARS - 1] + "…"
    return textwrap.wrap(cut, _WIDTH, initial_indent=f"      {label}", subsequent_indent=" " * (6 + len(label)))
