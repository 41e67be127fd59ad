"""What a ranker with a knowledge-aware history knows of a user, as one vector a label: the mean of the adapted vectors of the items of the
history, liked ones and disliked ones apart. The same definition as `kar.model.adapted.HistoryVectors.mean`, over all users at once.

Shape suffixes: H history events, of all users · U users · I items · D adapted width
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # these bring torch, which nothing here needs
    from kar.model.batches import Bool
    from kar.model.knowledge import Float32
    from kar.model.vocabulary import Int64

NEVER = np.iinfo(np.int64).min
"""Stands for "no time" among the µs."""


@dataclass(frozen=True)
class History:
    """Every user's newest events before the cutoff.

    Args:
        user_H, item_H: rows of the users and items.
        label_H: 1 liked, 0 disliked, −1 nothing is known.
        event_us_H: when, µs since 1970 UTC.
        user_count: U.
    """

    user_H: Int64
    item_H: Int64
    label_H: Int64
    event_us_H: Int64
    user_count: int


@dataclass(frozen=True)
class Items:
    """One item view.

    Args:
        vectors_ID: adapted; rows without knowledge are not read.
        has_knowledge_I: which have some.
        default_D: the learned default.
        seen_us_I: the newest event that the text has seen, µs; NEVER: none.
        asked_us_I: when it was written, µs; NEVER: unknown.
    """

    vectors_ID: Float32
    has_knowledge_I: Bool
    default_D: Float32
    seen_us_I: Int64
    asked_us_I: Int64


@dataclass(frozen=True)
class Means:
    """One label's means.

    Args:
        vectors_UD: the mean; the learned default where there is nothing to take it of.
        is_missing_U: there is nothing: no event with that label of an item with knowledge.
        seen_us_U: the newest event that the mean knows of, by the history or by the items' texts; NEVER where missing.
        asked_us_U: when the newest of the texts was written; NEVER where missing.
    """

    vectors_UD: Float32
    is_missing_U: Bool
    seen_us_U: Int64
    asked_us_U: Int64


def means(history: History, items: Items, label: int) -> Means:
    """The mean over each user's events with that label whose items have knowledge.

    Args:
        label: 1: liked, 0: disliked.
    """
    from scipy.sparse import csr_array  # here: the stages' imports should not wait for it

    counted = np.flatnonzero((history.label_H == label) & items.has_knowledge_I[history.item_H])
    user, item = history.user_H[counted], history.item_H[counted]
    shape = history.user_count, len(items.vectors_ID)
    weight_UI = csr_array((np.ones(len(counted), np.float32), (user, item)), shape=shape)  # an item met twice counts twice
    count_U = np.bincount(user, minlength=history.user_count)
    is_missing_U = count_U == 0
    sum_UD = weight_UI @ np.ascontiguousarray(items.vectors_ID, np.float32)
    vectors_UD = np.where(is_missing_U[:, None], items.default_D, sum_UD / np.maximum(count_U, 1)[:, None].astype(np.float32))
    # the newest event of the whole history: one more event, of whatever label, would have pushed out the oldest
    seen_us_U = _newest(history.user_H, history.event_us_H, history.user_count)
    seen_us_U = np.maximum(seen_us_U, _newest(user, items.seen_us_I[item], history.user_count))
    asked_us_U = _newest(user, items.asked_us_I[item], history.user_count)
    return Means(vectors_UD.astype(np.float32), is_missing_U, np.where(is_missing_U, NEVER, seen_us_U), asked_us_U)


def _newest(user: Int64, at_us: Int64, user_count: int) -> Int64:
    """[users] the newest of each user's times."""
    found = np.full(user_count, NEVER)
    np.maximum.at(found, user, at_us)
    return found
