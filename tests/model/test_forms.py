"""The adaptor's plainer forms, and the gate through which any of them may enter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kar.errors import ModelError
from kar.model import arms, forms
from kar.model.adaptor import Form
from kar.model.batches import Batch
from kar.model.forms import FORMS
from kar.model.ranker import Ranker, build
from kar.settings import AdaptorSettings

KINDS = ("user.preference", "item.facts")
EVERY = pytest.mark.parametrize("form", sorted(FORMS))
LEARNED = pytest.mark.parametrize("form", sorted(set(FORMS) - {"random"}))


def make(settings: AdaptorSettings, width: int = 6) -> Form:
    torch.manual_seed(0)
    return forms.make(KINDS, width, settings)


def prepared(world: Any, settings: AdaptorSettings, arm: Any = "knowledge", backbone: str = "din") -> tuple[Ranker, Batch]:
    """A ranker and the training examples as one batch."""
    data = world.load(settings)
    of_arms = arms.prepare(world.knowledge_vector, world.example, settings)
    kinds = of_arms.kinds(arm, data, 1)
    batch = data.batch(torch.from_numpy(data.split_rows["train"]), kinds)
    return build(backbone, data, kinds, of_arms.width, settings, seed=1), batch


def test_the_forms_are_those_that_the_settings_may_name() -> None:
    allowed = AdaptorSettings.model_json_schema()["properties"]["form"]["enum"]
    assert sorted(FORMS) == sorted(allowed)
    assert len(FORMS) == 5


@EVERY
def test_a_form_gives_one_vector_of_the_embedding_width_per_vector(settings_with: Callable[..., AdaptorSettings], form: str) -> None:
    made = make(settings_with(form=form))
    for kind in KINDS:
        for rows in (0, 1, 5):
            assert made(kind, torch.randn(rows, 6)).shape == (rows, 8)
        assert torch.equal(made.missing(kind), torch.zeros(8))


@EVERY
def test_another_kind_or_width_is_refused_by_every_form(settings_with: Callable[..., AdaptorSettings], form: str) -> None:
    made = make(settings_with(form=form))
    with pytest.raises(ModelError, match=r"no kind 'item\.tags'; it has user\.preference, item\.facts"):
        made("item.tags", torch.randn(3, 6))
    with pytest.raises(ModelError, match=r"shape \(3, 7\), the adaptor takes \[N, 6\]"):
        made("item.facts", torch.randn(3, 7))


@EVERY
def test_gate_weights_are_there_where_experts_are_and_sum_to_one(settings_with: Callable[..., AdaptorSettings], form: str) -> None:
    made = make(settings_with(form=form))
    weights = made.gate_weights("item.facts", torch.randn(4, 6))
    expected = {"experts": ("shared:0", "own:0", "own:1"), "one_gate": tuple(f"shared:{number}" for number in range(5))}
    assert made.expert_names == expected.get(form, ())
    if weights is None:
        assert form in ("mlp", "linear", "random")
    else:
        assert weights.shape == (4, len(made.expert_names))
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(4))


def test_one_gate_and_mlp_treat_all_kinds_alike_and_the_others_do_not(settings_with: Callable[..., AdaptorSettings]) -> None:
    x = torch.randn(4, 6)
    alike = {}
    for form in FORMS:
        made = make(settings_with(form=form))
        alike[form] = torch.equal(made(KINDS[0], x), made(KINDS[1], x))
    assert alike == {"experts": False, "one_gate": True, "mlp": True, "linear": False, "random": False}


def test_one_gate_is_the_gated_sum_of_its_experts_and_mlp_is_one_of_them(settings_with: Callable[..., AdaptorSettings]) -> None:
    x = np.linspace(-1, 1, 6)

    def expert(weights: dict[str, np.ndarray], name: str, number: int) -> np.ndarray:
        hidden = np.maximum(weights[f"{name}.weight1_EHT"][number] @ x + weights[f"{name}.bias1_EH"][number], 0)
        found: np.ndarray = np.maximum(weights[f"{name}.weight2_EAH"][number] @ hidden + weights[f"{name}.bias2_EA"][number], 0)
        return found

    for form in ("one_gate", "mlp"):
        made = make(settings_with(form=form))
        weights = {name: value.detach().double().numpy() for name, value in made.state_dict().items()}
        if form == "mlp":
            expected = expert(weights, "expert", 0)
        else:
            gate = weights["gate.weight"] @ x + weights["gate.bias"]
            share = np.exp(gate) / np.exp(gate).sum()
            expected = np.sum([share[number] * expert(weights, "pool", number) for number in range(5)], axis=0)
        found = made("item.facts", torch.tensor(x[None], dtype=torch.float32)).detach().numpy()[0]
        assert (expected > 0).any()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_gate_has_as_many_experts_as_the_hybrid_form_in_all(settings_with: Callable[..., AdaptorSettings]) -> None:
    hybrid, one = make(settings_with()), make(settings_with(form="one_gate"))
    of_experts = [
        sum(p.numel() for name, p in made.named_parameters() if name.split(".")[0] in ("shared", "own", "pool")) for made in (hybrid, one)
    ]
    assert of_experts[0] == of_experts[1] > 0


def test_the_linear_form_is_linear(settings_with: Callable[..., AdaptorSettings]) -> None:
    made, x, y = make(settings_with(form="linear")), torch.randn(3, 6), torch.randn(3, 6)
    torch.testing.assert_close(made("item.facts", 2 * x - y), 2 * made("item.facts", x) - made("item.facts", y))
    assert torch.equal(made("item.facts", torch.zeros(1, 6)), torch.zeros(1, 8))


def test_the_random_projection_learns_nothing_but_defaults_and_keeps_distances(settings_with: Callable[..., AdaptorSettings]) -> None:
    made = make(settings_with(form="random", embedding_dim=512), width=384)
    assert {name for name, _ in made.named_parameters()} == {"default.user:preference", "default.item:facts"}
    x = torch.nn.functional.normalize(torch.randn(40, 384), dim=1)
    torch.testing.assert_close(torch.cdist(made("item.facts", x), made("item.facts", x)), torch.cdist(x, x), atol=0.25, rtol=0)


@LEARNED
def test_gradients_reach_every_parameter_of_a_form(world: Any, settings_with: Callable[..., AdaptorSettings], form: str) -> None:
    ranker, batch = prepared(world, settings_with(form=form, expert_hidden=16))
    ranker.loss(batch).backward()  # type: ignore[no-untyped-call]
    assert ranker.adaptor is not None
    assert [name for name, p in ranker.adaptor.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_frozen_projection_stays_as_it_was_and_the_ranker_learns_around_it(
    world: Any, settings_with: Callable[..., AdaptorSettings]
) -> None:
    ranker, batch = prepared(world, settings_with(form="random"))
    assert ranker.adaptor is not None
    before = {name: value.clone() for name, value in ranker.adaptor.named_buffers()}
    losses = descend(ranker, batch, steps=30)
    assert losses[-1] < losses[0] - 0.1
    assert len(before) == 2
    assert all(torch.equal(value, before[name]) for name, value in ranker.adaptor.named_buffers())


def descend(ranker: Ranker, batch: Batch, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(ranker.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ranker.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


@EVERY
@pytest.mark.parametrize("backbone", ["fibinet", "din"])
def test_behind_a_residual_gate_a_ranker_starts_blind_to_knowledge_and_learns_to_see(
    world: Any, settings_with: Callable[..., AdaptorSettings], form: str, backbone: str
) -> None:
    ranker, batch = prepared(world, settings_with(form=form, residual_gate=True), backbone=backbone)
    other, strange = prepared(world, settings_with(form=form, residual_gate=True), arm="permuted", backbone=backbone)
    assert torch.equal(ranker(batch), ranker(strange))  # the same examples with other subjects' vectors
    assert torch.equal(ranker(batch), other(strange))
    assert ranker.adaptor is not None
    assert [gate.item() for gate in ranker.adaptor.residual.values()] == [0.0, 0.0]
    descend(ranker, batch, steps=5)
    assert all(gate.item() != 0.0 for gate in ranker.adaptor.residual.values())
    assert not torch.allclose(ranker(batch), ranker(strange))


def test_without_a_residual_gate_a_ranker_sees_knowledge_at_once(world: Any, settings: AdaptorSettings) -> None:
    ranker, batch = prepared(world, settings)
    _, strange = prepared(world, settings, arm="permuted")
    assert not torch.allclose(ranker(batch), ranker(strange))
    assert ranker.adaptor is not None
    assert not list(ranker.adaptor.residual.values())


def test_a_gated_vector_and_a_gated_default_enter_multiplied(settings_with: Callable[..., AdaptorSettings]) -> None:
    made = make(settings_with(residual_gate=True))
    with torch.no_grad():
        made.residual[made.key("item.facts")].fill_(-0.5)
    x: Tensor = torch.randn(3, 8)
    assert torch.equal(made.enter("item.facts", x), -0.5 * x)
    assert torch.equal(made.enter("user.preference", x), 0 * x)
