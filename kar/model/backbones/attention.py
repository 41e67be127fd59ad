"""The attention of DIN and DIEN: how much each event of a history matters to the target.

Shape suffixes besides those of `base`: X width of the target and of an event · U hidden width of the attention
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from kar.model.backbones.base import start_as_linear
from kar.model.deepctr import AttentionSequencePoolingLayer

_HIDDEN = (32, 16)


def attention(width: int, *, is_normalised: bool) -> AttentionSequencePoolingLayer:
    """deepctr-torch's layer, hidden widths as in KAR. It holds the weights; the work is `weights`.

    No Dice: its batch norm would count the places without event, and fails on a batch of one.

    Args:
        width: X.
        is_normalised: weights go through a softmax.
    """
    layer = AttentionSequencePoolingLayer(
        att_hidden_units=_HIDDEN,
        att_activation="relu",
        weight_normalization=is_normalised,
        return_score=is_normalised,
        embedding_dim=width,
        supports_masking=True,
    )
    start_as_linear(layer)
    return layer


def weights(layer: AttentionSequencePoolingLayer, target_BX: Tensor, event_BLX: Tensor) -> Tensor:
    """[B, L] what deepctr-torch's local activation unit gives, with the layer's weights: neither masked nor normalised.

    Its first layer takes [q, k, q − k, q · k] side by side, four times the events' memory. Being linear, it is
    (Wq + Wd) q + (Wk − Wd) k + Wp (q · k), of which the first term is computed once per example.
    """
    unit = layer.local_att
    first, second = unit.dnn.linears
    wq_UX, wk_UX, wd_UX, wp_UX = first.weight.chunk(4, dim=1)
    of_target_BU = functional.linear(target_BX, wq_UX + wd_UX, first.bias)
    hidden_BLU = functional.linear(event_BLX, wk_UX - wd_UX) + functional.linear(event_BLX * target_BX[:, None], wp_UX)
    hidden_BLU = (hidden_BLU + of_target_BU[:, None]).relu_()
    weight_BL: Tensor = unit.dense(second(hidden_BLU).relu_()).squeeze(-1)
    return weight_BL
