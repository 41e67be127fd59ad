"""FiBiNET: SENET-weighted fields, bilinear interactions of the fields before and after, a final MLP.

Fields: item id, item attributes, user fields, the mean over the history of item ids, of each attribute and of ratings, and the adapted
vectors as fields of their own. Source: FiBiNET, arXiv 1905.09433; fields as in KAR, arXiv 2306.10933. Layers: deepctr-torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kar.model.backbones.base import Backbone, FinalMLP, Shape
from kar.model.batches import Batch
from kar.model.deepctr import BilinearInteraction, SENETLayer

_SENET_RATIO = 2


class FiBiNET(Backbone):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        # counted, not read off a table of embeddings: the target's item and the history's share theirs
        self.field_count = 2 * shape.target_count + 1 + shape.profile_count + shape.kind_count
        self.senet = SENETLayer(self.field_count, reduction_ratio=_SENET_RATIO)
        self.bilinear = BilinearInteraction(self.field_count, shape.embedding_dim, bilinear_type="all")
        self.bilinear_senet = BilinearInteraction(self.field_count, shape.embedding_dim, bilinear_type="all")
        pairs = torch.combinations(torch.arange(self.field_count))
        self.register_buffer("left", pairs[:, 0].contiguous(), persistent=False)
        self.register_buffer("right", pairs[:, 1].contiguous(), persistent=False)
        self.mlp = FinalMLP(2 * len(pairs) * shape.embedding_dim, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted_BCD: Sequence[Tensor]) -> Tensor:
        fields_BFD = self.fields(batch, adapted_BCD)
        plain_BPD = self.interact(self.bilinear, fields_BFD)
        weighted_BPD = self.interact(self.bilinear_senet, self.senet(fields_BFD))
        return self.mlp(torch.cat([plain_BPD, weighted_BPD], dim=1).flatten(1))  # type: ignore[no-any-return]

    def fields(self, batch: Batch, adapted_BCD: Sequence[Tensor]) -> Tensor:
        """[B, F, D] in the order of the module's docstring."""
        single_BSD = self.embedding(batch.single_BS)
        code_KH, first_B = batch.history_in_line()
        count, length = code_KH.shape
        starts = (first_B + length * torch.arange(count, device=first_B.device)[:, None]).flatten().to(code_KH.dtype)
        # one bag per history field and example; an empty bag's mean is zero
        mean_KBD = functional.embedding_bag(code_KH.flatten(), self.embedding.weight, starts, mode="mean").view(count, len(first_B), -1)
        return torch.cat([single_BSD, mean_KBD.transpose(0, 1), *(vector_BD[:, None] for vector_BD in adapted_BCD)], dim=1)

    def interact(self, layer: BilinearInteraction, x_BFD: Tensor) -> Tensor:
        """What `layer(x_BFD)` gives, in one product instead of one per pair; a test holds the two equal."""
        turned_BFD: Tensor = layer.bilinear(x_BFD)
        return turned_BFD.index_select(1, self.left) * x_BFD.index_select(1, self.right)  # type: ignore[arg-type]
