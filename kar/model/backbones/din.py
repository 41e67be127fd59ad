"""DIN: attention of the target over the history, then a final MLP over interest, target, user fields and adapted vectors.

A history event and the query (the target) are as in `Backbone.events`: with knowledge, adapted vectors stand beside the id embeddings
as keys and values. Attention weights are not normalised, as in the paper. Source: DIN, arXiv 1706.06978; where the adapted vectors enter: KAR, arXiv 2306.10933.
Layers: deepctr-torch.

Shape suffixes besides those of `base`: X width of the target and of an event · U hidden width of the attention
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kar.model.adapted import Adapted
from kar.model.backbones.base import Backbone, FinalMLP, Shape, start_as_linear
from kar.model.batches import Batch
from kar.model.deepctr import AttentionSequencePoolingLayer

_ATTENTION_HIDDEN = (32, 16)


class DIN(Backbone):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = self.event_width
        # no Dice: its batch norm would count the places without event, and fails on a batch of one
        self.attention = AttentionSequencePoolingLayer(
            att_hidden_units=_ATTENTION_HIDDEN,
            att_activation="relu",
            weight_normalization=False,
            embedding_dim=width,
            supports_masking=True,
        )
        start_as_linear(self.attention)
        beside = shape.target_count + shape.profile_count + shape.kind_count
        self.mlp = FinalMLP(width + beside * shape.embedding_dim, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted: Adapted) -> Tensor:
        single_BSD = self.single(batch)
        interest_BX = self.pool(self.target(single_BSD, adapted), *self.events(batch, adapted))
        return self.mlp(torch.cat([interest_BX, single_BSD.flatten(1), adapted.target_BCD.flatten(1)], dim=1))  # type: ignore[no-any-return]

    def pool(self, target_BX: Tensor, event_BLX: Tensor, is_event_BL: Tensor) -> Tensor:
        """[B, X] what `attention` gives, in less memory; a test holds the two equal. Zero for an empty history: weights are not normalised."""
        weight_BL = self.weights(target_BX, event_BLX).masked_fill(~is_event_BL, 0.0)
        return torch.bmm(weight_BL[:, None], event_BLX)[:, 0]

    def weights(self, target_BX: Tensor, event_BLX: Tensor) -> Tensor:
        """[B, L] what deepctr-torch's local activation unit gives, with its weights.

        Its first layer takes [q, k, q − k, q · k] side by side, four times the events' memory. Being linear, it is
        (Wq + Wd) q + (Wk − Wd) k + Wp (q · k), of which the first term is computed once per example.
        """
        unit = self.attention.local_att
        first, second = unit.dnn.linears
        wq_UX, wk_UX, wd_UX, wp_UX = first.weight.chunk(4, dim=1)
        of_target_BU = functional.linear(target_BX, wq_UX + wd_UX, first.bias)
        hidden_BLU = functional.linear(event_BLX, wk_UX - wd_UX) + functional.linear(event_BLX * target_BX[:, None], wp_UX)
        hidden_BLU = (hidden_BLU + of_target_BU[:, None]).relu_()
        weight_BL: Tensor = unit.dense(second(hidden_BLU).relu_()).squeeze(-1)
        return weight_BL
