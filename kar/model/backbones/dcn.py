"""DCN: a cross network beside a final MLP, both over all fields side by side.

Adapted vectors are part of the input of both. Source: DCN, arXiv 1708.05123; where the adapted vectors enter, three layers: KAR,
arXiv 2306.10933. Layers: deepctr-torch.

Shape suffixes besides those of `base`: X width of all fields side by side
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from kar.model.adapted import Adapted
from kar.model.backbones.base import Backbone, FinalMLP, Shape
from kar.model.batches import Batch
from kar.model.deepctr import CrossNet

_CROSS_LAYERS = 3


class DCN(Backbone):
    """See the module."""

    parameterization: ClassVar[Literal["vector", "matrix"]] = "vector"

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = (shape.field_count + shape.knowledge_count) * shape.embedding_dim
        self.crossing = CrossNet(width, layer_num=_CROSS_LAYERS, parameterization=self.parameterization)
        self.of_crossed = nn.Linear(width, 1, bias=False)
        self.mlp = FinalMLP(width, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted: Adapted) -> Tensor:
        x_BX = torch.cat([self.fields(batch).flatten(1), adapted.fields(batch).flatten(1)], dim=1)
        logit_B: Tensor = self.of_crossed(self.cross(x_BX)).squeeze(-1)
        return logit_B + self.mlp(x_BX)  # type: ignore[no-any-return]

    def cross(self, x_BX: Tensor) -> Tensor:
        """[B, X]: what `crossing(x_BX)` gives, without its columns of width one; a test holds the two equal.

        x_l+1 = x_0 (w_l · x_l) + b_l + x_l
        """
        crossed_BX = x_BX
        for weight_X1, bias_X1 in zip(self.crossing.kernels, self.crossing.bias, strict=True):
            crossed_BX = torch.addcmul(crossed_BX + bias_X1[:, 0], x_BX, crossed_BX @ weight_X1)
        return crossed_BX
