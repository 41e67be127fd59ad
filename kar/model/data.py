"""The stage's tables as resident tensors (`kar.model.batches.TrainingData`), for one base.

Shape suffixes as in `batches`; besides: U distinct users · I distinct items · W windows
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from kar.errors import ModelError
from kar.model.bases import Base
from kar.model.batches import SPLITS, Bool, Side, TrainingData
from kar.model.vocabulary import Fields, Int64, Vocabulary, first_values


def load(
    example: pa.Table,
    example_item: pa.Table,
    sequence: pa.Table,
    user_attribute: pa.Table,
    item_attribute: pa.Table,
    base: Base,
    device: str = "cpu",
) -> TrainingData:
    """Turn the stage's tables into resident tensors. Vocabularies are fitted on the training examples and their histories alone,
    and hold no id of an item that is held out of training.

    Args:
        example, example_item, sequence, user_attribute, item_attribute: as declared in `kar.tables`, in file order.

    Raises:
        ModelError: no rows in a split, one class only in train or valid, a label that is not 0 or 1, or an example that is not
            in its user's sequence.
    """
    item_ids = _sorted_unique(sequence["item_id"])
    is_held_out_I, may_meet_I = _standing(example_item, item_ids, example)
    user_ids = _sorted_unique(sequence["user_id"])
    user_V, item_V = _rows(sequence["user_id"], user_ids), _rows(sequence["item_id"], item_ids)
    user_E, item_E = _rows(example["user_id"], user_ids), _rows(example["item_id"], item_ids)
    offset_U = np.searchsorted(user_V, np.arange(len(user_ids) + 1))
    position_E = _ints(example["position"])
    own_E = offset_U[user_E] + position_E
    _check_places(sequence, user_V, item_V, offset_U, user_E, item_E, own_E)
    split_rows, label_E = _splits(example)

    train_E = split_rows["train"]
    length_E = np.minimum(position_E, base.history_events)
    start_E = own_E - length_E
    seen_V = _windows(start_E[train_E], own_E[train_E] + 1, len(user_V))  # the training examples and their histories

    codes, sizes = {}, {}
    seen_items = np.unique(item_V[seen_V])
    in_training: dict[Side, Int64] = {"user": np.unique(user_E[train_E]), "item": seen_items[~is_held_out_I[seen_items]]}
    ids: dict[Side, pa.Array] = {"user": user_ids, "item": item_ids}
    for field, values, owner in _valued_fields(ids, user_attribute, item_attribute, base):
        vocabulary = Vocabulary.of(values.take(pa.array(in_training[owner])))
        codes[field], sizes[field] = vocabulary.codes(values), vocabulary.size
    rating = pc.round(pc.if_else(pc.is_finite(sequence["rating"]), sequence["rating"], None))
    ratings = Vocabulary.of(rating.filter(pa.array(seen_V)))
    codes["rating"], sizes["rating"] = ratings.codes(rating), ratings.size

    fields = Fields(sizes)
    target = ("item_id", *base.item_fields)
    profile = (*(("user_id",) if base.has_user_id else ()), *(_profile_name(name) for name in base.user_fields))
    code = {name: (codes[name] + fields.offset(name)).astype(np.int32) for name in sizes}
    to = torch.device(device)
    return TrainingData(
        fields=fields,
        target_fields=target,
        profile_fields=profile,
        single_ES=_tensor([*(code[n][item_E] for n in target), *(code[n][user_E] for n in profile)], to).t().contiguous(),
        start_E=torch.from_numpy(start_E).to(to),
        length_E=torch.from_numpy(length_E).to(to),
        event_KV=_tensor([*(code[n][item_V] for n in target), code["rating"]], to),
        label_V=torch.from_numpy(_ints(sequence["label"]).astype(np.int8)).to(to),
        label_E=torch.from_numpy(label_E.astype(np.float32)).to(to),
        user_E=user_E,
        item_E=item_E,
        item_V=item_V,
        user_ids=user_ids,
        item_ids=item_ids,
        example_id_E=_ints(example["example_id"]),
        split_rows=split_rows,
        train_count_E=np.bincount(item_E[train_E], minlength=len(item_ids))[item_E],
        may_meet_I=may_meet_I,
    )


def _valued_fields(
    ids: dict[Side, pa.Array], user_attribute: pa.Table, item_attribute: pa.Table, base: Base
) -> list[tuple[str, pa.Array, Side]]:
    """(field, value per distinct subject, side) of the ids and the attributes that the settings name."""
    user_ids, item_ids = ids["user"], ids["item"]
    by_place = item_attribute.sort_by([("item_id", "ascending"), ("place", "ascending")])
    found: list[tuple[str, pa.Array, Side]] = [("item_id", item_ids, "item")]
    for name in base.item_fields:
        found.append((name, first_values(item_ids, by_place["item_id"], by_place["name"], by_place["value"], name), "item"))
    if base.has_user_id:
        found.append(("user_id", user_ids, "user"))
    for name in base.user_fields:
        table = user_attribute
        found.append((_profile_name(name), first_values(user_ids, table["user_id"], table["name"], table["value"], name), "user"))
    for name, values, side in found:
        if values.null_count == len(values):
            raise ModelError(f"no {side} has the attribute {name!r}", f"name an attribute of the tables in adaptor.{side}_fields")
    return found


def _standing(example_item: pa.Table, item_ids: pa.Array, example: pa.Table) -> tuple[Bool, Bool]:
    """[items] whether each is held out of training, and whether its texts are older than every example."""
    row_I = _rows(pa.chunked_array([item_ids]), example_item["item_id"].combine_chunks())
    if (row_I < 0).any():
        raise ModelError("the table example_item lacks an item of the table sequence", "make the examples again: kar run examples")
    found = example_item.take(pa.array(row_I))
    oldest = pc.min(example["event_at"])
    is_older = pc.fill_null(pc.less(found["evidence_newest_at"], oldest), True)  # null: its texts have seen no event
    return found["is_held_out"].to_numpy().astype(bool), is_older.to_numpy().astype(bool)


def _profile_name(name: str) -> str:
    """A user attribute's field; an item attribute may have the same name."""
    return f"user {name}"


def _splits(example: pa.Table) -> tuple[dict[str, Int64], Int64]:
    label_E = _ints(example["label"])
    if not np.isin(label_E, (0, 1)).all():
        raise ModelError(f"labels are 0 or 1, there is {label_E[~np.isin(label_E, (0, 1))][0]}", "mend examples.label")
    split_rows: dict[str, Int64] = {split: np.flatnonzero(pc.equal(example["split"], split).to_numpy()) for split in SPLITS}
    for split, rows in split_rows.items():
        if not len(rows):
            raise ModelError(f"there are no {split} examples", "use more data, or another examples.split, valid_share or test_share")
        if split != "test" and len(np.unique(label_E[rows])) < 2:
            raise ModelError(f"all {len(rows)} {split} examples have the label {label_E[rows[0]]}", "mend examples.label, or use more data")
    return split_rows, label_E


def _check_places(sequence: pa.Table, user_V: Int64, item_V: Int64, offset_U: Int64, user_E: Int64, item_E: Int64, own_E: Int64) -> None:
    """Positions count a user's events without gap, and an example stands at its own place: else a history could hold its label."""
    if len(user_V) and ((np.diff(user_V) < 0).any() or (_ints(sequence["position"]) != np.arange(len(user_V)) - offset_U[user_V]).any()):
        raise ModelError("the table sequence is not in (user_id, position) order without gaps", "make the examples again")
    in_sequence = (user_E >= 0) & (own_E >= offset_U[user_E]) & (own_E < offset_U[user_E + 1])
    if not in_sequence.all() or (item_V[own_E] != item_E).any():
        raise ModelError("an example is not at its position in the table sequence", "make the examples again")


def _windows(start_W: Int64, end_W: Int64, length: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """[length] whether a place lies in any window [start, end)."""
    opened = np.bincount(start_W, minlength=length + 1) - np.bincount(end_W, minlength=length + 1)
    return np.asarray(np.cumsum(opened)[:length] > 0)


def _sorted_unique(column: pa.ChunkedArray) -> pa.Array:
    found = pc.unique(column)
    return found.take(pc.array_sort_indices(found))


def _rows(column: pa.ChunkedArray, ids: pa.Array) -> Int64:
    """[rows] each id's place among `ids`; −1: not there."""
    found = pc.index_in(column, value_set=ids).cast(pa.int64())
    return np.asarray(pc.fill_null(found, -1).to_numpy())


def _ints(column: pa.ChunkedArray) -> Int64:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _tensor(columns: list[np.ndarray[tuple[int, ...], np.dtype[np.int32]]], to: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(columns)).to(to)
