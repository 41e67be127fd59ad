"""What the adaptor made of a batch's knowledge, in the shapes that backbones take.

Shape suffixes: B examples · C kinds · H history events, in line · L longest history · D adapted width
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

    def means(self, batch: Batch) -> list[Tensor]:
        """2 tensors [B, D]: the mean over the liked, and over the disliked events whose items have knowledge; the learned default
        where there is none.
        """
        label_2 = batch.label_H.new_tensor([1, 0])
        weight_H2 = ((batch.label_H[:, None] == label_2) & (self.place_H > 0)[:, None]).to(self.table_XD.dtype)
        vector_HD = self.table_XD.index_select(0, self.place_H)
        width = vector_HD.shape[1]
        weighted_HX = (weight_H2[:, :, None] * vector_HD[:, None]).flatten(1)
        sum_BX = batch.windows.sums(weighted_HX)
        total_H2 = functional.pad(weight_H2.cumsum(0), (0, 0, 1, 0))  # whole numbers: exact
        count_B2 = total_H2[batch.first_B + batch.length_B] - total_H2[batch.first_B]
        return [
            torch.where(count_B[:, None] > 0, sum_BD / count_B.clamp(min=1)[:, None], self.table_XD[0])
            for sum_BD, count_B in zip(sum_BX.split(width, dim=1), count_B2.unbind(1), strict=True)  # type: ignore[no-untyped-call]
        ]


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
        means = [mean_BD[:, None] for found in self.history for mean_BD in found.means(batch)]
        return torch.cat([self.target_BCD, *means], dim=1) if means else self.target_BCD

    def events(self, place_BL: Tensor) -> list[Tensor]:
        """J tensors [B, L, D]: the vectors of the history's items at their places (`Batch.places`)."""
        return [lay_out(vector_HD, place_BL) for vector_HD in self.event_line()]

    def event_line(self) -> list[Tensor]:
        """J tensors [H, D]: the vectors of the history's items in line."""
        return [found.table_XD.index_select(0, found.place_H) for found in self.history]

    def queries(self) -> list[Tensor]:
        """J tensors [B, D]: the target's own vectors of the kinds that the history carries."""
        return [self.target_BCD[:, found.kind] for found in self.history]
