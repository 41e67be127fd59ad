"""Examples that are not all in memory: pools of whole users, read from Parquet anew in every epoch.

Both tables lie in user order, so a segment, some users one after another, is a run of rows in each. A pool is several segments; for
training they are drawn at random in each epoch and the pool's rows are shuffled together, for evaluation they follow the files. The
vocabularies are fitted in one pass before (`kar.model.data.fit`), so that a pool is a small `TrainingData` like any other. What is read
is decoded and gathered again in each epoch; that costs little beside the training itself.

Where all examples fit, `kar.model.pools.Resident` is the same with one pool.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from kar.errors import ModelError
from kar.model.arms import Arms, allowed
from kar.model.batches import SPLITS, TrainingData
from kar.model.data import Fitted
from kar.model.knowledge import Join
from kar.model.pools import Pool
from kar.model.vocabulary import Int64
from kar.settings import AdaptorSettings
from kar.settings.schema import Arm

POOL_ROWS = 1_000_000
"""Events of a pool, where the settings do not say."""
PART_ROWS = 100_000
"""Events of a part where all examples are gathered to stay."""
_SEGMENTS = 8
"""Of a pool: the more, the better rows mix over epochs, and the more row groups are decoded for a part of them."""
_RESIDENT_BYTES = 250
"""What an event and its example take at most while they are loaded, tables and tensors together; measured."""
_RESIDENT_SHARE = 0.5
_OF_EXAMPLES = ("single_ES", "start_E", "length_E", "label_E", "user_E", "item_E", "example_id_E")
_OF_EVENTS = ("event_KV", "label_V", "item_V")
EXAMPLE = ["example_id", "user_id", "item_id", "event_at", "position", "label", "split", "has_user_knowledge", "has_item_knowledge"]


@dataclass(frozen=True)
class Segments:
    """The two tables, and where each segment of users begins in them.

    Args:
        first_V, first_E: [segments + 1] rows of sequence and example.
    """

    example: Path
    sequence: Path
    first_V: Int64
    first_E: Int64

    @classmethod
    def of(cls, example: Path, sequence: Path, pool_rows: int) -> Segments:
        """Cut where users begin, so that a pool's segments have about `pool_rows` events together, and each at least one user's.

        The tables hold every user's rows together; that they do is checked when the vocabularies are fitted.

        Raises:
            ModelError: a table has no rows.
        """
        for path in (sequence, example):
            if not pq.read_metadata(path).num_rows:
                raise ModelError(f"the table {path.stem} has no rows, so there is nothing to train on", "use more data, or another date")
        (events, user_ids), (examples, of_examples) = _runs(sequence), _runs(example)
        end_U, rows = np.cumsum(events), max(1, pool_rows // _SEGMENTS)
        cut = np.unique(np.searchsorted(end_U, np.arange(rows, int(end_U[-1]) + rows, rows).clip(max=int(end_U[-1]))) + 1)
        count_U = np.zeros(len(events), np.int64)
        place = pc.index_in(of_examples, value_set=user_ids)
        np.add.at(count_U, pc.fill_null(place.cast(pa.int64()), 0).to_numpy(), examples)  # one without events is found when fitting
        end_E = np.cumsum(count_U)
        return cls(example, sequence, np.concatenate([[0], end_U[cut - 1]]), np.concatenate([[0], end_E[cut - 1]]))

    def __len__(self) -> int:
        return len(self.first_V) - 1

    def parts(self, size: int = _SEGMENTS, split: str | Sequence[str] | None = None) -> Iterator[tuple[pa.Table, pa.Table]]:
        """All of both tables in file order, `size` segments at a time."""
        for first in range(0, len(self), size):
            yield self.read(range(first, min(first + size, len(self))), split)

    def read(self, segments: Sequence[int], split: str | Sequence[str] | None = None) -> tuple[pa.Table, pa.Table]:
        """Examples (of some splits) and events of some segments; ascending."""
        runs = _neighbours(segments)
        example = pa.concat_tables([_rows(self.example, EXAMPLE, self.first_E, *run) for run in runs])
        if split is not None:
            example = example.filter(pc.is_in(example["split"], pa.array([split] if isinstance(split, str) else split)))
        return example, pa.concat_tables([_rows(self.sequence, None, self.first_V, *run) for run in runs])


@dataclass(frozen=True)
class Streamed:
    """Examples in pools that are read as they are needed.

    Args:
        joins: the arm's knowledge.
    """

    segments: Segments
    fitted: Fitted
    arms: Arms
    arm: Arm
    joins: Sequence[Join]
    device: str

    def count(self, split: str) -> int:
        return self.fitted.counts[split]

    def pools(self, split: str, draw: torch.Generator | None = None) -> Iterator[Pool]:
        count = len(self.segments)
        order = list(range(count)) if draw is None or count == 1 else torch.randperm(count, generator=draw).tolist()
        for first in range(0, len(order), _SEGMENTS):
            example, sequence = self.segments.read(sorted(order[first : first + _SEGMENTS]), split)
            found = self._pool(example, sequence, split) if example.num_rows else None
            del example, sequence
            if found is not None:
                yield found
                del found  # before the next one is read

    def _pool(self, example: pa.Table, sequence: pa.Table, split: str) -> Pool:
        data = self.fitted.gather(example, sequence, self.device)
        kinds = self.arms.attach(self.arm, self.joins, data, allowed(example))
        return Pool(data, kinds, torch.from_numpy(data.split_rows[split]).to(data.device))


def resident(segments: Segments, fitted: Fitted, device: str) -> TrainingData:
    """All examples, gathered part by part into their places, so that neither the tables nor a second copy is in memory beside them."""
    whole: dict[str, Any] = {}
    rows: dict[str, list[Int64]] = {split: [] for split in SPLITS}
    listed: Tensor | None = None
    examples = events = 0
    for example, sequence in segments.parts():
        part = fitted.gather(example, sequence, device)
        of_examples, of_events = slice(examples, examples + len(part.label_E)), slice(events, events + len(part.label_V))
        for name in _OF_EXAMPLES:
            found = getattr(part, name)
            _room(whole, name, found, (int(segments.first_E[-1]), *found.shape[1:]))[of_examples] = found
        whole["start_E"][of_examples] += events
        for name in _OF_EVENTS:
            found = getattr(part, name)
            _room(whole, name, found, (*found.shape[:-1], int(segments.first_V[-1])))[..., of_events] = found
        if part.lists is not None:
            listed = torch.empty(int(segments.first_E[-1]), dtype=part.lists.item_E.dtype, device=device) if listed is None else listed
            listed[of_examples] = part.lists.item_E
        for split, of_split in rows.items():
            of_split.append(part.split_rows[split] + examples)
        examples, events = of_examples.stop, of_events.stop
    del example, sequence
    pa.default_memory_pool().release_unused()  # what decoding took; a training needs none of it
    lists = None if part.lists is None or listed is None else replace(part.lists, item_E=listed)
    return replace(part, **whole, split_rows={split: np.concatenate(found) for split, found in rows.items()}, lists=lists)


def _room(whole: dict[str, Any], name: str, like: Any, shape: tuple[int, ...]) -> Any:
    """The tensor or array of all parts, made when the first one comes."""
    if name not in whole:
        whole[name] = like.new_empty(shape) if isinstance(like, Tensor) else np.empty(shape, like.dtype)
    return whole[name]


def judged(segments: Segments, fitted: Fitted, device: str) -> TrainingData:
    """The examples of valid and test without their histories: what a verdict needs of them, and a ranker its shape from."""
    example = pa.concat_tables([example for example, _ in segments.parts(split=["valid", "test"])])
    return fitted.gather(example, pq.read_schema(segments.sequence).empty_table(), device)


def pool_rows(example: Path, sequence: Path, settings: AdaptorSettings, processes: int) -> int:
    """Events of a pool; 0: all examples are resident.

    Args:
        processes: trainings side by side.
    """
    if settings.stream_rows is not None:
        return settings.stream_rows
    rows = max(pq.read_metadata(path).num_rows for path in (example, sequence))
    return POOL_ROWS if rows * _RESIDENT_BYTES * processes > _RESIDENT_SHARE * available_bytes() else 0


def available_bytes() -> int:
    """Memory that this machine, or the control group that it is in, has left."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    of_machine = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        of_machine = next(int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        return min(of_machine, int(text) - int(used.read_text()))
    return of_machine


def _runs(path: Path) -> tuple[Int64, pa.Array]:
    """Rows of each user in a table in user order, and the user ids."""
    counts: list[Int64] = []
    values: list[pa.Array] = []
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(1 << 17, columns=["user_id"], use_threads=False):
            encoded = pc.run_end_encode(batch["user_id"], run_end_type=pa.int64())
            counts.append(np.diff(np.asarray(encoded.run_ends), prepend=0))
            values.append(encoded.values)
    every = pc.run_end_encode(pa.chunked_array(values).combine_chunks(), run_end_type=pa.int64())  # a user may go over a batch's end
    ends = np.asarray(every.run_ends)
    total = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return np.diff(total[ends], prepend=0), every.values


def _neighbours(segments: Sequence[int]) -> list[tuple[int, int]]:
    """Runs [first, end) of segments that follow each other, so that each row group is decoded once for them."""
    breaks = [0, *(place for place in range(1, len(segments)) if segments[place] != segments[place - 1] + 1), len(segments)]
    return [(segments[first], segments[end - 1] + 1) for first, end in itertools.pairwise(breaks)]


def _rows(path: Path, columns: list[str] | None, first: Int64, begin: int, until: int) -> pa.Table:
    """The rows of some segments, one after another."""
    start, end = int(first[begin]), int(first[until])
    with pq.ParquetFile(path, pre_buffer=False) as file:
        group = np.concatenate([[0], np.cumsum([file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)])])
        low, high = int(np.searchsorted(group, start, "right")) - 1, int(np.searchsorted(group, end))
        held = file.read_row_groups(list(range(low, max(high, low))), columns=columns, use_threads=False)
        return held.slice(start - int(group[low]), end - start)
