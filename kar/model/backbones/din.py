"""DIN: attention of the target over the history, then a final MLP over interest, target, user fields and adapted vectors.

A history event is its item and attribute embeddings side by side, with the embedding of its rating added to each; the query is the target's.
Attention weights are not normalised, as in the paper. Source: DIN, arXiv 1706.06978; where the adapted vectors enter: KAR, arXiv 2306.10933.
Layers: deepctr-torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
            att_hidden_units=_ATTENTION_HIDDEN, att_activation="relu", weight_normalization=False, embedding_dim=width, supports_masking=True
        )
        start_as_linear(self.attention)
        beside = shape.profile_count + shape.kind_count
        self.mlp = FinalMLP(2 * width + beside * shape.embedding_dim, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted_BCD: Sequence[Tensor]) -> Tensor:
        single_BSD = self.embedding(batch.single_BS)
        interest_BX = self.interest(batch, single_BSD[:, : self.shape.target_count].flatten(1))
        return self.mlp(torch.cat([interest_BX, single_BSD.flatten(1), *adapted_BCD], dim=1))  # type: ignore[no-any-return]

    def interest(self, batch: Batch, target_BX: Tensor) -> Tensor:
        """[B, target_count · D]; zero for an empty history, since places without event weigh nothing and weights are not normalised."""
        code_KBL, is_event_BL = batch.history_padded()
        event_KBLD = self.embedding(code_KBL)
        event_BLX = torch.cat([*(event_KBLD[:-1] + event_KBLD[-1])], dim=-1)
        pooled_B1X: Tensor = self.attention(target_BX[:, None], event_BLX, None, is_event_BL)
        return pooled_B1X[:, 0]
