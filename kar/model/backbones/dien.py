"""DIEN: a GRU makes the history's events into interests, and a second one follows those that concern the target; then a final MLP.

Events and target are as in DIN (`Backbone.events`); adapted vectors stand beside the interest before the MLP too. The second GRU is the paper's
AUGRU, in which attention scales the update gate. No auxiliary loss, as in KAR. Source: DIEN, arXiv 1809.03672, equations 8 to 15; where the
adapted vectors enter: KAR, arXiv 2306.10933. Attention: deepctr-torch.

Shape suffixes besides those of `base`: X width of the target, of an event and of an interest
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kar.model.adapted import Adapted
from kar.model.backbones.attention import attention, weights
from kar.model.backbones.base import Backbone, FinalMLP, Shape
from kar.model.batches import Batch


class DIEN(Backbone):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = self.event_width
        self.extractor = nn.GRU(width, width, batch_first=True)
        self.attention = attention(width, is_normalised=True)
        self.evolution = nn.GRUCell(width, width)  # its weights; the work is `evolve`
        beside = shape.target_count + shape.profile_count + shape.kind_count
        self.mlp = FinalMLP(width + beside * shape.embedding_dim, shape.mlp, shape.dropout)

    def forward(self, batch: Batch, adapted: Adapted) -> Tensor:
        single_BSD = self.single(batch)
        event_BLX, is_event_BL = self.events(batch, adapted)
        interest_BLX, _ = self.extractor(event_BLX)  # histories begin at place 0: what follows their end reaches none of their interests
        interest_BX = self.evolve(interest_BLX, self.attend(self.target(single_BSD, adapted), interest_BLX, is_event_BL))
        return self.mlp(torch.cat([interest_BX, single_BSD.flatten(1), adapted.target_BCD.flatten(1)], dim=1))  # type: ignore[no-any-return]

    def attend(self, target_BX: Tensor, interest_BLX: Tensor, is_event_BL: Tensor) -> Tensor:
        """[B, L]: how much each interest concerns the target; a history's weights sum to 1, places without event have none."""
        logit_BL = weights(self.attention, target_BX, interest_BLX).masked_fill(~is_event_BL, torch.finfo(torch.float32).min)
        return logit_BL.softmax(dim=-1) * is_event_BL  # the product: where all is masked, the softmax is uniform

    def evolve(self, interest_BLX: Tensor, weight_BL: Tensor) -> Tensor:
        """[B, X]: the state after the last event; zero for an empty history. deepctr-torch's AUGRU, held equal to it by a test.

        A place without event has weight 0 and leaves the state as it is, so that no row needs to know its length.

            update = weight · σ(W_u i + U_u h),  reset = σ(W_r i + U_r h),  new = tanh(W_n i + reset ∘ U_n h),  h ← (1 − update) ∘ h + update ∘ new
        """
        cell, width = self.evolution, interest_BLX.shape[-1]
        of_interest_LBX = functional.linear(interest_BLX.transpose(0, 1), cell.weight_ih, cell.bias_ih)
        state_BX = interest_BLX.new_zeros(len(interest_BLX), width)
        for of_interest_BX, weight_B1 in zip(of_interest_LBX.unbind(), weight_BL.t()[:, :, None].unbind(), strict=True):
            of_state_BX = functional.linear(state_BX, cell.weight_hh, cell.bias_hh)
            gates_BX = (of_interest_BX[:, : 2 * width] + of_state_BX[:, : 2 * width]).sigmoid()
            reset_BX, update_BX = gates_BX.chunk(2, dim=1)
            new_BX = torch.addcmul(of_interest_BX[:, 2 * width :], reset_BX, of_state_BX[:, 2 * width :]).tanh()
            state_BX = torch.lerp(state_BX, new_BX, weight_B1 * update_BX)
        return state_BX
