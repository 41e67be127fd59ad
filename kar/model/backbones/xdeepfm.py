"""xDeepFM: first-order weights, a compressed interaction network (CIN) over the fields, a final MLP.

Adapted vectors are fields of their own in the CIN and in the MLP. The CIN is the paper's: no activation (which it finds best), every feature map
both pooled and handed on. Source: xDeepFM, arXiv 1803.05170, equations 6 and 8; sizes and fields: KAR, arXiv 2306.10933. Layers: deepctr-torch.

Shape suffixes besides those of `base`: M feature maps of a CIN layer · N feature maps of the layer before
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kar.model.adapted import Adapted
from kar.model.backbones.base import Backbone, FinalMLP, Shape
from kar.model.backbones.first_order import FirstOrder
from kar.model.batches import Batch
from kar.model.deepctr import CIN

_CIN_SIZES = (50, 50)


class XDeepFM(Backbone):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        count = shape.field_count + shape.knowledge_count
        self.first_order = FirstOrder(shape)
        self.cin = CIN(count, _CIN_SIZES, activation="linear", split_half=False)
        self.of_cin = nn.Linear(sum(_CIN_SIZES), 1, bias=False)
        self.mlp = FinalMLP(count * shape.embedding_dim, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted: Adapted) -> Tensor:
        fields_BFD = torch.cat([self.fields(batch), adapted.fields(batch)], dim=1)
        logit_B: Tensor = self.first_order(self, batch) + self.of_cin(self.interact(fields_BFD)).squeeze(-1)
        return logit_B + self.mlp(fields_BFD.flatten(1))  # type: ignore[no-any-return]

    def interact(self, x_BFD: Tensor) -> Tensor:
        """[B, maps of all layers]: what `cin(x_BFD)` gives, in a fraction of its work; a test holds the two equal.

        A map is Σ_nf weight_nf · state_n ∘ field_f, pooled by a sum over D. Of the last layer only the sum is wanted, and that of
        state_n ∘ field_f is their inner product: D times fewer products than the maps themselves.
        """
        state_BND, pooled = x_BFD, []
        for layer in self.cin.conv1ds[:-1]:
            product_BXD = (state_BND[:, :, None] * x_BFD[:, None]).flatten(1, 2)  # X = N · F
            state_BND = torch.matmul(layer.weight[:, :, 0], product_BXD) + layer.bias[:, None]
            pooled.append(state_BND.sum(dim=-1))
        last = self.cin.conv1ds[-1]
        inner_BNF = torch.bmm(state_BND, x_BFD.transpose(1, 2))
        pooled.append(inner_BNF.flatten(1) @ last.weight[:, :, 0].t() + last.bias * x_BFD.shape[-1])
        return torch.cat(pooled, dim=1)
