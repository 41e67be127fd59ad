"""Releases and examples of a realistic shape, drawn from a seed: what `benchmarks.release` publishes, joins and streams.

Vectors are the tanh of a rank-16 projection, as an adaptor's are: neither noise, which no codec shrinks, nor zeros, which any does. Ids have
gaps; a fifth of the users and a twentieth of the items have no knowledge; evidence is a few days old for most and months for some. Examples
follow popularity: few users and items make most of them. Their times run from before the first release to after the last.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq

from kar.release import layout
from kar.release.rows import Facts, Pooled, SideRows, ViewRows

FIRST_NIGHT = dt.datetime(2026, 10, 1, tzinfo=dt.UTC)
DAY_US = 86_400_000_000
WIDTH = 32
_RANK = 16
_DEFAULT = np.full(WIDTH, 0.01, np.float32)
_LATE_US = 6 * 3_600_000_000  # a release of a day is served six hours after its end


def us(instant: dt.datetime) -> int:
    """Microseconds since 1970 UTC."""
    return int(instant.timestamp()) * 1_000_000


def vectors(rows: int, width: int, seed: int) -> np.ndarray:
    """float32 [rows, width]."""
    rng = np.random.default_rng(seed)
    projection = rng.standard_normal((_RANK, width), np.float32) / 3
    result = np.empty((rows, width), np.float32)
    for first in range(0, rows, 131_072):
        part = result[first : first + 131_072]
        np.tanh(rng.standard_normal((len(part), _RANK), np.float32) @ projection, out=part)
    return result


def side(name: str, rows: int, seed: int, *, text: bool = False, knowledge: int = 8) -> SideRows:
    """A side of `rows` subjects as of the first night.

    Args:
        name: user or item.
        text: ids are texts (sorted as bytes) instead of ints.
        knowledge: width of the encoder's vectors; 0: a pooled view, user.liked_facts.
    """
    rng = np.random.default_rng([seed, 1])
    numbers = np.sort(rng.choice(rows * 4 // 3 + 1, rows, replace=False)).astype(np.int64)
    ids = pa.array(numbers) if not text else pa.array(np.sort(np.char.add(f"{name}-", numbers.astype(str)))).cast(pa.string())
    is_missing = rng.random(rows) < (0.2 if name == "user" else 0.05)
    adapted, known = vectors(rows, WIDTH, seed), vectors(rows, knowledge, seed + 1)
    adapted[is_missing], known[is_missing] = _DEFAULT, 0
    asked_us = us(FIRST_NIGHT) - rng.integers(0, 3 * 3_600_000_000, rows)
    seen_us = us(FIRST_NIGHT) - 1 - (rng.exponential(9.0, rows) * DAY_US).astype(np.int64)
    told = {
        "evidence_newest_at": _instants(seen_us, is_missing if name == "user" else np.ones(rows, bool)),
        "asked_at": _instants(asked_us, is_missing),
        "origin": _words(["tonight", "before"], rng.integers(0, 2, rows), is_missing),
        "model": _words(["a-model", "a-newer-model"], rng.integers(0, 2, rows), is_missing),
    }
    return SideRows("user" if name == "user" else "item", ids, (_view(name, is_missing, adapted, known, told),))


def _view(name: str, is_missing: np.ndarray, adapted: np.ndarray, known: np.ndarray, told: dict[str, pa.Array]) -> ViewRows:
    pooled = Pooled("item.facts", "liked", 30) if not known.shape[1] else None
    return ViewRows(
        view={"user": "user.preference" if pooled is None else "user.liked_facts", "item": "item.facts"}[name],
        is_missing=is_missing,
        adapted=adapted,
        knowledge=known,
        default=_DEFAULT,
        evidence_newest_at=told["evidence_newest_at"],
        asked_at=told["asked_at"],
        origin=told["origin"],
        model=told["model"],
        pooled_from=pooled,
    )


def changed(before: SideRows, share: float, day: int, seed: int) -> SideRows:
    """The side a night later: so many of its rows, at random, have new vectors, new evidence and were asked again."""
    rng = np.random.default_rng([seed, 2])
    view = before.views[0]
    rows = np.sort(rng.choice(len(before.ids), round(share * len(before.ids)), replace=False))
    at_us = us(FIRST_NIGHT) + day * DAY_US
    adapted, known, is_missing = view.adapted.copy(), view.knowledge.copy(), view.is_missing.copy()
    adapted[rows], known[rows] = vectors(len(rows), WIDTH, seed + 3), vectors(len(rows), known.shape[1], seed + 4)
    is_missing[rows] = False
    newer = replace(
        view,
        is_missing=is_missing,
        adapted=adapted,
        knowledge=known,
        asked_at=_put(view.asked_at, rows, at_us - rng.integers(0, 3 * 3_600_000_000, len(rows))),
        origin=_fill(view.origin, rows, "tonight"),
        model=_fill(view.model, rows, "a-newer-model"),
        evidence_newest_at=_put(view.evidence_newest_at, rows, at_us - 1 - rng.integers(0, DAY_US, len(rows)))
        if before.side == "user"
        else view.evidence_newest_at,
    )
    return replace(before, views=(newer,))


def save(side: SideRows, folder: Path) -> None:
    """Write a drawn side down, so that another process can have it memory-mapped: what is drawn does not count as what publishing needs."""
    view = side.views[0]
    told = {name: getattr(view, name) for name in ("evidence_newest_at", "asked_at", "origin", "model")}
    feather.write_feather(pa.table({"id": side.ids, "is_missing": view.is_missing, **told}), folder / f"{side.side}.arrow", "uncompressed")
    for kind in layout.KINDS:
        np.save(folder / f"{side.side}.{kind}.npy", view.adapted if kind == "adapted" else view.knowledge)


def load(name: str, folder: Path) -> SideRows:
    """A side that `save` wrote. Its vectors and columns are maps of the files."""
    table = feather.read_table(folder / f"{name}.arrow", memory_map=True).combine_chunks()
    columns = {one: table.column(one).chunk(0) for one in table.column_names}
    adapted, known = (np.load(folder / f"{name}.{kind}.npy", mmap_mode="r" if kind == "adapted" else None) for kind in layout.KINDS)
    view = _view(name, columns.pop("is_missing").to_numpy(zero_copy_only=False), adapted, known, columns)
    return SideRows("user" if name == "user" else "item", columns["id"], (view,))


def written_bytes(release: Path) -> int:
    """Bytes of the newest release's files that it shares with no other, counted before the next one is published."""
    files = (path.stat() for path in release.rglob("*") if path.is_file())
    return sum(status.st_size for status in files if status.st_nlink == 1)


def versions(releases: list[dt.datetime], ids: pa.Array) -> pa.Table:
    """What the peers' as-of joins take: user_id, published_at, row; every release holds the same ids. In order of ids, then of time.

    `row` numbers the rows of one release.
    """
    count, nights = len(ids), len(releases)
    return pa.table(
        {
            "user_id": ids.take(pa.array(np.repeat(np.arange(count), nights))),
            "published_at": pa.array(np.tile([us(at) for at in releases], count)).cast(layout.TIME),
            "row": pa.array(np.repeat(np.arange(count), nights)),
        }
    )


def facts(day: int) -> Facts:
    """Of the night whose data end at the first night's midnight plus so many days."""
    at = FIRST_NIGHT + dt.timedelta(days=day)
    return Facts(
        scenario="bench",
        date=(at - dt.timedelta(days=1)).date(),
        published_at=at + dt.timedelta(hours=6),
        is_reconstructed=False,
        encoder_id="bench-encoder",
        adaptor={"sha": "b" * 64, "backbone": "din"},
        normalisation="l2",
    )


def examples(count: int, users: pa.Array, items: pa.Array, days: int, seed: int, start: dt.timedelta = dt.timedelta(0)) -> pa.Table:
    """Examples in order of time: user_id, item_id, event_at, label. A tenth of them lie before the first release, if `start` is 0.

    Args:
        days: releases, one a day; the last example is a day after the last.
        start: after the first release.
    """
    rng = np.random.default_rng([seed, 5])
    first_us = us(FIRST_NIGHT + start) + _LATE_US
    span = days * DAY_US
    early = 0 if start else span // 9
    event_us = np.sort(first_us - early + rng.integers(0, span + early, count))
    return pa.table(
        {
            "user_id": users.take(pa.array(_popular(rng, len(users), count))),
            "item_id": items.take(pa.array(_popular(rng, len(items), count))),
            "event_at": pa.array(event_us).cast(layout.TIME),
            "label": pa.array(rng.random(count) < 0.3).cast(pa.int8()),
        }
    )


def write_examples(table: pa.Table, path: Path) -> None:
    """As a job would: zstd, row groups of 131,072."""
    pq.write_table(table, path, compression="zstd", row_group_size=131_072)


def _popular(rng: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """int64 [draws] places among `count`; the density falls as a power of the rank, ranks lie in random order."""
    ranks = (count * rng.random(draws) ** 2.5).astype(np.int64)
    places: np.ndarray = rng.permutation(count)[ranks]
    return places


def _instants(values_us: np.ndarray, is_null: np.ndarray) -> pa.Array:
    return pa.array(values_us, mask=is_null).cast(layout.TIME)


def _words(words: list[str], codes: np.ndarray, is_null: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8), mask=is_null), pa.array(words)).cast(pa.string())


def _put(column: pa.Array, rows: np.ndarray, values_us: np.ndarray) -> pa.Array:
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    held = column.cast(pa.int64()).fill_null(0).to_numpy().copy()
    held[rows], is_null[rows] = values_us, False
    return _instants(held, is_null)


def _fill(column: pa.Array, rows: np.ndarray, word: str) -> pa.Array:
    chosen = np.zeros(len(column), bool)
    chosen[rows] = True
    return pc.if_else(pa.array(chosen), word, column)
