"""Train, valid and test of the interactions: random 8:1:1 within each user, or by time.

Shape suffixes: P pairs of a user and an item · U users · I items

A pair counts once, by its first event: its time and its label. What is to be found are the positive pairs of a part; what a user met in train,
liked or not, is never ranked for him.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ModelError

Protocol = Literal["random", "temporal"]
Int64 = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Bool = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
HELD_SHARE = 0.1
"""Of the pairs: test, and as much again valid."""
_TRAIN, _VALID, _TEST = 0, 1, 2


@dataclass(frozen=True)
class Pairs:
    """Who met what, each pair once.

    Args:
        user_P, item_P: codes; pairs in the order of user and item.
        is_positive_P: whether the first event's label is 1.
        at_P: when it was, microseconds.
        user_ids, item_ids: code → id as text.
    """

    user_P: Int64
    item_P: Int64
    is_positive_P: Bool
    at_P: Int64
    user_ids: pa.Array
    item_ids: pa.Array

    @property
    def key_P(self) -> Int64:  # noqa: N802  (a shape suffix)
        """One number per pair, rising."""
        return self.user_P * len(self.item_ids) + self.item_P

    @classmethod
    def of(cls, sequence: pa.Table) -> Pairs:
        """The pairs of the table sequence, whose rows stand in each user's order."""
        codes, ids = [], []
        for name in ("user_id", "item_id"):
            found = sequence[name].combine_chunks().dictionary_encode()
            codes.append(found.indices.to_numpy().astype(np.int64))
            ids.append(pc.cast(found.dictionary, pa.string()))
        # np.unique gives the first place of each key: the earliest event
        key, first = np.unique(codes[0] * len(ids[1]) + codes[1], return_index=True)
        at = pc.cast(sequence["event_at"], pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        label = sequence["label"].to_numpy()
        width = max(len(ids[1]), 1)
        return cls(key // width, key % width, label[first] == 1, at[first], ids[0], ids[1])


@dataclass(frozen=True)
class Split:
    """One cut of the pairs.

    Args:
        number: 0 …; temporal has 0 alone.
        train_P: rows of all pairs of train.
        held_P: rows of all other pairs, what a text may not have seen.
        valid_P, test_P: rows of the pairs to be found.
        is_candidate_I: items that are ranked.
        left_out: positive pairs of valid and test that nobody could find; see `cut`.
        held_at: the earliest time of `held_P`, microseconds.
    """

    protocol: Protocol
    number: int
    train_P: Int64
    held_P: Int64
    valid_P: Int64
    test_P: Int64
    is_candidate_I: Bool
    left_out: int
    held_at: int

    def __str__(self) -> str:
        return f"{self.protocol} split {self.number}"


def cut(pairs: Pairs, protocol: Protocol, number: int, seed: int) -> Split:
    """The split of that number.

    random: of each user's pairs a tenth (at least one) is test, a tenth valid, drawn; users of fewer than three pairs are all train. Every
    item that anybody met is ranked.
    temporal: the last tenth of all pairs is test, the tenth before it valid; pairs of one instant stay together. Items that nobody met in
    train are not ranked.
    A pair whose user has no positive pair in train, or whose item is not ranked, is not looked for.

    Raises:
        ModelError: nothing to train on, or nothing to find.
    """
    part_P = _drawn(pairs, seed, number) if protocol == "random" else _by_time(pairs)
    is_train_P = part_P == _TRAIN
    is_known_U = np.zeros(len(pairs.user_ids), bool)
    is_known_U[pairs.user_P[is_train_P & pairs.is_positive_P]] = True
    is_candidate_I = np.ones(len(pairs.item_ids), bool)
    if protocol == "temporal":
        is_candidate_I = np.bincount(pairs.item_P[is_train_P], minlength=len(pairs.item_ids)) > 0
    is_found_P = pairs.is_positive_P & is_known_U[pairs.user_P] & is_candidate_I[pairs.item_P]
    held_P = np.flatnonzero(~is_train_P)
    left_out = int((pairs.is_positive_P & ~is_found_P & ~is_train_P).sum())
    parts = [np.flatnonzero(is_found_P & (part_P == part)) for part in (_VALID, _TEST)]
    for name, rows in zip(("valid", "test"), parts, strict=True):
        if not len(rows):
            raise ModelError(
                f"retrieval: the {protocol} split {number} has no positive pair in {name} of a user who has one in train",
                "more interactions are needed, or leave the protocol out of retrieval.protocols",
            )
    held_at = int(pairs.at_P[held_P].min())
    return Split(protocol, number, np.flatnonzero(is_train_P), held_P, parts[0], parts[1], is_candidate_I, left_out, held_at)


def _drawn(pairs: Pairs, seed: int, number: int) -> Int64:
    """The part of each pair, users each for themselves."""
    user_P = pairs.user_P
    order = np.lexsort((np.random.default_rng([seed, number]).random(len(user_P)), user_P))
    count_U = np.bincount(user_P, minlength=len(pairs.user_ids))
    place_P = np.empty(len(user_P), np.int64)
    place_P[order] = np.arange(len(user_P)) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    held_U = np.where(count_U >= 3, np.maximum(1, np.rint(HELD_SHARE * count_U).astype(np.int64)), 0)
    held_P = held_U[user_P]
    return np.where(place_P < held_P, _TEST, np.where(place_P < 2 * held_P, _VALID, _TRAIN))


def _by_time(pairs: Pairs) -> Int64:
    """The part of each pair by two instants."""
    count = len(pairs.at_P)
    if not count:
        return np.empty(0, np.int64)
    at = np.sort(pairs.at_P)
    valid_at, test_at = (at[min(int(count * (1 - share)), count - 1)] for share in (2 * HELD_SHARE, HELD_SHARE))
    return np.where(pairs.at_P >= test_at, _TEST, np.where(pairs.at_P >= valid_at, _VALID, _TRAIN))
