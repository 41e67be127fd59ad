"""DLCM: a GRU reads the list from its last candidate to its first; a candidate is scored by its own state against the state of the whole list.

    x'_i  = [x_i, two ELU layers of x_i]
    o, s  = GRU(x'_n … x'_1)
    score = V · (o_i · tanh(W s + b)),    W: Z → Z × readings
Loss: the attention rank loss, cross-entropy of every candidate's share of the softmax against its share of the labels.

Source: DLCM, arXiv 1804.05936, equations 4 to 8; the number of readings is ours. Where the adapted vectors enter: KAR, arXiv 2306.10933.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kar.model.rerank.base import Reranker, Seen, Shape, state_at

_READINGS = 4


class DLCM(Reranker):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.abstract = nn.Sequential(
            nn.Linear(shape.input_width, shape.hidden), nn.ELU(), nn.Linear(shape.hidden, shape.hidden), nn.ELU(), nn.Dropout(shape.dropout)
        )
        self.gru = nn.GRU(shape.input_width + shape.hidden, shape.hidden, batch_first=True)
        self.whole = nn.Linear(shape.hidden, shape.hidden * _READINGS)
        self.out = nn.Linear(_READINGS, 1, bias=False)

    def forward(self, seen: Seen) -> Tensor:
        x_BNX = torch.cat([seen.input_BNX, self.abstract(seen.input_BNX)], dim=2)
        output_BNZ, last_BZ = self._read_upwards(x_BNX, seen.is_item_BN.sum(dim=1))
        whole_BZR = self.whole(last_BZ).tanh().view(len(last_BZ), self.shape.hidden, _READINGS)
        score_BN: Tensor = self.out(torch.bmm(output_BNZ, whole_BZR)).squeeze(-1)
        return score_BN

    def _read_upwards(self, x_BNX: Tensor, count_B: Tensor) -> tuple[Tensor, Tensor]:
        """States [B, N, Z] at the places of the list and the last state [B, Z]; read from the last candidate to the first."""
        place_N = torch.arange(x_BNX.shape[1], device=x_BNX.device)
        turned_BN = (count_B[:, None] - 1 - place_N).remainder(x_BNX.shape[1])  # its own inverse on the list's candidates
        turned_BNX = x_BNX.gather(1, turned_BN[..., None].expand_as(x_BNX))
        state_BNZ, _ = self.gru(turned_BNX)
        return state_BNZ.gather(1, turned_BN[..., None].expand_as(state_BNZ)), state_at(state_BNZ, count_B)

    def loss(self, score_BN: Tensor, label_BN: Tensor) -> Tensor:
        share_BN = label_BN / label_BN.sum(dim=1, keepdim=True)
        log_BN = score_BN.log_softmax(dim=1)
        # 1 − softmax from its logarithm; a candidate that has all of it would make this infinite
        log_rest_BN = torch.log(-torch.expm1(log_BN.clamp(max=-1e-6)))
        return -(share_BN * log_BN + (1 - share_BN) * log_rest_BN).sum(dim=1).mean()
