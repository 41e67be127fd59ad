"""PRM: transformer blocks over the list, each place marked by an embedding of its initial rank.

In the paper a candidate comes with a personalised vector of a ranker trained before; here that is the first stage's score, and with
knowledge the adapted vectors of user and item. Loss: listwise softmax.

Source: PRM, arXiv 1904.06813. Layers: torch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kar.model.rerank.base import Reranker, Seen, Shape

_POSITION_STD = 0.02


class PRM(Reranker):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.enter = nn.Linear(shape.input_width, shape.hidden)
        self.position_NZ = nn.Parameter(torch.empty(shape.list_length, shape.hidden).normal_(std=_POSITION_STD))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(shape.hidden, shape.heads, 2 * shape.hidden, shape.dropout, batch_first=True)
            for _ in range(shape.blocks)
        )
        self.out = nn.Linear(shape.hidden, 1, bias=False)

    def forward(self, seen: Seen) -> Tensor:
        x_BNZ = self.enter(seen.input_BNX) + self.position_NZ[: seen.input_BNX.shape[1]]
        for block in self.blocks:
            x_BNZ = block(x_BNZ, src_key_padding_mask=~seen.is_item_BN)
        score_BN: Tensor = self.out(x_BNZ).squeeze(-1)
        return score_BN
