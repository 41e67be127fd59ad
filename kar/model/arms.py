"""The four arms: which views each gives the ranker. All arms train and are judged on the very same examples.

base       no vectors
text       the raw text's vectors: user.raw, item.raw
knowledge  the views that the settings name
permuted   the knowledge arm's vectors, shuffled across the subjects that have one: as many parameters, no knowledge

A side without views in the settings has none in any arm, so that text is judged against knowledge over the same sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ModelError
from kar.model.batches import Kind, Side, TrainingData
from kar.model.knowledge import Bool, Vectors, attach, read
from kar.settings import AdaptorSettings
from kar.settings.schema import Arm

_RAW: dict[Side, str] = {"user": "user.raw", "item": "item.raw"}


@dataclass(frozen=True)
class Arms:
    """The vectors of all arms of a run.

    Args:
        views: arm → side → views.
        vectors: view → its vectors; empty ones where there are none.
        width: of all vectors; 1 if there are none at all.
        encoder_id: of the knowledge arm's vectors; empty if there are none.
        is_allowed: side → per example, whether knowledge may serve it (the raw text may always).
    """

    views: dict[Arm, dict[Side, list[str]]]
    vectors: dict[str, Vectors]
    width: int
    encoder_id: str
    is_allowed: dict[Side, Bool]

    def kinds(self, arm: Arm, data: TrainingData, seed: int) -> list[Kind]:
        """An arm's knowledge, joined to the examples. The seed decides the permuted arm's shuffle."""
        return [
            attach(
                data,
                view,
                side,
                self.vectors[view],
                self.width,
                None if arm == "text" else self.is_allowed[side],
                seed if arm == "permuted" else None,
            )
            for side, views in self.views[arm].items()
            for view in views
        ]

    def covered(self, data: TrainingData) -> Bool:
        """[examples] whether every side with views has knowledge of the example's subject, in at least one of them."""
        covered = np.ones(len(data.example_id_E), dtype=bool)
        for side, views in self.views["knowledge"].items():
            rows = [attach(data, view, side, self.vectors[view], self.width, self.is_allowed[side], None).row_E for view in views]
            covered &= np.any([row.cpu().numpy() > 0 for row in rows], axis=0)
        return covered


def prepare(knowledge_vector: pa.Table, example: pa.Table, settings: AdaptorSettings) -> Arms:
    """Read the vectors of all arms.

    Raises:
        ModelError: the text arm is asked for and a raw view is missing; the vectors of an arm are of several widths or encoders, or not finite.
    """
    sides: dict[Side, list[str]] = {"user": settings.user_views, "item": settings.item_views}
    named = {side: views for side, views in sides.items() if views}
    if not named:
        raise ModelError("adaptor.user_views and adaptor.item_views are both empty", "name at least one view")
    raw = {side: [_RAW[side]] for side in named}
    views: dict[Arm, dict[Side, list[str]]] = {"base": {}, "text": raw, "knowledge": named, "permuted": named}
    vectors = {view: read(knowledge_vector, view) for view in [v for per_side in (named, raw) for vs in per_side.values() for v in vs]}
    if "text" in settings.arms and (empty := [v for vs in raw.values() for v in vs if not len(vectors[v].vectors_NT)]):
        raise ModelError(
            f"the text arm needs vectors of {' and '.join(empty)}, and there are none",
            "set vectors.raw_views = true and run: kar run vectors; or leave text out of adaptor.arms",
        )
    knowledge_views = [view for vs in named.values() for view in vs]
    widths = [found.vectors_NT.shape[1] for found in vectors.values() if len(found.vectors_NT)]  # knowledge first
    return Arms(
        views,
        vectors,
        widths[0] if widths else 1,
        _encoder_id(knowledge_vector, knowledge_views),
        {side: example[f"has_{side}_knowledge"].to_numpy().astype(bool) for side in sides},
    )


def _encoder_id(knowledge_vector: pa.Table, views: list[str]) -> str:
    of_views = knowledge_vector.filter(pc.is_in(knowledge_vector["view"], pa.array(views, pa.string())))
    found = sorted(pc.unique(of_views["encoder_id"]).to_pylist())
    if len(found) > 1:
        raise ModelError(f"the views {', '.join(views)} hold vectors of several encoders: {', '.join(found)}", "run: kar run vectors")
    return found[0] if found else ""
