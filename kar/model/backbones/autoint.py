"""AutoInt: self-attention between the fields, three layers of one head, beside a final MLP.

Adapted vectors are fields of their own in both. Source: AutoInt, arXiv 1810.11921 (with the MLP: its AutoInt+); sizes and fields: KAR,
arXiv 2306.10933.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kar.model.adapted import Adapted
from kar.model.backbones.base import Backbone, FinalMLP, Shape
from kar.model.backbones.interacting import Interacting
from kar.model.batches import Batch

_LAYERS = 3
_ATTENDED_WIDTH = 64


class AutoInt(Backbone):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        count = shape.field_count + shape.knowledge_count
        widths = [shape.embedding_dim] + [_ATTENDED_WIDTH] * (_LAYERS - 1)
        self.attention = nn.Sequential(*(Interacting(width, _ATTENDED_WIDTH) for width in widths))
        self.of_attended = nn.Linear(count * _ATTENDED_WIDTH, 1, bias=False)
        self.mlp = FinalMLP(count * shape.embedding_dim, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted: Adapted) -> Tensor:
        fields_BFD = torch.cat([self.fields(batch), adapted.fields(batch)], dim=1)
        logit_B: Tensor = self.of_attended(self.attention(fields_BFD).flatten(1)).squeeze(-1)
        return logit_B + self.mlp(fields_BFD.flatten(1))  # type: ignore[no-any-return]
