"""DeepFM: first-order weights, pairwise products of the fields, a final MLP.

Adapted vectors enter the MLP and have a first-order weight for each of their places; they stay out of the pairwise products.
Source: DeepFM, arXiv 1703.04247; where the adapted vectors enter: KAR, arXiv 2306.10933. Layers: deepctr-torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kar.model.adapted import Adapted
from kar.model.backbones.base import Backbone, FinalMLP, Shape
from kar.model.backbones.first_order import FirstOrder
from kar.model.batches import Batch
from kar.model.deepctr import FM


class DeepFM(Backbone):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        knowledge_width = shape.knowledge_count * shape.embedding_dim
        self.first_order = FirstOrder(shape)
        self.of_knowledge = nn.Linear(knowledge_width, 1, bias=False) if knowledge_width else None
        self.fm = FM()
        self.mlp = FinalMLP(shape.field_count * shape.embedding_dim + knowledge_width, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted: Adapted) -> Tensor:
        fields_BFD = self.fields(batch)
        knowledge_BX = adapted.fields(batch).flatten(1)
        logit_B: Tensor = self.first_order(self, batch) + self.fm(fields_BFD).squeeze(-1)
        if self.of_knowledge is not None:
            logit_B = logit_B + self.of_knowledge(knowledge_BX).squeeze(-1)
        return logit_B + self.mlp(torch.cat([fields_BFD.flatten(1), knowledge_BX], dim=1))  # type: ignore[no-any-return]
