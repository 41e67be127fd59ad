"""Let go of mapped pages that were read through: ten million vectors pass by without ever being in memory together."""

from __future__ import annotations

import mmap

import numpy as np


def let_go(array: np.ndarray) -> None:
    """Take a read-only memory map's pages out of this process; they are read again where they are asked for again. Others are left alone."""
    mapped = getattr(array, "_mmap", None)
    # of a map that may be written to, changes not yet in the file could be lost
    if isinstance(array, np.memmap) and array.mode == "r" and mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)
