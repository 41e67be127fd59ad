"""MIR: the candidates as a set meet the history as a list, by item and by field, the old events fading at each user's own pace.

    set      c = x + attention(x, x, x)          the candidates among each other
    list     g = GRU(events)                     the history in its order
    affinity a_ij = tanh(c_i W g_j / √Z  +  Σ_{f, f'} candidate_i,f W_ff' event_j,f'  / √Y) · exp(−rate · age_j)
    interest r_i = Σ_j softmax_j(scale · a_ij) g_j ; zeros where there is no history
    score    = MLP[x_i, c_i, r_i, c_i · r_i]
Fields are the item's embeddings and its adapted vectors, on both sides: the knowledge of a candidate is held against the knowledge of every
item of the history. (In KAR's official code MIR takes the vectors and never looks at them.) age_j: events since, over 10; rate > 0 is read from the whole
history. No candidate sees another's place, so their order changes no score. Loss: listwise softmax.

Source: MIR, arXiv 2204.09370: self-attention within the set, a recurrent layer within the list, affinities of items and of fields between them with
personal decay. The way from affinities to scores is simpler than the paper's: a candidate reads the history, the history does not read the set.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from kar.model.rerank.base import Reranker, Seen, Shape, state_at

_AGE_UNIT = 10.0
_SCALE_AT_START = 4.0


class MIR(Reranker):
    """See the module."""

    needs_history = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        hidden = shape.hidden
        self.enter = nn.Linear(shape.input_width, hidden)
        self.attention = nn.MultiheadAttention(hidden, shape.heads, shape.dropout, batch_first=True)
        self.gru = nn.GRU(shape.event_width, hidden, batch_first=True)
        self.by_item = nn.Linear(hidden, hidden, bias=False)
        self.by_field = nn.Linear(shape.event_width, shape.event_width, bias=False)
        self.rate = nn.Linear(hidden, 1)
        self.scale = nn.Parameter(torch.tensor(_SCALE_AT_START))
        self.out = nn.Sequential(nn.Linear(4 * hidden, hidden), nn.ReLU(), nn.Dropout(shape.dropout), nn.Linear(hidden, 1, bias=False))

    def forward(self, seen: Seen) -> Tensor:
        x_BNZ = self.enter(seen.input_BNX)
        among_BNZ, _ = self.attention(x_BNZ, x_BNZ, x_BNZ, key_padding_mask=~seen.is_item_BN, need_weights=False)
        set_BNZ = x_BNZ + among_BNZ
        list_BLZ, whole_BZ = self._read(seen.event_BLY, seen.is_event_BL)
        weight_BNL = self.weights(seen, set_BNZ, list_BLZ, whole_BZ)
        interest_BNZ = torch.bmm(weight_BNL, list_BLZ)
        score_BN: Tensor = self.out(torch.cat([x_BNZ, set_BNZ, interest_BNZ, set_BNZ * interest_BNZ], dim=2)).squeeze(-1)
        return score_BN

    def weights(self, seen: Seen, set_BNZ: Tensor, list_BLZ: Tensor, whole_BZ: Tensor) -> Tensor:
        """[B, N, L] how much each candidate reads of each event: sums to 1 over the events, or to 0 where there are none."""
        by_item_BNL = torch.bmm(self.by_item(set_BNZ), list_BLZ.transpose(1, 2)) / math.sqrt(self.shape.hidden)
        by_field_BNL = torch.bmm(self.by_field(seen.candidate_BNY), seen.event_BLY.transpose(1, 2)) / math.sqrt(self.shape.event_width)
        count_B1 = seen.is_event_BL.sum(dim=1, keepdim=True)
        age_BL = (count_B1 - 1 - torch.arange(seen.event_BLY.shape[1], device=count_B1.device)).clamp(min=0) / _AGE_UNIT
        fade_BL = torch.exp(-functional.softplus(self.rate(whole_BZ)) * age_BL)
        affinity_BNL = (by_item_BNL + by_field_BNL).tanh() * fade_BL[:, None] * self.scale
        weight_BNL = affinity_BNL.masked_fill(~seen.is_event_BL[:, None], -1e4).softmax(dim=2)
        return weight_BNL * (count_B1 > 0)[..., None]

    def _read(self, event_BLY: Tensor, is_event_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The GRU's states [B, L, Z] and its last one [B, Z]; an empty history reads one empty event."""
        state_BLZ, _ = self.gru(event_BLY * is_event_BL[..., None])
        return state_BLZ, state_at(state_BLZ, is_event_BL.sum(dim=1))
