"""The adaptor's forms: KAR's hybrid experts (`kar.model.adaptor`), and the plainer ones that they are judged against.

experts    KAR's: shared and own experts, a gate per kind
one_gate   a mixture of experts that knows no kinds: one pool, one gate. As many experts in all as `experts` has, so that the structure
           is what differs and not the size; each vector passes all of them, which takes longer the more kinds there are
mlp        one expert for all kinds, no gate
linear     a linear map per kind, without bias: AlphaRec's claim is that this suffices (arXiv 2407.05441)
random     a frozen random projection per kind: distances stay, nothing is learned but the defaults

Shape suffixes as in `kar.model.adaptor`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kar.errors import ModelError
from kar.model.adaptor import Adaptor, Experts, Form
from kar.settings import AdaptorSettings


class OneGate(Form):
    """One pool of experts and one gate for all kinds. Source: the ablation MoE of KAR, arXiv 2306.10933.

    Args:
        hidden: H, of every expert.
        count: experts of the pool.
        dropout: after both ReLUs of an expert.
    """

    name = "one_gate"

    def __init__(
        self,
        kinds: Sequence[str],
        width: int,
        adapted_width: int,
        hidden: int,
        count: int,
        dropout: float = 0.0,
        *,
        is_gated: bool = False,
    ) -> None:
        super().__init__(kinds, width, adapted_width, is_gated=is_gated)
        self.hidden, self.count, self.dropout = hidden, count, dropout
        self.pool = Experts(count, width, hidden, adapted_width)
        self.gate = nn.Linear(width, count)

    def forward(self, kind: str, vectors_NT: Tensor) -> Tensor:
        self.check(kind, vectors_NT.shape)
        expert_ENA: Tensor = self.pool(vectors_NT, self.dropout if self.training else 0.0)
        return (self.gate_weights(kind, vectors_NT).t()[:, :, None] * expert_ENA).sum(dim=0)

    def gate_weights(self, kind: str, vectors_NT: Tensor) -> Tensor:
        logits_NE: Tensor = self.gate(vectors_NT)
        return logits_NE.softmax(dim=-1)

    @property
    def expert_names(self) -> tuple[str, ...]:
        return tuple(f"shared:{number}" for number in range(self.count))

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {"hidden": self.hidden, "count": self.count}


class SharedMLP(Form):
    """One two-layer MLP for all kinds: an expert without gate. Source: the ablation MLP of KAR, arXiv 2306.10933."""

    name = "mlp"

    def __init__(
        self, kinds: Sequence[str], width: int, adapted_width: int, hidden: int, dropout: float = 0.0, *, is_gated: bool = False
    ) -> None:
        super().__init__(kinds, width, adapted_width, is_gated=is_gated)
        self.hidden, self.dropout = hidden, dropout
        self.expert = Experts(1, width, hidden, adapted_width)

    def forward(self, kind: str, vectors_NT: Tensor) -> Tensor:
        self.check(kind, vectors_NT.shape)
        adapted_NA: Tensor = self.expert(vectors_NT, self.dropout if self.training else 0.0)[0]
        return adapted_NA

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {"hidden": self.hidden}


class LinearMaps(Form):
    """A linear map per kind, without bias."""

    name = "linear"

    def __init__(self, kinds: Sequence[str], width: int, adapted_width: int, *, is_gated: bool = False) -> None:
        super().__init__(kinds, width, adapted_width, is_gated=is_gated)
        self.map = nn.ModuleDict({self.key(kind): nn.Linear(width, adapted_width, bias=False) for kind in self.kinds})

    def forward(self, kind: str, vectors_NT: Tensor) -> Tensor:
        self.check(kind, vectors_NT.shape)
        adapted_NA: Tensor = self.map[self.key(kind)](vectors_NT)
        return adapted_NA


class RandomProjection(Form):
    """A frozen Gaussian projection per kind, entries of variance 1 / A, so that lengths stay as they are in the mean."""

    name = "random"

    def __init__(self, kinds: Sequence[str], width: int, adapted_width: int, *, is_gated: bool = False) -> None:
        super().__init__(kinds, width, adapted_width, is_gated=is_gated)
        for kind in self.kinds:  # buffers: in the checkpoint, and out of the optimiser's reach
            self.register_buffer(self._projection(kind), torch.randn(adapted_width, width) / math.sqrt(adapted_width))

    def forward(self, kind: str, vectors_NT: Tensor) -> Tensor:
        self.check(kind, vectors_NT.shape)
        return functional.linear(vectors_NT, self.get_buffer(self._projection(kind)))

    def _projection(self, kind: str) -> str:
        return f"projection_{self.key(kind)}"


FORMS: dict[str, type[Form]] = {form.name: form for form in (Adaptor, OneGate, SharedMLP, LinearMaps, RandomProjection)}


def make(kinds: Sequence[str], width: int, settings: AdaptorSettings) -> Form:
    """The form that `adaptor.form` names, with fresh weights from torch's generator.

    Args:
        kinds: the arm's views.
        width: T.
    """
    shape: dict[str, Any] = {
        "kinds": kinds,
        "width": width,
        "adapted_width": settings.embedding_dim,
        "is_gated": settings.residual_gate,
    }
    dropout = settings.dropout if settings.adaptor_dropout is None else settings.adaptor_dropout
    of_experts: dict[str, Any] = {"hidden": settings.expert_hidden, "dropout": dropout}
    own: dict[str, dict[str, Any]] = {
        "experts": {**of_experts, "shared_count": settings.shared_experts, "own_count": settings.own_experts},
        "one_gate": {**of_experts, "count": settings.shared_experts + settings.own_experts * len(kinds)},
        "mlp": of_experts,
    }
    made = FORMS[settings.form](**shape, **own.get(settings.form, {}))
    if isinstance(made, Adaptor) and settings.precision == "bfloat16":
        made.precision = torch.bfloat16
    return made


def empty(name: str, arguments: dict[str, Any]) -> Form:
    """A form of the shape that `Form.arguments` told, to load weights into.

    Raises:
        ModelError: no such form.
        TypeError: arguments that the form does not take.
    """
    if name not in FORMS:
        raise ModelError(
            f"there is no adaptor of the form {name!r}; the forms: {', '.join(FORMS)}", "read it with the version that wrote it"
        )
    return FORMS[name](**arguments)
