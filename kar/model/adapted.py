"""What the adaptor made of a batch's knowledge, in the shapes that backbones take.

Shape suffixes: B examples · C kinds · H history events, one history after another · L longest history · D adapted width
                J kinds whose vectors the items of the history carry (item views) · N distinct subjects with knowledge
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kar.model.batches import Batch, lay_out


@dataclass(frozen=True)
class HistoryVectors:
    """One item kind's adapted vectors for the histories of a batch.

    Args:
        kind: which of the arm's kinds it is; its vector of the target is `Adapted.target_BCD[:, kind]`.
        table_XD: row 0 is the learned default of an item without knowledge; then the N distinct items'.
        place_H: each event's row of `table_XD`.
    """

    kind: int
    table_XD: Tensor
    place_H: Tensor

    def mean(self, batch: Batch, label: int) -> Tensor:
        """[B, D]: the mean over the events with that label whose items have knowledge; the learned default where there is none.

        Args:
            label: 1: liked, 0: disliked.
        """
        weight_H = ((batch.label_H == label) & (self.place_H > 0)).to(self.table_XD.dtype)
        total_H = torch.cat([weight_H.new_zeros(1), weight_H.cumsum(0)])
        end_B = batch.first_B + batch.length_B
        count_B1 = (total_H[end_B] - total_H[batch.first_B])[:, None]
        sum_BD = functional.embedding_bag(self.place_H, self.table_XD, batch.first_B, mode="sum", per_sample_weights=weight_H)
        return torch.where(count_B1 > 0, sum_BD / count_B1.clamp(min=1), self.table_XD[0])


@dataclass(frozen=True)
class Adapted:
    """The adapted vectors of a batch.

    Args:
        target_BCD: the example's own user and item, one vector per kind in the arm's order; C = 0: the base arm.
        history: one entry per kind that the history carries.
    """

    target_BCD: Tensor
    history: tuple[HistoryVectors, ...] = ()

    def fields(self, batch: Batch) -> Tensor:
        """[B, C + 2 J, D]: the target's vectors, then of each kind of the history the liked mean and the disliked mean."""
        means = [found.mean(batch, label)[:, None] for found in self.history for label in (1, 0)]
        return torch.cat([self.target_BCD, *means], dim=1) if means else self.target_BCD

    def events(self, place_BL: Tensor) -> list[Tensor]:
        """J tensors [B, L, D]: the vectors of the history's items at their places (`Batch.places`)."""
        return [lay_out(found.table_XD.index_select(0, found.place_H), place_BL) for found in self.history]

    def queries(self) -> list[Tensor]:
        """J tensors [B, D]: the target's own vectors of the kinds that the history carries."""
        return [self.target_BCD[:, found.kind] for found in self.history]
