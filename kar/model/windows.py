"""The histories of a batch as windows over its events, each event once however many histories share it.

Neighbouring examples of one user have histories that differ by an event or two. What belongs to an event is looked up and computed
once, and an example takes its window; the gradient of an event comes from the window of examples that hold it, so neither way scatters.

Shape suffixes: B examples · H events, in line · X anything
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def in_line(start_B: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
    """Put the events of some histories in line, those that several hold only once.

    Args:
        start_B: of each history: its first event among all events.
        length_B: how many events it holds; may be 0. Of two histories with events, the one that ends first may not begin last, which
            holds for windows of at most so many events before an example.

    Returns:
        event_H: the events in line, ascending. first_B: where in the line each history begins.
    """
    start_B = start_B * (length_B > 0)  # an empty one, wherever it stands, comes before all others
    end_B, order_B = torch.sort(start_B + length_B)
    start_B, length_B = start_B.index_select(0, order_B), length_B.index_select(0, order_B)
    fresh_B = torch.minimum(length_B, torch.diff(end_B, prepend=start_B[:1]))  # those that the history before does not hold
    line_B = torch.cumsum(fresh_B, 0)
    event_H = torch.repeat_interleave(end_B - line_B, fresh_B)
    event_H += torch.arange(len(event_H), device=event_H.device)
    return event_H, torch.empty_like(length_B).index_copy_(0, order_B, line_B - length_B)


@dataclass(frozen=True)
class Windows:
    """Where each example's history stands in the line of events.

    Args:
        first_B, length_B: example b holds the events first … first + length − 1. As `in_line` gives them, or one after another.
        count: H.
    """

    first_B: Tensor
    length_B: Tensor
    count: int

    def sums(self, x_HX: Tensor) -> Tensor:
        """[B, X]: over each history the sum of what belongs to its events; zeros for an empty one."""
        return _Sums.apply(x_HX, self)  # type: ignore[no-any-return,no-untyped-call]

    def means(self, x_HX: Tensor) -> Tensor:
        """[B, X]: the mean; zeros for an empty history."""
        return self.sums(x_HX) / self.length_B.clamp(min=1)[:, None]

    @cached_property
    def events_of_examples(self) -> tuple[Tensor, Tensor]:
        """The events of each example, one example after another, and where each begins among them [B]."""
        return _ranges(self.first_B, self.length_B)

    @cached_property
    def examples_of_events(self) -> tuple[Tensor, Tensor]:
        """The examples of each event, one event after another, and where each begins among them [H].

        In the order of their windows, the examples that hold an event are neighbours.
        """
        end_B = self.first_B + self.length_B
        order_B = torch.argsort(self.first_B + end_B)
        event_H = torch.arange(self.count, device=end_B.device)
        low_H = torch.searchsorted(end_B.index_select(0, order_B), event_H, right=True)
        high_H = torch.searchsorted(self.first_B.index_select(0, order_B), event_H, right=True)
        place, begin_H = _ranges(low_H, high_H - low_H)
        return order_B.index_select(0, place), begin_H


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_HX: Tensor, windows: Windows) -> Tensor:
        ctx.windows = windows
        return _bags(x_HX, *windows.events_of_examples)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _bags(gradients[0].contiguous(), *ctx.windows.examples_of_events), None


def _bags(x: Tensor, place: Tensor, begin: Tensor) -> Tensor:
    """[bags, X]: of each bag the sum of the rows that it names."""
    if not len(x) or not len(place):
        return x.new_zeros(len(begin), *x.shape[1:])
    return functional.embedding_bag(place, x, begin, mode="sum")


def _ranges(first: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """first, first + 1, … of each range, one range after another, and where each begins."""
    begin = torch.cumsum(length, 0) - length
    place = torch.repeat_interleave(first - begin, length)
    place += torch.arange(len(place), device=place.device)
    return place, begin
