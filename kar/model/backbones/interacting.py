"""AutoInt's interacting layer: self-attention between fields. AutoInt is made of it, and FiGNN begins with it.

Ours, because deepctr-torch's cannot change the width (KAR's AutoInt goes from 32 to 64); a test holds the two equal where it does not.

Shape suffixes besides those of `base`: U width of an attended field
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Interacting(nn.Module):
    """One head, unscaled, with a residual, as AutoInt's (arXiv 1810.11921, equations 5 to 8): [B, F, width] → [B, F, U]."""

    def __init__(self, width: int, attended_width: int) -> None:
        super().__init__()
        # queries, keys, values and residual side by side: one product for the four
        self.weight_XD = nn.Parameter(torch.empty(4 * attended_width, width))
        nn.init.uniform_(self.weight_XD, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def forward(self, x_BFD: Tensor) -> Tensor:
        query_BFU, key_BFU, value_BFU, residual_BFU = nn.functional.linear(x_BFD, self.weight_XD).chunk(4, dim=-1)
        weight_BFF = torch.bmm(query_BFU, key_BFU.transpose(1, 2)).softmax(dim=-1)
        return torch.baddbmm(residual_BFU, weight_BFF, value_BFU).relu()
