"""Contract tests: every backbone in `BACKBONES` must hold them, with and without knowledge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kar.model import arms, checkpoint, train
from kar.model.backbones import BACKBONES, DIN, FiBiNET, Shape
from kar.model.batches import Batch, Kind, TrainingData
from kar.model.ranker import Ranker, build
from kar.settings import AdaptorSettings

ARMS = ("base", "knowledge")
EVERY = pytest.mark.parametrize("backbone", sorted(BACKBONES))


def test_an_interaction_model_and_a_behaviour_model_are_there() -> None:
    assert sorted(BACKBONES) == ["din", "fibinet"]


def prepared(world: Any, settings: AdaptorSettings, backbone: str, arm: Any) -> tuple[Ranker, TrainingData, list[Kind]]:
    data = world.load(settings)
    of_arms = arms.prepare(world.knowledge_vector, world.example, settings)
    kinds = of_arms.kinds(arm, data, 1)
    return build(backbone, data, [kind.view for kind in kinds], of_arms.width, settings, seed=1), data, kinds


def loss_of(ranker: Ranker, batch: Batch) -> Tensor:
    return functional.binary_cross_entropy_with_logits(ranker(batch), batch.label_B)


@EVERY
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_there_is_one_finite_logit_per_example(world: Any, settings: AdaptorSettings, backbone: str, arm: str, rows: int) -> None:
    ranker, data, kinds = prepared(world, settings, backbone, arm)
    logits = ranker(data.batch(torch.arange(rows), kinds))
    assert logits.shape == (rows,)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@EVERY
@pytest.mark.parametrize("arm", ARMS)
def test_gradients_reach_every_parameter(world: Any, settings_with: Callable[..., AdaptorSettings], backbone: str, arm: str) -> None:
    settings = settings_with(use_user_id=True, user_fields=["age"])
    ranker, data, kinds = prepared(world, settings, backbone, arm)
    batch = data.batch(torch.from_numpy(data.split_rows["train"]), kinds)  # holds examples without knowledge of either side
    loss_of(ranker, batch).backward()  # type: ignore[no-untyped-call]
    unreached = [name for name, p in ranker.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # deepctr-torch's SENET ends in a ReLU: with an untrained layer a whole weight may start at zero
    assert [name for name in unreached if "senet" not in name] == []


@EVERY
@pytest.mark.parametrize("arm", ARMS)
def test_a_backbone_overfits_two_hundred_rows(world: Any, settings_with: Callable[..., AdaptorSettings], backbone: str, arm: str) -> None:
    ranker, data, kinds = prepared(world, settings_with(mlp=[64, 32]), backbone, arm)
    batch = data.batch(torch.arange(200), kinds)
    noise = replace(batch, label_B=torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(0)).float())
    optimizer = torch.optim.Adam(ranker.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = loss_of(ranker, noise)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.1


@EVERY
@pytest.mark.parametrize("arm", ARMS)
def test_equal_seeds_train_to_equal_bits(world: Any, settings_with: Callable[..., AdaptorSettings], backbone: str, arm: Any) -> None:
    settings = settings_with(epochs=1, dropout=0.1, threads=2)
    _, data, kinds = prepared(world, settings, backbone, arm)
    first, again, other = (train.train(backbone, data, kinds, 16, settings, seed, "test") for seed in (1, 1, 2))
    assert first.test_logit.tobytes() == again.test_logit.tobytes()
    assert [e.train_loss for e in first.epochs] == [e.train_loss for e in again.epochs]
    assert first.test_logit.tobytes() != other.test_logit.tobytes()


@EVERY
def test_a_checkpoint_gives_back_the_same_backbone(world: Any, settings: AdaptorSettings, backbone: str, tmp_path: Path) -> None:
    ranker, data, kinds = prepared(world, settings, backbone, "knowledge")
    origin = checkpoint.Origin(backbone, "knowledge", 1, "hash-16:test", {"item": ["item.facts"]}, {}, 0.5, data.fields.sizes)
    checkpoint.save(tmp_path, ranker, origin)
    loaded = Ranker(checkpoint.load_backbone(tmp_path), checkpoint.load(tmp_path).adaptor)
    batch = data.batch(torch.arange(50), kinds)
    assert torch.equal(loaded(batch), ranker.eval()(batch))


@EVERY
def test_examples_without_knowledge_get_the_learned_default(world: Any, settings: AdaptorSettings, backbone: str) -> None:
    ranker, data, kinds = prepared(world, settings, backbone, "knowledge")
    item_3 = torch.from_numpy((world.example["item_id"].to_numpy() == 3).nonzero()[0])
    assert len(item_3) > 3
    before = ranker(data.batch(item_3, kinds))
    with torch.no_grad():
        ranker.adaptor.default["item:facts"].add_(1.0)  # type: ignore[union-attr]
    assert (ranker(data.batch(item_3, kinds)) != before).all()
    others = torch.arange(3)  # users without, items with knowledge
    item_ids = world.example["item_id"].to_numpy()[:3]
    assert 3 not in item_ids
    with_default = ranker(data.batch(others, kinds))
    with torch.no_grad():
        ranker.adaptor.default["item:facts"].add_(1.0)  # type: ignore[union-attr]
    assert torch.equal(ranker(data.batch(others, kinds)), with_default)


@EVERY
def test_no_knowledge_at_all_still_gives_logits(world: Any, settings: AdaptorSettings, backbone: str) -> None:
    none = world.having(knowledge_vector=world.knowledge_vector.slice(0, 0))
    ranker, data, kinds = prepared(none, settings.model_copy(update={"arms": ["knowledge"]}), backbone, "knowledge")
    assert ranker(data.batch(torch.arange(40), kinds)).isfinite().all()


@EVERY
def test_an_empty_history_does_not_look_at_any_event(world: Any, settings: AdaptorSettings, backbone: str) -> None:
    ranker, data, _ = prepared(world, settings, backbone, "base")
    batch = data.batch(torch.arange(20))
    empty = replace(batch, length_B=torch.zeros(20, dtype=torch.int64))
    other_events = replace(empty, event_KV=batch.event_KV.flip(1))
    logits = ranker(empty)
    assert logits.isfinite().all()
    assert torch.equal(logits, ranker(other_events))
    assert not torch.equal(logits, ranker(batch))
    mixed = replace(batch, length_B=torch.where(torch.arange(20) < 10, 0, batch.length_B))
    torch.testing.assert_close(ranker(mixed)[:10], logits[:10])


@EVERY
def test_padding_does_not_change_a_logit(world: Any, settings: AdaptorSettings, backbone: str) -> None:
    ranker, data, _ = prepared(world, settings, backbone, "base")
    rows = torch.tensor([0, 5, 100])
    lengths = data.batch(rows).length_B
    assert lengths.min() < lengths.max()
    together = ranker(data.batch(rows))
    alone = torch.cat([ranker(data.batch(rows[n : n + 1])) for n in range(3)])
    torch.testing.assert_close(together, alone)


@EVERY
def test_the_history_and_its_ratings_matter(world: Any, settings: AdaptorSettings, backbone: str) -> None:
    ranker, data, _ = prepared(world, settings, backbone, "base")
    batch = data.batch(torch.arange(30))
    for field in range(3):
        changed = batch.event_KV.clone()
        changed[field] = changed[field].roll(1)
        assert not torch.equal(ranker(batch), ranker(replace(batch, event_KV=changed))), data.history_fields[field]


@EVERY
def test_unseen_ids_share_one_embedding(world: Any, settings: AdaptorSettings, backbone: str) -> None:
    ranker, data, _ = prepared(world, settings, backbone, "base")
    unseen = torch.from_numpy((world.example["item_id"].to_numpy() == 20).nonzero()[0])
    before = ranker(data.batch(unseen))
    with torch.no_grad():
        ranker.backbone.embedding.weight[data.fields.offset("item_id")] += 1.0
    assert (ranker(data.batch(unseen)) != before).all()


@EVERY
@pytest.mark.parametrize("arm", ARMS)
def test_the_first_loss_is_pinned(world: Any, settings: AdaptorSettings, backbone: str, arm: str) -> None:
    ranker, data, kinds = prepared(world, settings, backbone, arm)
    loss = loss_of(ranker, data.batch(torch.arange(64), kinds)).item()
    assert loss == pytest.approx(PINNED[backbone, arm], abs=1e-5)


PINNED = {
    ("din", "base"): 0.693940,
    ("din", "knowledge"): 0.712510,
    ("fibinet", "base"): 0.698748,
    ("fibinet", "knowledge"): 0.695719,
}


def test_fibinets_interaction_equals_deepctrs_layer() -> None:
    model = FiBiNET(Shape(30, 2, 1, 2, 4, (8,), 0.0))
    assert model.field_count == 8
    x = torch.randn(5, 8, 4)
    torch.testing.assert_close(model.interact(model.bilinear, x), model.bilinear(x))


def test_dins_interest_equals_deepctrs_layer() -> None:
    model = DIN(Shape(30, 2, 0, 0, 4, (8,), 0.0))
    target, events = torch.randn(5, 8), torch.randn(5, 7, 8)
    is_event = torch.arange(7) < torch.tensor([7, 3, 0, 1, 5])[:, None]
    theirs = model.attention(target[:, None], events, None, is_event)[:, 0]
    ours = model.pool(target, events, is_event)
    torch.testing.assert_close(ours, theirs)
    assert not ours[2].any()
