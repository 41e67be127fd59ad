"""A stable hash of ids: which bucket a subject lies in, and where a text is looked up. Whole arrays at a time.

The hash of an id is the same on every machine, in every process and in every version of this file: buckets of yesterday's
release would otherwise not be those of today's. It spreads; it keeps nothing secret.

Source: the finaliser of SplitMix64 (Steele, Lea & Flood 2014), over the 8-byte little-endian words of an id.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# the bytes of a word that belong to a text of which n bytes are left, n = 0 … 8
_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
_CHUNK = 16_384  # rows hashed at once: what they need stays in the core's own cache (65,536 take more than twice the time a row)


def hash_ids(ids: pa.Array) -> np.ndarray:
    """uint64 [N]. A number is one word; a text its UTF-8 bytes, the last word filled with zeros, and its length.

    Args:
        ids: int64 or string, without nulls.
    """
    hashed = np.empty(len(ids), np.uint64)
    one = _of_numbers if ids.type == pa.int64() else _of_texts
    for first in range(0, len(ids), _CHUNK):
        hashed[first : first + _CHUNK] = one(ids.slice(first, _CHUNK))
    return hashed


def buckets_of(ids: pa.Array, count: int) -> np.ndarray:
    """uint16 [N]: the bucket of each id among `count`, a power of two: the highest bits of its hash."""
    return np.zeros(len(ids), np.uint16) if count == 1 else buckets_of_hashes(hash_ids(ids), count)


def buckets_of_hashes(hashed: np.ndarray, count: int) -> np.ndarray:
    """As `buckets_of`, from `hash_ids`."""
    if count == 1:
        return np.zeros(len(hashed), np.uint16)
    return (hashed >> np.uint64(64 - (count.bit_length() - 1))).astype(np.uint16)


def _mix(words: np.ndarray, room: np.ndarray) -> None:
    """Mix in place; `room` is as long and holds what lies between: memory that is asked for anew costs more than the sums."""
    words += _GOLDEN
    np.right_shift(words, np.uint64(30), out=room)
    words ^= room
    words *= _FIRST
    np.right_shift(words, np.uint64(27), out=room)
    words ^= room
    words *= _SECOND
    np.right_shift(words, np.uint64(31), out=room)
    words ^= room


def _of_numbers(ids: pa.Array) -> np.ndarray:
    words: np.ndarray = ids.to_numpy().astype(np.uint64)
    _mix(words, np.empty_like(words))
    return words


def _of_texts(ids: pa.Array) -> np.ndarray:
    offsets, data = text_parts(ids)
    starts, lengths = offsets[:-1].astype(np.int64), np.diff(offsets).astype(np.int64)
    padded = np.zeros(len(data) + 8, np.uint8)  # so that the last word may be read whole
    padded[: len(data)] = data
    words_at = np.ndarray((len(data) + 1,), "<u8", padded, strides=(1,))  # the word that begins at each byte
    hashed, room = lengths.astype(np.uint64), np.empty(len(lengths), np.uint64)
    _mix(hashed, room)
    for first in range(0, int(lengths.max(initial=0)), 8):
        rows = np.flatnonzero(lengths > first)
        if len(rows) == len(lengths):  # all go on, as ids of one kind do at first
            hashed ^= words_at[starts + first] & _MASKS[np.minimum(lengths - first, 8)]
            _mix(hashed, room)
        else:
            words = hashed[rows] ^ words_at[starts[rows] + first] & _MASKS[np.minimum(lengths[rows] - first, 8)]
            _mix(words, room[: len(rows)])
            hashed[rows] = words
    return hashed


def text_parts(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int32 [N + 1], from 0 on, and the UTF-8 bytes of a string array; nulls are empty."""
    _, offsets_buffer, data_buffer = texts.buffers()
    if offsets_buffer is None or not len(texts):
        return np.zeros(len(texts) + 1, np.int32), np.zeros(0, np.uint8)
    offsets = np.frombuffer(offsets_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return offsets - offsets[0], data[offsets[0] : offsets[-1]]
