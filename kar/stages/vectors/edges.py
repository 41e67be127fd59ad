"""Edges between items whose vectors of one view are near: table item_edge.

Each edge stands twice, once from either end, so that an item's edges are the rows of its id.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.graph.edges import Edges, mutual, nearest, random_edges
from kar.settings.schema import EdgeSettings
from kar.store import Inputs
from kar.tables import TABLES, whole_view

_CONTROL_SEED = 1


def item_edges(vectors: pa.Table, inputs: Inputs, settings: EdgeSettings) -> pa.Table:
    """The table item_edge; without rows where no view is named.

    Args:
        vectors: rows of knowledge_vector.
    """
    schema = TABLES["item_edge"].schema(inputs.ids)
    parts = [schema.empty_table()]
    for view in settings.views:
        rows = vectors.filter(pc.equal(vectors.column("view"), view))
        if not rows.num_rows:
            continue
        subjects = rows.column("subject_id").combine_chunks()
        edges = mutual(nearest(_matrix(rows), count=settings.count), least=settings.min_score)
        newest = _newest_evidence(inputs, view, subjects)
        model = rows.column("encoder_id")[0].as_py()
        made = {view: edges} | ({f"{view}@random": random_edges(edges, _CONTROL_SEED)} if settings.control else {})
        parts += [_rows(own, relation, subjects, newest, model, inputs.cutoff_at, schema) for relation, own in made.items()]
    return pa.concat_tables(parts)


def _matrix(rows: pa.Table) -> np.ndarray:
    """float32 [rows, width]"""
    column = rows.column("vector").combine_chunks()
    matrix: np.ndarray = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return matrix


def _newest_evidence(inputs: Inputs, view: str, subjects: pa.Array) -> np.ndarray:
    """int64 microseconds: the newest interaction that each item's text of the view has seen; the least int64: none."""
    if view.endswith(".raw"):
        seen = inputs.table("item_profile", columns=["subject_id", "evidence_newest_at"])
    else:
        seen = inputs.table("knowledge", columns=["view", "subject_id", "evidence_newest_at"])
        seen = seen.filter(pc.equal(seen.column("view"), whole_view(view)))
    row = pc.index_in(subjects, value_set=seen.column("subject_id").combine_chunks())
    at = seen.column("evidence_newest_at").combine_chunks().take(row).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    found: np.ndarray = pc.fill_null(at, np.iinfo(np.int64).min).to_numpy()
    return found


def _rows(
    edges: Edges, relation: str, subjects: pa.Array, newest: np.ndarray, model: str, cutoff_at: dt.datetime, schema: pa.Schema
) -> pa.Table:
    start = np.concatenate([edges.low_E, edges.high_E])
    end = np.concatenate([edges.high_E, edges.low_E])
    latest = np.maximum(newest[start], newest[end])
    has_seen = latest > np.iinfo(np.int64).min
    columns = {
        "relation": pa.repeat(relation, len(start)),
        "item_id": subjects.take(pa.array(start)),
        "near_item_id": subjects.take(pa.array(end)),
        "score": pa.array(np.concatenate([edges.score_E, edges.score_E]).astype(np.float64)),
        "encoder_id": pa.repeat(model, len(start)),
        "evidence_newest_at": pa.array(latest, mask=~has_seen).cast(pa.timestamp("us", tz="UTC")),
        "cutoff_at": pa.repeat(pa.scalar(cutoff_at, schema.field("cutoff_at").type), len(start)),
    }
    return pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)
