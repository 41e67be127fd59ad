"""What backbones take of the histories, each event once a batch, against every example's history written out; and products in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kar.model import arms
from kar.model.adapted import HistoryVectors
from kar.model.backbones import BACKBONES
from kar.model.batches import Batch, lay_out
from kar.model.ranker import Ranker, build
from kar.settings import AdaptorSettings


def prepared(world: Any, settings: AdaptorSettings, backbone: str) -> tuple[Ranker, Batch]:
    """A ranker of the knowledge arm, and a batch in which neighbours share events, one row is there twice and one item has no knowledge."""
    data = world.load(settings)
    found = arms.prepare(world.knowledge_vector, world.example, settings)
    kinds = found.kinds("knowledge", data, 1)
    ranker = build(backbone, data, kinds, found.width, settings, 1)
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return ranker, data.batch(torch.tensor([*range(12), 90, 3, 60]), kinds)


def histories(batch: Batch) -> list[range]:
    return [range(first, first + length) for first, length in zip(batch.first_B.tolist(), batch.length_B.tolist(), strict=True)]


def same_with_gradients(fast: Tensor, clear: Tensor, of: Tensor) -> None:
    torch.testing.assert_close(fast, clear, rtol=1e-5, atol=1e-5)
    weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad((x * weight).sum(), of, retain_graph=True)[0] for x in (fast, clear)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_liked_and_disliked_means_are_those_of_each_history_written_out(world: Any, settings: AdaptorSettings) -> None:
    _, batch = prepared(world, settings, "fibinet")
    place_H = next(kind.place_H for kind in batch.knowledge if kind.place_H is not None)
    table_XD = torch.randn(int(place_H.max()) + 1, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for number, mean_BD in enumerate(HistoryVectors(1, table_XD, place_H).means(batch)):
        rows = []
        for events in histories(batch):
            counted = [place_H[h] for h in events if batch.label_H[h] == 1 - number and place_H[h] > 0]
            rows.append(table_XD[torch.stack(counted)].mean(dim=0) if counted else table_XD[0])
        assert len({tuple(row.tolist()) for row in rows}) > 2  # not all of them the learned default
        same_with_gradients(mean_BD, torch.stack(rows), table_XD)


def test_history_fields_are_the_means_of_each_history_written_out(world: Any, settings: AdaptorSettings) -> None:
    ranker, batch = prepared(world, settings, "fibinet")
    table_VD = ranker.backbone.embedding.weight
    fields_BFD = ranker.backbone.fields(batch)[:, -len(batch.code_KH) :]
    clear = [
        torch.stack(
            [table_VD[batch.code_KH[k, list(events)]].mean(dim=0) if events else 0 * table_VD[0] for k in range(len(batch.code_KH))]
        )
        for events in histories(batch)
    ]
    same_with_gradients(fields_BFD, torch.stack(clear), table_VD)


def test_events_are_looked_up_once_and_laid_out_as_each_history_has_them(world: Any, settings: AdaptorSettings) -> None:
    ranker, batch = prepared(world, settings, "din")
    adapted, table_VD = ranker.adapt(batch), ranker.backbone.embedding.weight
    event_BLX, is_event_BL = ranker.backbone.events(batch, adapted)
    code_BLK = lay_out(batch.code_KH.t(), batch.places()[0])
    *values, rating = functional.embedding(code_BLK, table_VD).unbind(2)
    clear_BLX = torch.cat([*(value + rating for value in values), *adapted.events(batch.places()[0])], dim=-1)
    same_with_gradients(event_BLX[is_event_BL], clear_BLX[is_event_BL], table_VD)
    assert batch.code_KH.shape[1] < int(batch.length_B.sum())


def test_dins_logits_are_those_of_its_attention_over_every_event_of_every_example(world: Any, settings: AdaptorSettings) -> None:
    ranker, batch = prepared(world, settings, "din")
    din: Any = ranker.backbone
    adapted, single_BSD = ranker.adapt(batch), din.single(batch)
    interest_BX = din.pool(din.target(single_BSD, adapted), *din.events(batch, adapted))
    clear_B = din.mlp(torch.cat([interest_BX, single_BSD.flatten(1), adapted.target_BCD.flatten(1)], dim=1))
    same_with_gradients(din(batch, adapted), clear_B, din.embedding.weight)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_in_bfloat16_the_logits_stay_close_and_every_gradient_is_float32(
    world: Any, settings_with: Callable[..., AdaptorSettings], name: str
) -> None:
    full, batch = prepared(world, settings_with(), name)
    low, _ = prepared(world, settings_with(precision="bfloat16"), name)
    ours, expected = low(batch), full(batch)
    assert ours.dtype == torch.float32
    assert not torch.equal(ours, expected)
    assert (ours - expected).abs().max() < 0.05 * expected.std() + 0.02 * expected.abs().max()
    ours.sum().backward()
    assert {parameter.grad.dtype for parameter in low.parameters() if parameter.grad is not None} == {torch.float32}


def test_a_first_layer_that_may_change_precision_draws_no_weights_of_its_own(settings: AdaptorSettings, world: Any) -> None:
    weights = [
        build("din", world.load(settings), [], 1, s, 1).state_dict()
        for s in (settings, settings.model_copy(update={"precision": "bfloat16"}))
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # the compiler's own, as it looks into torch
@pytest.mark.parametrize("name", ["din", "fibinet"])
def test_a_compiled_backbone_gives_the_same_logits_under_the_same_names(
    world: Any, settings_with: Callable[..., AdaptorSettings], name: str
) -> None:
    plain, batch = prepared(world, settings_with(), name)
    compiled, _ = prepared(world, settings_with(compile=True), name)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(compiled(batch), plain(batch), rtol=1e-4, atol=1e-4)
