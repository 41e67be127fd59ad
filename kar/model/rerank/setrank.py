"""SetRank: induced self-attention blocks over the candidates as a set. Their order, the initial one too, changes no score.

    MAB(Q, K) = norm(h + FF(h)),   h = norm(Q + attention(Q, K, K))
    block(X)  = MAB(X, MAB(I, X)),  I: learned inducing points
Loss: the listwise one of the paper, which is the listwise softmax where labels are 0 or 1 and shares are even over the positives.

Source: SetRank, arXiv 1912.05891, the variant IMSAB without ordinal embeddings. Attention: torch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kar.model.rerank.base import Reranker, Seen, Shape

_INDUCING_POINTS = 20


class Attend(nn.Module):
    """MAB: queries attend to keys, both sums normalised."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.forward_one = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden))
        self.norm_attended, self.norm_out = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def forward(self, query_BQZ: Tensor, key_BKZ: Tensor, is_key_BK: Tensor | None = None) -> Tensor:
        """[B, Q, Z]. `is_key_BK`: which keys count; None: all."""
        hidden_BK = None if is_key_BK is None else ~is_key_BK
        attended_BQZ, _ = self.attention(query_BQZ, key_BKZ, key_BKZ, key_padding_mask=hidden_BK, need_weights=False)
        h_BQZ = self.norm_attended(query_BQZ + attended_BQZ)
        out_BQZ: Tensor = self.norm_out(h_BQZ + self.forward_one(h_BQZ))
        return out_BQZ


class Induced(nn.Module):
    """IMSAB: the set attends to what learned points read of it."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.point_IZ = nn.Parameter(torch.empty(_INDUCING_POINTS, hidden))
        nn.init.xavier_uniform_(self.point_IZ)
        self.read, self.write = Attend(hidden, heads, dropout), Attend(hidden, heads, dropout)

    def forward(self, x_BNZ: Tensor, is_item_BN: Tensor) -> Tensor:
        """[B, N, Z]"""
        read_BIZ = self.read(self.point_IZ.expand(len(x_BNZ), -1, -1), x_BNZ, is_item_BN)
        written_BNZ: Tensor = self.write(x_BNZ, read_BIZ)
        return written_BNZ


class SetRank(Reranker):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.enter = nn.Linear(shape.input_width, shape.hidden)
        self.blocks = nn.ModuleList(Induced(shape.hidden, shape.heads, shape.dropout) for _ in range(shape.blocks))
        self.out = nn.Linear(shape.hidden, 1, bias=False)

    def forward(self, seen: Seen) -> Tensor:
        x_BNZ = self.enter(seen.input_BNX)
        for block in self.blocks:
            x_BNZ = block(x_BNZ, seen.is_item_BN)
        score_BN: Tensor = self.out(x_BNZ).squeeze(-1)
        return score_BN
