"""DIN: attention of the target over the history, then a final MLP over interest, target, user fields and adapted vectors.

A history event is its item and attribute embeddings side by side, with the embedding of its rating added to each; the query is the target's.
Attention weights are not normalised, as in the paper. Source: DIN, arXiv 1706.06978; where the adapted vectors enter: KAR, arXiv 2306.10933.
Layers: deepctr-torch.

Shape suffixes besides those of `base`: X = target_count · D, width of the target and of an event · H hidden width of the attention
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kar.model.backbones.base import Backbone, FinalMLP, Shape, start_as_linear
from kar.model.batches import Batch
from kar.model.deepctr import AttentionSequencePoolingLayer

_ATTENTION_HIDDEN = (32, 16)


class DIN(Backbone):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = shape.target_count * shape.embedding_dim
        # no Dice: its batch norm would count the places without event, and fails on a batch of one
        self.attention = AttentionSequencePoolingLayer(
            att_hidden_units=_ATTENTION_HIDDEN,
            att_activation="relu",
            weight_normalization=False,
            embedding_dim=width,
            supports_masking=True,
        )
        start_as_linear(self.attention)
        beside = shape.profile_count + shape.kind_count
        self.mlp = FinalMLP(2 * width + beside * shape.embedding_dim, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted_BCD: Sequence[Tensor]) -> Tensor:
        single_BSD = self.embedding(batch.single_BS)
        interest_BX = self.interest(batch, single_BSD[:, : self.shape.target_count].flatten(1))
        return self.mlp(torch.cat([interest_BX, single_BSD.flatten(1), *adapted_BCD], dim=1))  # type: ignore[no-any-return]

    def interest(self, batch: Batch, target_BX: Tensor) -> Tensor:
        """[B, X]; zero for an empty history, since places without event weigh nothing and weights are not normalised."""
        return self.pool(target_BX, *self.events(batch))

    def events(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Histories [B, L, X] and whether a place holds an event [B, L]."""
        code_KBL, is_event_BL = batch.history_padded()
        *values, rating_BLD = self.embedding(code_KBL).unbind(0)
        return torch.cat([value_BLD + rating_BLD for value_BLD in values], dim=-1), is_event_BL

    def pool(self, target_BX: Tensor, event_BLX: Tensor, is_event_BL: Tensor) -> Tensor:
        """[B, X] what `attention` gives, in less memory; a test holds the two equal."""
        weight_BL = self.weights(target_BX, event_BLX).masked_fill(~is_event_BL, 0.0)
        return torch.bmm(weight_BL[:, None], event_BLX)[:, 0]

    def weights(self, target_BX: Tensor, event_BLX: Tensor) -> Tensor:
        """[B, L] what deepctr-torch's local activation unit gives, with its weights.

        Its first layer takes [q, k, q − k, q · k] side by side, four times the events' memory. Being linear, it is
        (Wq + Wd) q + (Wk − Wd) k + Wp (q · k), of which the first term is computed once per example.
        """
        unit = self.attention.local_att
        first, second = unit.dnn.linears
        wq_HX, wk_HX, wd_HX, wp_HX = first.weight.chunk(4, dim=1)
        of_target_BH = functional.linear(target_BX, wq_HX + wd_HX, first.bias)
        hidden_BLH = functional.linear(event_BLX, wk_HX - wd_HX) + functional.linear(event_BLX * target_BX[:, None], wp_HX)
        hidden_BLH = (hidden_BLH + of_target_BH[:, None]).relu_()
        weight_BL: Tensor = unit.dense(second(hidden_BLH).relu_()).squeeze(-1)
        return weight_BL
