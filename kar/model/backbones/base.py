"""What a backbone is given and gives.

Shape suffixes in this folder: B examples · L longest history · D embedding width = adapted width
    S single-valued fields · K fields of a history event · C kinds · F fields of an interaction model
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kar.model.batches import Batch, TrainingData
from kar.model.deepctr import DNN

_EMBEDDING_STD = 0.01


@dataclass(frozen=True)
class Shape:
    """What a backbone's parameters depend on; written into its checkpoint.

    Args:
        code_count: rows of the embedding table.
        target_count: fields of the target (item id and attributes); they come first in `Batch.single_BS`.
        profile_count: fields of the user.
        kind_count: adapted vectors that join each example; 0: the base arm.
        embedding_dim: D.
        mlp: hidden widths of the final MLP.
        dropout: in the final MLP.
    """

    code_count: int
    target_count: int
    profile_count: int
    kind_count: int
    embedding_dim: int
    mlp: tuple[int, ...]
    dropout: float

    @classmethod
    def of(cls, data: TrainingData, kind_count: int, embedding_dim: int, mlp: Sequence[int], dropout: float) -> Shape:
        return cls(data.fields.total, len(data.target_fields), len(data.profile_fields), kind_count, embedding_dim, tuple(mlp), dropout)


class Backbone(nn.Module, ABC):
    """A ranker over ids, attributes and the history, with or without adapted vectors."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.code_count, shape.embedding_dim)
        nn.init.normal_(self.embedding.weight, std=_EMBEDDING_STD)

    @abstractmethod
    def forward(self, batch: Batch, adapted_BCD: Sequence[Tensor]) -> Tensor:
        """Logits [B].

        Args:
            batch: the examples.
            adapted_BCD: one [B, D] per kind, in the arm's order.
        """


class FinalMLP(nn.Module):
    """deepctr-torch's DNN and one linear unit: [B, width] → logits [B]."""

    def __init__(self, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.dnn = start_as_linear(DNN(width, list(hidden), activation="relu", dropout_rate=dropout))
        self.out = nn.Linear(hidden[-1], 1)

    def forward(self, x_BX: Tensor) -> Tensor:
        return self.out(self.dnn(x_BX)).squeeze(-1)  # type: ignore[no-any-return]


def start_as_linear(module: nn.Module) -> nn.Module:
    """Initialise every linear layer as torch does. deepctr-torch starts its DNN at std 1e-4, from where Adam needs an epoch to leave."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    return module
