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


def weights(layer: AttentionSequencePoolingLayer, target_BX: Tensor, event_BLX: Tensor, of_event_BLU: Tensor | None = None) -> Tensor:
    """[B, L] what deepctr-torch's local activation unit gives, with the layer's weights: neither masked nor normalised.

    Its first layer takes [q, k, q − k, q · k] side by side, four times the events' memory. Being linear, it is
    (Wq + Wd) q + (Wk − Wd) k + Wp (q · k), of which the first term is computed once per example.

    Args:
        event_BLX: the products run in its precision.
        of_event_BLU: the second term (`of_events`), where several examples share an event and it was computed once; None: computed here.
    """
    unit, to = layer.local_att, event_BLX.dtype
    first, second = unit.dnn.linears
    wq_UX, _, wd_UX, wp_UX = first.weight.chunk(4, dim=1)
    if of_event_BLU is None:
        of_event_BLU = of_events(layer, event_BLX)
    of_target_BU = functional.linear(target_BX, wq_UX + wd_UX, first.bias).to(to)
    hidden_BLU = functional.linear(event_BLX * target_BX.to(to)[:, None], wp_UX.to(to)) + of_event_BLU
    hidden_BLU = (hidden_BLU + of_target_BU[:, None]).relu_()
    hidden_BLU = functional.linear(hidden_BLU, second.weight.to(to), second.bias.to(to)).relu_()
    weight_BL: Tensor = functional.linear(hidden_BLU, unit.dense.weight.to(to), unit.dense.bias.to(to)).squeeze(-1)
    return weight_BL


def of_events(layer: AttentionSequencePoolingLayer, event_X: Tensor) -> Tensor:
    """[…, U]: what the first layer of the unit makes of events [..., X] alone, whatever the target."""
    _, wk_UX, wd_UX, _ = layer.local_att.dnn.linears[0].weight.chunk(4, dim=1)
    return functional.linear(event_X, (wk_UX - wd_UX).to(event_X.dtype))
