"""Compacted rows: Parquet files sorted by key, never changed after they are there.

A part vouches for itself: its name is the digest of its bytes and of its footer, each page carries a checksum, each row a
digest. Its column `key_start` (the first eight bytes of the key, a number in the same order) is a sorted index that is read
alone: 8 bytes for each row say which row groups hold a key, so a look-up touches no text that it does not return.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.errors import LedgerError
from kar.llm.ledger.answer import SCHEMA
from kar.llm.ledger.places import RESCUE, named
from kar.llm.ledger.shard import FORMAT

GROUP_ROWS = 1024
_INDEX = "key_start"
_DICTIONARIES = ["finish_reason", "model", "revision", "template_version", "status", "server_version", "retry_of", "asked_at"]
_FILE = SCHEMA.append(pa.field(_INDEX, pa.uint64()))
Places = npt.NDArray[np.int64]  # row numbers in a part, ascending


class Part:
    """One open part. Stays readable after its file is gone, so a reader is not disturbed by parts that grow together.

    Args:
        path: of the file.
        is_named: its name is to be its digest; not so for a file that was exported.

    Raises:
        FileNotFoundError: it is gone.
        LedgerError: damaged, or of another format. So may every method.
    """

    def __init__(self, path: Path, *, is_named: bool = True) -> None:
        self.path = path
        source = pa.OSFile(str(path))
        if is_named and (found := _footer_sha(source)) != path.stem.partition("-")[2]:
            raise LedgerError(f"the ledger's part {path} is damaged: its footer has the digest {found}", RESCUE)
        with named(path):
            self._file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False)
        metadata = self._file.schema_arrow.metadata or {}
        version = metadata.get(b"kar.ledger", b"").decode()
        if version != str(FORMAT) or not set(_FILE.names) <= set(self._file.schema_arrow.names):
            raise LedgerError(f"{path} holds no answers of format {FORMAT} (it says {version or 'nothing'})", "use the kar that wrote it")
        self.replaces: frozenset[str] = frozenset(json.loads(metadata.get(b"kar.replaces", b"[]")))
        self.rows = int(self._file.metadata.num_rows)

    def find(self, keys: Sequence[str]) -> Places:
        """The rows that may belong to one of the keys: all of theirs, and a rare stranger with the same first bytes."""
        starts = np.unique(_starts(keys))
        low, high = np.searchsorted(self._index, starts, "left"), np.searchsorted(self._index, starts, "right")
        return _ranges(low[high > low], high[high > low])

    def find_retries(self, keys: Sequence[str]) -> Places:
        """The rows that ask one of the keys again."""
        rows, of = self._retries
        is_asked: npt.NDArray[np.bool_] = pc.is_in(of, value_set=pa.array(keys, pa.string())).to_numpy(zero_copy_only=False)
        return rows[is_asked]

    def read(self, places: Places, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Those rows, one table for each row group that holds any."""
        groups = np.searchsorted(self._ends, places, "right")
        with named(self.path):
            for group in np.unique(groups):
                first = self._ends[group - 1] if group else 0
                rows = places[groups == group] - first
                yield self._file.read_row_group(int(group), list(columns)).take(pa.array(rows))

    def stream(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """All rows, by key."""
        with named(self.path):
            for group in range(self._file.num_row_groups):
                yield self._file.read_row_group(group, list(columns))

    def readable(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The row groups that can be read of a damaged part."""
        for group in range(self._file.num_row_groups):
            with contextlib.suppress(pa.ArrowException, OSError):
                yield self._file.read_row_group(group, list(columns))

    def fault(self) -> str:
        """How its bytes or its order differ from what was written; empty if they do not."""
        with named(self.path), self.path.open("rb") as stream:
            sha = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
        if sha != self.path.stem.partition("-")[0]:
            return f"its bytes have the digest {sha}"
        return "" if bool((self._index[1:] >= self._index[:-1]).all()) else "its rows are not sorted by key"

    def close(self) -> None:
        self._file.close()

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        """The number of rows up to and with each row group."""
        metadata = self._file.metadata
        return np.cumsum([metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)], dtype=np.int64)

    @cached_property
    def _index(self) -> npt.NDArray[np.uint64]:
        with named(self.path):
            index: npt.NDArray[np.uint64] = self._file.read([_INDEX]).column(_INDEX).to_numpy()
            return index

    @cached_property
    def _retries(self) -> tuple[Places, pa.Array]:
        """Row numbers and retry_of of the few rows that ask again."""
        with named(self.path):
            column = self._file.read(["retry_of"]).column("retry_of").combine_chunks()
        is_retry = pc.not_equal(column, "").to_numpy(zero_copy_only=False)
        return np.flatnonzero(is_retry), column.filter(pa.array(is_retry))


def write_rows(path: Path, tables: Iterable[pa.Table], replaces: Iterable[str] = ()) -> int:
    """Write rows that come by key; on disk when this returns. The same rows give the same bytes, however they are cut into tables.

    Args:
        replaces: names of the parts whose rows these are.

    Returns:
        the number of rows.
    """
    metadata = {"kar.ledger": str(FORMAT), "kar.replaces": json.dumps(sorted(replaces))}
    rows = 0
    with (
        path.open("wb") as stream,
        pq.ParquetWriter(
            stream,
            _FILE.with_metadata(metadata),
            compression="zstd",
            use_dictionary=_DICTIONARIES,
            write_statistics=["key", "ended_at"],
            write_page_checksum=True,
        ) as writer,
    ):
        for table in _even(tables):
            starts = pa.array(_starts(table.column("key").to_pylist()))
            writer.write_table(table.select(SCHEMA.names).append_column(_INDEX, starts).cast(writer.schema))
            rows += table.num_rows
        writer.close()
        stream.flush()
        os.fsync(stream.fileno())
    return rows


def name_of(path: Path) -> str:
    """The name that a finished part is to have."""
    with path.open("rb") as stream:
        return f"{hashlib.file_digest(stream, 'sha256').hexdigest()[:32]}-{_footer_sha(stream)}.parquet"


def _footer_sha(stream: IO[bytes] | pa.NativeFile) -> str:
    """Digest of what stands behind the pages; pages have checksums of their own, the footer has none."""
    stream.seek(0, os.SEEK_END)
    size = stream.tell()
    stream.seek(max(0, size - 8))
    length = int.from_bytes(stream.read(4), "little") + 8
    stream.seek(max(0, size - length))
    return hashlib.sha256(stream.read()).hexdigest()[:16]


def _starts(keys: Sequence[str]) -> npt.NDArray[np.uint64]:
    """The first eight bytes of each key as a number: in the order of the keys."""
    cut = b"".join(key.encode()[:8].ljust(8, b"\0") for key in keys)
    return np.frombuffer(cut, dtype=">u8").astype(np.uint64)


def _ranges(low: npt.NDArray[np.intp], high: npt.NDArray[np.intp]) -> Places:
    """All numbers of the half-open ranges, which ascend and do not meet."""
    lengths = high - low
    return (
        np.repeat(low - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
        if len(low)
        else np.empty(0, np.int64)
    )


def _even(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of one size, so that a file does not depend on how its rows came."""
    left: list[pa.Table] = []
    count = 0
    for table in tables:
        left.append(table)
        count += table.num_rows
        if count >= GROUP_ROWS:
            whole = pa.concat_tables(left)
            cut = count - count % GROUP_ROWS
            yield from (whole.slice(start, GROUP_ROWS) for start in range(0, cut, GROUP_ROWS))
            left, count = [whole.slice(cut)], count - cut
    if count:
        yield pa.concat_tables(left)
