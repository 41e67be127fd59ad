"""What every backbone in `BACKBONES` must hold: without knowledge, with it at the target alone, and with it in the history too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kar.model import arms, checkpoint
from kar.model.backbones import BACKBONES
from kar.model.batches import Batch, Kind, TrainingData
from kar.model.ranker import Ranker, build
from kar.settings import AdaptorSettings
from kar.settings.schema import Backbone as BackboneName

ARMS = ("base", "target_only", "knowledge")
EVERY = pytest.mark.parametrize("name", sorted(BACKBONES))
WITH_EVERY_ARM = pytest.mark.parametrize("arm", ARMS)
WITH_KNOWLEDGE = pytest.mark.parametrize("arm", ARMS[1:])


@dataclass(frozen=True)
class Prepared:
    """The small world as a base sees it, and what each arm knows."""

    data: TrainingData
    settings: AdaptorSettings
    width: int
    kinds: dict[str, list[Kind]]

    def ranker(self, name: str, arm: str, seed: int = 1, **changes: Any) -> Ranker:
        return build(name, self.data, self.kinds[arm], self.width, self.settings.model_copy(update=changes), seed)

    def batch(self, rows: Sequence[int] | Tensor, arm: str, **changes: Any) -> Batch:
        return replace(self.data, **changes).batch(torch.as_tensor(rows), self.kinds[arm])

    def rows_of_item(self, item: int) -> Tensor:
        return torch.from_numpy((self.data.item_ids.to_numpy()[self.data.item_E] == item).nonzero()[0])


def prepare(world: Any, settings: AdaptorSettings) -> Prepared:
    settings = settings.model_copy(update={"arms": list(ARMS)})
    data = world.load(settings)
    of_arms = arms.prepare(world.knowledge_vector, world.example, settings)
    return Prepared(data, settings, of_arms.width, {arm: of_arms.kinds(arm, data, 1) for arm in ARMS})


@pytest.fixture(scope="module")
def small(world: Any, small_settings_of: Any) -> Prepared:
    return prepare(world, small_settings_of())


@pytest.fixture(scope="module")
def rich(world: Any, small_settings_of: Any) -> Prepared:
    return prepare(world, small_settings_of(bases=["rich"], published_base="rich", user_fields=["age"]))


@pytest.fixture(scope="module")
def beginning(beginning_world: Any, small_settings_of: Any) -> Prepared:
    return prepare(beginning_world, small_settings_of())


def loss_of(ranker: Ranker, batch: Batch) -> Tensor:
    return functional.binary_cross_entropy_with_logits(ranker(batch), batch.label_B)


def test_the_nine_backbones_of_kars_table_are_there() -> None:
    assert sorted(BACKBONES) == sorted(get_args(BackboneName))
    assert len(BACKBONES) == 9


@EVERY
@WITH_EVERY_ARM
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_there_is_one_finite_logit_per_example(small: Prepared, name: str, arm: str, rows: int) -> None:
    ranker = small.ranker(name, arm, dropout=0.5)
    for is_training in (True, False):
        logits = ranker.train(is_training)(small.batch(range(rows), arm))
        assert logits.shape == (rows,)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()


@EVERY
@WITH_EVERY_ARM
def test_gradients_reach_every_parameter_and_the_embeddings_that_occur(rich: Prepared, name: str, arm: str) -> None:
    batch = rich.batch(torch.from_numpy(rich.data.split_rows["train"]), arm)  # holds examples without knowledge of either side
    assert batch.listed is not None
    occurring = torch.cat([batch.single_BS.flatten(), batch.code_KH.flatten(), batch.listed.code_X])
    ranker = rich.ranker(name, arm)
    unreached = {key for key, _ in ranker.named_parameters()}
    for seed in (1, 2, 3):  # a layer that ends in a ReLU may start at zero, but not with every seed
        if not unreached:
            break
        ranker = rich.ranker(name, arm, seed)
        loss_of(ranker, batch).backward()  # type: ignore[no-untyped-call]
        unreached &= {key for key, p in ranker.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        gradient = ranker.backbone.embedding.weight.grad
        assert gradient is not None
        assert torch.equal(gradient.abs().sum(dim=1).nonzero()[:, 0], torch.unique(occurring).long())
    assert unreached == set()


@EVERY
@pytest.mark.parametrize("arm", ["base", "knowledge"])
def test_a_backbone_overfits_two_hundred_rows(small: Prepared, name: str, arm: str) -> None:
    ranker = small.ranker(name, arm, mlp=[64, 32])
    batch = small.batch(range(200), arm)
    noise = replace(batch, label_B=torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(0)).float())
    optimizer = torch.optim.Adam(ranker.parameters(), lr=2e-2, fused=True)
    loss = torch.tensor(1.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss = loss_of(ranker, noise)
        if loss.item() < 0.2:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.2


@EVERY
def test_equal_seeds_train_to_equal_bits_and_others_do_not(small: Prepared, name: str) -> None:
    batch = small.batch(range(64), "knowledge")

    def trained(seed: int) -> Tensor:
        ranker = small.ranker(name, "knowledge", seed, dropout=0.1)
        torch.manual_seed(seed)
        optimizer = torch.optim.Adam(ranker.parameters(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(ranker, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        logits: Tensor = ranker.eval()(batch).detach()
        return logits

    first = trained(1)
    assert torch.equal(first, trained(1))
    assert not torch.equal(first, trained(2))


@EVERY
@WITH_KNOWLEDGE
def test_a_checkpoint_gives_back_the_same_backbone(small: Prepared, name: str, arm: str, tmp_path: Path) -> None:
    ranker, batch = small.ranker(name, arm), small.batch(range(50), arm)
    views = {side: [kind.view for kind in small.kinds[arm] if kind.side == side] for side in ("user", "item")}
    checkpoint.save(
        tmp_path, ranker, checkpoint.Origin("same_evidence", name, arm, 1, "hash-16:test", views, {}, 0.5, small.data.fields.sizes)
    )
    loaded = Ranker(checkpoint.load_backbone(tmp_path), checkpoint.load(tmp_path).adaptor)
    assert torch.equal(loaded(batch), ranker.eval()(batch))


@EVERY
def test_a_target_without_knowledge_gets_the_learned_default_and_no_other_does(small: Prepared, name: str) -> None:
    ranker = small.ranker(name, "target_only")
    item_3, item_4 = (small.batch(small.rows_of_item(item), "target_only") for item in (3, 4))
    before, before_4 = ranker(item_3), ranker(item_4)
    assert ranker.adaptor is not None
    with torch.no_grad():
        ranker.adaptor.default["item:facts"].add_(1.0)
    assert (ranker(item_3) != before).all()
    assert torch.equal(ranker(item_4), before_4)


@EVERY
def test_a_history_without_any_knowledge_has_the_learned_default(small: Prepared, name: str) -> None:
    ranker, batch = small.ranker(name, "knowledge"), small.batch(small.rows_of_item(4), "knowledge")
    # targets keep their knowledge, so that only the histories can tell
    unknown = tuple(replace(kind, place_H=None if kind.place_H is None else kind.place_H * 0) for kind in batch.knowledge)
    batch = replace(batch, knowledge=unknown)
    assert all((kind.place_B > 0).all() for kind in unknown if kind.view == "item.facts")
    before = ranker(batch)
    assert ranker.adaptor is not None
    with torch.no_grad():
        ranker.adaptor.default["item:facts"].add_(1.0)
    assert (ranker(batch) != before).all()


@EVERY
def test_no_knowledge_at_all_still_gives_logits(world: Any, small: Prepared, name: str) -> None:
    none = prepare(world.having(knowledge_vector=world.knowledge_vector.slice(0, 0)), small.settings)
    ranker = none.ranker(name, "knowledge")
    logits = ranker(none.batch(range(40), "knowledge"))
    logits.sum().backward()
    assert logits.isfinite().all()


@EVERY
def test_the_knowledge_of_the_history_matters(small: Prepared, name: str) -> None:
    ranker, batch = small.ranker(name, "knowledge"), small.batch(range(30), "knowledge")
    at = next(number for number, kind in enumerate(batch.knowledge) if kind.place_H is not None)
    place_H = batch.knowledge[at].place_H
    assert place_H is not None
    changed = list(batch.knowledge)
    changed[at] = replace(changed[at], place_H=place_H.roll(1))
    assert not torch.equal(ranker(batch), ranker(replace(batch, knowledge=tuple(changed))))


@EVERY
@WITH_EVERY_ARM
def test_an_empty_history_gives_a_logit_and_gradients_that_are_finite(beginning: Prepared, name: str, arm: str) -> None:
    ranker, is_empty = beginning.ranker(name, arm), beginning.data.length_E[:60] == 0
    rows = torch.arange(60)
    empty, mixed = ranker(beginning.batch(rows[is_empty], arm)), ranker(beginning.batch(rows, arm))
    assert 1 < len(empty) < 60
    assert mixed.isfinite().all()
    torch.testing.assert_close(mixed[is_empty], empty, atol=1e-6, rtol=1e-5)  # no events of others
    for logits in (empty, mixed):
        ranker.zero_grad()
        logits.sum().backward()
        for key, parameter in ranker.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), key


@EVERY
@WITH_EVERY_ARM
def test_a_logit_does_not_depend_on_its_neighbours(small: Prepared, name: str, arm: str) -> None:
    ranker = small.ranker(name, arm).eval()
    rows = torch.tensor([0, 5, 100, 3])
    lengths = small.batch(rows, arm).length_B
    assert lengths.min() < lengths.max()
    together = ranker(small.batch(rows, arm))
    alone = torch.cat([ranker(small.batch(rows[n : n + 1], arm)) for n in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert len(set(together.tolist())) == 4
    torch.testing.assert_close(ranker(small.batch(rows.flip(0), arm)), together.flip(0), atol=1e-6, rtol=1e-5)


@EVERY
def test_the_history_and_its_ratings_matter(small: Prepared, name: str) -> None:
    ranker, batch = small.ranker(name, "base"), small.batch(range(30), "base")
    for field in range(len(batch.code_KH)):
        changed = batch.code_KH.clone()
        changed[field] = changed[field].roll(1)
        assert not torch.equal(ranker(batch), ranker(replace(batch, code_KH=changed))), small.data.history_fields[field]


@EVERY
@WITH_EVERY_ARM
def test_unseen_ids_share_one_embedding(small: Prepared, name: str, arm: str) -> None:
    ranker, batch = small.ranker(name, arm), small.batch(small.rows_of_item(20), arm)
    unknown = small.data.fields.offset("item_id")
    assert (batch.single_BS[:, 0] == unknown).all()
    before = ranker(batch)
    with torch.no_grad():
        ranker.backbone.embedding.weight[unknown] += 1.0
    assert (ranker(batch) != before).all()


@EVERY
@pytest.mark.parametrize("arm", ["base", "knowledge"])
def test_the_first_loss_is_pinned(small: Prepared, name: str, arm: str) -> None:
    loss = loss_of(small.ranker(name, arm), small.batch(range(64), arm)).item()
    assert loss == pytest.approx(PINNED[name][arm == "knowledge"], abs=1e-5)


PINNED = {
    "deepfm": (0.707297, 0.699710),
    "xdeepfm": (0.701432, 0.706169),
    "dcn": (0.694750, 0.693429),
    "dcnv2": (0.693594, 0.698654),
    "autoint": (0.695388, 0.697070),
    "fignn": (0.692550, 0.693728),
    "fibinet": (0.698748, 0.693103),
    "din": (0.693940, 0.709011),
    "dien": (0.692658, 0.698115),
}
