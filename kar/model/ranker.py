"""Adaptor and backbone as one module, trained jointly: knowledge vectors → adapted vectors → logit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kar.model.adaptor import Adaptor
from kar.model.backbones import BACKBONES, Backbone, Shape
from kar.model.batches import Batch, KindBatch, TrainingData
from kar.settings import AdaptorSettings


class Ranker(nn.Module):
    """A backbone, and in front of it the adaptor where the arm has knowledge."""

    def __init__(self, backbone: Backbone, adaptor: Adaptor | None) -> None:
        super().__init__()
        self.backbone, self.adaptor = backbone, adaptor

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        logits_B: Tensor = self.backbone(batch, [self._adapted(kind) for kind in batch.knowledge])
        return logits_B

    def _adapted(self, kind: KindBatch) -> Tensor:
        """[B, A]: the adaptor runs once per distinct subject; an example without knowledge gets the kind's learned default."""
        assert self.adaptor is not None
        adapted_NA = self.adaptor(kind.view, kind.vectors_NT)
        return torch.cat([self.adaptor.missing(kind.view)[None], adapted_NA]).index_select(0, kind.place_B)

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def build(backbone: str, data: TrainingData, views: list[str], width: int, settings: AdaptorSettings, seed: int) -> Ranker:
    """A ranker with fresh weights, drawn on the CPU from `seed`, so that they are the same on every device.

    Args:
        backbone: a name of `BACKBONES`.
        views: the arm's kinds; empty: the base arm, without adaptor.
        width: of the knowledge vectors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = Shape.of(data, len(views), settings.embedding_dim, settings.mlp, settings.dropout)
        body = BACKBONES[backbone](shape)
        adaptor = None
        if views:
            adaptor = Adaptor(
                views,
                width,
                settings.embedding_dim,
                settings.expert_hidden,
                settings.shared_experts,
                settings.own_experts,
                settings.dropout,
            )
        return Ranker(body, adaptor).to(data.device)
