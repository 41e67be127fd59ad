"""FiGNN: the fields as nodes of a graph whose edges say how much two fields have to do with each other; states pass along the edges.

Adapted vectors are nodes of their own. Ours, from the paper (arXiv 1910.05552):

    state¹  = self-attention between the fields (`Interacting`, which adds AutoInt's residual)
    edge_ij = softmax over j ≠ i of LeakyReLU(w · [field_i ‖ field_j])
    heard_i = W_in,i Σ_j edge_ij W_out,j stateᵗ_j + b
    stateᵗ⁺¹_i = GRU(heard_i, stateᵗ_i) + state¹_i
    logit   = Σ_i weight(state_i) · score(state_i),  score the final MLP, weight a linear unit

Two steps as in KAR, arXiv 2306.10933; the matrices and the GRU are the same in both, as in the paper.

Shape suffixes as in `base`; a second F of a tensor: the field that is heard
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kar.model.adapted import Adapted
from kar.model.backbones.base import Backbone, FinalMLP, Shape
from kar.model.backbones.interacting import Interacting
from kar.model.batches import Batch

_STEPS = 2


class FiGNN(Backbone):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        count, width = shape.field_count + shape.knowledge_count, shape.embedding_dim
        self.attention = Interacting(width, width)
        self.of_edge = nn.Linear(2 * width, 1, bias=False)
        self.out_FDD = nn.Parameter(torch.empty(count, width, width))
        self.in_FDD = nn.Parameter(torch.empty(count, width, width))
        for matrix_DD in (*self.out_FDD, *self.in_FDD):
            nn.init.xavier_uniform_(matrix_DD)
        self.bias_D = nn.Parameter(torch.zeros(width))
        self.gru = nn.GRUCell(width, width)
        self.mlp = FinalMLP(width, shape.mlp, shape.dropout)
        self.weight = nn.Linear(width, 1)

    def forward(self, batch: Batch, adapted: Adapted) -> Tensor:
        fields_BFD = torch.cat([self.fields(batch), adapted.fields(batch)], dim=1)
        state_BFD = self.interact(self.attention(fields_BFD), self.edges(fields_BFD))
        return (self.weight(state_BFD).squeeze(-1) * self.mlp(state_BFD)).sum(dim=1)  # type: ignore[no-any-return]

    def edges(self, fields_BFD: Tensor) -> Tensor:
        """[B, F, F]: how much a field (row) hears of every other (column). A row sums to 1; no field hears itself.

        w · [field_i ‖ field_j] is one product per field and side, not one per pair.
        """
        of_hearer_BF, of_heard_BF = functional.linear(fields_BFD, self.of_edge.weight.view(2, -1)).unbind(-1)
        logit_BFF = functional.leaky_relu(of_hearer_BF[:, :, None] + of_heard_BF[:, None, :])
        is_itself_FF = torch.eye(logit_BFF.shape[-1], dtype=torch.bool, device=logit_BFF.device)
        return logit_BFF.masked_fill(is_itself_FF, float("-inf")).softmax(dim=-1)

    def interact(self, first_BFD: Tensor, edge_BFF: Tensor) -> Tensor:
        """[B, F, D]: the states after the last step."""
        state_BFD = first_BFD
        for _ in range(_STEPS):
            said_BFD = _per_field(state_BFD, self.out_FDD)
            heard_BFD = _per_field(torch.bmm(edge_BFF, said_BFD), self.in_FDD) + self.bias_D
            state_BFD = self.gru(heard_BFD.flatten(0, 1), state_BFD.flatten(0, 1)).view_as(first_BFD) + first_BFD
        return state_BFD


def _per_field(x_BFD: Tensor, weight_FDD: Tensor) -> Tensor:
    """[B, F, D]: each field times its own matrix."""
    return torch.bmm(x_BFD.transpose(0, 1), weight_FDD.transpose(1, 2)).transpose(0, 1)
