"""FiBiNET: SENET-weighted fields, bilinear interactions of the fields before and after, a final MLP.

Fields: those of `Backbone.fields`, and the adapted vectors as fields of their own. Source: FiBiNET, arXiv 1905.09433; fields as in KAR,
arXiv 2306.10933. Layers: deepctr-torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kar.model.adapted import Adapted
from kar.model.backbones.base import Backbone, FinalMLP, Shape
from kar.model.batches import Batch
from kar.model.deepctr import BilinearInteraction, SENETLayer

_SENET_RATIO = 2


class FiBiNET(Backbone):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        count = shape.field_count + shape.knowledge_count
        self.senet = SENETLayer(count, reduction_ratio=_SENET_RATIO)
        self.bilinear = BilinearInteraction(count, shape.embedding_dim, bilinear_type="all")
        self.bilinear_senet = BilinearInteraction(count, shape.embedding_dim, bilinear_type="all")
        pairs = torch.combinations(torch.arange(count))
        self.register_buffer("left", pairs[:, 0].contiguous(), persistent=False)
        self.register_buffer("right", pairs[:, 1].contiguous(), persistent=False)
        self.mlp = FinalMLP(2 * len(pairs) * shape.embedding_dim, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted: Adapted) -> Tensor:
        fields_BFD = torch.cat([self.fields(batch), adapted.fields(batch)], dim=1)
        to = self.precision or fields_BFD.dtype
        plain_BPD = self.interact(self.bilinear, fields_BFD.to(to))
        weighted_BPD = self.interact(self.bilinear_senet, self.senet(fields_BFD).to(to))
        return self.mlp(torch.cat([plain_BPD, weighted_BPD], dim=1).flatten(1))  # type: ignore[no-any-return]

    def interact(self, layer: BilinearInteraction, x_BFD: Tensor) -> Tensor:
        """What `layer(x_BFD)` gives, in one product instead of one per pair, in the fields' precision; a test holds the two equal."""
        turned_BFD = functional.linear(x_BFD, layer.bilinear.weight.to(x_BFD.dtype))
        return turned_BFD.index_select(1, self.left) * x_BFD.index_select(1, self.right)  # type: ignore[arg-type]
