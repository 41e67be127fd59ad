"""Where a layer of deepctr-torch is slow, ours equals it with the same weights; FiGNN, which it lacks, equals the paper written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kar.model.adapted import Adapted
from kar.model.backbones import BACKBONES, Backbone, Shape
from kar.model.backbones.autoint import AutoInt
from kar.model.backbones.dcn import DCN
from kar.model.backbones.deepfm import DeepFM
from kar.model.backbones.dien import DIEN
from kar.model.backbones.din import DIN
from kar.model.backbones.fibinet import FiBiNET
from kar.model.backbones.fignn import FiGNN
from kar.model.backbones.interacting import Interacting
from kar.model.backbones.xdeepfm import XDeepFM
from kar.model.deepctr import DynamicGRU, InteractingLayer

SHAPE = Shape(code_count=30, target_count=2, profile_count=1, kind_count=2, history_kind_count=1, embedding_dim=4, mlp=(8,), dropout=0.0)
LENGTHS = torch.tensor([7, 3, 0, 1, 5])
IS_EVENT = torch.arange(7) < LENGTHS[:, None]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def stirred(module: nn.Module) -> None:
    """Weights of which none is zero or like another."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5)


def test_fields_are_counted_with_those_of_knowledge() -> None:
    assert (SHAPE.field_count, SHAPE.knowledge_count) == (6, 4)


def test_fibinets_interaction_equals_deepctrs_layer() -> None:
    model, x = FiBiNET(SHAPE), torch.randn(5, 10, 4)
    close(model.interact(model.bilinear, x), model.bilinear(x))


def test_xdeepfms_interaction_equals_deepctrs_layer() -> None:
    model, x = XDeepFM(SHAPE), torch.randn(5, 10, 4) / 2
    assert model.interact(x).shape == (5, 100)
    close(model.interact(x), model.cin(x))


@pytest.mark.parametrize("name", ["dcn", "dcnv2"])
def test_the_cross_network_equals_deepctrs_layer(name: str) -> None:
    model = BACKBONES[name](SHAPE)
    assert isinstance(model, DCN)
    stirred(model.crossing)  # deepctr-torch's biases start at zero
    x = torch.randn(5, 40) / 4
    assert len(model.crossing.kernels) == 3
    close(model.cross(x), model.crossing(x))


@pytest.mark.parametrize("rows", [1, 5])
def test_the_interacting_layer_equals_deepctrs_where_the_width_stays(rows: int) -> None:
    ours, theirs = Interacting(6, 6), InteractingLayer(6, head_num=1)
    with torch.no_grad():
        parts = [matrix.t() for matrix in (theirs.W_Query, theirs.W_key, theirs.W_Value, theirs.W_Res)]
        ours.weight_XD.copy_(torch.cat(parts).mul_(20))
        for matrix in theirs.parameters():
            matrix.mul_(20)  # it starts so small that any attention would be uniform
    x = torch.randn(rows, 9, 6)
    close(ours(x), theirs(x))


def test_autoint_attends_in_three_layers_of_width_64() -> None:
    model = AutoInt(SHAPE)
    assert [parameter.shape for parameter in model.attention.parameters()] == [(256, 4), (256, 64), (256, 64)]


def test_dins_interest_equals_deepctrs_layer() -> None:
    model = DIN(SHAPE)
    target, events = torch.randn(5, 12), torch.randn(5, 7, 12)
    ours = model.pool(target, events, IS_EVENT)
    close(ours, model.attention(target[:, None], events, None, IS_EVENT)[:, 0])
    assert not ours[2].any()


def test_diens_attention_equals_deepctrs_layer_and_is_none_for_an_empty_history() -> None:
    model = DIEN(SHAPE)
    stirred(model.attention)
    target, events = torch.randn(5, 12), torch.randn(5, 7, 12)
    ours = model.attend(target, events, IS_EVENT)
    theirs = model.attention(target[:, None], events, None, IS_EVENT)[:, 0]
    has_event = LENGTHS > 0
    close(ours[has_event], theirs[has_event])
    assert not ours[~has_event].any()


def test_diens_evolution_equals_deepctrs_augru() -> None:
    model = DIEN(SHAPE)
    stirred(model.evolution)
    theirs = DynamicGRU(12, 12, gru_type="AUGRU")
    with torch.no_grad():
        for name, parameter in theirs.rnn.named_parameters():  # its two biases are one parameter
            parameter.copy_(getattr(model.evolution, name))
        model.evolution.bias_hh.copy_(theirs.rnn.bias_hh)
        model.evolution.bias_ih.copy_(theirs.rnn.bias_hh)
    interests, weights = torch.randn(5, 7, 12), torch.rand(5, 7) * IS_EVENT
    rows = LENGTHS.nonzero()[:, 0]
    packed, packed_weights = (
        nn.utils.rnn.pack_padded_sequence(x[rows], LENGTHS[rows], batch_first=True, enforce_sorted=False) for x in (interests, weights)
    )
    states, lengths = nn.utils.rnn.pad_packed_sequence(theirs(packed, packed_weights), batch_first=True)
    ours = model.evolve(interests, weights)
    close(ours[rows], states[torch.arange(len(rows)), lengths - 1])
    assert not ours[2].any()


def test_fignn_equals_the_papers_equations_written_out() -> None:
    model = FiGNN(SHAPE)
    stirred(model)
    fields = torch.randn(2, 10, 4)
    edges, first = model.edges(fields), model.attention(fields)
    ours = model.interact(first, edges)
    for row in range(2):
        x, w = fields[row], model.of_edge.weight[0]
        states = list(first[row])
        for _ in range(2):
            following = []
            for i in range(10):
                logits = [
                    torch.exp(nn.functional.leaky_relu(w @ torch.cat([x[i], x[j]]))) if j != i else torch.zeros(()) for j in range(10)
                ]
                share = torch.stack(logits) / sum(logits)
                close(edges[row, i], share)
                said = sum(share[j] * (model.out_FDD[j] @ states[j]) for j in range(10))
                heard = model.in_FDD[i] @ said + model.bias_D
                following.append(model.gru(heard[None], states[i][None])[0] + first[row, i])
            states = following
        close(ours[row], torch.stack(states))


def test_deepfm_keeps_adapted_vectors_out_of_the_pairwise_products(world: Any, settings_with: Callable[..., Any]) -> None:
    """With its MLP silenced, a DeepFM is first-order weights and pairwise products: affine in each adapted vector."""
    data = world.load(settings_with())
    shape = replace(SHAPE, code_count=data.fields.total, profile_count=0, history_kind_count=0)
    model = DeepFM(shape)
    nn.init.zeros_(model.mlp.out.weight)
    nn.init.normal_(model.first_order.weight_V1)
    batch = data.batch(torch.arange(3))
    first, second = torch.randn(2, 3, 2, 4)
    logit = {name: model(batch, Adapted(x)) for name, x in (("0", 0 * first), ("1", first), ("2", second), ("both", first + second))}
    close(logit["both"] - logit["0"], logit["1"] + logit["2"] - 2 * logit["0"])
    assert (logit["1"] != logit["0"]).all()


def test_deepfms_pairwise_products_and_first_order_weights_are_those_of_the_fields(world: Any, settings_with: Callable[..., Any]) -> None:
    data = world.load(settings_with())
    model = DeepFM(replace(SHAPE, code_count=data.fields.total, profile_count=0, kind_count=0, history_kind_count=0))
    stirred(model)
    nn.init.zeros_(model.mlp.out.weight)
    batch = data.batch(torch.tensor([40]))
    codes, weight = batch.single_BS[0].tolist(), model.first_order.weight_V1[:, 0]
    fields = [model.embedding.weight[code] for code in codes] + [model.embedding.weight[row.long()].mean(0) for row in batch.code_KH]
    expected = sum(weight[code] for code in codes) + sum(weight[row.long()].mean() for row in batch.code_KH)
    expected = expected + sum(fields[i] @ fields[j] for i in range(5) for j in range(i)) + model.first_order.bias + model.mlp.out.bias[0]
    close(model(batch, Adapted(torch.zeros(1, 0, 4)))[0], expected)


def test_an_embedding_starts_small_and_alike_in_every_backbone() -> None:
    for backbone in BACKBONES.values():
        weight = backbone(replace(SHAPE, code_count=5000)).embedding.weight
        assert weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert math.isclose(weight.mean().item(), 0.0, abs_tol=0.001)
        assert issubclass(backbone, Backbone)
