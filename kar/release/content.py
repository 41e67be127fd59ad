"""Digests of what a release says, column by column in id order: the same whatever buckets, layers and files hold it."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.release import layout
from kar.release.hashes import text_parts
from kar.release.logical import Logical

NO_TIME = np.iinfo(np.int64).min


class ColumnDigest:
    """The digest of one column, fed in pieces: where it is cut into pieces does not matter.

    Vectors and numbers count as their little-endian bytes, masks as one byte a row, times as int64 µs (null: the smallest), texts as their
    lengths in bytes (null: -1) and, apart from those, their UTF-8 bytes.
    """

    def __init__(self) -> None:
        self._values = hashlib.sha256()
        self._lengths = hashlib.sha256()

    def update(self, values: np.ndarray | pa.Array) -> None:
        if isinstance(values, np.ndarray):
            self._values.update(np.ascontiguousarray(values).view(np.uint8).data if values.size else b"")
        elif pa.types.is_timestamp(values.type):
            self.update(instants(values))
        elif pa.types.is_integer(values.type):
            self.update(values.to_numpy())
        else:
            self._update_texts(values)

    def _update_texts(self, texts: pa.Array) -> None:
        if texts.type != pa.string():
            texts = texts.cast(pa.string())  # also a dictionary's
        offsets, data = text_parts(texts)
        lengths = np.diff(offsets)
        if texts.null_count:
            is_null = texts.is_null().to_numpy(zero_copy_only=False)
            if lengths[is_null].any():  # bytes under a null are nobody's
                return self._update_texts(pc.if_else(texts.is_null(), pa.scalar(None, texts.type), texts))
            lengths = np.where(is_null, np.int32(-1), lengths)
        self._lengths.update(np.ascontiguousarray(lengths, np.int32).data)
        self._values.update(np.ascontiguousarray(data).data)
        return None

    def hexdigest(self) -> str:
        return hashlib.sha256(self._lengths.digest() + self._values.digest()).hexdigest()


def instants(times: pa.Array) -> np.ndarray:
    """int64 [N], µs since 1970 UTC; NO_TIME for null."""
    values: np.ndarray = times.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).fill_null(NO_TIME).to_numpy()
    return values


def logical_content(side: Logical, views: dict[str, layout.Widths]) -> dict[str, str]:
    """The digest of every column of a side as it lies in a release."""
    ids, id_name = side.ids, layout.id_column(side.side)
    digests = {id_name: ColumnDigest()}
    for first in range(0, len(ids), layout.ROW_GROUP):
        digests[id_name].update(ids.slice(first, layout.ROW_GROUP))
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing lets go of the interpreter lock
        for found in pool.map(lambda view: _view_content(side, view, views[view]), views):
            digests |= found
    return merged(digests)


def _view_content(side: Logical, view: str, widths: layout.Widths) -> dict[str, ColumnDigest]:
    digests = {layout.column(view, "is_missing"): ColumnDigest()}
    digests[layout.column(view, "is_missing")].update(side.mask(view).astype(np.uint8))
    for kind in widths.kinds:
        digest = digests[layout.vector_column(view, kind)] = ColumnDigest()
        for first in range(0, side.count, layout.ROW_GROUP):
            digest.update(side.gather(view, slice(first, min(first + layout.ROW_GROUP, side.count)), kind))
            side.let_go()
    for part in layout.TOLD:
        name = layout.column(view, part)
        column = side.column(name, as_dictionary=part in layout.WORDS)
        digests[name] = ColumnDigest()
        for first in range(0, len(column), layout.ROW_GROUP):
            digests[name].update(column.slice(first, layout.ROW_GROUP))
    return digests


def merged(digests: dict[str, ColumnDigest]) -> dict[str, str]:
    """As the manifest holds them."""
    return {name: digest.hexdigest() for name, digest in digests.items()}
