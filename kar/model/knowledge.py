"""Knowledge vectors of the views that an arm uses, joined to the examples once; batches then gather by row."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from kar.errors import ModelError
from kar.model.batches import Bool, Kind, Side, TrainingData
from kar.model.vocabulary import Int64

Float32 = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True)
class Vectors:
    """The vectors of one view.

    Args:
        subject_ids: text, distinct.
        vectors_NT: in the same order.
    """

    subject_ids: pa.Array
    vectors_NT: Float32


def read(table: pa.Table, view: str) -> Vectors:
    """One view's vectors out of the table knowledge_vector; no rows if the view has none.

    Raises:
        ModelError: vectors of several widths, or one that is not finite.
    """
    rows = table.filter(pc.equal(table["view"], view))
    vectors, subject_ids = rows["vector"].combine_chunks(), rows["subject_id"].combine_chunks()
    widths = pc.unique(pc.list_value_length(vectors)).to_pylist()
    if len(widths) > 1:
        raise ModelError(f"view {view} holds vectors of different widths: {sorted(widths)}", "run: kar run vectors")
    vectors_NT = np.asarray(vectors.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    vectors_NT = vectors_NT.reshape(rows.num_rows, widths[0] if widths else 0)
    broken = ~np.isfinite(vectors_NT).all(axis=1)
    if broken.any():
        subject = subject_ids[int(np.flatnonzero(broken)[0])].as_py()
        raise ModelError(f"view {view}: {broken.sum()} vectors are not finite, first that of {subject!r}", "run: kar run vectors")
    return Vectors(subject_ids, vectors_NT)


def attach(
    data: TrainingData,
    view: str,
    side: Side,
    vectors: Vectors,
    width: int,
    is_allowed_E: Bool | None,
    seed: int | None,
    *,
    in_history: bool = False,
) -> Kind:
    """Join a view's vectors to the examples.

    Args:
        side: whom the view is about.
        width: of every vector of the arm; only used where the view has no vectors at all.
        is_allowed_E: whether knowledge may serve the example; None: it may serve all.
        seed: not None: the vectors are shuffled across the subjects that have one (the permuted arm); who has one stays as it is.
        in_history: join them to the events of the histories too, where the view is of items. A text that has seen an event
            newer than the oldest example stays out of the histories: it might tell what an example asks.

    Raises:
        ModelError: the vectors have another width.
    """
    vectors_NT = vectors.vectors_NT
    if len(vectors_NT) and vectors_NT.shape[1] != width:
        raise ModelError(
            f"view {view} holds vectors of width {vectors_NT.shape[1]}, another view of the arm {width}",
            "encode all views with one encoder",
        )
    row_S = _row_of_subject(data, side, vectors.subject_ids)
    if seed is not None:
        covered = np.flatnonzero(row_S)
        row_S[covered] = np.random.default_rng([seed, zlib.crc32(view.encode())]).permutation(row_S[covered])
    row_E = row_S[data.user_E if side == "user" else data.item_E]
    if is_allowed_E is not None:
        row_E = row_E * is_allowed_E
    row_V = (row_S * data.may_meet_I)[data.item_V] if in_history and side == "item" else None
    matrix = np.zeros((len(vectors_NT) + 1, width), np.float32)
    if len(vectors_NT):
        matrix[1:] = vectors_NT
    to_device = [None if row is None else torch.from_numpy(row).to(data.device) for row in (row_E, row_V)]
    assert to_device[0] is not None
    return Kind(view, side, torch.from_numpy(matrix).to(data.device), to_device[0], to_device[1])


def _row_of_subject(data: TrainingData, side: Side, subject_ids: pa.Array) -> Int64:
    """[distinct users or items] 0: no vector; n: vector n − 1."""
    ids = (data.user_ids if side == "user" else data.item_ids).cast(pa.string())
    found = pc.index_in(ids, value_set=subject_ids)
    return np.array(pc.fill_null(pc.add(found.cast(pa.int64()), 1), 0))
