"""What the examples and sequences show, summed up over parts of whole users: the ground on which vocabularies are fitted.

Shape suffixes as in `batches`; besides: U distinct users · I distinct items, of a part · W windows
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ModelError
from kar.model import profile
from kar.model.batches import SPLITS, Bool
from kar.model.vocabulary import Int64


@dataclass
class Seen:
    """What the parts so far showed; `add` them in file order.

    Args:
        history_events: the longest history.
        user_ids: of each part, ascending; `train_count_U`: training examples of each.
        item: item_id ascending, train_count, is_seen (in a training example or its history).
        ratings: of the histories of training examples.
        labels: (split, label) → examples.
        oldest_at: of all examples.
        hours: of the training examples, UTC.
        keeps_free: whether to keep the events that come before their user's first example, for means.
        free: those events: user (row), item_id, at, rating, label.
    """

    history_events: int
    keeps_free: bool = False
    user_ids: list[pa.Array] = field(default_factory=list)
    train_count_U: list[Int64] = field(default_factory=list)
    item: pa.Table = field(default_factory=lambda: pa.table({}))
    ratings: set[float] = field(default_factory=set)
    labels: Counter[tuple[str, int]] = field(default_factory=Counter)
    oldest_at: dt.datetime | None = None
    hours: set[int] = field(default_factory=set)
    _free: list[pa.Table] = field(default_factory=list)

    @property
    def free(self) -> pa.Table:
        return pa.concat_tables(self._free)

    def add(self, example: pa.Table, sequence: pa.Table) -> None:
        user_ids, item_ids = sorted_unique(sequence["user_id"]), sorted_unique(sequence["item_id"])
        user_V, item_V = rows(sequence["user_id"], user_ids), rows(sequence["item_id"], item_ids)
        user_E, item_E = rows(example["user_id"], user_ids), rows(example["item_id"], item_ids)
        offset_U = np.searchsorted(user_V, np.arange(len(user_ids) + 1))
        position_E = ints(example["position"])
        own_E = offset_U[user_E] + position_E
        if self.user_ids and len(user_ids) and not user_ids[0].as_py() > self.user_ids[-1][-1].as_py():
            raise ModelError("the tables example and sequence are not in user_id order", "make the examples again: kar run examples")
        _check_places(sequence, user_V, item_V, offset_U, user_E, item_E, own_E)
        is_train_E = self._count(example)

        own_W = own_E[is_train_E]
        seen_V = _windows(own_W - np.minimum(position_E[is_train_E], self.history_events), own_W + 1, len(user_V))
        if self.keeps_free:
            self._keep(sequence, user_V, profile.is_free(ints(sequence["position"]), user_V, position_E, user_E))
        self.hours.update(pc.unique(profile.hours(example["event_at"].filter(pa.array(is_train_E)))).to_pylist())
        self.user_ids.append(user_ids)
        self.train_count_U.append(np.bincount(user_E[is_train_E], minlength=len(user_ids)))
        is_seen_I = np.bincount(item_V[seen_V], minlength=len(item_ids)) > 0
        self._merge(item_ids, np.bincount(item_E[is_train_E], minlength=len(item_ids)), is_seen_I)
        self.ratings.update(pc.unique(rounded(sequence["rating"]).filter(pa.array(seen_V))).drop_null().to_pylist())
        oldest_at = pc.min(example["event_at"]).as_py()
        self.oldest_at = min((at for at in (self.oldest_at, oldest_at) if at is not None), default=None)

    def check(self) -> None:
        """Raise ModelError if a split is empty or cannot be learned from."""
        for split in SPLITS:
            of_split = [self.labels[split, label] for label in (0, 1)]
            if not any(of_split):
                raise ModelError(f"there are no {split} examples", "use more data, or another examples.split, valid_share or test_share")
            if split != "test" and not all(of_split):
                raise ModelError(
                    f"all {sum(of_split)} {split} examples have the label {int(of_split[1] > 0)}", "mend examples.label, or use more data"
                )

    def _count(self, example: pa.Table) -> Bool:
        """Count the labels; returns which examples are of train."""
        label_E = ints(example["label"])
        if not np.isin(label_E, (0, 1)).all():
            raise ModelError(f"labels are 0 or 1, there is {label_E[~np.isin(label_E, (0, 1))][0]}", "mend examples.label")
        is_of = {split: np.asarray(pc.equal(example["split"], split).to_numpy(), dtype=bool) for split in SPLITS}
        for split, is_of_split_E in is_of.items():
            liked = int(label_E[is_of_split_E].sum())
            self.labels[split, 1] += liked
            self.labels[split, 0] += int(is_of_split_E.sum()) - liked
        return is_of["train"]

    def _keep(self, sequence: pa.Table, user_V: Int64, is_free_V: Bool) -> None:
        before = sum(len(ids) for ids in self.user_ids)
        shown = pa.table(
            {
                "user": user_V + before,
                "item_id": sequence["item_id"],
                "at": sequence["event_at"].cast(pa.int64()),
                "rating": sequence["rating"],
                "label": sequence["label"],
            }
        )
        self._free.append(shown.filter(pa.array(is_free_V)))

    def _merge(self, item_ids: pa.Array, train_count_I: Int64, is_seen_I: Bool) -> None:
        found = pa.table({"item_id": item_ids, "train_count": train_count_I, "is_seen": is_seen_I})
        if self.item.num_rows:
            both = pa.concat_tables([self.item, found]).group_by("item_id").aggregate([("train_count", "sum"), ("is_seen", "any")])
            found = both.rename_columns(["item_id", "train_count", "is_seen"]).sort_by("item_id")
        self.item = found


def _check_places(sequence: pa.Table, user_V: Int64, item_V: Int64, offset_U: Int64, user_E: Int64, item_E: Int64, own_E: Int64) -> None:
    """Positions count a user's events without gap, and an example stands at its own place: else a history could hold its label."""
    if len(user_V) and ((np.diff(user_V) < 0).any() or (ints(sequence["position"]) != np.arange(len(user_V)) - offset_U[user_V]).any()):
        raise ModelError("the table sequence is not in (user_id, position) order without gaps", "make the examples again")
    in_sequence = (user_E >= 0) & (own_E >= offset_U[user_E]) & (own_E < offset_U[user_E + 1])
    if not in_sequence.all() or (item_V[own_E] != item_E).any():
        raise ModelError("an example is not at its position in the table sequence", "make the examples again")


def _windows(start_W: Int64, end_W: Int64, length: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """[length] whether a place lies in any window [start, end)."""
    opened = np.bincount(start_W, minlength=length + 1) - np.bincount(end_W, minlength=length + 1)
    return np.asarray(np.cumsum(opened)[:length] > 0)


def rounded(rating: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole stars; null where the source has no rating."""
    return pc.round(pc.if_else(pc.is_finite(rating), rating, None))


def sorted_unique(column: pa.ChunkedArray) -> pa.Array:
    found = pc.unique(column)
    return found.take(pc.array_sort_indices(found))


def rows(column: pa.ChunkedArray, ids: pa.Array) -> Int64:
    """[rows] each id's place among `ids`; −1: not there."""
    found = pc.index_in(column, value_set=ids).cast(pa.int64())
    return np.asarray(pc.fill_null(found, -1).to_numpy())


def ints(column: pa.ChunkedArray) -> Int64:
    return np.asarray(column.to_numpy(), dtype=np.int64)
