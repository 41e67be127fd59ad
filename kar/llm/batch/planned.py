"""The requests of a date as the plan wrote them, read part by part: each key once, and only those still to send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Known = Callable[[Sequence[str]], set[str]]
"""Given keys, those among them that need not be sent."""

COLUMNS = ("request_key", "revision", "body", "prompt_tokens", "answer_tokens", "template_version")
_ROWS = 4_096


def stream(path: Path, columns: Sequence[str] = COLUMNS) -> Iterator[pa.Table]:
    """A table of requests in parts of at most 4,096 rows, in its own order."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS, columns=list(columns)):
            yield pa.Table.from_batches([batch])


def count(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def pending(path: Path, left_out: Mapping[str, Known], counts: Counter[str]) -> Iterator[pa.Table]:
    """The requests still to send, in the plan's order.

    Two subjects with the same prompt have the same key: it is sent once.

    Args:
        left_out: why a request need not be sent → which of some keys.
        counts: of the requests left out, by the names in `left_out` and "repeated"; filled while this is read.
    """
    may_repeat, seen = _that_repeat(prefixes(path)), set[str]()
    for part in stream(path):
        keys = part.column("request_key").to_pylist()
        known: set[str] = set()
        for why, among in left_out.items():
            fresh = among([k for k in keys if k not in known])
            known |= fresh
            if fresh:
                counts[why] += sum(k in fresh for k in keys)
        places = []
        for place, key in enumerate(keys):
            if key in known:
                continue
            if _prefix(key) in may_repeat:
                if key in seen:
                    counts["repeated"] += 1
                    continue
                seen.add(key)
            places.append(place)
        if places:
            yield part if len(places) == len(keys) else part.take(pa.array(places, pa.int64()))


def prefixes(path: Path) -> npt.NDArray[np.uint64]:
    """The first 64 bits of every key, ascending: 8 bytes a request where a set of keys would take 130."""
    parts = [np.array([_prefix(k) for k in part.column(0).to_pylist()], np.uint64) for part in stream(path, ["request_key"])]
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)


def _that_repeat(sorted_prefixes: npt.NDArray[np.uint64]) -> frozenset[int]:
    """Those that keys standing twice have, and perhaps a pair that only shares its first 64 bits."""
    return frozenset(sorted_prefixes[1:][sorted_prefixes[1:] == sorted_prefixes[:-1]].tolist())


def _prefix(key: str) -> int:
    return int(key[:16], 16)
