"""What a backbone is given and gives.

Shape suffixes in this folder: B examples · L longest history · H history events in line · D embedding width = adapted width
    T target fields (item id and attributes) · P the other fields of an example (the user's, hour, means, lists) · K fields of a history event (T and the rating)
    C kinds · J kinds that the history carries · F fields of an interaction model · G fields of knowledge: C + 2 J
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kar.model.adapted import Adapted
from kar.model.batches import Batch, TrainingData, lay_out
from kar.model.deepctr import DNN

_EMBEDDING_STD = 0.01


@dataclass(frozen=True)
class Shape:
    """What a backbone's parameters depend on; written into its checkpoint.

    Args:
        code_count: rows of the embedding table.
        target_count: T; they come first in `Batch.single_BS`.
        profile_count: P.
        kind_count: C, adapted vectors that join each example; 0: the base arm.
        history_kind_count: J, those of them that the items of the history carry too.
        embedding_dim: D.
        mlp: hidden widths of the final MLP.
        dropout: in the final MLP.
    """

    code_count: int
    target_count: int
    profile_count: int
    kind_count: int
    history_kind_count: int
    embedding_dim: int
    mlp: tuple[int, ...]
    dropout: float

    @classmethod
    def of(
        cls, data: TrainingData, kind_count: int, history_kind_count: int, embedding_dim: int, mlp: Sequence[int], dropout: float
    ) -> Shape:
        fields = len(data.target_fields), len(data.profile_fields) + len(data.list_fields)
        return cls(data.fields.total, *fields, kind_count, history_kind_count, embedding_dim, tuple(mlp), dropout)

    @property
    def field_count(self) -> int:
        """F: target, profile, and the means of the history's fields. Counted, not read off a table: target and history share theirs."""
        return 2 * self.target_count + 1 + self.profile_count

    @property
    def knowledge_count(self) -> int:
        """G: the target's adapted vectors, and two means (liked, disliked) for each kind of the history."""
        return self.kind_count + 2 * self.history_kind_count


class Backbone(nn.Module, ABC):
    """A ranker over ids, attributes and the history, with or without adapted vectors.

    `precision` is of its dear products, where a backbone has any beside the final MLP's; whoever trains sets it.
    """

    precision: torch.dtype | None = None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.code_count, shape.embedding_dim)
        nn.init.normal_(self.embedding.weight, std=_EMBEDDING_STD)

    @abstractmethod
    def forward(self, batch: Batch, adapted: Adapted) -> Tensor:
        """Logits [B].

        Args:
            batch: the examples.
            adapted: what the adaptor made of their knowledge.
        """

    def single(self, batch: Batch) -> Tensor:
        """[B, T + P, D]: what an example shows beside its history: item id, item attributes, then the profile: the single-valued fields, and
        the mean of each multi-valued one's values (zero where there is none).
        """
        return self._single(batch, self.embedding.weight)

    def _single(self, batch: Batch, table_VX: Tensor) -> Tensor:
        single_BSX = functional.embedding(batch.single_BS, table_VX)
        if batch.listed is None:
            return single_BSX
        mean_YX = functional.embedding_bag(batch.listed.code_X, table_VX, batch.listed.first_Y, mode="mean")
        return torch.cat([single_BSX, mean_YX.view(len(single_BSX), -1, mean_YX.shape[1])], dim=1)

    def fields(self, batch: Batch) -> Tensor:
        """[B, F, D]: item id, item attributes, profile fields (`single`), then the mean over the history of item ids, of each attribute and of ratings.

        An empty history's means are zero. For models in which fields interact.
        """
        return self.lookup(batch, self.embedding.weight)

    def lookup(self, batch: Batch, table_VX: Tensor) -> Tensor:
        """[B, F, X]: the rows that the fields' codes name in any table with a row per code, in the order of `fields`; the history's are means."""
        single_BSX = self._single(batch, table_VX)
        history_HKX = functional.embedding(batch.code_KH.t(), table_VX)
        mean_BY = batch.windows.means(history_HKX.flatten(1))
        return torch.cat([single_BSX, mean_BY.unflatten(1, history_HKX.shape[1:])], dim=1)  # type: ignore[no-untyped-call]

    @property
    def event_width(self) -> int:
        """X, of an event and of the target beside it: (T + J) · D."""
        return (self.shape.target_count + self.shape.history_kind_count) * self.shape.embedding_dim

    def target(self, single_BSD: Tensor, adapted: Adapted) -> Tensor:
        """[B, X]: the target as the events of the history are given: item id and attributes, then its adapted vectors."""
        return torch.cat([single_BSD[:, : self.shape.target_count].flatten(1), *adapted.queries()], dim=1)

    def events(self, batch: Batch, adapted: Adapted) -> tuple[Tensor, Tensor]:
        """Histories [B, L, X], oldest first, and whether a place holds an event [B, L]. For models that attend to events.

        An event is its item's id and attribute embeddings side by side, the embedding of its rating added to each, and beside them
        the adapted vectors of its item.
        """
        place_BL, is_event_BL = batch.places()
        return lay_out(self.event_line(batch, adapted), place_BL), is_event_BL

    def event_line(self, batch: Batch, adapted: Adapted) -> Tensor:
        """[H, X]: the events of `events` in line, each looked up once however many histories hold it."""
        *value_H, rating_HD = self.embedding(batch.code_KH).unbind(0)
        return torch.cat([*(value_HD + rating_HD for value_HD in value_H), *adapted.event_line()], dim=-1)


class FirstLayer(nn.Linear):
    """A linear layer over many inputs; `precision` is of its product, None: float32. What comes out is float32."""

    precision: torch.dtype | None = None

    @classmethod
    def like(cls, layer: nn.Linear) -> FirstLayer:
        """With the same weights; draws none."""
        made: FirstLayer = nn.utils.skip_init(cls, layer.in_features, layer.out_features)  # type: ignore[no-untyped-call]
        made.load_state_dict(layer.state_dict())
        return made

    def forward(self, x_BX: Tensor) -> Tensor:
        if self.precision is None:
            return super().forward(x_BX)
        to = self.precision
        return functional.linear(x_BX.to(to), self.weight.to(to), self.bias.to(to)).float()


class FinalMLP(nn.Module):
    """deepctr-torch's DNN and one linear unit: [B, width] → logits [B]."""

    def __init__(self, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        dnn = DNN(width, list(hidden), activation="relu", dropout_rate=dropout)
        dnn.linears[0] = FirstLayer.like(dnn.linears[0])
        self.dnn = start_as_linear(dnn)
        self.out = nn.Linear(hidden[-1], 1)

    def forward(self, x_BX: Tensor) -> Tensor:
        return self.out(self.dnn(x_BX)).squeeze(-1)  # type: ignore[no-any-return]


def start_as_linear(module: nn.Module) -> nn.Module:
    """Initialise every linear layer as torch does. deepctr-torch starts its DNN at std 1e-4, from where Adam needs an epoch to leave."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    return module
