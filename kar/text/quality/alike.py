"""Near-duplicates among many texts: one generic profile that a model gives to everybody.

MinHash over 3-word runs (rensa), of which one byte per value is kept: b-bit minwise hashing (Li and König 2010). 64
bytes a text and its id are all that stays in memory. Four neighbouring bytes are one band: texts that share a band are
compared, and those alike in enough bytes are joined; then every text is held against its whole group.

Shape suffixes: N texts · V values of a sketch · G texts of one group
"""

from __future__ import annotations

from array import array

import numpy as np
from rensa import RMinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

VALUES = 64
_SEED = 20260101
_BAND = 4  # bytes; read as one uint32
_CHANCE = 1 / 256  # two unlike values share their last byte so often
_GROUP_SAMPLE = 2048  # of a larger group this many members stand for all
_BLOCK = 512


def sketch(words: list[str]) -> bytes:
    """64 bytes: the last byte of each MinHash value of the text's 3-word runs. Words in lower case."""
    minhash = RMinHash(num_perm=VALUES, seed=_SEED)
    minhash.update([*map(" ".join, zip(words, words[1:], words[2:], strict=False))] or words)
    return bytes(np.array(minhash.digest(), np.uint32).astype(np.uint8))


class Sketches:
    """The sketches of one view's texts. About 64 bytes and the subject's id a text."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ids = bytearray()
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._bytes) // VALUES

    def add(self, subject_id: str, words: list[str]) -> None:
        """Remember a text. Words in lower case."""
        self._bytes += sketch(words)
        self._ids += subject_id.encode()
        self._ends.append(len(self._ids))

    def subject_id(self, place: int) -> str:
        return self._ids[self._ends[place - 1] if place else 0 : self._ends[place]].decode()

    def alike(self, least_share: float) -> np.ndarray:
        """How many other texts each one is alike, int64 [N]; an estimate for groups of more than 2,048 texts.

        Args:
            least_share: of the 3-word runs of two texts that they share (Jaccard, estimated from 64 values).
        """
        sketch_NV = np.frombuffer(bytes(self._bytes), np.uint8).reshape(-1, VALUES)
        least = round(VALUES * (_CHANCE + (1 - _CHANCE) * least_share))
        count = len(sketch_NV)
        alike = np.zeros(count, np.int64)
        if count < 2:
            return alike
        left, right = _neighbours(sketch_NV, least)
        links = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(count, count))
        _, group_N = connected_components(links, directed=False)
        order = np.argsort(group_N, kind="stable")
        sizes = np.bincount(group_N)
        for end, size in zip(np.cumsum(sizes)[sizes > 1], sizes[sizes > 1], strict=True):
            members = order[end - size : end]
            alike[members] = _alike_in(sketch_NV[members], least)
        return alike


def _neighbours(sketch_NV: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of alike texts, enough to join every group: of each band, each text with the one before it and with the first."""
    lefts, rights = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for band_N in np.ascontiguousarray(sketch_NV).view(np.uint32).T:
        order = np.argsort(band_N, kind="stable")
        sorted_N = band_N[order]
        is_new = np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]])
        first = order[np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))]
        before = np.concatenate([order[:1], order[:-1]])
        for other in (first, before):
            left, right = order[~is_new], other[~is_new]
            for begin in range(0, len(left), 65_536):
                part_l, part_r = left[begin : begin + 65_536], right[begin : begin + 65_536]
                is_alike = (sketch_NV[part_l] == sketch_NV[part_r]).sum(axis=1) >= least
                lefts.append(part_l[is_alike])
                rights.append(part_r[is_alike])
    if not lefts:  # a single text
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(lefts), np.concatenate(rights)


def _alike_in(sketch_GV: np.ndarray, least: int) -> np.ndarray:
    """How many others of its group each text is alike, int64 [G]."""
    count = len(sketch_GV)
    step = -(-count // _GROUP_SAMPLE)
    sample = sketch_GV[::step]
    alike = np.empty(count, np.int64)
    for begin in range(0, count, _BLOCK):
        block = sketch_GV[begin : begin + _BLOCK]
        same = np.zeros((len(block), len(sample)), np.uint8)
        for value in range(VALUES):
            same += block[:, value, None] == sample[None, :, value]
        alike[begin : begin + _BLOCK] = (same >= least).sum(axis=1)
    return np.maximum(alike * step - 1, 0)
