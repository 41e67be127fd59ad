"""The hybrid-expert adaptor against its clear form and against the paper's formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.errors import ModelError
from kar.model.adaptor import Adaptor

KINDS = ("user.preference", "item.facts")


def make(**changes: float) -> Adaptor:
    torch.manual_seed(0)
    shape = {"width": 6, "adapted_width": 4, "hidden": 5, "shared_count": 2, "own_count": 3, "dropout": 0.0, **changes}
    return Adaptor(KINDS, **shape)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 7), st.integers(0, 10_000))
def test_the_fast_form_equals_the_clear_form_in_values_and_gradients(shared: int, own: int, rows: int, seed: int) -> None:
    adaptor = make(shared_count=shared, own_count=own).double()
    x = torch.randn(rows, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    for kind in KINDS:
        forms = []
        for form in (adaptor, adaptor.adapt_clearly):
            adaptor.zero_grad()
            x.grad = None
            adapted = form(kind, x)
            (adapted**2).sum().backward()
            forms.append((adapted.detach(), x.grad, {n: p.grad for n, p in adaptor.named_parameters() if p.grad is not None}))
        torch.testing.assert_close(forms[0][0], forms[1][0])
        torch.testing.assert_close(forms[0][1], forms[1][1])
        assert forms[0][2].keys() == forms[1][2].keys()
        for name, gradient in forms[0][2].items():
            torch.testing.assert_close(gradient, forms[1][2][name])


def test_the_output_is_the_gated_sum_of_two_layer_experts() -> None:
    adaptor = make(shared_count=1, own_count=1)
    weights = {name: value.detach().numpy().astype(np.float64) for name, value in adaptor.state_dict().items()}
    x = np.linspace(-1, 1, 6)
    gate = weights["gate.item:facts.weight"] @ x + weights["gate.item:facts.bias"]
    share = np.exp(gate) / np.exp(gate).sum()
    expected = np.zeros(4)
    for expert, name in enumerate(("shared", "own.item:facts")):
        hidden = np.maximum(weights[f"{name}.weight1_EHT"][0] @ x + weights[f"{name}.bias1_EH"][0], 0)
        expected += share[expert] * np.maximum(weights[f"{name}.weight2_EAH"][0] @ hidden + weights[f"{name}.bias2_EA"][0], 0)
    found = adaptor("item.facts", torch.tensor(x[None], dtype=torch.float32))
    np.testing.assert_allclose(found.detach().numpy()[0], expected, atol=1e-6)


def test_gate_weights_of_a_row_sum_to_one_over_shared_and_own_experts() -> None:
    weights = make().gate_weights("user.preference", torch.randn(4, 6))
    assert weights.shape == (4, 5)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4))


def test_own_experts_and_gates_of_one_kind_do_not_serve_another() -> None:
    adaptor, x = make(), torch.randn(3, 6)
    adaptor("user.preference", x).sum().backward()
    reached = {name for name, p in adaptor.named_parameters() if p.grad is not None}
    assert any(name.startswith("own.user:preference") for name in reached)
    assert any(name.startswith("shared") for name in reached)
    assert not any("item:facts" in name for name in reached)


def test_adapted_vectors_do_not_depend_on_the_rows_beside_them() -> None:
    adaptor, x = make().eval(), torch.randn(9, 6)
    torch.testing.assert_close(adaptor("item.facts", x)[4:5], adaptor("item.facts", x[4:5]))


def test_dropout_falls_on_both_layers_in_training_and_on_none_in_evaluation() -> None:
    adaptor, x = make(dropout=0.5), torch.randn(200, 6)
    adaptor.train()
    assert not torch.equal(adaptor("item.facts", x), adaptor("item.facts", x))
    adaptor.eval()
    assert torch.equal(adaptor("item.facts", x), adaptor("item.facts", x))


def test_the_learned_default_does_not_pass_through_the_experts() -> None:
    adaptor = make()
    adaptor.missing("item.facts").sum().backward()
    assert [name for name, p in adaptor.named_parameters() if p.grad is not None] == ["default.item:facts"]


def test_another_width_or_kind_is_refused() -> None:
    with pytest.raises(ModelError, match=r"\[N, 6\]"):
        make()("item.facts", torch.randn(3, 7))
    with pytest.raises(ModelError, match=r"no kind 'item.tags'"):
        make()("item.tags", torch.randn(3, 6))


@pytest.mark.parametrize("count", [0, 5, 64, 100])
def test_bfloat16_products_stay_close_and_give_float32_gradients(count: int) -> None:
    torch.manual_seed(1)
    low, full = (Adaptor(["user.preference", "item.facts"], 48, 8, 32, 2, 3) for _ in range(2))
    low.load_state_dict(full.state_dict())
    low.precision = torch.bfloat16
    x_NT = torch.randn(count, 48)
    ours, expected = low("item.facts", x_NT), full("item.facts", x_NT)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=0.03, atol=0.01)
    assert torch.equal(ours, expected) == (count < 64)  # few rows are not worth turning the weights for
    ours.square().sum().backward()
    expected.square().sum().backward()
    for (name, of_low), (_, of_full) in zip(low.named_parameters(), full.named_parameters(), strict=True):
        if of_full.grad is not None and count:
            assert of_low.grad is not None, name
            assert of_low.grad.dtype == torch.float32
            assert (of_low.grad - of_full.grad).norm() <= 0.1 * of_full.grad.norm() + 1e-6, name  # a unit near zero may switch sides
