"""Result files, in any order and of any size: found by custom id, 24 bytes a line in memory, no text.

Read twice: once to learn which line is whose, once, in the order of the requests, to take the answers.
"""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from kar.errors import SourceError
from kar.llm.batch.lines import Result, custom_id_of, read_result
from kar.llm.transport import MAX_ANSWER_BYTES

_MAX_LINE_BYTES = 2 * MAX_ANSWER_BYTES
_EXAMPLES = 20


@dataclass
class Faults:
    """Lines that are no results: how many, and the first ones in words."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, words: str) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(words)


class Results:
    """The lines of some result files. Use as a context manager.

    Args:
        paths: JSONL files.

    Raises:
        SourceError: a file that is not there or cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.faults = Faults()
        self._stack = contextlib.ExitStack()
        self._files: list[IO[bytes]] = []
        hashes, files, offsets = array("Q"), array("L"), array("Q")
        try:
            for number, path in enumerate(paths):
                self._files.append(self._stack.enter_context(path.open("rb")))
                for offset, custom_id in self._read(path, self._files[-1]):
                    hashes.append(_hash(custom_id))
                    files.append(number)
                    offsets.append(offset)
        except OSError as error:
            self._stack.close()
            raise SourceError(f"{path} cannot be read: {error.strerror}", "name the file that the batch wrote") from error
        self._hashes: npt.NDArray[np.uint64] = np.array(hashes, np.uint64)
        order = np.argsort(self._hashes, kind="stable")
        self._hashes = self._hashes[order]
        self._file_of, self._offset_of = np.array(files, np.int64)[order], np.array(offsets, np.int64)[order]
        self._was_taken = np.zeros(len(self._hashes), np.bool_)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def lines(self) -> int:
        """Lines that are results."""
        return len(self._hashes)

    def of(self, keys: Sequence[str]) -> dict[str, list[Result]]:
        """The results of some requests, each key's in the order of the files. Keys without one are left out."""
        wanted = set(keys)
        hashes = np.array([_hash(key) for key in keys], np.uint64)
        first, after = np.searchsorted(self._hashes, hashes, "left"), np.searchsorted(self._hashes, hashes, "right")
        places = np.unique(np.concatenate([np.arange(a, b) for a, b in zip(first, after, strict=True)] or [np.zeros(0, np.int64)]))
        found: dict[str, list[Result]] = {}
        for place in places[np.lexsort((self._offset_of[places], self._file_of[places]))].tolist():
            result = read_result(self._line(place))
            if result.custom_id in wanted:  # two ids may share 64 bits of their digests
                self._was_taken[place] = True
                found.setdefault(result.custom_id, []).append(result)
        return found

    def untaken(self) -> Faults:
        """The lines that `of` was never asked about, by their custom ids."""
        left = Faults()
        for place in np.flatnonzero(~self._was_taken)[:_EXAMPLES].tolist():
            left.add(custom_id_of(self._line(place))[:80])
        left.count = int((~self._was_taken).sum())
        return left

    def _read(self, path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
        """Offset and custom id of each line; lines that are no results are counted."""
        number = offset = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number, at, offset = number + 1, offset, offset + len(line)
            if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                self.faults.add(f"{path.name} line {number}: it is longer than {_MAX_LINE_BYTES} bytes")
                while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    offset += len(rest)
                offset += len(rest)
                continue
            if not line.strip():
                continue
            try:
                yield at, custom_id_of(line)
            except ValueError as error:
                self.faults.add(f"{path.name} line {number}: {error}")

    def _line(self, place: int) -> bytes:
        file = self._files[int(self._file_of[place])]
        file.seek(int(self._offset_of[place]))
        return file.readline(_MAX_LINE_BYTES)


def _hash(custom_id: str) -> int:
    return int.from_bytes(hashlib.sha256(custom_id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
