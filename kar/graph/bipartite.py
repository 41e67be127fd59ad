"""The bipartite graph of users and items as two sparse matrices that average: over an item's users, over a user's items.

Shape suffixes: I items · U users
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bipartite:
    """Every item shares a user with another item.

    Args:
        pairs_IU: CSR, 1.0 where the user met the item.
        degree_I: users of each item, at least 1.
        degree_U: items of each user; 0 for a user who met none.
    """

    pairs_IU: Any
    degree_I: NDArray[np.float64]
    degree_U: NDArray[np.float64]

    @staticmethod
    def of(pairs_IU: Any) -> Bipartite:
        degree_U = np.bincount(pairs_IU.indices, minlength=pairs_IU.shape[1])
        return Bipartite(pairs_IU, np.diff(pairs_IU.indptr).astype(np.float64), degree_U.astype(np.float64))

    @property
    def item_count(self) -> int:
        return int(self.pairs_IU.shape[0])

    @property
    def edge_count(self) -> int:
        return int(self.pairs_IU.nnz)

    def averages(self, dtype: type[np.floating[Any]]) -> tuple[Any, Any]:
        """CSR [I, U] that averages over each item's users, and CSR [U, I] that averages over each user's items."""
        over_users_IU = sp.diags(1 / self.degree_I) @ self.pairs_IU
        over_items_UI = sp.diags(1 / np.maximum(self.degree_U, 1)) @ self.pairs_IU.T.tocsr()
        return over_users_IU.tocsr().astype(dtype), over_items_UI.tocsr().astype(dtype)

    def halves(self) -> Any:
        """CSR H [I, U] = D^-½ A^T U^-½ with H·H^T = D^-½ Q D^½: the step from items to items made symmetric; its eigenvalues lie in 0 to 1."""
        return (sp.diags(self.degree_I**-0.5) @ self.pairs_IU @ sp.diags(np.maximum(self.degree_U, 1) ** -0.5)).tocsr()
