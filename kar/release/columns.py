"""Vectors as Arrow columns, and tables of them as Parquet: the one way in which this room writes either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kar.release import layout


def vector_array(vectors_NW: np.ndarray) -> pa.Array:
    """float32 [N, W] as an Arrow array of fixed-size lists, without a copy."""
    flat = pa.array(np.ascontiguousarray(vectors_NW, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=layout.vector_type(vectors_NW.shape[1]))


def table_writer(
    where: Any, schema: pa.Schema, *, vectors: Sequence[str], words: Sequence[str], encodings: Mapping[str, str] | None = None
) -> pq.ParquetWriter:
    """BYTE_STREAM_SPLIT + zstd is smaller and faster on vectors than either alone; no dictionary there.

    Args:
        where: a path, or a file that is open for writing.
        vectors: columns of fixed-size lists of floats.
        words: columns whose values repeat, which get a dictionary.
        encodings: of other columns.
    """
    split = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in vectors}
    return pq.ParquetWriter(
        where, schema, compression="zstd", compression_level=1, use_dictionary=list(words), column_encoding={**split, **(encodings or {})}
    )
