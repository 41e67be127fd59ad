"""Take requests and their results out of the files of batches. What a provider holds it keeps: the caller is told of it."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.llm.batch.lines import custom_id_of
from kar.llm.batch.nights import Night, Nights

_KINDS = ("output", "errors")


@dataclass
class Erased:
    """What was taken out, or would be.

    Args:
        requests, lines: rows of the tables of requests; lines of uploads and results.
        sent: batches that went to a provider with such a request in them.
    """

    requests: int = 0
    lines: int = 0
    sent: list[str] = field(default_factory=list)


def erase(nights: Nights, keys: Set[str], *, is_dry: bool) -> Erased:
    """Take requests out of every batch. The caller holds `nights.locked()`; a second time finds nothing.

    Raises:
        StageError: the state of a batch cannot be read or written.
    """
    made = Erased()
    for night in nights.all():
        paths = [nights.upload(night), *(nights.results(night, kind) for kind in _KINDS)]
        made.lines += sum(drop_lines(path, keys.__contains__, is_dry=is_dry) for path in paths)
        of_night = _from_table(nights.requests(night), keys, is_dry)  # last: it tells a second run that this one was killed
        made.requests += of_night
        if of_night and night.file_id:
            made.sent.append(night.batch_id or night.id)
        if of_night and not is_dry:
            _recount(nights, night, of_night)
    return made


def drop_lines(path: Path, is_gone: Callable[[str], bool], *, is_dry: bool = False) -> int:
    """Write a file of requests or results anew without the lines of some custom ids; returns how many. A line that is none stays."""
    if not path.is_file():
        return 0
    partial, gone = path.with_name(f".{path.name}.partial"), 0
    with path.open("rb") as source, partial.open("wb") as target:
        for line in source:
            if _is_line_of(line, is_gone):
                gone += 1
            else:
                target.write(line)
    if gone and not is_dry:
        partial.replace(path)
    else:
        partial.unlink()
    return gone


def _is_line_of(line: bytes, is_gone: Callable[[str], bool]) -> bool:
    try:
        return is_gone(custom_id_of(line))
    except ValueError as error:
        # an upload's line has no response, which is all that is wrong with it
        return "a request line" in str(error) and is_gone(line.split(b'"', 4)[3].decode("utf-8", "replace"))


def _from_table(path: Path, keys: Set[str], is_dry: bool) -> int:
    if not path.is_file():
        return 0
    table = pq.read_table(path)
    is_gone = pc.is_in(table["request_key"], value_set=pa.array(sorted(keys), pa.string()))
    gone = int(pc.sum(is_gone).as_py() or 0)
    if gone and not is_dry:
        partial = path.with_name(f".{path.name}.partial")
        pq.write_table(table.filter(pc.invert(is_gone)), partial, compression="zstd")
        partial.replace(path)
    return gone


def _recount(nights: Nights, night: Night, gone: int) -> None:
    """An unsent batch asks less now; one without any request is no batch."""
    night.requests -= gone
    if not night.requests and not night.file_id:
        nights.drop(night)
    else:
        nights.save(night)
