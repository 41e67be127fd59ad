"""What stands for an item in each arm: the vectors of its views, and whether their texts have seen what a split asks.

Shape suffixes: I items · T text width

popularity       no model: how often train holds the item as a positive
id               a table of items
original         the item's own text, item.raw
item.*           one view of knowledge
all              every view, each through its own first layer, summed; never one text of them all
enriched         the same with item.raw among them, as in LLM-Rec
noise            random words, as many as each text of the views has (`vectors.controls`)
permuted         all, each view's vectors shuffled among the items that have one
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import LeakError, ModelError
from kar.model.knowledge import Float32, Vectors
from kar.model.retrieval.splits import Bool, Int64, Pairs, Split
from kar.settings import RetrievalSettings

RAW = "item.raw"
UNTRAINED = "popularity"


@dataclass(frozen=True)
class Plan:
    """What one arm is: `views` none: the items' own table."""

    arm: str
    views: tuple[str, ...] = ()
    is_permuted: bool = False


def item_views(names: Iterable[str], settings: RetrievalSettings) -> list[str]:
    """The views of knowledge to judge: those of the settings, or every whole view of items that has vectors.

    Args:
        names: of the views in knowledge_vector.

    Raises:
        ModelError: a view is named that has no vectors.
    """
    there = sorted(set(names))
    if missing := [view for view in settings.views if view not in there]:
        raise ModelError(
            f"retrieval.views names {', '.join(missing)}, and there are no vectors of it",
            f"run: kar run vectors; or name some of: {', '.join(there)}",
        )
    return settings.views or [view for view in there if view.startswith("item.") and view != RAW and not {"@", ":"} & set(view)]


def plans(settings: RetrievalSettings, views: Sequence[str], there: Iterable[str]) -> list[Plan]:
    """The arms that are trained, in the order of the settings.

    Args:
        views: of knowledge, as `item_views` gives them.
        there: views that have vectors.

    Raises:
        ModelError: an arm is asked for whose vectors were not made.
    """
    have = set(there)
    noise = tuple(f"{view}@noise" for view in views)
    if settings.needs_views and not views:
        raise ModelError(
            "retrieval: no view of items has vectors, and retrieval.arms names arms of knowledge",
            'run: kar run vectors; or set retrieval.arms = ["popularity", "id", "original"]',
        )
    for arm, needed, setting in (
        ("original", (RAW,), "raw_views = true"),
        ("enriched", (RAW,), "raw_views = true"),
        ("noise", noise, 'controls = ["noise"]'),
    ):
        if arm in settings.arms and (missing := [view for view in needed if view not in have]):
            raise ModelError(
                f"retrieval: the {arm} arm needs vectors of {' and '.join(missing)}, and there are none",
                f"set vectors.{setting} and run: kar run vectors; or leave {arm} out of retrieval.arms",
            )
    known = {
        "id": [Plan("id")],
        "original": [Plan("original", (RAW,))],
        "views": [Plan(view, (view,)) for view in views],
        "all": [Plan("all", tuple(views))],
        "enriched": [Plan("enriched", (RAW, *views))],
        "noise": [Plan("noise", noise)],
        "permuted": [Plan("permuted", tuple(views), is_permuted=True)],
    }
    return [plan for arm in settings.arms if arm != UNTRAINED for plan in known[arm]]


@dataclass(frozen=True)
class Feature:
    """One view's vectors of all items, centred and scaled over those that have one.

    Args:
        vector_IT: mean 0, mean square 1; zeros where there is none.
        has_I: whether the item has one.
    """

    view: str
    vector_IT: Float32
    has_I: Bool

    @classmethod
    def of(cls, view: str, vectors: Vectors, item_ids: pa.Array) -> Feature:
        """Look every item up. Sentence vectors share most of their direction, and the first layer learns slowly unless it is taken out."""
        row_I = pc.fill_null(pc.index_in(item_ids, value_set=vectors.subject_ids.cast(pa.string())), -1).to_numpy() + 1
        has_I = row_I > 0
        vector_IT = vectors.matrix_RT[row_I].astype(np.float32)
        if has_I.any():
            vector_IT[has_I] -= vector_IT[has_I].mean(axis=0)
            scale = float(np.sqrt(np.square(vector_IT[has_I]).mean()))
            # all texts alike: rounding is no difference
            vector_IT = vector_IT / scale if scale > 1e-6 else np.zeros_like(vector_IT)
        return cls(view, vector_IT, has_I)

    def permuted(self, seed: int) -> Feature:
        """The vectors shuffled among the items that have one."""
        have = np.flatnonzero(self.has_I)
        vector_IT = self.vector_IT.copy()
        vector_IT[have] = self.vector_IT[np.random.default_rng([seed, zlib.crc32(self.view.encode())]).permutation(have)]
        return Feature(self.view, vector_IT, self.has_I)


@dataclass(frozen=True)
class Evidence:
    """What the texts of one view have seen, rows of the tables knowledge or item_profile.

    Args:
        owner_E: text of each pair that a text lists; 0-based.
        key_E: the pair as `Pairs.key_P`; -1: not among the pairs.
        newest_at: [texts] time of its newest event, microseconds; the least int64: it saw none, the largest: nobody can tell.
        has_neighbours: [texts] whether it speaks of items that stand beside its own.
    """

    owner_E: Int64
    key_E: Int64
    newest_at: Int64
    has_neighbours: Bool

    @classmethod
    def of(cls, texts: pa.Table, pairs: Pairs) -> Evidence:
        """The columns evidence_users, evidence_items, evidence_newest_at and, if it is there, neighbour_items of some texts."""
        parts = []
        for column, ids in (("evidence_users", pairs.user_ids), ("evidence_items", pairs.item_ids)):
            flat = pc.list_flatten(texts[column])
            parts.append(pc.fill_null(pc.index_in(flat, value_set=ids), -1).to_numpy().astype(np.int64))
        user_E, item_E = parts
        key_E = np.where((user_E >= 0) & (item_E >= 0), user_E * len(pairs.item_ids) + item_E, -1)
        owner_E = pc.list_parent_indices(texts["evidence_users"].combine_chunks()).to_numpy().astype(np.int64)
        newest = texts["evidence_newest_at"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        has_neighbours = np.zeros(texts.num_rows, bool)
        if "neighbour_items" in texts.column_names:
            has_neighbours = pc.greater(pc.list_value_length(texts["neighbour_items"]), 0).to_numpy().astype(bool)
        # whom a walk over interactions found, and which of them it went by, no text lists; in per_user mode it has no one time either
        bounds = np.iinfo(np.int64)
        unknown = np.where(has_neighbours, bounds.max, bounds.min)
        newest_at = np.where(newest.is_null().to_numpy(), unknown, pc.fill_null(newest, 0).to_numpy())
        return cls(owner_E, key_E, newest_at, has_neighbours)

    def seen(self, split: Split, pairs: Pairs) -> int:
        """Texts that have seen a pair of valid or test.

        A text that lists its pairs is judged by them; by time too where it lists none or speaks of neighbours, and in the temporal split
        always: a later event of a pair of train is still from after the cut.
        """
        is_seen = np.zeros(len(self.newest_at), bool)
        is_seen[self.owner_E[np.isin(self.key_E, pairs.key_P[split.held_P])]] = True
        lists_none = np.bincount(self.owner_E, minlength=len(is_seen)) == 0
        by_time = self.newest_at >= split.held_at
        return int((is_seen | (by_time & (lists_none | self.has_neighbours | (split.protocol == "temporal")))).sum())


def refuse(protocol: str, seen: dict[str, int]) -> None:
    """Raise LeakError if a view has seen what the protocol's splits ask. `seen`: view → such texts."""
    if seen:
        told = ", ".join(f"{count} texts of {view}" for view, count in sorted(seen.items()))
        raise LeakError(
            f"retrieval: {told} have seen interactions of the valid or test part of the {protocol} split",
            'set retrieval.seen = "leave_out" to leave such views out of that protocol, or "mark" to train on them and mark their rows; '
            "or name other views in retrieval.views",
        )
