"""The stage's tables as resident tensors (`kar.model.batches.TrainingData`), for one base.

Shape suffixes as in `batches`; besides: U distinct users · I distinct items · W windows
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from kar.errors import ModelError
from kar.model import profile
from kar.model.bases import Base
from kar.model.batches import SPLITS, Bool, Lists, Side, TrainingData
from kar.model.vocabulary import Fields, Int64, Vocabulary, first_values

HOUR, USER_MEAN, ITEM_MEAN = "hour of day", "mean of user", "mean of item"  # with spaces: no attribute is named so


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

    seen_items = np.unique(item_V[seen_V])
    trained_I, trained_U = np.zeros(len(item_ids), bool), np.zeros(len(user_ids), bool)
    trained_I[seen_items[~is_held_out_I[seen_items]]] = True
    trained_U[user_E[train_E]] = True
    by_place = item_attribute.sort_by([("item_id", "ascending"), ("place", "ascending")])
    listed = {name: profile.listed(item_ids, by_place, name) for name in base.item_lists}
    of_item = {name: _fitted(values, trained_I, *_also(listed, name, trained_I)) for name, values in _item_values(item_ids, by_place, base)}
    of_user = {name: _fitted(values, trained_U) for name, values in _user_values(user_ids, user_attribute, base)}
    of_example = {}
    if base.has_hour:
        of_example[HOUR] = _fitted(profile.hours(example["event_at"]), train_E)
    label_V = _ints(sequence["label"])
    if base.has_means:
        is_free_V = profile.is_free(_ints(sequence["position"]), user_V, position_E, user_E)
        value_V = np.where(is_free_V, profile.values(sequence["rating"], label_V), np.nan)
        at_V = _ints(sequence["event_at"].cast(pa.int64()))
        mean_E = profile.item_means(value_V, item_V, at_V, item_E, at_V[own_E])
        of_user[USER_MEAN] = _fitted(profile.user_means(value_V, user_V, len(user_ids)), trained_U)
        of_example[ITEM_MEAN] = _fitted(pc.if_else(pa.array(is_held_out_I[item_E]), None, mean_E), train_E)
    rating = pc.round(pc.if_else(pc.is_finite(sequence["rating"]), sequence["rating"], None))
    of_event = {"rating": _fitted(rating, seen_V)}

    blocks = {**of_item, **of_user, **of_example, **of_event}
    fields = Fields({name: block.vocabulary.size for name, block in blocks.items()})
    code = {name: (block.codes + fields.offset(name)).astype(np.int32) for name, block in blocks.items()}
    single = [code[n][item_E] for n in of_item] + [code[n][user_E] for n in of_user] + [code[n] for n in of_example]
    to = torch.device(device)
    return TrainingData(
        fields=fields,
        target_fields=tuple(of_item),
        profile_fields=(*of_user, *of_example),
        single_ES=_tensor(single, to).t().contiguous(),
        start_E=torch.from_numpy(start_E).to(to),
        length_E=torch.from_numpy(length_E).to(to),
        event_KV=_tensor([*(code[n][item_V] for n in of_item), code["rating"]], to),
        label_V=torch.from_numpy(label_V.astype(np.int8)).to(to),
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
        vocabularies={name: block.vocabulary for name, block in blocks.items()},
        lists=_lists(listed, of_item, fields, item_E, len(item_ids), to) if listed else None,
    )


@dataclass(frozen=True)
class _Block:
    """One field: its vocabulary, and the code of each of its values, counted from the block's beginning."""

    vocabulary: Vocabulary
    codes: Int64


def _fitted(values: pa.Array | pa.ChunkedArray, trained: Int64 | Bool, *more: pa.Array) -> _Block:
    """Codes of values, by a vocabulary of those that training shows.

    Args:
        trained: which of the values training shows, as a mask or as rows.
        more: other values that training shows.
    """
    shown = values.filter(pa.array(trained)) if trained.dtype == np.bool_ else values.take(pa.array(trained))
    chunks = [part for found in (shown, *more) for part in (found.chunks if isinstance(found, pa.ChunkedArray) else [found])]
    vocabulary = Vocabulary.of(pa.chunked_array(chunks, values.type))
    return _Block(vocabulary, vocabulary.codes(values))


def _item_values(item_ids: pa.Array, by_place: pa.Table, base: Base) -> list[tuple[str, pa.Array]]:
    """(field, value per item): the id, and the first value of each attribute."""
    found = [("item_id", item_ids)]
    for name in base.item_fields:
        found.append((name, first_values(item_ids, by_place["item_id"], by_place["name"], by_place["value"], name)))
    return _there(found, "item")


def _user_values(user_ids: pa.Array, attribute: pa.Table, base: Base) -> list[tuple[str, pa.Array]]:
    """(field, value per user)."""
    found = [("user_id", user_ids)] if base.has_user_id else []
    for name in base.user_fields:
        values = first_values(user_ids, attribute["user_id"], attribute["name"], attribute["value"], name)
        found.append((f"user {name}", values))  # an item attribute may have the same name
    return _there(found, "user")


def _there(found: list[tuple[str, pa.Array]], side: Side) -> list[tuple[str, pa.Array]]:
    """Those fields; raises ModelError for one that nobody has a value of."""
    for name, values in found:
        if values.null_count == len(values):
            attribute = name.removeprefix("user ")
            raise ModelError(f"no {side} has the attribute {attribute!r}", f"name an attribute of the tables in adaptor.{side}_fields")
    return found


def _also(listed: dict[str, tuple[Int64, pa.Array]], name: str, trained_I: Bool) -> list[pa.Array]:
    """What training shows of an attribute's other values, where the base shows them all."""
    if name not in listed:
        return []
    row_X, values = listed[name]
    return [values.filter(pa.array(trained_I[row_X]))]


def _lists(
    listed: dict[str, tuple[Int64, pa.Array]], of_item: dict[str, _Block], fields: Fields, item_E: Int64, item_count: int, to: torch.device
) -> Lists:
    """Bags of codes per item and multi-valued field; a field shares the block of the same attribute's first value."""
    lengths = [np.bincount(row_X, minlength=item_count) for row_X, _ in listed.values()]
    starts = [np.cumsum(length_I) - length_I for length_I in lengths]
    before = np.cumsum([0, *(len(row_X) for row_X, _ in listed.values())])[:-1]
    codes = [of_item[name].vocabulary.codes(values) + fields.offset(name) for name, (_, values) in listed.items()]
    return Lists(
        names=tuple(f"all {name}" for name in listed),
        code_X=torch.from_numpy(np.concatenate(codes).astype(np.int32)).to(to),
        first_IM=torch.from_numpy(np.stack([start_I + first for start_I, first in zip(starts, before, strict=True)], axis=1)).to(to),
        length_IM=torch.from_numpy(np.stack(lengths, axis=1)).to(to),
        item_E=torch.tensor(item_E, device=to),
    )


def _standing(example_item: pa.Table, item_ids: pa.Array, example: pa.Table) -> tuple[Bool, Bool]:
    """[items] whether each is held out of training, and whether its texts are older than every example."""
    row_I = _rows(pa.chunked_array([item_ids]), example_item["item_id"].combine_chunks())
    if (row_I < 0).any():
        raise ModelError("the table example_item lacks an item of the table sequence", "make the examples again: kar run examples")
    found = example_item.take(pa.array(row_I))
    oldest = pc.min(example["event_at"])
    is_older = pc.fill_null(pc.less(found["evidence_newest_at"], oldest), True)  # null: its texts have seen no event
    return found["is_held_out"].to_numpy().astype(bool), is_older.to_numpy().astype(bool)


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
