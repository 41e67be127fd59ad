"""What a re-ranker is given and gives, and the module that trains adaptor and re-ranker jointly.

At every place of a list a re-ranker sees its candidate (embeddings of the item's fields, the adapted vectors of its item kinds), the first
stage's score, and the list's user, the same at every place: the adapted vectors of the user kinds, the mean over the history of each of its
fields, and, where the history carries knowledge, the adapted means of its liked and of its disliked items. KAR gives DLCM, PRM and SetRank no
history at all; without one a user's vector wins against a base that knows nothing of the user.

Shape suffixes in this folder: B lists · N places of a list · L longest history · D embedding width = adapted width
    T item fields · X width of all that is seen at a place · Y width of a history event, and of a candidate beside it
    Z width inside a re-ranker
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kar.model.adapted import Adapted, HistoryVectors
from kar.model.adaptor import Form
from kar.model.batches import Kind, TrainingData, lay_out
from kar.model.rerank.candidates import ListBatch
from kar.settings import AdaptorSettings, RerankSettings

_EMBEDDING_STD = 0.01
_NO_CANDIDATE = -1e4
"""Score of a place without candidate: its share of a softmax is 0, and the loss stays finite."""


@dataclass(frozen=True)
class Shape:
    """What a re-ranker's parameters depend on.

    Args:
        input_width: X.
        event_width: Y.
        list_length: most candidates of a list.
        hidden: Z.
        heads: of every attention; they divide Z.
        blocks: of attention, where a model stacks them.
        dropout: inside.
    """

    input_width: int
    event_width: int
    list_length: int
    hidden: int
    heads: int
    blocks: int
    dropout: float


@dataclass(frozen=True)
class Seen:
    """What a re-ranker sees of some lists.

    Args:
        input_BNX: everything at a place; rows of places without candidate are not to be looked at.
        is_item_BN: whether a place holds a candidate.
        candidate_BNY: the candidate as events are given: item fields, then the adapted vectors of the kinds that the history carries.
        event_BLY: the history's events, oldest first: item fields (the rating's embedding added to each), then their adapted vectors.
        is_event_BL: whether a place holds an event.
    """

    input_BNX: Tensor
    is_item_BN: Tensor
    candidate_BNY: Tensor
    event_BLY: Tensor
    is_event_BL: Tensor


class Reranker(nn.Module, ABC):
    """Scores a list's candidates in each other's presence. What is added to all scores of a list changes nothing: no last layer has a bias."""

    needs_history = False

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    @abstractmethod
    def forward(self, seen: Seen) -> Tensor:
        """Scores [B, N]; those of places without candidate mean nothing."""

    def loss(self, score_BN: Tensor, label_BN: Tensor) -> Tensor:
        """The listwise softmax loss, a mean over lists: −Σ_i a_i log softmax(score)_i, where a spreads 1 over the positives."""
        share_BN = label_BN / label_BN.sum(dim=1, keepdim=True)
        return -(share_BN * score_BN.log_softmax(dim=1)).sum(dim=1).mean()


class ListRanker(nn.Module):
    """Embeddings, the adaptor where the arm has knowledge, and a re-ranker."""

    def __init__(self, code_count: int, embedding_dim: int, adaptor: Form | None, body: Reranker) -> None:
        super().__init__()
        self.embedding = nn.Embedding(code_count, embedding_dim)
        nn.init.normal_(self.embedding.weight, std=_EMBEDDING_STD)
        self.adaptor, self.body = adaptor, body

    def forward(self, batch: ListBatch) -> Tensor:
        """Scores [B, N]; a place without candidate is below all others."""
        score_BN: Tensor = self.body(self.see(batch))
        return score_BN.masked_fill(~batch.is_item_BN, _NO_CANDIDATE)

    def see(self, batch: ListBatch) -> Seen:
        """What the batch is to the re-ranker."""
        item_BND, user_BD, adapted = self._adapt(batch)
        field_BNY = self.embedding(batch.code_BNT).flatten(2)
        user_BX = torch.cat([self._history_means(batch), *user_BD, *_taste(adapted, batch)], dim=1)
        seen_BNX = [field_BNY, *item_BND, batch.score_BN[..., None], user_BX[:, None].expand(-1, field_BNY.shape[1], -1)]
        events = self._events(batch, adapted) if self.body.needs_history else (field_BNY[:, :0], batch.is_item_BN[:, :0])
        own = [item_BND[found.kind] for found in adapted.history]
        return Seen(torch.cat(seen_BNX, dim=2), batch.is_item_BN, torch.cat([field_BNY, *own], dim=2), *events)

    def _adapt(self, batch: ListBatch) -> tuple[list[Tensor], list[Tensor], Adapted]:
        """Adapted vectors of the item kinds [B, N, D] and of the user kinds [B, D], and the histories'; each distinct subject once."""
        items: list[Tensor] = []
        users: list[Tensor] = []
        history: list[HistoryVectors] = []
        shape = batch.code_BNT.shape[:2]
        for kind, side in zip(batch.knowledge, batch.sides, strict=True):
            assert self.adaptor is not None
            adapted_XD = torch.cat([self.adaptor.missing(kind.view)[None], self.adaptor(kind.view, kind.vectors_NT)])
            table_XD = self.adaptor.enter(kind.view, adapted_XD)
            vector = table_XD.index_select(0, kind.place_B)
            if side == "user":
                users.append(vector)
                continue
            if kind.place_H is not None:
                history.append(HistoryVectors(len(items), table_XD, kind.place_H))  # numbered among the kinds of items
            items.append(vector.view(*shape, -1))
        return items, users, Adapted(batch.score_BN.new_zeros(shape[0], 0, self.embedding.embedding_dim), tuple(history))

    def _history_means(self, batch: ListBatch) -> Tensor:
        """[B, K · D] of each field of the history; zeros for an empty one."""
        history = batch.history
        return history.windows.means(self.embedding(history.code_KH.t()).flatten(1))

    def _events(self, batch: ListBatch, adapted: Adapted) -> tuple[Tensor, Tensor]:
        place_BL, is_event_BL = batch.history.places()
        *values, rating_BLD = self.embedding(lay_out(batch.history.code_KH.t(), place_BL)).unbind(2)
        return torch.cat([*(value_BLD + rating_BLD for value_BLD in values), *adapted.events(place_BL)], dim=-1), is_event_BL

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def state_at(state_BLZ: Tensor, count_B: Tensor) -> Tensor:
    """[B, Z] a recurrent layer's state after `count_B` steps, at least one.

    What is read stands first and gaps come after it, so its states are not touched by them. Packing the sequences would spare the gaps'
    steps and cost far more: its backward pass fills a gradient of the whole batch for every step.
    """
    last_B11 = (count_B.clamp(min=1) - 1)[:, None, None]
    return state_BLZ.gather(1, last_B11.expand(-1, 1, state_BLZ.shape[2]))[:, 0]


def _taste(adapted: Adapted, batch: ListBatch) -> list[Tensor]:
    """Of each kind of the history the adapted mean of its liked and of its disliked items, [B, D] each."""
    return [mean_BD for found in adapted.history for mean_BD in found.means(batch.history)]


def shape_of(data: TrainingData, kinds: Sequence[Kind], adaptor: AdaptorSettings, settings: RerankSettings) -> Shape:
    """The shape of a re-ranker over this data and these kinds."""
    items, history_kinds = len(data.target_fields), sum(kind.row_V is not None for kind in kinds)
    vectors = items + len(kinds) + len(data.history_fields) + 2 * history_kinds
    dim = adaptor.embedding_dim
    return Shape(
        vectors * dim + 1,
        (items + history_kinds) * dim,
        settings.list_length,
        settings.hidden,
        settings.heads,
        settings.blocks,
        settings.dropout,
    )
