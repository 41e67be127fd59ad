"""Lists as resident tensors: each candidate is a row of a `TrainingData`, and a batch of lists is gathered from them.

Every candidate has the history of its list: the events before the list's first real item.

Shape suffixes: C candidates, one list after another · L lists · B lists of a batch · N places of a list · T fields of an item
                H history events of a batch · S standardised
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from kar.model.batches import Batch, Kind, KindBatch, TrainingData
from kar.model.knowledge import Float32
from kar.model.rerank.lists import Lists

Kept = TypeVar("Kept", bound=np.generic)


@dataclass(frozen=True)
class ListBatch:
    """Some lists, on the device, each in its initial order.

    Args:
        code_BNT: codes of the candidates' item fields.
        is_item_BN: whether a place holds a candidate; the first one always does.
        label_BN: 1.0 or 0.0; 0.0 where there is no candidate.
        score_BN: the first stage's, standardised within the list; 0 where there is no candidate.
        history: one row per list; of it, the history is what counts.
        knowledge: one entry per kind. `place_B` of a kind of items is [B · N], of a kind of users [B].
        sides: of the kinds.
    """

    code_BNT: Tensor
    is_item_BN: Tensor
    label_BN: Tensor
    score_BN: Tensor
    history: Batch
    knowledge: tuple[KindBatch, ...]
    sides: tuple[str, ...]


@dataclass(frozen=True)
class Candidates:
    """All lists of a partition.

    Args:
        data: one example per candidate; `split_rows` are candidates.
        first_L, length_L: each list's candidates within `data`.
        lists: what they were made of, in the same order.
        score_LN: the first stage's, in the order of `lists`; zeros before there is one.
        place_LN: which of a list's candidates stands at a place of the initial order.
    """

    data: TrainingData
    lists: Lists
    first_L: Tensor
    length_L: Tensor
    score_LN: Float32
    place_LN: Tensor

    @classmethod
    def of(cls, data: TrainingData, lists: Lists) -> Candidates:
        """Lay out the candidates, before there is a first stage: in the lists' own, drawn order."""
        is_item_LN = lists.is_item_LN
        length_L = is_item_LN.sum(axis=1)
        list_C = np.repeat(np.arange(len(length_L)), length_L)
        example_C = torch.from_numpy(lists.example_L[list_C]).to(data.device)
        item_C = lists.item_LN[is_item_LN]
        item_fields = len(data.target_fields)
        first_event_I = np.unique(data.item_V, return_index=True)[1]  # every item is in the sequence
        code_IT = data.event_KV[:item_fields, torch.from_numpy(first_event_I).to(data.device)].t()
        label_C = torch.from_numpy(lists.label_LN[is_item_LN].astype(np.float32)).to(data.device)
        of_candidates = replace(
            data,
            single_ES=torch.cat([code_IT[torch.from_numpy(item_C).to(data.device)], data.single_ES[example_C, item_fields:]], dim=1),
            start_E=data.start_E[example_C],
            length_E=data.length_E[example_C],
            label_E=label_C,
            user_E=lists.user_L[list_C],
            item_E=item_C,
            example_id_E=np.arange(len(item_C)),
            split_rows={split: np.flatnonzero(np.isin(list_C, rows)) for split, rows in lists.split_rows.items()},
        )
        to_device = (torch.from_numpy(found).to(data.device) for found in (np.cumsum(length_L) - length_L, length_L))
        first_T, length_T = to_device
        place_LN = torch.arange(is_item_LN.shape[1], device=data.device).repeat(len(length_L), 1)
        return cls(of_candidates, lists, first_T, length_T, np.zeros(is_item_LN.shape, np.float32), place_LN)

    def ordered(self, score_C: Float32) -> Candidates:
        """The same lists in the initial order of these scores, best first; equal scores keep the drawn order."""
        is_item_LN = self.lists.is_item_LN
        score_LN = np.full(is_item_LN.shape, -np.inf, np.float32)
        score_LN[is_item_LN] = score_C
        place_LN = np.argsort(-score_LN, axis=1, kind="stable")
        return replace(self, score_LN=np.where(is_item_LN, score_LN, 0), place_LN=torch.from_numpy(place_LN).to(self.data.device))

    def in_order(self, value_LN: np.ndarray[Any, np.dtype[Kept]]) -> np.ndarray[Any, np.dtype[Kept]]:
        """[L, N] what belongs to each candidate of `lists`, in the initial order."""
        return np.take_along_axis(value_LN, self.place_LN.cpu().numpy(), axis=1)

    def standard_scores(self) -> Tensor:
        """[L, N] the first stage's scores in the initial order, mean 0 and deviation 1 within each list; 0 without candidate."""
        is_item_LN = self.in_order(self.lists.is_item_LN)
        score_LN = self.in_order(self.score_LN)
        count_L1 = is_item_LN.sum(axis=1, keepdims=True)
        centred_LN = np.where(is_item_LN, score_LN - score_LN.sum(axis=1, keepdims=True) / count_L1, 0)
        deviation_L1 = np.sqrt((centred_LN**2).sum(axis=1, keepdims=True) / count_L1)
        return torch.from_numpy((centred_LN / np.maximum(deviation_L1, 1e-6)).astype(np.float32)).to(self.data.device)


class ListData:
    """Lists in their initial order, with one arm's knowledge, ready to be gathered."""

    def __init__(self, candidates: Candidates, kinds: list[Kind]) -> None:
        self.candidates, self.kinds, self.data = candidates, kinds, candidates.data
        self.standard_LN = candidates.standard_scores()
        self.item_fields = len(candidates.data.target_fields)

    def batch(self, lists_B: Tensor) -> ListBatch:
        """Gather a batch. `lists_B`: int64 rows, on the device."""
        found, data = self.candidates, self.data
        first_B, length_B = found.first_L[lists_B], found.length_L[lists_B]
        place_BN = found.place_LN[lists_B]
        is_item_BN = place_BN < length_B[:, None]  # places without candidate come last in both orders
        row_BN = first_B[:, None] + torch.where(is_item_BN, place_BN, 0)
        history = data.batch(first_B)
        event_H, _ = data.events(first_B)
        rows = [row_BN.flatten() if kind.side == "item" else first_B for kind in self.kinds]
        return ListBatch(
            data.single_ES[row_BN][..., : self.item_fields],
            is_item_BN,
            data.label_E[row_BN] * is_item_BN,
            self.standard_LN[lists_B],
            history,
            tuple(kind.batch(row, event_H) for kind, row in zip(self.kinds, rows, strict=True)),
            tuple(kind.side for kind in self.kinds),
        )
