"""The first-order part of DeepFM and xDeepFM: one weight per code, summed over the fields.

Beside the embedding table and not a column of it, so that the table stays [codes, D] in every backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kar.model.backbones.base import Backbone, Shape
from kar.model.batches import Batch


class FirstOrder(nn.Module):
    """A weight for each code of the embedding table, and a bias. A history's field counts with the mean of its events' weights."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight_V1 = nn.Parameter(torch.zeros(shape.code_count, 1))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, backbone: Backbone, batch: Batch) -> Tensor:
        """[B]: what the fields of `backbone` come to."""
        return backbone.lookup(batch, self.weight_V1).sum(dim=(1, 2)) + self.bias
