"""The hybrid-expert adaptor: knowledge vectors in, adapted vectors out.

Shape suffixes, this file only:  N subjects · T width of a knowledge vector · H hidden width · A adapted width · E experts one kind may use

Source: KAR, arXiv 2306.10933, hybrid-expert adaptor (a PLE layer with one task per kind):
    weight_k = softmax(W_k r + b_k)        over shared + own experts of kind k
    adapted  = Σ_e weight_k,e · Expert_e(r)
    Expert(r) = ReLU(W2 ReLU(W1 r + b1) + b2),  dropout after both ReLUs
A kind is a view ("user.preference", "item.facts", …). Each kind depends on its own vector alone, so adapted vectors can be stored.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kar.errors import ModelError
from kar.settings.schema import AdaptorForm


class Form(nn.Module, ABC):
    """What stands between knowledge vectors and a backbone: KAR's adaptor below, or one of the plainer ones of `kar.model.forms`.

    Args:
        kinds: the views, each with its own learned default.
        width: T, of every knowledge vector.
        adapted_width: A.
        is_gated: adapted vectors enter the backbone through a residual gate.
    """

    name: ClassVar[AdaptorForm]

    def __init__(self, kinds: Sequence[str], width: int, adapted_width: int, *, is_gated: bool = False) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.width, self.adapted_width, self.is_gated = width, adapted_width, is_gated
        self.default = nn.ParameterDict({self.key(kind): nn.Parameter(torch.zeros(adapted_width)) for kind in self.kinds})
        gated = self.kinds if is_gated else ()
        self.residual = nn.ParameterDict({self.key(kind): nn.Parameter(torch.zeros(())) for kind in gated})

    @abstractmethod
    def forward(self, kind: str, vectors_NT: Tensor) -> Tensor:
        """[N, A]: the adapted vectors, before the residual gate.

        Raises:
            ModelError: an unknown kind, or vectors of another width.
        """

    def enter(self, kind: str, adapted_NA: Tensor) -> Tensor:
        """Adapted vectors, and learned defaults, as they enter a backbone: as they are, or multiplied by the kind's residual gate.

        The gate is one number per kind that starts at zero, so that the ranker starts as the base and lets knowledge in as far as it
        helps. Source: SaviorRec and IDProxy start their content branch at zero; one number per kind is ours, so that it can be read.
        """
        return adapted_NA * self.residual[self.key(kind)] if self.is_gated else adapted_NA

    def missing(self, kind: str) -> Tensor:
        """[A]: the learned vector of a subject without knowledge, before the residual gate. Nothing adapts it."""
        default_A: Tensor = self.default[self.key(kind)]
        return default_A

    def gate_weights(self, kind: str, vectors_NT: Tensor) -> Tensor | None:
        """[N, E]: how much each expert counts, in the order of `expert_names`; None: this form has no gate."""
        return None

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Names of the experts that one kind may use; none: this form has no gate."""
        return ()

    def arguments(self) -> dict[str, Any]:
        """What makes an empty one of the same shape; for the checkpoint."""
        return {"kinds": list(self.kinds), "width": self.width, "adapted_width": self.adapted_width, "is_gated": self.is_gated}

    @staticmethod
    def key(kind: str) -> str:
        """The kind's name among the modules, which may hold no dot."""
        return kind.replace(".", ":")

    def check(self, kind: str, shape: Sequence[int]) -> None:
        """Raise ModelError unless vectors of that shape are what the form takes for that kind."""
        if kind not in self.kinds:
            raise ModelError(f"the adaptor has no kind {kind!r}; it has {', '.join(self.kinds)}")
        if len(shape) != 2 or shape[1] != self.width:
            raise ModelError(
                f"{kind}: vectors of shape {tuple(shape)}, the adaptor takes [N, {self.width}]",
                "encode with the encoder that the adaptor was trained with",
            )


_ROWS = 32
_WORTH_TURNING = 64
"""Rows from which a product in bfloat16 saves more than turning its weights, and their gradients back, costs; measured."""


class Experts(nn.Module):
    """`count` two-layer MLPs of the same shape, their weights in one tensor per layer."""

    def __init__(self, count: int, width: int, hidden: int, adapted_width: int) -> None:
        super().__init__()
        self.weight1_EHT = nn.Parameter(torch.empty(count, hidden, width))
        self.bias1_EH = nn.Parameter(torch.empty(count, hidden))
        self.weight2_EAH = nn.Parameter(torch.empty(count, adapted_width, hidden))
        self.bias2_EA = nn.Parameter(torch.empty(count, adapted_width))
        for weight, bias in ((self.weight1_EHT, self.bias1_EH), (self.weight2_EAH, self.bias2_EA)):
            bound = 1 / math.sqrt(weight.shape[-1])  # as nn.Linear starts
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x_NT: Tensor, dropout: float = 0.0) -> Tensor:
        """[E, N, A]: what each expert makes of the vectors, all of them as one product per layer, in the vectors' precision.

        Args:
            dropout: after both ReLUs; 0 where nothing is trained.
        """
        count, hidden, width = self.weight1_EHT.shape
        to = x_NT.dtype
        hidden_NF = functional.linear(x_NT, self.weight1_EHT.to(to).view(-1, width), self.bias1_EH.to(to).flatten())  # F = E · H
        hidden_NF = functional.dropout(hidden_NF.relu_(), dropout)
        hidden_ENH = hidden_NF.view(-1, count, hidden).transpose(0, 1)
        if to == torch.bfloat16:
            hidden_ENH = hidden_ENH.contiguous()  # a product over strided bfloat16 costs four times the copy
        expert_ENA = torch.bmm(hidden_ENH, self.weight2_EAH.to(to).transpose(1, 2)).to(self.bias2_EA.dtype)
        return functional.dropout((expert_ENA + self.bias2_EA[:, None, :]).relu_(), dropout)


class Adaptor(Form):
    """KAR's hybrid-expert adaptor over any number of kinds.

    Args:
        kinds: the views, each with its own gate, own experts and learned default.
        width: T, of every knowledge vector; the shared experts need one width for all kinds.
        adapted_width: A.
        hidden: H, of every expert.
        shared_count: experts that all kinds use.
        own_count: experts of each kind.
        dropout: after both ReLUs of an expert.
        is_gated: see `Form`.

    `precision` is of the experts' and the gate's products; None: the vectors' own. Weights, and what comes out of the products, keep theirs.
    It is no part of what was learned; whoever trains sets it.
    """

    name = "experts"
    precision: torch.dtype | None = None

    def __init__(
        self,
        kinds: Sequence[str],
        width: int,
        adapted_width: int,
        hidden: int,
        shared_count: int,
        own_count: int,
        dropout: float = 0.0,
        *,
        is_gated: bool = False,
    ) -> None:
        super().__init__(kinds, width, adapted_width, is_gated=is_gated)
        self.dropout = dropout
        self.hidden, self.shared_count, self.own_count = hidden, shared_count, own_count
        self.shared = Experts(shared_count, width, hidden, adapted_width)
        self.own = nn.ModuleDict({self.key(kind): Experts(own_count, width, hidden, adapted_width) for kind in self.kinds})
        self.gate = nn.ModuleDict({self.key(kind): nn.Linear(width, shared_count + own_count) for kind in self.kinds})

    def forward(self, kind: str, vectors_NT: Tensor) -> Tensor:
        """Adapt, all experts of the kind as one batched product.

        Returns:
            [N, A], never negative.

        Raises:
            ModelError: an unknown kind, or vectors of another width.
        """
        self.check(kind, vectors_NT.shape)
        # too few rows do not pay for turning the weights into another precision
        to = vectors_NT.dtype if self.precision is None or len(vectors_NT) < _WORTH_TURNING else self.precision
        x_NT = vectors_NT if to == vectors_NT.dtype else _padded(vectors_NT, to)
        weight_EN1 = self.gate_weights(kind, x_NT).t()[:, :, None]
        drop = self.dropout if self.training else 0.0
        of_shared_NA = (weight_EN1[: self.shared_count] * self.shared(x_NT, drop)).sum(dim=0)
        # apart: side by side, the two groups' weights would have to be copied together in every step
        of_own_NA = (weight_EN1[self.shared_count :] * self.own_of(kind)(x_NT, drop)).sum(dim=0)
        adapted_NA: Tensor = of_shared_NA + of_own_NA
        return adapted_NA[: len(vectors_NT)]

    def adapt_clearly(self, kind: str, vectors_NT: Tensor) -> Tensor:
        """The same, written as the paper writes it: one expert after the other. Slow; held equal to `forward` by a test."""
        self.check(kind, vectors_NT.shape)
        weight_NE = self.gate_weights(kind, vectors_NT)
        expert_NA = []
        for experts in (self.shared, self.own_of(kind)):
            for w1_HT, b1_H, w2_AH, b2_A in zip(*experts.parameters(), strict=True):
                hidden_NH = self._drop(functional.relu(vectors_NT @ w1_HT.t() + b1_H))
                expert_NA.append(self._drop(functional.relu(hidden_NH @ w2_AH.t() + b2_A)))
        return torch.einsum("ne,nea->na", weight_NE, torch.stack(expert_NA, dim=1))

    def gate_weights(self, kind: str, vectors_NT: Tensor) -> Tensor:
        """[N, E]: how much each expert counts, shared ones first; a row sums to 1. In the precision of the vectors."""
        gate = self.gate[self.key(kind)]
        assert isinstance(gate, nn.Linear)
        logits_NE = functional.linear(vectors_NT, gate.weight.to(vectors_NT.dtype), gate.bias.to(vectors_NT.dtype))
        return logits_NE.to(gate.weight.dtype).softmax(dim=-1)

    @property
    def expert_names(self) -> tuple[str, ...]:
        return (*(f"shared:{number}" for number in range(self.shared_count)), *(f"own:{number}" for number in range(self.own_count)))

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {"hidden": self.hidden, "shared_count": self.shared_count, "own_count": self.own_count}

    def own_of(self, kind: str) -> Experts:
        """The experts that only this kind uses."""
        own = self.own[self.key(kind)]
        assert isinstance(own, Experts)
        return own

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


def _padded(x_NT: Tensor, to: torch.dtype) -> Tensor:
    """In another precision, with rows of zeros up to a multiple of 32: oneDNN compiles a product anew for each count of rows it meets."""
    padded_NT = x_NT.new_zeros(-(-len(x_NT) // _ROWS) * _ROWS, x_NT.shape[1], dtype=to)
    padded_NT[: len(x_NT)] = x_NT
    return padded_NT
