"""Write requests as batch files, as many as the provider's limits ask for; each is whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from kar.errors import StageError
from kar.llm.batch.lines import request_line

MOST_REQUESTS = 50_000
"""OpenAI's limit of one file."""
MOST_BYTES = 200_000_000
"""OpenAI's limit of one file."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file that was written.

    Args:
        table: the same requests as Parquet, as far as asked for.
        prompt_tokens: estimate; answer_tokens: at most.
    """

    path: Path
    table: Path | None
    requests: int
    size_bytes: int
    prompt_tokens: int
    answer_tokens: int


@dataclass
class Exported:
    """What was written, and the keys of requests that are too large for any file."""

    parts: list[Part] = field(default_factory=list)
    too_large: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(part.requests for part in self.parts)

    @property
    def prompt_tokens(self) -> int:
        return sum(part.prompt_tokens for part in self.parts)

    @property
    def answer_tokens(self) -> int:
        return sum(part.answer_tokens for part in self.parts)


def export(
    requests: Iterable[pa.Table],
    folder: Path,
    name: str,
    *,
    most_requests: int = MOST_REQUESTS,
    most_bytes: int = MOST_BYTES,
    with_tables: bool = False,
) -> Exported:
    """Write `NAME-0001.jsonl` and so on into the folder. Files of that name from an earlier export go away.

    Nothing is in its place before all of it is written: a crash leaves hidden files, which the next export removes.

    Args:
        requests: parts with the columns of `planned.COLUMNS`.
        most_requests, most_bytes: of one file.
        with_tables: also write each file's requests as `NAME-0001.parquet`.

    Raises:
        StageError: the disk is full, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f".{name}-*.partial"):
            left.unlink()
        made = Exported()
        writer: _PartWriter | None = None
        with contextlib.ExitStack() as stack:
            for row in _rows(requests):
                line = request_line(row.key, row.body)
                if len(line) > most_bytes:
                    made.too_large.append(row.key)
                    continue
                if writer is None or writer.requests >= most_requests or writer.size_bytes + len(line) > most_bytes:
                    if writer is not None:
                        made.parts.append(writer.close())
                    writer = _PartWriter(folder, f"{name}-{len(made.parts) + 1:04d}", with_tables, stack)
                writer.add(line, row)
            if writer is not None:
                made.parts.append(writer.close())
        return _in_place(made, folder, name)
    except OSError as error:
        raise StageError(f"{folder} cannot be written: {error}", "make room on the disk, or name another folder with --out") from error


@dataclass(frozen=True, slots=True)
class _Row:
    key: str
    body: bytes
    prompt_tokens: int
    answer_tokens: int
    table: pa.Table
    place: int


def _rows(requests: Iterable[pa.Table]) -> Iterator[_Row]:
    for part in requests:
        columns = [part.column(name).to_pylist() for name in ("request_key", "body", "prompt_tokens", "answer_tokens")]
        for place, (key, body, prompt, answer) in enumerate(zip(*columns, strict=True)):
            yield _Row(key, body.encode(), prompt, answer, part, place)


def _in_place(made: Exported, folder: Path, name: str) -> Exported:
    """Give the files their names, after those of an earlier export have gone."""
    for suffix in ("jsonl", "parquet"):
        for old in folder.glob(f"{name}-[0-9][0-9][0-9][0-9].{suffix}"):
            old.unlink()
    parts = []
    for part in made.parts:
        paths = [None if p is None else p.rename(folder / p.name[1:].removesuffix(".partial")) for p in (part.path, part.table)]
        assert paths[0] is not None
        parts.append(Part(paths[0], paths[1], part.requests, part.size_bytes, part.prompt_tokens, part.answer_tokens))
    return Exported(parts, made.too_large)


class _PartWriter:
    """One hidden file that grows."""

    def __init__(self, folder: Path, name: str, with_table: bool, stack: contextlib.ExitStack) -> None:
        self.requests = self.size_bytes = 0
        self._prompt_tokens = self._answer_tokens = 0
        self._path = folder / f".{name}.jsonl.partial"
        self._table = folder / f".{name}.parquet.partial" if with_table else None
        self._file: IO[bytes] = stack.enter_context(self._path.open("wb"))
        self._held: list[tuple[pa.Table, list[int]]] = []

    def add(self, line: bytes, row: _Row) -> None:
        self._file.write(line)
        self.requests += 1
        self.size_bytes += len(line)
        self._prompt_tokens += row.prompt_tokens
        self._answer_tokens += row.answer_tokens
        if self._table is not None:
            if not self._held or self._held[-1][0] is not row.table:
                self._held.append((row.table, []))
            self._held[-1][1].append(row.place)

    def close(self) -> Part:
        self._file.close()
        if self._table is not None:
            pq.write_table(pa.concat_tables([t.take(pa.array(p, pa.int64())) for t, p in self._held]), self._table, compression="zstd")
            self._held = []
        return Part(self._path, self._table, self.requests, self.size_bytes, self._prompt_tokens, self._answer_tokens)
