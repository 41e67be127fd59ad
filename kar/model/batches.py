"""Examples and histories as resident tensors, and batches gathered from them by row number: no Python per row.

Shape suffixes: E examples · V events · B examples of a batch · L longest history · H history events of a batch, in line
                S single-valued fields (item, its attributes, the user's) · K fields of a history event (item, its attributes, rating)
                T width of a knowledge vector · N distinct subjects of a batch that have one
                I distinct items · M multi-valued fields · Y bags, B × M · X codes of all bags, one bag after another

A code is a row of the one embedding table (`kar.model.vocabulary.Fields`). A history is the window [position − history_events,
position) of its user's sequence, cut at the sequence's start; it may be empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kar.model.vocabulary import Fields, Int64, Vocabulary
from kar.model.windows import Windows, in_line

Side = Literal["user", "item"]
SPLITS = ("train", "valid", "test")
Bool = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Batch:
    """Some examples, on the device.

    Args:
        single_BS: codes of the single-valued fields; the target's come first.
        code_KH: codes of the history events in line; an event that several histories hold may stand there once (`kar.model.windows`).
        label_H: 1 liked, 0 not, −1 nothing is known; of the history events.
        first_B: where each history begins in H; its events follow one another, oldest first.
        length_B: events of each history; 0: none.
        label_B: 0.0 or 1.0.
        knowledge: one entry per kind.
        listed: the multi-valued fields; None: the base has none.
    """

    single_BS: Tensor
    code_KH: Tensor
    label_H: Tensor
    first_B: Tensor
    length_B: Tensor
    label_B: Tensor
    knowledge: tuple[KindBatch, ...] = ()
    listed: Listed | None = None

    @cached_property
    def windows(self) -> Windows:
        """The histories as windows over the H events."""
        return Windows(self.first_B, self.length_B, self.code_KH.shape[1])

    def places(self) -> tuple[Tensor, Tensor]:
        """Histories side by side, oldest first: which of the H events stands at a place [B, L], and whether one does [B, L].

        L is the batch's longest history, at least 1. A place without event names some event: mask it. If no history holds any event,
        every place names 0, which is then none: `lay_out` gives zeros.
        """
        longest = max(int(self.length_B.max()), 1)
        place_L = torch.arange(longest, device=self.length_B.device)
        is_event_BL = place_L < self.length_B[:, None]
        return (self.first_B[:, None] + place_L).clamp_(max=max(self.code_KH.shape[1] - 1, 0)), is_event_BL


def lay_out(x_HX: Tensor, place_BL: Tensor) -> Tensor:
    """[B, L, X]: what belongs to each event, at the event's place; zeros if there is no event at all."""
    if not len(x_HX):
        return x_HX.new_zeros(*place_BL.shape, *x_HX.shape[1:])
    return x_HX.index_select(0, place_BL.flatten()).view(*place_BL.shape, *x_HX.shape[1:])


@dataclass(frozen=True)
class Listed:
    """The multi-valued fields of a batch: one bag of codes per example and field, the bags of one example together.

    Args:
        code_X: codes, one bag after another.
        first_Y: where each bag begins in X.
    """

    code_X: Tensor
    first_Y: Tensor


@dataclass(frozen=True)
class Lists:
    """Every value of an item's multi-valued attributes.

    Args:
        names: of the M fields.
        code_X: codes of all items' bags.
        first_IM, length_IM: where each bag begins in X, and how many values it holds; 0: none.
        item_E: each example's item.
    """

    names: tuple[str, ...]
    code_X: Tensor
    first_IM: Tensor
    length_IM: Tensor
    item_E: Tensor

    def batch(self, examples_B: Tensor) -> Listed:
        item_B = self.item_E.index_select(0, examples_B)
        length_Y = self.length_IM.index_select(0, item_B).flatten()
        first_Y = torch.cumsum(length_Y, 0) - length_Y
        shift_X = torch.repeat_interleave(self.first_IM.index_select(0, item_B).flatten() - first_Y, length_Y)
        place_X = shift_X + torch.arange(len(shift_X), device=shift_X.device)
        return Listed(self.code_X.index_select(0, place_X), first_Y.to(self.code_X.dtype))


@dataclass(frozen=True)
class KindBatch:
    """One kind's knowledge for a batch: each distinct subject once.

    Args:
        view: the kind.
        vectors_NT: knowledge vectors of the N distinct subjects that have one.
        place_B: 0: no knowledge; n: row n − 1 of `vectors_NT`.
        place_H: the same of the history events' items; None: the kind is not of items, or only of the target's.
    """

    view: str
    vectors_NT: Tensor
    place_B: Tensor
    place_H: Tensor | None = None


@dataclass(frozen=True)
class Kind:
    """One kind's knowledge for all examples.

    Args:
        view: the kind.
        side: whom it is about.
        vectors_RT: row 0 is no knowledge and holds zeros.
        row_E: each example's row of `vectors_RT`.
        row_V: each event's, by its item; None: the history carries none.
    """

    view: str
    side: Side
    vectors_RT: Tensor
    row_E: Tensor
    row_V: Tensor | None = None

    def batch(self, examples_B: Tensor, event_H: Tensor) -> KindBatch:
        rows = [self.row_E.index_select(0, examples_B)]
        if self.row_V is not None:
            rows.append(self.row_V.index_select(0, event_H))
        row_U, place = _distinct(torch.cat(rows), len(self.vectors_RT))
        place_B, place_H = place[: len(examples_B)], None if self.row_V is None else place[len(examples_B) :]
        return KindBatch(self.view, self.vectors_RT.index_select(0, row_U[1:]), place_B, place_H)


def _distinct(row: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The distinct rows, ascending, 0 always the first, and each row's place among them. `count`: how many rows there may be."""
    if count > 8 * len(row):  # sorting a few is cheaper than a pass over very many
        found, place = torch.unique(torch.cat([row.new_zeros(1), row]), return_inverse=True)
        return found, place[1:]
    is_there = torch.zeros(count, dtype=torch.bool, device=row.device)
    is_there[row] = True
    is_there[0] = True
    return is_there.nonzero().squeeze(1), (torch.cumsum(is_there, 0) - 1).index_select(0, row)


@dataclass(frozen=True)
class TrainingData:
    """All examples and events of a partition, resident on one device.

    Args:
        fields: the embedding table's blocks.
        target_fields: names of the target's fields: the first of `single_ES`, and of `event_KV`.
        profile_fields: names of the other single-valued fields: the user's, the hour, the mean ratings; the rest of `single_ES`.
        label_V: 1 liked, 0 not, −1 nothing is known.
        split_rows: split → example rows, in file order.
        user_ids, item_ids: distinct ids; `user_E`, `item_E`, `item_V` are rows of them.
        train_count_U, train_count_I: training examples of each distinct user and item.
        is_held_out_I: whether the item is kept out of training.
        may_meet_I: whether the item's texts are older than every example, so that a history may carry them.
        vocabularies: field → what its codes mean.
        lists: the target's multi-valued fields; None: the base has none.
    """

    fields: Fields
    target_fields: tuple[str, ...]
    profile_fields: tuple[str, ...]
    single_ES: Tensor
    start_E: Tensor
    length_E: Tensor
    event_KV: Tensor
    label_V: Tensor
    label_E: Tensor
    user_E: Int64
    item_E: Int64
    item_V: Int64
    user_ids: pa.Array
    item_ids: pa.Array
    example_id_E: Int64
    split_rows: dict[str, Int64]
    train_count_U: Int64
    train_count_I: Int64
    is_held_out_I: Bool
    may_meet_I: Bool
    vocabularies: dict[str, Vocabulary]
    lists: Lists | None = None

    @property
    def device(self) -> torch.device:
        return self.label_E.device

    @property
    def list_fields(self) -> tuple[str, ...]:
        return self.lists.names if self.lists else ()

    @property
    def train_count_E(self) -> Int64:  # noqa: N802  (a shape suffix)
        """Training examples of the target item."""
        return self.train_count_I[self.item_E]

    @property
    def history_fields(self) -> tuple[str, ...]:
        return (*self.target_fields, "rating")

    def events(self, examples_B: Tensor) -> tuple[Tensor, Tensor]:
        """[H] the events of the examples' histories, each once, and [B] where in that line each history begins."""
        return in_line(self.start_E.index_select(0, examples_B), self.length_E.index_select(0, examples_B))

    def batch(self, examples_B: Tensor, kinds: Sequence[Kind] = ()) -> Batch:
        """Gather a batch. `examples_B`: int64 rows, on the device."""
        length_B = self.length_E.index_select(0, examples_B)
        event_H, first_B = self.events(examples_B)
        return Batch(
            self.single_ES.index_select(0, examples_B),
            self.event_KV.index_select(1, event_H),
            self.label_V.index_select(0, event_H),
            first_B,
            length_B,
            self.label_E.index_select(0, examples_B),
            tuple(kind.batch(examples_B, event_H) for kind in kinds),
            self.lists.batch(examples_B) if self.lists else None,
        )
