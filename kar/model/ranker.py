"""Adaptor and backbone as one module, trained jointly: knowledge vectors → adapted vectors → logit.

Shape suffixes: B examples · N distinct subjects of a batch with knowledge · M distinct target items with knowledge and a known id
                D embedding width = adapted width · X rows of the embedding table
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kar.model import forms, start
from kar.model.adapted import Adapted, HistoryVectors
from kar.model.adaptor import Adaptor, Form
from kar.model.backbones import BACKBONES, Backbone, Shape
from kar.model.backbones.base import FirstLayer
from kar.model.batches import Batch, Kind, KindBatch, TrainingData
from kar.model.vocabulary import UNKNOWN
from kar.settings import AdaptorSettings

_TEMPERATURE = 0.2
_SHORTEST = 1e-6  # a vector shorter than this has no direction


class Ranker(nn.Module):
    """A backbone, and in front of it the adaptor where the arm has knowledge.

    Args:
        alignment: weight of the contrastive loss between an item's embedding and its adapted vector.
    """

    def __init__(self, backbone: Backbone, adaptor: Form | None, alignment: float = 0.0) -> None:
        super().__init__()
        self.backbone, self.adaptor, self.alignment = backbone, adaptor, alignment

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        logits_B: Tensor = self.backbone(batch, self.adapt(batch))
        return logits_B

    def loss(self, batch: Batch) -> Tensor:
        """What the training makes small: the mean BCE of the batch, and the weighted alignment."""
        tables = [self._table(kind) for kind in batch.knowledge]
        bce = functional.binary_cross_entropy_with_logits(self.backbone(batch, self._adapted(batch, tables)), batch.label_B)
        if not self.alignment:
            return bce
        of_items = [
            self._apart(batch, kind, table_XD)
            for kind, table_XD in zip(batch.knowledge, tables, strict=True)
            if kind.view.startswith("item.")
        ]
        return bce + self.alignment * torch.stack(of_items).mean() if of_items else bce

    def adapt(self, batch: Batch) -> Adapted:
        """The adapted vectors of a batch: the adaptor runs once per kind and distinct subject, of the targets and of the histories together.

        An example or event without knowledge gets the kind's learned default.
        """
        return self._adapted(batch, [self._table(kind) for kind in batch.knowledge])

    def _adapted(self, batch: Batch, tables: Sequence[Tensor]) -> Adapted:
        if not batch.knowledge:
            return Adapted(batch.label_B.new_zeros(len(batch.label_B), 0, self.backbone.shape.embedding_dim))
        assert self.adaptor is not None
        entering = [self.adaptor.enter(kind.view, table_XD) for kind, table_XD in zip(batch.knowledge, tables, strict=True)]
        target = [table_XD.index_select(0, kind.place_B) for table_XD, kind in zip(entering, batch.knowledge, strict=True)]
        history = [
            HistoryVectors(number, table_XD, kind.place_H)
            for number, (table_XD, kind) in enumerate(zip(entering, batch.knowledge, strict=True))
            if kind.place_H is not None
        ]
        return Adapted(torch.stack(target, dim=1), tuple(history))

    def _table(self, kind: KindBatch) -> Tensor:
        """[1 + N, D]: the learned default, then the distinct subjects' adapted vectors; before the residual gate."""
        assert self.adaptor is not None
        return torch.cat([self.adaptor.missing(kind.view)[None], self.adaptor(kind.view, kind.vectors_NT)])

    def _apart(self, batch: Batch, kind: KindBatch, table_XD: Tensor) -> Tensor:
        """How far the batch's target items' embeddings are from their own adapted vectors, measured against each other's.

        InfoNCE over the M distinct items that have both: − log softmax of the cosines / 0.2, each item's own vector against all M.
        0 where there are fewer than two. Source: RLMRec-Con, arXiv 2310.15950, its temperature; our weight.
        """
        code_B = batch.single_BS[:, 0]  # the item's; its block is the first of the table, so its unknown code is UNKNOWN
        has_both_B = (kind.place_B > 0) & (code_B != UNKNOWN)
        place_M, own = torch.unique(kind.place_B[has_both_B], return_inverse=True)
        if len(place_M) < 2:
            return table_XD.new_zeros(())
        code_M = code_B.new_empty(len(place_M)).scatter_(0, own, code_B[has_both_B])  # rows of one item write the same code
        id_MD = functional.normalize(self.backbone.embedding(code_M), dim=1, eps=_SHORTEST)
        adapted_MD = functional.normalize(table_XD.index_select(0, place_M), dim=1, eps=_SHORTEST)
        return functional.cross_entropy(id_MD @ adapted_MD.t() / _TEMPERATURE, torch.arange(len(place_M), device=code_M.device))

    def compute_in(self, precision: torch.dtype) -> None:
        """Let the dear products run in another precision: those of KAR's adaptor, of DIN's attention, of FiBiNET's pairs, and the first of
        every final MLP. Weights, their gradients and what joins the parts stay in float32.
        """
        for module in self.modules():
            if isinstance(module, Adaptor | Backbone | FirstLayer):
                module.precision = precision

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def build(backbone: str, data: TrainingData, kinds: Sequence[Kind], width: int, settings: AdaptorSettings, seed: int) -> Ranker:
    """A ranker with fresh weights, drawn on the CPU from `seed`, so that they are the same on every device.

    Args:
        backbone: a name of `BACKBONES`.
        kinds: the arm's; none: the base arm, without adaptor.
        width: of the knowledge vectors.
    """
    assert data.target_fields[0] == "item_id" and data.fields.offset("item_id") == 0, "the alignment and the start go by it"  # noqa: PT018
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        history_kinds = sum(kind.row_V is not None for kind in kinds)
        shape = Shape.of(data, len(kinds), history_kinds, settings.embedding_dim, settings.mlp, settings.dropout)
        body = BACKBONES[backbone](shape)
        adaptor = forms.make([kind.view for kind in kinds], width, settings) if kinds else None
    if settings.pca_init:
        start.from_knowledge(body.embedding.weight, data, kinds)
    ranker = Ranker(body, adaptor, settings.alignment)
    if settings.precision != "float32":
        ranker.compute_in(getattr(torch, settings.precision))
    if settings.compile:
        body.compile(dynamic=True)  # in place: names of weights stay. Batches differ in their number of events
    return ranker.to(data.device)
