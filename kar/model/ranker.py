"""Adaptor and backbone as one module, trained jointly: knowledge vectors → adapted vectors → logit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kar.model.adapted import Adapted, HistoryVectors
from kar.model.adaptor import Adaptor
from kar.model.backbones import BACKBONES, Backbone, Shape
from kar.model.batches import Batch, Kind, KindBatch, TrainingData
from kar.settings import AdaptorSettings


class Ranker(nn.Module):
    """A backbone, and in front of it the adaptor where the arm has knowledge."""

    def __init__(self, backbone: Backbone, adaptor: Adaptor | None) -> None:
        super().__init__()
        self.backbone, self.adaptor = backbone, adaptor

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        logits_B: Tensor = self.backbone(batch, self.adapt(batch))
        return logits_B

    def adapt(self, batch: Batch) -> Adapted:
        """The adapted vectors of a batch: the adaptor runs once per kind and distinct subject, of the targets and of the histories together.

        An example or event without knowledge gets the kind's learned default.
        """
        if not batch.knowledge:
            return Adapted(batch.label_B.new_zeros(len(batch.label_B), 0, self.backbone.shape.embedding_dim))
        tables = [self._table(kind) for kind in batch.knowledge]
        target = [table_XD.index_select(0, kind.place_B) for table_XD, kind in zip(tables, batch.knowledge, strict=True)]
        history = [
            HistoryVectors(number, table_XD, kind.place_H)
            for number, (table_XD, kind) in enumerate(zip(tables, batch.knowledge, strict=True))
            if kind.place_H is not None
        ]
        return Adapted(torch.stack(target, dim=1), tuple(history))

    def _table(self, kind: KindBatch) -> Tensor:
        """[1 + N, D]: the learned default, then the distinct subjects' adapted vectors."""
        assert self.adaptor is not None
        return torch.cat([self.adaptor.missing(kind.view)[None], self.adaptor(kind.view, kind.vectors_NT)])

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def build(backbone: str, data: TrainingData, kinds: Sequence[Kind], width: int, settings: AdaptorSettings, seed: int) -> Ranker:
    """A ranker with fresh weights, drawn on the CPU from `seed`, so that they are the same on every device.

    Args:
        backbone: a name of `BACKBONES`.
        kinds: the arm's; none: the base arm, without adaptor.
        width: of the knowledge vectors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        history_kinds = sum(kind.row_V is not None for kind in kinds)
        shape = Shape.of(data, len(kinds), history_kinds, settings.embedding_dim, settings.mlp, settings.dropout)
        body = BACKBONES[backbone](shape)
        adaptor = None
        if kinds:
            adaptor = Adaptor(
                [kind.view for kind in kinds],
                width,
                settings.embedding_dim,
                settings.expert_hidden,
                settings.shared_experts,
                settings.own_experts,
                settings.dropout if settings.adaptor_dropout is None else settings.adaptor_dropout,
            )
        return Ranker(body, adaptor).to(data.device)
