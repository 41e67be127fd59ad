"""An index over vectors for catalogues too large for all pairs: faiss' inverted file, exact within the cells that it searches.

Of faiss' indexes this one answers the same each time; a graph (HNSW) that several threads build does not.

Shape suffixes: N items · D width of a vector · R rows of a block · K found
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from kar.errors import ModelError

_TRAINED_PER_CELL = 64
"""Vectors that k-means sees of each cell; faiss' own advice is 39 to 256."""


def indexed(unit_ND: NDArray[np.float32], probes: int) -> Callable[[slice, int], NDArray[np.int64]]:
    """A search for rows of these vectors: codes [R, K] of their nearest others by cosine, -1 where the cells held fewer.

    Args:
        unit_ND: of length 1.
        probes: cells searched of 4 √N.

    Raises:
        ModelError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        what = f"{len(unit_ND):,} vectors are too many to compare all pairs, and faiss, which would index them, is not installed"
        raise ModelError(what, "pip install 'kar[index]'") from error
    cells = min(4 * isqrt(len(unit_ND)), max(1, len(unit_ND) // 39))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(unit_ND.shape[1]), unit_ND.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = _TRAINED_PER_CELL
    index.train(unit_ND)
    index.add(unit_ND)
    index.nprobe = probes

    def search(rows: slice, wanted: int) -> NDArray[np.int64]:
        _, item_RK = index.search(unit_ND[rows], wanted + 1)
        found_RK: NDArray[np.int64] = np.where(item_RK == np.arange(rows.start, rows.stop)[:, None], -1, item_RK)
        return found_RK

    return search
