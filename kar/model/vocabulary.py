"""Ids and attribute values as codes, fitted on what training shows; everything else is one unknown code per field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Int64 = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
UNKNOWN = 0


@dataclass(frozen=True)
class Vocabulary:
    """Distinct values → codes 1 … size − 1; code 0 is every other value, and null."""

    values: pa.Array

    @classmethod
    def of(cls, values: pa.Array | pa.ChunkedArray) -> Vocabulary:
        """The distinct values, sorted, so that equal data give equal codes."""
        distinct = _flat(pc.unique(values)).drop_null()
        return cls(distinct.take(pc.array_sort_indices(distinct)))

    @property
    def size(self) -> int:
        return len(self.values) + 1

    def codes(self, values: pa.Array | pa.ChunkedArray) -> Int64:
        """[len(values)] codes."""
        found = pc.index_in(_flat(values), value_set=self.values)
        return np.asarray(pc.fill_null(pc.add(found.cast(pa.int64()), 1), UNKNOWN))


@dataclass(frozen=True)
class Fields:
    """Every field's block in the one embedding table that all fields share.

    One table means one lookup and one gradient per batch. Fields that mean the same share a block: the target's item
    and the history's items.

    Args:
        sizes: field → number of codes, unknown included, in block order.
    """

    sizes: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    def offset(self, field: str) -> int:
        """The row of the table at which the field's block begins; its unknown code."""
        names = list(self.sizes)
        return sum(self.sizes[name] for name in names[: names.index(field)])


def first_values(ids: pa.Array, subjects: pa.ChunkedArray, names: pa.ChunkedArray, values: pa.ChunkedArray, name: str) -> pa.Array:
    """[len(ids)] one attribute's first value per subject, null where there is none.

    Args:
        ids: whose values, distinct.
        subjects, names, values: the attribute table's columns; the rows of one subject in the source's order.
    """
    mask = pc.equal(names, name)
    owner, value = _flat(subjects.filter(mask)), _flat(values.filter(mask))
    return value.take(pc.index_in(ids, value_set=owner))  # index_in: the first of equal subjects


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
