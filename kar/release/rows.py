"""What a publisher hands over: the rows of both sides, and the facts about where they come from."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ReleaseError
from kar.release import layout
from kar.release.layout import Kind, Side, Widths


@dataclass(frozen=True)
class Pooled:
    """Where a pooled view comes from.

    Args:
        view: of the items, in the same release.
        label: liked or disliked.
        history_events: at most so many of a user's newest events were looked at.
    """

    view: str
    label: str
    history_events: int


@dataclass(frozen=True)
class ViewRows:
    """One view's columns; N rows in the order of the side's ids.

    Args:
        view: e.g. `user.preference`.
        is_missing: bool [N].
        adapted: float32 [N, A]; where missing the default.
        knowledge: float32 [N, T]; where missing zeros; T = 0 for a pooled view.
        default: float32 [A], the checkpoint's learned vector for "no knowledge".
        evidence_newest_at: timestamps [N], null where missing or where the prompt saw no interaction.
        asked_at: timestamps [N], null where missing.
        origin: texts [N], null where missing.
        model: texts [N], null where missing.
        pooled_from: None: somebody wrote it.
    """

    view: str
    is_missing: np.ndarray
    adapted: np.ndarray
    knowledge: np.ndarray
    default: np.ndarray
    evidence_newest_at: pa.Array
    asked_at: pa.Array
    origin: pa.Array
    model: pa.Array
    pooled_from: Pooled | None = None

    @property
    def widths(self) -> Widths:
        return Widths(self.adapted.shape[1], self.knowledge.shape[1])

    def matrix(self, kind: Kind) -> np.ndarray:
        return self.adapted if kind == "adapted" else self.knowledge


@dataclass(frozen=True)
class SideRows:
    """One side's table: every user (or item) of the sources, ids ascending, int64 or string.

    Args:
        is_active: bool [N], whether the subject did something lately (`Facts.active_days`); None: nobody looked.
    """

    side: Side
    ids: pa.Array
    views: tuple[ViewRows, ...]
    is_active: np.ndarray | None = None


@dataclass(frozen=True)
class Facts:
    """What the publisher knows about the release besides its rows; goes into the manifest as it is.

    Args:
        published_at: now.
        adaptor: at least "sha"; also backbone, arm, seed, …
        normalisation: of the knowledge vectors, e.g. "l2".
        templates: view → template version → rows.
        models: who wrote the published knowledge: view, model, revision, origin, rows.
        inputs: stage → its partition's date and recipe_sha.
        uplift: rows of the comparison table for the published backbone.
        cost: what was paid: `night` (tokens, requests, usd of the date's stages) and `published` (tokens of the answers in the release).
        active_days: within how many days before the cutoff a subject must have done something to be active; None: nobody looked.
    """

    scenario: str
    date: dt.date
    published_at: dt.datetime
    is_reconstructed: bool
    encoder_id: str
    adaptor: dict[str, Any]
    normalisation: str
    templates: dict[str, dict[str, int]] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    uplift: list[dict[str, Any]] = field(default_factory=list)
    code_version: str = ""
    cost: dict[str, Any] = field(default_factory=dict)
    active_days: int | None = None


@dataclass(frozen=True)
class Layering:
    """How a release is cut into files; its content, and so its id, is the same whatever is chosen.

    Args:
        bucket_rows: about so many subjects per bucket; the number of buckets is a power of two.
        compact_at: a bucket is written whole again once its layers hold more than this share of its subjects …
        most_layers: … or would be more than so many.
    """

    bucket_rows: int = 1 << 20
    compact_at: float = 0.25
    most_layers: int = 32

    def bucket_count(self, rows: int, before: int | None) -> int:
        """Buckets for so many rows: as many as the release before had, unless they have become far too full or too empty."""
        if before is not None and rows <= 2 * before * self.bucket_rows and (before == 1 or 4 * rows >= before * self.bucket_rows):
            return before
        count = 1
        while count * self.bucket_rows < rows:
            count *= 2
        return count


def check_shapes(side: SideRows) -> None:
    """Refuse rows that do not fit each other before anything is written; values are verified after writing."""
    rows = len(side.ids)
    _check_ids(side)
    for view in side.views:
        if layout.side_of(view.view) != side.side:
            raise ReleaseError(f"view {view.view} does not belong into the table of {side.side}s")
        lengths = {name: len(getattr(view, name)) for name in ("is_missing", "adapted", "knowledge", *layout.TOLD)}
        wrong = {name: length for name, length in lengths.items() if length != rows}
        if wrong or view.default.shape != (view.widths.adapted,):
            raise ReleaseError(f"view {view.view}: {rows} ids, but {wrong or f'a default vector of shape {view.default.shape}'}")
        if (view.pooled_from is not None) != (view.widths.knowledge == 0):
            raise ReleaseError(f"view {view.view}: a pooled view, and no other, has no knowledge vectors")
        if view.adapted.dtype != np.float32 or view.knowledge.dtype != np.float32 or view.default.dtype != np.float32:
            raise ReleaseError(f"view {view.view}: vectors are not float32")


def _check_ids(side: SideRows) -> None:
    ids = side.ids
    if ids.type not in (pa.int64(), pa.string()):
        raise ReleaseError(f"{side.side} ids are {ids.type}", "give them as int64 or string")
    if ids.null_count:
        raise ReleaseError(f"{ids.null_count} of the {side.side} ids are null", "leave those rows out")
    ascends = pc.less(ids.slice(0, max(len(ids) - 1, 0)), ids.slice(1)) if len(ids) > 1 else pa.array([], pa.bool_())
    if not pc.all(ascends, min_count=0).as_py():
        place = pc.index(ascends, False).as_py()
        before, after = ids[place].as_py(), ids[place + 1].as_py()
        what = "occurs twice" if before == after else f"is followed by {after!r}"
        raise ReleaseError(f"{side.side} ids do not ascend: {before!r} {what}", "sort the rows by id, and give each id once")
    if side.is_active is not None and side.is_active.shape != (len(ids),):
        raise ReleaseError(f"{len(ids)} {side.side} ids, but {len(side.is_active)} marks of who is active")
