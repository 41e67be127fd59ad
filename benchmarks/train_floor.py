"""What the machine's products would allow: GFLOP/s of one core at the adaptor's own shape, beside the FLOP of a trained row."""

from __future__ import annotations

import time

import torch
from torch.nn import functional

_EXPERTS, _HIDDEN = 7, 128
_REPETITIONS = 15


def gflop_per_s(precision: str, rows: int, width: int) -> float:
    """Of one thread, the best of some: knowledge vectors [rows, width] through the first layer of one kind's experts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, weight = (torch.randn(size, width).to(getattr(torch, precision)) for size in (rows, _EXPERTS * _HIDDEN))
        seconds = min(_seconds(x, weight) for _ in range(_REPETITIONS))
    finally:
        torch.set_num_threads(threads)
    return 2 * rows * width * _EXPERTS * _HIDDEN / seconds / 1e9


def _seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    started = time.process_time()
    for _ in range(4):
        functional.linear(x, weight)
    return (time.process_time() - started) / 4
