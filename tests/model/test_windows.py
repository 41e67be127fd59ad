"""Histories as windows over events that are there once, against every example's history written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kar.model.windows import Windows, in_line


@st.composite
def histories(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Start and length of some examples' histories of at most `cap` events: any users, in any order, the same one twice too."""
    cap = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    own = draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=12))
    begin = [0]
    for size in sizes:
        begin.append(begin[-1] + size)
    position = [event - max(first for first in begin if first <= event) for event in own]
    is_kept = draw(st.lists(st.booleans(), min_size=len(own), max_size=len(own)))
    length = torch.tensor([min(place, cap) for place in position])
    return torch.tensor(own) - length, length * torch.tensor(is_kept)  # an emptied history may begin amid others


def drawn(count: int, width: int = 3) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@settings(deadline=None)  # the first draw loads torch's kernels
@given(histories())
def test_each_event_is_in_line_once_and_each_history_stands_there_whole(given_: tuple[Tensor, Tensor]) -> None:
    start_B, length_B = given_
    event_H, first_B = in_line(start_B, length_B)
    assert event_H.tolist() == sorted(
        {event for s, n in zip(start_B.tolist(), length_B.tolist(), strict=True) for event in range(s, s + n)}
    )
    for start, length, first in zip(start_B.tolist(), length_B.tolist(), first_B.tolist(), strict=True):
        assert event_H[first : first + length].tolist() == list(range(start, start + length))


@settings(deadline=None)  # the first draw loads torch's kernels
@given(histories())
def test_sums_and_their_gradients_are_those_of_each_history_written_out(given_: tuple[Tensor, Tensor]) -> None:
    start_B, length_B = given_
    event_H, first_B = in_line(start_B, length_B)
    x_VX = drawn(60).requires_grad_()
    weight_BX = drawn(len(start_B))
    clear_BX = torch.stack([x_VX[s : s + n].sum(dim=0) for s, n in zip(start_B.tolist(), length_B.tolist(), strict=True)])
    fast_BX = Windows(first_B, length_B, len(event_H)).sums(x_VX[event_H])
    torch.testing.assert_close(fast_BX, clear_BX, rtol=1e-5, atol=1e-5)
    (clear,) = torch.autograd.grad((clear_BX * weight_BX).sum(), x_VX)
    (fast,) = torch.autograd.grad((fast_BX * weight_BX).sum(), x_VX)
    torch.testing.assert_close(fast, clear, rtol=1e-5, atol=1e-5)


def test_histories_one_after_another_are_windows_too() -> None:
    length_B = torch.tensor([2, 0, 3, 0])
    x_HX = drawn(5).requires_grad_()
    found_BX = Windows(torch.tensor([0, 2, 2, 5]), length_B, 5).means(x_HX)
    expected_BX = torch.stack([x_HX[:2].mean(0), x_HX[:0].sum(0), x_HX[2:].mean(0), x_HX[:0].sum(0)])
    torch.testing.assert_close(found_BX, expected_BX)
    (gradient_HX,) = torch.autograd.grad(found_BX.sum(), x_HX)
    assert gradient_HX[:, 0].tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])


def test_no_events_at_all_give_zeros_and_a_gradient() -> None:
    x_HX = torch.zeros(0, 3, requires_grad=True)
    event_H, first_B = in_line(torch.tensor([7, 4]), torch.tensor([0, 0]))
    found_BX = Windows(first_B, torch.tensor([0, 0]), len(event_H)).sums(x_HX)
    assert found_BX.tolist() == [[0.0] * 3] * 2
    found_BX.sum().backward()
    assert x_HX.grad is not None
    assert x_HX.grad.shape == (0, 3)
