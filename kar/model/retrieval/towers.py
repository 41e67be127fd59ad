"""Two towers and a dot product.

Shape suffixes, this file only:  B users of a batch · I items · N items asked for · T text width · H hidden · W width of both towers
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kar.model.retrieval.texts import Feature
from kar.settings import RetrievalSettings


class Towers(nn.Module):
    """Users from a table through one linear layer, items from their views (or a table where there are none) through two.

    The items' own table is a first layer like those of the views (that of a one-hot vector), so that all arms have the same tower above it.
    There is no bias per item: it would be an id in the arms of text.

    Args:
        user_count: rows of the users' table.
        item_count: rows of the items' table.
        features: the views; none: the arm `id`.
    """

    def __init__(self, user_count: int, item_count: int, features: list[Feature], settings: RetrievalSettings) -> None:
        super().__init__()
        hidden, width = settings.hidden, settings.width
        self.user_table = nn.Embedding(user_count, hidden)
        # the users' table is free to be anything: a rectifier above it only takes half of it away
        # (MovieLens-100K, one split, ids: NDCG@10 0.14 without it, 0.11 with)
        self.user_rest = nn.Linear(hidden, width)
        self.item_rest = nn.Sequential(nn.ReLU(), nn.Dropout(settings.dropout), nn.Linear(hidden, width))
        self.item_table = None if features else nn.Embedding(item_count, hidden)
        self.first = nn.ModuleList(nn.Linear(feature.vector_IT.shape[1], hidden) for feature in features)
        self.missing = nn.ParameterList(torch.zeros(hidden) for _ in features)
        self._vectors = [torch.from_numpy(feature.vector_IT) for feature in features]
        self._has = [torch.from_numpy(feature.has_I) for feature in features]
        # nearly nothing at first: what is rarely trained is not to be noise
        for table in (self.user_table, self.item_table):
            if table is not None:
                nn.init.normal_(table.weight, std=0.1)

    def users(self, user_B: Tensor) -> Tensor:
        """[B, W]."""
        found: Tensor = self.user_rest(self.user_table(user_B))
        return found

    def items(self, item_N: Tensor | None = None) -> Tensor:
        """[N, W] of some items; None: of all."""
        if self.item_table is not None:
            hidden_NH = self.item_table.weight if item_N is None else self.item_table(item_N)
        else:
            parts = []
            for first, missing, vector_IT, has_I in zip(self.first, self.missing, self._vectors, self._has, strict=True):
                vector_NT, has_N = (vector_IT, has_I) if item_N is None else (vector_IT[item_N], has_I[item_N])
                parts.append(torch.where(has_N[:, None], first(vector_NT), missing))
            hidden_NH = torch.stack(parts).sum(dim=0) / len(parts) ** 0.5
        found: Tensor = self.item_rest(hidden_NH)
        return found

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
