"""DIN: attention of the target over the history, then a final MLP over interest, target, user fields and adapted vectors.

A history event and the query (the target) are as in `Backbone.events`: with knowledge, adapted vectors stand beside the id embeddings
as keys and values. Attention weights are not normalised, as in the paper. Source: DIN, arXiv 1706.06978; where the adapted vectors enter: KAR, arXiv 2306.10933.
Layers: deepctr-torch.

Shape suffixes besides those of `base`: X width of the target and of an event
"""

from __future__ import annotations

import torch
from torch import Tensor

from kar.model.adapted import Adapted
from kar.model.backbones.attention import attention, of_events, weights
from kar.model.backbones.base import Backbone, FinalMLP, Shape
from kar.model.batches import Batch, lay_out


class DIN(Backbone):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = self.event_width
        self.attention = attention(width, is_normalised=False)
        beside = shape.target_count + shape.profile_count + shape.kind_count
        self.mlp = FinalMLP(width + beside * shape.embedding_dim, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted: Adapted) -> Tensor:
        single_BSD = self.single(batch)
        event_HX = self.event_line(batch, adapted).to(self.precision or single_BSD.dtype)
        place_BL, is_event_BL = batch.places()
        of_event_BLU = lay_out(of_events(self.attention, event_HX), place_BL)
        interest_BX = self.pool(self.target(single_BSD, adapted), lay_out(event_HX, place_BL), is_event_BL, of_event_BLU)
        return self.mlp(torch.cat([interest_BX, single_BSD.flatten(1), adapted.target_BCD.flatten(1)], dim=1))  # type: ignore[no-any-return]

    def pool(self, target_BX: Tensor, event_BLX: Tensor, is_event_BL: Tensor, of_event_BLU: Tensor | None = None) -> Tensor:
        """[B, X] what `attention` gives, in less memory; a test holds the two equal. Zero for an empty history: weights are not normalised.

        Args:
            of_event_BLU: see `weights`.
        """
        weight_BL = weights(self.attention, target_BX, event_BLX, of_event_BLU).masked_fill(~is_event_BL, 0.0)
        return torch.bmm(weight_BL[:, None], event_BLX)[:, 0].to(target_BX.dtype)
