"""Candidate lists: some consecutive examples of a user, and beside them items that the user never met.

A group of up to `rerank.real_items` consecutive examples of one user and split, at least one of them positive, is filled up to
`rerank.list_length` with negatives. A negative is drawn from the items that stand nowhere in the user's sequence: neither before the list
nor after it, so that no negative is a positive of another list. Besides, it obeys what a real example obeys, so that what is known of an
item cannot tell which it is:
* in train, it is no item that is held out of training;
* it was first met by someone before the split's last example: an item of the future is no candidate;
* no text about it has seen an event at or after the list's first example (`examples` rejects such examples).
A user who has met nearly every item gets a shorter list. The candidates' order within the list is drawn: it knows nothing of labels.

Shape suffixes: E examples · V events · U users · I items · L lists · N places of a list · R real ones of it · M negatives of it
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ModelError
from kar.model.batches import SPLITS, Bool, TrainingData
from kar.model.vocabulary import Int64
from kar.settings import RerankSettings

_ROUNDS = 20
"""Redraws of all negatives at once before what is still missing is drawn list by list."""


@dataclass(frozen=True)
class Lists:
    """The candidate lists of a partition.

    Args:
        item_LN: rows of `TrainingData.item_ids`; −1: no candidate, always at the end.
        label_LN: 1 or 0.
        position_LN: a real item's place in its user's sequence; −1: a negative, or no candidate.
        example_L: the example row of the list's first real item; user, history and time are its.
        user_L: rows of `TrainingData.user_ids`.
        split_rows: split → lists.
    """

    item_LN: Int64
    label_LN: Int64
    position_LN: Int64
    example_L: Int64
    user_L: Int64
    split_rows: dict[str, Int64]

    @property
    def is_item_LN(self) -> Bool:  # noqa: N802  [L, N], like the arrays above
        return np.asarray(self.item_LN >= 0)


@dataclass(frozen=True)
class Met:
    """Who has met what, and when an item may be a negative.

    Args:
        pair: user · items + item of every event, sorted.
        first_at_I: first event of each item, µs.
        text_at_I: newest event that any text about it has seen, µs; the smallest number if they saw none.
    """

    pair: Int64
    first_at_I: Int64
    text_at_I: Int64

    @classmethod
    def of(cls, data: TrainingData, sequence: pa.Table, example_item: pa.Table) -> Met:
        items = len(data.item_ids)
        user_V = np.asarray(pc.index_in(sequence["user_id"], value_set=data.user_ids).to_numpy(), dtype=np.int64)
        at_V = micros(sequence["event_at"])
        first_at_I = np.full(items, np.iinfo(np.int64).max)
        np.minimum.at(first_at_I, data.item_V, at_V)
        found = example_item.take(pc.index_in(data.item_ids, value_set=example_item["item_id"].combine_chunks()))
        text_at_I = np.where(found["evidence_newest_at"].is_null().to_numpy(), np.iinfo(np.int64).min, micros(found["evidence_newest_at"]))
        return cls(np.unique(user_V * items + data.item_V), first_at_I, text_at_I)

    def has(self, user: Int64, item: Int64) -> Bool:
        """Whether the user has an event with the item; arrays of one shape."""
        wanted = user * len(self.first_at_I) + item
        place = np.minimum(np.searchsorted(self.pair, wanted), len(self.pair) - 1)
        return np.asarray(self.pair[place] == wanted)


def micros(column: pa.ChunkedArray) -> Int64:
    """[rows] times as µs since 1970; null: 0."""
    return np.asarray(pc.fill_null(column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()), 0).to_numpy(), dtype=np.int64)


def build(
    data: TrainingData, example: pa.Table, example_item: pa.Table, sequence: pa.Table, settings: RerankSettings
) -> tuple[Lists, dict[str, int]]:
    """Lists of every split, and how many groups were left out for which reason.

    Args:
        data: loaded from the same tables.
        example, example_item, sequence: as declared in `kar.tables`, in file order.

    Raises:
        ModelError: a split without any list.
    """
    draw = np.random.default_rng(settings.draw_seed)
    split_E = np.empty(len(data.user_E), np.int64)
    for number, split in enumerate(SPLITS):
        split_E[data.split_rows[split]] = number
    position_E = np.asarray(example["position"].to_numpy(), dtype=np.int64)
    real_LR, example_L = _groups(data.user_E, split_E, position_E, data.item_E, settings.real_items)
    label_LR = np.where(real_LR >= 0, np.asarray(data.label_E.cpu().numpy()[real_LR], dtype=np.int64), 0)

    has_positive = label_LR.any(axis=1)
    left_out = {"no_positive": int((~has_positive).sum())}
    real_LR, label_LR, example_L = (found[has_positive] for found in (real_LR, label_LR, example_L))
    is_kept = _kept(data.user_E[example_L], split_E[example_L], settings.lists_per_user, draw)
    left_out["over_cap"] = int((~is_kept).sum())
    real_LR, label_LR, example_L = (found[is_kept] for found in (real_LR, label_LR, example_L))

    negative_LM = _negatives(
        data, Met.of(data, sequence, example_item), example_L, real_LR, split_E, micros(example["event_at"]), settings, draw
    )
    item_LN = np.concatenate([np.where(real_LR >= 0, data.item_E[real_LR], -1), negative_LM], axis=1)
    label_LN = np.concatenate([label_LR, np.zeros_like(negative_LM)], axis=1)
    position_LN = np.concatenate([np.where(real_LR >= 0, position_E[real_LR], -1), np.full_like(negative_LM, -1)], axis=1)
    order_LN = np.where(item_LN >= 0, draw.random(item_LN.shape), 2.0).argsort(axis=1)[:, : settings.list_length]
    item_LN, label_LN, position_LN = (np.take_along_axis(found, order_LN, axis=1) for found in (item_LN, label_LN, position_LN))

    is_mixed = ((item_LN >= 0) & (label_LN == 0)).any(axis=1)
    left_out["no_negative"] = int((~is_mixed).sum())
    item_LN, label_LN, position_LN, example_L = (found[is_mixed] for found in (item_LN, label_LN, position_LN, example_L))
    split_rows: dict[str, Int64] = {split: np.flatnonzero(split_E[example_L] == number) for number, split in enumerate(SPLITS)}
    for split, rows in split_rows.items():
        if not len(rows):
            raise ModelError(f"rerank: there is no {split} list, that is no group of {split} examples with a positive", "use more data")
    return Lists(item_LN, label_LN, position_LN, example_L, data.user_E[example_L], split_rows), left_out


def _groups(user_E: Int64, split_E: Int64, position_E: Int64, item_E: Int64, size: int) -> tuple[Int64, Int64]:
    """Consecutive examples of one user and split in groups of `size`: example rows [L, R], −1 where a group is shorter, and each group's first.

    An item that comes twice in a group counts the first time.
    """
    order = np.lexsort((position_E, split_E, user_E))
    is_run = np.ones(len(order), bool)
    is_run[1:] = (user_E[order][1:] != user_E[order][:-1]) | (split_E[order][1:] != split_E[order][:-1])
    place = np.arange(len(order)) - np.flatnonzero(is_run)[np.cumsum(is_run) - 1]
    group = np.cumsum(place % size == 0) - 1
    real_LR = np.full((int(group[-1]) + 1, size), -1)
    real_LR[group, place % size] = order
    item_LR = np.where(real_LR >= 0, item_E[real_LR], -1)
    for number in range(1, size):
        again = (item_LR[:, :number] == item_LR[:, [number]]).any(axis=1)
        real_LR[again, number] = -1
    return real_LR, real_LR[:, 0].copy()


def _kept(user_L: Int64, split_L: Int64, most: int | None, draw: np.random.Generator) -> Bool:
    """[L] a drawn `most` lists of each user and split; None: all."""
    if most is None:
        return np.ones(len(user_L), bool)
    order = np.lexsort((draw.random(len(user_L)), split_L, user_L))
    is_run = np.ones(len(order), bool)
    is_run[1:] = (user_L[order][1:] != user_L[order][:-1]) | (split_L[order][1:] != split_L[order][:-1])
    place = np.arange(len(order)) - np.flatnonzero(is_run)[np.cumsum(is_run) - 1]
    is_kept = np.zeros(len(order), bool)
    is_kept[order[place < most]] = True
    return is_kept


def _negatives(
    data: TrainingData,
    met: Met,
    example_L: Int64,
    real_LR: Int64,
    split_E: Int64,
    at_E: Int64,
    settings: RerankSettings,
    draw: np.random.Generator,
) -> Int64:
    """[L, M] drawn items, distinct within a list; −1 where a list needs fewer or no more are left."""
    wanted_L = settings.list_length - (real_LR >= 0).sum(axis=1)
    negative_LM = np.full((len(example_L), settings.list_length - 1), -1)
    for number, split in enumerate(SPLITS):
        of_split = np.flatnonzero(split_E[example_L] == number)
        if not len(of_split):
            continue
        is_allowed_I = met.first_at_I <= at_E[data.split_rows[split]].max()
        if split == "train":
            is_allowed_I &= ~data.is_held_out_I
        pool = np.flatnonzero(is_allowed_I)
        weight = data.train_count_I[pool] + 1.0 if settings.negatives == "popularity" else np.ones(len(pool))
        at_L, user_L = at_E[example_L[of_split]], data.user_E[example_L[of_split]]
        negative_LM[of_split] = _drawn(met, user_L, at_L, wanted_L[of_split], pool, weight / weight.sum(), negative_LM.shape[1], draw)
    return negative_LM


def _drawn(
    met: Met, user_L: Int64, at_L: Int64, wanted_L: Int64, pool: Int64, share: np.ndarray, width: int, draw: np.random.Generator
) -> Int64:
    """[L, width] draw for all lists at once and redraw what may not be; then what is left, list by list."""
    found_LM = np.full((len(user_L), width), -1)
    is_wanted_LM = np.arange(width) < wanted_L[:, None]
    for _ in range(_ROUNDS):
        row, place = np.nonzero(is_wanted_LM & (found_LM < 0))
        if not len(row) or not len(pool):
            break
        item = draw.choice(pool, size=len(row), p=share)
        is_fit = ~met.has(user_L[row], item) & (met.text_at_I[item] < at_L[row])
        found_LM[row[is_fit], place[is_fit]] = item[is_fit]
        touched = np.unique(row)
        found_LM[touched] = _without_repeats(found_LM[touched])
    for number in np.flatnonzero((is_wanted_LM & (found_LM < 0)).any(axis=1)).tolist():
        found_M = found_LM[number]
        is_left = ~met.has(np.full(len(pool), user_L[number]), pool) & (met.text_at_I[pool] < at_L[number]) & ~np.isin(pool, found_M)
        gaps = np.flatnonzero(is_wanted_LM[number] & (found_M < 0))
        chosen = draw.permutation(pool[is_left])[: len(gaps)]
        found_M[gaps[: len(chosen)]] = chosen
    return found_LM


def _without_repeats(item_LM: Int64) -> Int64:
    """[L, M] every item but the first of equal ones replaced by −1."""
    is_same_LMM = item_LM[:, :, None] == item_LM[:, None, :]
    is_repeat_LM = np.tril(is_same_LMM, k=-1).any(axis=2)
    return np.where(is_repeat_LM, -1, item_LM)
