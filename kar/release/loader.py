"""Batches of examples with their vectors, for training jobs: read, joined as of their times and gathered piece by piece.

    stream = kar.release.Stream("…/published", "examples.parquet", columns=["label"], batch_rows=8192, seed=1)
    for batch in stream:                                   # one epoch; the next `for` is the next one, in another order
        batch.vectors["user.preference"], batch.is_missing["user.preference"], batch.columns["label"]

    loader = torch.utils.data.DataLoader(kar.release.torch_dataset(stream), batch_size=None, num_workers=2)

    rows = kar.release.Rows(kar.release.join("…/published", examples), {"label": label})          # examples in memory, by number
    loader = torch.utils.data.DataLoader(rows, batch_size=8192, shuffle=True, collate_fn=kar.release.collate)

The vectors stay in the release's memory maps; only those of a batch are copied. torch is imported inside the functions that need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kar.errors import ReleaseError
from kar.release import layout, remote
from kar.release.asof import AsOf, Clock, Joined, Timeline
from kar.release.columns import vector_array
from kar.release.examplefiles import ExampleFiles
from kar.release.ids import Ids
from kar.release.layout import Kind, Side
from kar.release.reader import Release

_KEYS = ("user_id", "item_id", "event_at")


@dataclass(frozen=True)
class Batch:
    """B examples.

    Args:
        columns: of the examples, as asked for: name → [B].
        vectors: view → float32 [B, W]; the default where missing.
        is_missing: view → bool [B].
    """

    columns: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]
    is_missing: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter([*self.is_missing.values(), *self.columns.values()]), ()))

    def arrow(self) -> pa.Table:
        """Columns of the examples, then `<view>` (fixed-size lists) and `<view>_is_missing` of each view."""
        found: dict[str, Any] = dict(self.columns)
        for view, vectors_BW in self.vectors.items():
            found |= {view: vector_array(vectors_BW), f"{view}_is_missing": self.is_missing[view]}
        return pa.table(found)


class Stream:
    """Examples in Parquet files, in batches; iterate over it once per epoch.

    Args:
        releases_path: a published folder or `s3://bucket/prefix`; CURRENT is read once, here, so that every epoch and every worker sees the same releases.
        examples: a Parquet file or a folder of them, with user_id, item_id and event_at.
        columns: of the examples, to come with each batch.
        views: None: all that the releases hold with such vectors.
        batch_rows: at most so many examples a batch; the last one of a piece of 131,072 may be smaller.
        space_id: the space the model was trained in; None: any, but one.
        seed: shuffle the pieces and the examples in each, otherwise in every epoch; None: in order.
        share: (n, of): every of-th piece only, from the n-th on; for ranks of a distributed training.
        lease_s: lease the releases for as long as this stream lives, so that none is collected under it; None: no lease.

    Raises:
        ReleaseError: as `join_files` for the examples, or no such column.
        ReleaseNotFound: nothing is published, or a release that served some of the examples is gone.
        SpaceMismatch: vectors that do not mix would meet, or are not of `space_id`.
    """

    def __init__(
        self,
        releases_path: str | Path,
        examples: str | Path,
        *,
        columns: Sequence[str] = (),
        views: Sequence[str] | None = None,
        kind: Kind = "adapted",
        clock: Clock = "published",
        batch_rows: int = 8192,
        space_id: str | None = None,
        seed: int | None = None,
        share: tuple[int, int] = (0, 1),
        lease_s: float | None = None,
    ) -> None:
        self._lease_s = lease_s
        self._files = ExampleFiles(examples)
        if absent := [name for name in columns if name not in self._files.schema.names]:
            raise ReleaseError(f"the examples hold no columns {absent}; they hold {self._files.schema.names}", "name others")
        if batch_rows < 1 or not 0 <= share[0] < share[1]:
            raise ReleaseError(f"batches of {batch_rows} rows, share {share}", "batch_rows from 1 on; share (n, of) with 0 <= n < of")
        self._columns, self._kind, self._batch_rows, self._seed, self._share = list(columns), kind, batch_rows, seed, share
        with remote.reading(releases_path) as folder:
            self._timeline = Timeline(folder, clock)
        self._used = self._files.served_by(self._timeline)
        self._as_of: AsOf | None = None
        self._epoch = 0
        nothing = self._opened().join(self._files.schema.empty_table())
        self.views = list(views) if views is not None else [view for side in layout.SIDES for view in nothing.views(side, kind)]
        for release in nothing.releases:
            if space_id is not None:
                release.require_space(space_id)
        for view in self.views:
            nothing.vectors(layout.side_of(view), view, kind)  # no such view and spaces that do not mix are named before the first batch

    def __len__(self) -> int:
        """Examples in all shares together."""
        return self._files.rows

    def __iter__(self) -> Iterator[Batch]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        return self._batches(epoch, *self._share)

    def worker(self, number: int, count: int, epoch: int | None = None) -> Iterator[Batch]:
        """The part of an epoch that one of several workers reads; together they read this stream's share of it, each example once."""
        share, of = self._share
        return self._batches(self._epoch if epoch is None else epoch, share + of * number, of * count)

    def _batches(self, epoch: int, share: int, of: int) -> Iterator[Batch]:
        order = None if self._seed is None else np.random.default_rng([self._seed, epoch])
        shards = self._files.shards()
        if order is not None:
            shards = [shards[place] for place in order.permutation(len(shards))]
        names = list(dict.fromkeys([*_KEYS, *self._columns]))
        as_of = self._opened()
        for table in _ahead(self._files.batches(names, shards[share::of])):
            joined = as_of.join(table)
            columns = {name: _numpy(table.column(name)) for name in self._columns}
            if order is not None:
                places = order.permutation(len(joined))
                joined, columns = joined.part(places), {name: column[places] for name, column in columns.items()}
            for first in range(0, len(joined), self._batch_rows):
                rows = slice(first, first + self._batch_rows)
                yield _batch(joined.part(rows), {name: column[rows] for name, column in columns.items()}, self.views, self._kind)

    def _opened(self) -> AsOf:
        if self._as_of is None:
            self._as_of = AsOf(self._timeline, self._used, self._lease_s)
        return self._as_of

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens the same releases for itself: memory maps do not travel."""
        return {**self.__dict__, "_as_of": None}


class Rows:
    """Joined examples by number: what torch calls a map-style dataset. Give its loader `collate_fn=collate`.

    Args:
        joined: of N examples.
        columns: name → array [N], e.g. labels, to come with the vectors.
        views: None: all.
    """

    def __init__(
        self, joined: Joined, columns: Mapping[str, np.ndarray] | None = None, views: Sequence[str] | None = None, kind: Kind = "adapted"
    ) -> None:
        self._joined, self._columns, self._kind = joined, dict(columns or {}), kind
        if wrong := {name: len(column) for name, column in self._columns.items() if len(column) != len(joined)}:
            raise ReleaseError(f"{len(joined)} examples, but columns of other lengths: {wrong}")
        self.views = list(views) if views is not None else [view for side in layout.SIDES for view in joined.views(side, kind)]

    def __len__(self) -> int:
        return len(self._joined)

    def __getitem__(self, row: int) -> Batch:
        """One example, as a batch of one."""
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return self.__getitems__([row])

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """All examples of a batch at once: torch asks so where a dataset can."""
        places = np.asarray(rows, np.int64)
        columns = {name: np.asarray(column)[places] for name, column in self._columns.items()}
        return _batch(self._joined.part(places), columns, self.views, self._kind)


def collate(batch: Batch | Sequence[Batch]) -> dict[str, dict[str, Any]]:
    """A batch, or several to be put together, as tensors: {"columns": …, "vectors": …, "is_missing": …}. Texts stay NumPy arrays.

    The tensors share the batch's memory.
    """
    import torch

    parts = [batch] if isinstance(batch, Batch) else list(batch)

    def tensors(name: str) -> dict[str, Any]:
        held = [getattr(part, name) for part in parts]
        joint = held[0] if len(held) == 1 else {key: np.concatenate([one[key] for one in held]) for key in held[0]}
        return {key: torch.from_numpy(values) if values.dtype.kind in "biuf" else values for key, values in joint.items()}

    return {name: tensors(name) for name in ("columns", "vectors", "is_missing")}


def torch_dataset(stream: Stream) -> Any:
    """The stream as a torch `IterableDataset` of tensors (see `collate`); its loader's workers share the pieces among them.

    Take `DataLoader(…, batch_size=None)`: the batches are made here. Workers that are kept (persistent_workers) count epochs by themselves.
    """
    import torch.utils.data

    class Examples(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self._epoch = 0

        def __iter__(self) -> Iterator[dict[str, dict[str, Any]]]:
            worker = torch.utils.data.get_worker_info()
            found = iter(stream) if worker is None else stream.worker(worker.id, worker.num_workers)
            return map(collate, found)

        def __reduce__(self) -> tuple[Any, ...]:  # the class lives in a function: a spawned worker makes it anew
            return torch_dataset, (stream,)

    return Examples()


def lookup(release: Release, side: Side, ids: Ids, views: Sequence[str] | None = None, kind: Kind = "adapted") -> pa.Table:
    """Vectors of ids as Arrow: the ids as `<side>_id`, and per view its vector and is_missing columns, named as in the release's table."""
    rows = release.rows(side, ids)
    wanted = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids)
    found: dict[str, Any] = {layout.id_column(side): wanted}
    for view in views if views is not None else release.views(side, kind):
        vectors_NW, is_missing = release.vectors_at(view, rows, kind)
        found |= {layout.column(view, "is_missing"): is_missing, layout.vector_column(view, kind): vector_array(vectors_NW)}
    return pa.table(found)


def _batch(joined: Joined, columns: dict[str, np.ndarray], views: Sequence[str], kind: Kind) -> Batch:
    found = {view: joined.vectors(layout.side_of(view), view, kind) for view in views}
    return Batch(columns, {view: one[0] for view, one in found.items()}, {view: one[1] for view, one in found.items()})


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Own and writable: torch shares it."""
    return np.array(column.to_numpy())


def _ahead(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same tables, the next one being read in a thread while this one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, tables, None)
        while (table := coming.result()) is not None:
            coming = thread.submit(next, tables, None)
            yield table
