"""What the rich base shows of an example besides ids and attributes: the hour, mean ratings, every value of an attribute.

No field of an example depends on an event that is at or after it, of any user, nor on a rating that some example asks for.

Shape suffixes as in `batches`; besides: U distinct users · I distinct items
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.model.batches import Bool
from kar.model.vocabulary import Int64

Float64 = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_STEPS = 10
"""Means are categories of a tenth of a star."""


def hours(event_at_E: pa.ChunkedArray) -> pa.Array:
    """[E] hour of the day, UTC."""
    return pc.hour(event_at_E).combine_chunks()


def values(rating_V: pa.ChunkedArray, label_V: Int64) -> Float64:
    """[V] what means are taken of: the rating; where the data have none at all (clicks), the label. NaN: no value."""
    rating = np.asarray(rating_V.to_numpy(), dtype=np.float64)
    if np.isfinite(rating).any():
        return np.where(np.isfinite(rating), rating, np.nan)
    return np.where(label_V >= 0, label_V.astype(np.float64), np.nan)


def is_free(position_V: Int64, user_V: Int64, position_E: Int64, user_E: Int64) -> Bool:
    """[V] whether an event comes before its user's first example; all events of a user without example do."""
    first_U = np.full(int(user_V.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first_U, user_E, position_E)
    return np.asarray(position_V < first_U[user_V])


def user_means(value_V: Float64, user_V: Int64, count: int) -> pa.Array:
    """[U] mean value of each user's events, as a category; null: he has none.

    Args:
        value_V: NaN: does not count.
        count: U.
    """
    has_value_V = np.isfinite(value_V)
    owner, value = user_V[has_value_V], value_V[has_value_V]
    total_U: Float64 = np.bincount(owner, value, minlength=count).astype(np.float64)  # of ints where nothing has a value
    return _categories(total_U, np.bincount(owner, minlength=count))


def item_means(value_V: Float64, item_V: Int64, at_V: Int64, item_E: Int64, at_E: Int64) -> pa.Array:
    """[E] mean value of the target item's events that are older than the example, as a category; null: there are none.

    Args:
        value_V: NaN: does not count.
        at_V, at_E: times, of one unit. An event of the example's own instant is not older.
    """
    has_value_V = np.isfinite(value_V)
    time_N = np.unique(at_V)
    steps = len(time_N) + 1
    place_V = item_V[has_value_V] * steps + np.searchsorted(time_N, at_V[has_value_V])  # by item, then by time
    order = np.argsort(place_V, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(value_V[has_value_V][order])])
    first_E = np.searchsorted(place_V[order], item_E * steps)
    end_E = np.searchsorted(place_V[order], item_E * steps + np.searchsorted(time_N, at_E))
    return _categories(total[end_E] - total[first_E], end_E - first_E)


def _categories(total: Float64, count: Int64) -> pa.Array:
    """Means in tenths; null where nothing was counted."""
    tenths = np.rint(np.round(total / np.maximum(count, 1) * _STEPS, 6)).astype(np.int64)  # 6: sums of two orders differ in the last bit
    return pa.array(tenths, mask=count == 0)


def listed(item_ids: pa.Array, by_place: pa.Table, name: str) -> tuple[Int64, pa.Array]:
    """Every value of an attribute: [X] item row, ascending, and value.

    Args:
        by_place: the table item_attribute in (item_id, place) order, `item_ids` being sorted alike; rows of other items are left out.
    """
    rows = by_place.filter(pc.and_(pc.equal(by_place["name"], name), pc.is_in(by_place["item_id"], value_set=item_ids)))
    row_X = pc.index_in(rows["item_id"], value_set=item_ids).cast(pa.int64())
    return np.asarray(row_X.to_numpy(), dtype=np.int64), rows["value"].combine_chunks()
