"""Adapt very many vectors: a trained adaptor over all subjects, in chunks that stay in the processor's cache.

Floor, 384-d, seven experts a kind of [128, 32]: 0.75 MFLOP a vector. A core that does 150 GFLOP/s in float32 and 800 in bfloat16 (AMX)
adapts at best 0.2 M or 1.1 M vectors a second; see `benchmarks/adapt.py` for what is measured.

Shape suffixes as in `kar.model.adaptor`; besides: C vectors of a chunk
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kar.errors import ModelError
from kar.model.adaptor import Adaptor, Form
from kar.model.knowledge import Float32

_CHUNK = 2048  # 1.5 MB of vectors in bfloat16: with one expert's hidden layer they fit a core's second-level cache


@torch.inference_mode()
def score(form: Form, kind: str, vectors_NT: Float32, precision: str = "float32") -> Float32:
    """Adapted vectors [N, A] as they enter a backbone, float32.

    A vector's result depends neither on the vectors beside it nor on its place, to the last bit, on one kind of processor: every chunk
    has the same shape, the last one filled up.

    Args:
        form: in evaluation mode, on the CPU.
        vectors_NT: float32; may be read-only or memory-mapped.
        precision: "bfloat16": KAR's adaptor computes its products in it; a result's distance from the float32 one is below 1 % of
            its length (typically 0.25 %). Other forms, which cost little, stay in float32.

    Raises:
        ModelError: an unknown kind, another width, or a vector that is not finite.
    """
    adapt = _in_bfloat16(form, kind) if precision == "bfloat16" and isinstance(form, Adaptor) else form
    form.check(kind, vectors_NT.shape)
    adapted_NA = np.empty((len(vectors_NT), form.adapted_width), np.float32)
    spare_CT = torch.zeros(_CHUNK, form.width)
    for start in range(0, len(vectors_NT), _CHUNK):
        part = vectors_NT[start : start + _CHUNK]
        chunk_CT = _whole(part, spare_CT)
        # one cheap pass over most chunks: a sum is finite only if all that it adds is
        if not chunk_CT.sum().isfinite() and not np.isfinite(part).all():
            first = start + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
            raise ModelError(f"view {kind}: vector {first} is not finite", "run: kar run vectors")
        adapted_NA[start : start + _CHUNK] = form.enter(kind, adapt(kind, chunk_CT))[: len(part)].numpy()
    return adapted_NA


def _whole(part: Float32, spare_CT: Tensor) -> Tensor:
    """A chunk of the full shape: the vectors where they lie, or copied into `spare_CT` if they are too few, read-only or scattered."""
    if len(part) == len(spare_CT) and part.flags.writeable and part.flags.c_contiguous:
        return torch.from_numpy(part)
    spare_CT.numpy()[: len(part)] = part
    return spare_CT


def _in_bfloat16(adaptor: Adaptor, kind: str) -> Callable[[str, Tensor], Tensor]:
    """What `adaptor(kind, …)` gives, with products in bfloat16 (their sums in float32 inside), one expert after another.

    An expert's hidden layer is used while it is still in the cache; as one batched product all experts' layers go to memory and back.
    """
    gate = adaptor.gate[adaptor.key(kind)]
    assert isinstance(gate, torch.nn.Linear)
    gate_ET = gate.weight.bfloat16()
    experts = [
        [parameter.bfloat16() for parameter in layers]
        for group in (adaptor.shared, adaptor.own_of(kind))
        for layers in zip(*group.parameters(), strict=True)
    ]

    def adapt(_: str, vectors_CT: Tensor) -> Tensor:
        low_CT = vectors_CT.bfloat16()
        # experts before vectors: a softmax over the short dimension is several times slower where that one is the last
        weight_EC1 = (functional.linear(gate_ET, low_CT).float() + gate.bias[:, None]).softmax(dim=0)[:, :, None]
        adapted_CA = torch.zeros(len(vectors_CT), adaptor.adapted_width)
        for weight_C1, (w1_HT, b1_H, w2_AH, b2_A) in zip(weight_EC1, experts, strict=True):
            hidden_CH = functional.linear(low_CT, w1_HT, b1_H).relu_()
            expert_CA = functional.linear(hidden_CH, w2_AH, b2_A).relu_()
            adapted_CA.addcmul_(weight_C1, expert_CA.float())
        return adapted_CA

    return adapt
