"""Examples and histories as resident tensors, and batches gathered from them by row number: no Python per row.

Shape suffixes: E examples · V events · B examples of a batch · L longest history · H history events of a batch, all rows one after another
                S single-valued fields (item, its attributes, the user's) · K fields of a history event (item, its attributes, rating)

A code is a row of the one embedding table (`kar.model.vocabulary.Fields`). A history is the window [position − history_events,
position) of its user's sequence, cut at the sequence's start; it may be empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from kar.errors import ModelError
from kar.model.vocabulary import Fields, Int64, Vocabulary, first_values
from kar.settings import AdaptorSettings

Side = Literal["user", "item"]
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Batch:
    """Some examples, on the device.

    Args:
        single_BS: codes of the single-valued fields; the target's come first.
        start_B: first event of each history in `event_KV`.
        length_B: events of each history; 0: none.
        event_KV: codes of all events, of every user.
        label_B: 0.0 or 1.0.
        knowledge: one entry per kind.
    """

    single_BS: Tensor
    start_B: Tensor
    length_B: Tensor
    event_KV: Tensor
    label_B: Tensor
    knowledge: tuple[KindBatch, ...] = ()

    def history_in_line(self) -> tuple[Tensor, Tensor]:
        """Histories one after another: codes [K, H] and the first column of each example [B]."""
        before_B = torch.cumsum(self.length_B, 0) - self.length_B
        shift_H = torch.repeat_interleave(self.start_B - before_B, self.length_B)
        return self.event_KV.index_select(1, shift_H + torch.arange(len(shift_H), device=shift_H.device)), before_B

    def history_padded(self) -> tuple[Tensor, Tensor]:
        """Histories side by side, oldest first: codes [K, B, L] and whether a place holds an event [B, L].

        L is the batch's longest history, at least 1. Places without event hold the code of some event: mask them.
        """
        longest = max(int(self.length_B.max()), 1)
        place_L = torch.arange(longest, device=self.length_B.device)
        is_event_BL = place_L < self.length_B[:, None]
        index_BL = (self.start_B[:, None] + place_L).clamp_(max=self.event_KV.shape[1] - 1)
        return self.event_KV.index_select(1, index_BL.flatten()).view(-1, *index_BL.shape), is_event_BL


@dataclass(frozen=True)
class KindBatch:
    """One kind's knowledge for a batch: each distinct subject once.

    Args:
        view: the kind.
        vectors_NT: knowledge vectors of the N distinct subjects that have one.
        place_B: 0: no knowledge; n: row n − 1 of `vectors_NT`.
    """

    view: str
    vectors_NT: Tensor
    place_B: Tensor


@dataclass(frozen=True)
class Kind:
    """One kind's knowledge for all examples.

    Args:
        view: the kind.
        vectors_RT: row 0 is no knowledge and holds zeros.
        row_E: each example's row of `vectors_RT`.
    """

    view: str
    side: Side
    vectors_RT: Tensor
    row_E: Tensor

    def batch(self, examples_B: Tensor) -> KindBatch:
        row_B = self.row_E[examples_B]
        # a leading 0 makes place 0 "no knowledge" in every batch, without asking whether there is any
        row_U, place_U = torch.unique(torch.cat([row_B.new_zeros(1), row_B]), return_inverse=True)
        return KindBatch(self.view, self.vectors_RT.index_select(0, row_U[1:]), place_U[1:])


@dataclass(frozen=True)
class TrainingData:
    """All examples and events of a partition, resident on one device.

    Args:
        fields: the embedding table's blocks.
        target_fields: names of the target's fields: the first of `single_ES`, and of `event_KV`.
        profile_fields: names of the user's fields: the rest of `single_ES`.
        split_rows: split → example rows, in file order.
        user_ids, item_ids: distinct ids; `user_E`, `item_E` are rows of them.
        train_count_E: training examples of the target item.
    """

    fields: Fields
    target_fields: tuple[str, ...]
    profile_fields: tuple[str, ...]
    single_ES: Tensor
    start_E: Tensor
    length_E: Tensor
    event_KV: Tensor
    label_E: Tensor
    user_E: Int64
    item_E: Int64
    user_ids: pa.Array
    item_ids: pa.Array
    example_id_E: Int64
    split_rows: dict[str, Int64]
    train_count_E: Int64

    @property
    def device(self) -> torch.device:
        return self.label_E.device

    @property
    def history_fields(self) -> tuple[str, ...]:
        return (*self.target_fields, "rating")

    def batch(self, examples_B: Tensor, kinds: Sequence[Kind] = ()) -> Batch:
        """Gather a batch. `examples_B`: int64 rows, on the device."""
        return Batch(
            self.single_ES.index_select(0, examples_B),
            self.start_E.index_select(0, examples_B),
            self.length_E.index_select(0, examples_B),
            self.event_KV,
            self.label_E.index_select(0, examples_B),
            tuple(kind.batch(examples_B) for kind in kinds),
        )


def load(
    example: pa.Table, sequence: pa.Table, user_attribute: pa.Table, item_attribute: pa.Table, settings: AdaptorSettings
) -> TrainingData:
    """Turn the stage's tables into resident tensors. Vocabularies are fitted on the training examples and their histories alone.

    Args:
        example, sequence, user_attribute, item_attribute: as declared in `kar.tables`, in file order.

    Raises:
        ModelError: no rows in a split, one class only in train or valid, a label that is not 0 or 1, or an example that is not
            in its user's sequence.
    """
    user_ids, item_ids = _sorted_unique(sequence["user_id"]), _sorted_unique(sequence["item_id"])
    user_V, item_V = _rows(sequence["user_id"], user_ids), _rows(sequence["item_id"], item_ids)
    user_E, item_E = _rows(example["user_id"], user_ids), _rows(example["item_id"], item_ids)
    offset_U = np.searchsorted(user_V, np.arange(len(user_ids) + 1))
    position_E = _ints(example["position"])
    own_E = offset_U[user_E] + position_E
    _check_places(sequence, user_V, item_V, offset_U, user_E, item_E, own_E)
    split_rows, label_E = _splits(example)

    train_E = split_rows["train"]
    length_E = np.minimum(position_E, settings.history_events)
    start_E = own_E - length_E
    seen_V = _windows(start_E[train_E], own_E[train_E] + 1, len(user_V))  # the training examples and their histories

    codes, sizes = {}, {}
    in_training: dict[Side, Int64] = {"user": np.unique(user_E[train_E]), "item": np.unique(item_V[seen_V])}
    ids: dict[Side, pa.Array] = {"user": user_ids, "item": item_ids}
    for field, values, owner in _valued_fields(ids, user_attribute, item_attribute, settings):
        vocabulary = Vocabulary.of(values.take(pa.array(in_training[owner])))
        codes[field], sizes[field] = vocabulary.codes(values), vocabulary.size
    rating = pc.round(pc.if_else(pc.is_finite(sequence["rating"]), sequence["rating"], None))
    ratings = Vocabulary.of(rating.filter(pa.array(seen_V)))
    codes["rating"], sizes["rating"] = ratings.codes(rating), ratings.size

    fields = Fields(sizes)
    target = ("item_id", *settings.item_fields)
    profile = (*(("user_id",) if settings.use_user_id else ()), *(_profile_name(name) for name in settings.user_fields))
    code = {name: (codes[name] + fields.offset(name)).astype(np.int32) for name in sizes}
    device = torch.device(settings.device)
    return TrainingData(
        fields=fields,
        target_fields=target,
        profile_fields=profile,
        single_ES=_tensor([*(code[n][item_E] for n in target), *(code[n][user_E] for n in profile)], device).t().contiguous(),
        start_E=torch.from_numpy(start_E).to(device),
        length_E=torch.from_numpy(length_E).to(device),
        event_KV=_tensor([*(code[n][item_V] for n in target), code["rating"]], device),
        label_E=torch.from_numpy(label_E.astype(np.float32)).to(device),
        user_E=user_E,
        item_E=item_E,
        user_ids=user_ids,
        item_ids=item_ids,
        example_id_E=_ints(example["example_id"]),
        split_rows=split_rows,
        train_count_E=np.bincount(item_E[train_E], minlength=len(item_ids))[item_E],
    )


def _valued_fields(
    ids: dict[Side, pa.Array], user_attribute: pa.Table, item_attribute: pa.Table, settings: AdaptorSettings
) -> list[tuple[str, pa.Array, Side]]:
    """(field, value per distinct subject, side) of the ids and the attributes that the settings name."""
    user_ids, item_ids = ids["user"], ids["item"]
    by_place = item_attribute.sort_by([("item_id", "ascending"), ("place", "ascending")])
    found: list[tuple[str, pa.Array, Side]] = [("item_id", item_ids, "item")]
    for name in settings.item_fields:
        found.append((name, first_values(item_ids, by_place["item_id"], by_place["name"], by_place["value"], name), "item"))
    if settings.use_user_id:
        found.append(("user_id", user_ids, "user"))
    for name in settings.user_fields:
        table = user_attribute
        found.append((_profile_name(name), first_values(user_ids, table["user_id"], table["name"], table["value"], name), "user"))
    for name, values, side in found:
        if values.null_count == len(values):
            raise ModelError(f"no {side} has the attribute {name!r}", f"name an attribute of the tables in adaptor.{side}_fields")
    return found


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


def _tensor(columns: list[np.ndarray[tuple[int, ...], np.dtype[np.int32]]], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(columns)).to(device)
