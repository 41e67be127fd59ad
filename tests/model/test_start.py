"""Item embeddings that start from knowledge, and the loss that keeps them near it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional

from kar.model import arms, train
from kar.model.batches import Batch, Kind, TrainingData
from kar.model.ranker import Ranker, build
from kar.settings import AdaptorSettings


def prepared(world: Any, settings: AdaptorSettings, arm: Any = "knowledge") -> tuple[Ranker, TrainingData, list[Kind]]:
    data = world.load(settings)
    of_arms = arms.prepare(world.knowledge_vector, world.example, settings)
    kinds = of_arms.kinds(arm, data, 1)
    return build("fibinet", data, kinds, of_arms.width, settings, seed=1), data, kinds


def items_of(data: TrainingData) -> dict[int, int]:
    """Item id → code, of the items that the ranker knows."""
    ids = data.item_ids.to_pylist()
    codes = dict(zip((ids[row] for row in data.item_V), data.event_KV[0].tolist(), strict=True))
    return {item: code for item, code in codes.items() if code}


def vectors_of(world: Any, view: str = "item.facts") -> dict[int, np.ndarray]:
    rows = world.knowledge_vector.filter(pc.equal(world.knowledge_vector["view"], view)).to_pylist()
    return {int(row["subject_id"]): np.float32(row["vector"]) for row in rows}


def test_item_embeddings_start_as_the_principal_components_at_the_usual_scale(
    world: Any, settings_with: Callable[..., AdaptorSettings]
) -> None:
    usual, data, _ = prepared(world, settings_with())
    started, _, _ = prepared(world, settings_with(pca_init=True))
    vectors, codes = vectors_of(world), items_of(data)
    both = [item for item in codes if item in vectors]
    assert 10 < len(both) < len(codes)
    expected = PCA(8).fit_transform(np.stack([vectors[item] for item in both]))
    found = started.backbone.embedding.weight.detach()[[codes[item] for item in both]].numpy()
    scale = float(usual.backbone.embedding.weight.detach().std() / np.sqrt(np.mean(expected**2)))
    np.testing.assert_allclose(np.abs(found), np.abs(scale * expected), atol=1e-5)  # the sign of a component is arbitrary
    np.testing.assert_allclose(found @ found.T, scale**2 * expected @ expected.T, atol=1e-6)


def test_everything_else_starts_as_usual(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    usual, data, _ = prepared(world, settings_with())
    started, _, _ = prepared(world, settings_with(pca_init=True))
    codes, vectors = items_of(data), vectors_of(world)
    changed = (usual.backbone.embedding.weight != started.backbone.embedding.weight).any(dim=1).nonzero().squeeze(1).tolist()
    assert sorted(changed) == sorted(code for item, code in codes.items() if item in vectors)
    assert 0 not in changed
    assert 3 in codes  # item 3 has no vector
    assert codes[3] not in changed
    for name, value in usual.state_dict().items():
        if name != "backbone.embedding.weight":
            assert torch.equal(value, started.state_dict()[name]), name


def test_held_out_items_leave_no_trace_in_the_start(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    items = world.example_item["item_id"].to_pylist()
    held = pa.array([item in (4, 7) for item in items])
    out = world.having(example_item=world.example_item.set_column(1, "is_held_out", held))
    rows = world.knowledge_vector.to_pylist()
    moved = [
        row | {"vector": (np.float32(row["vector"]) * -3).tolist()}
        if row["view"] == "item.facts" and row["subject_id"] in ("4", "7")
        else row
        for row in rows
    ]
    other = out.having(knowledge_vector=pa.Table.from_pylist(moved, schema=world.knowledge_vector.schema))
    train_rows = pc.and_(pc.equal(out.example["split"], "train"), pc.is_in(out.example["item_id"], pa.array([4, 7])))
    one, another = (
        prepared(w.having(example=w.example.filter(pc.invert(train_rows))), settings_with(pca_init=True))[0] for w in (out, other)
    )
    usual = prepared(out.having(example=out.example.filter(pc.invert(train_rows))), settings_with())[0]
    assert torch.equal(one.backbone.embedding.weight, another.backbone.embedding.weight)
    assert torch.equal(one.backbone.embedding.weight[0], usual.backbone.embedding.weight[0])


def test_several_kinds_of_item_stand_side_by_side(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    started, data, _ = prepared(world, settings_with(pca_init=True, item_views=["item.facts", "item.raw"]))
    codes, facts, raw = items_of(data), vectors_of(world), vectors_of(world, "item.raw")
    mean = np.mean([facts[item] for item in codes if item in facts], axis=0)
    wide = np.stack([np.concatenate([facts.get(item, mean), raw[item]]) for item in codes])
    expected = PCA(8).fit_transform(wide)
    found = started.backbone.embedding.weight.detach()[list(codes.values())].numpy()
    assert np.corrcoef((found @ found.T).ravel(), (expected @ expected.T).ravel())[0, 1] > 0.9999


def test_fewer_items_than_columns_leave_the_last_columns_as_usual(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    is_user = pc.starts_with(world.knowledge_vector["view"], "user")
    few = pc.or_(is_user, pc.is_in(world.knowledge_vector["subject_id"], pa.array(["5", "6", "8", "9"])))
    little = world.having(knowledge_vector=world.knowledge_vector.filter(few))
    usual, _, _ = prepared(little, settings_with(arms=["knowledge"]))
    started, _, _ = prepared(little, settings_with(arms=["knowledge"], pca_init=True))
    is_changed = (usual.backbone.embedding.weight != started.backbone.embedding.weight).any(dim=0)
    assert is_changed.tolist() == [True] * 3 + [False] * 5  # four items span three directions


@pytest.mark.parametrize("arm", ["base", "user_only"])
def test_an_arm_without_item_knowledge_starts_as_usual(world: Any, settings_with: Callable[..., AdaptorSettings], arm: str) -> None:
    found = [
        prepared(world, settings_with(arms=[arm], pca_init=is_on, alignment=weight), arm) for is_on, weight in ((False, 0.0), (True, 0.5))
    ]
    states = [ranker.state_dict() for ranker, _, _ in found]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    batches = [data.batch(torch.arange(20), kinds) for _, data, kinds in found]
    assert torch.equal(found[0][0].loss(batches[0]), found[1][0].loss(batches[1]))


def bce(ranker: Ranker, batch: Batch) -> Tensor:
    return functional.binary_cross_entropy_with_logits(ranker(batch), batch.label_B)


def test_without_alignment_the_loss_is_the_mean_bce(world: Any, settings: AdaptorSettings) -> None:
    ranker, data, kinds = prepared(world, settings)
    batch = data.batch(torch.arange(40), kinds)
    assert torch.equal(ranker.loss(batch), bce(ranker, batch))


def test_the_alignment_is_infonce_over_the_distinct_items_that_have_both(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    ranker, data, kinds = prepared(world, settings_with(alignment=0.3))
    batch = data.batch(torch.arange(world.example.num_rows), kinds)  # holds item 3, which has no vector, and item 20, which has no code
    assert ranker.adaptor is not None
    vectors, codes = vectors_of(world), items_of(data)
    both = sorted(item for item in codes if item in vectors)
    ids = ranker.backbone.embedding.weight.detach()[[codes[item] for item in both]].double().numpy()
    adapted = ranker.adaptor("item.facts", torch.from_numpy(np.stack([vectors[item] for item in both]))).detach().double().numpy()
    cosine = (ids / np.linalg.norm(ids, axis=1)[:, None]) @ (adapted / np.linalg.norm(adapted, axis=1)[:, None]).T / 0.2
    expected = np.mean(np.log(np.exp(cosine).sum(axis=1)) - np.diag(cosine))
    assert (ranker.loss(batch) - bce(ranker, batch)).item() / 0.3 == pytest.approx(expected, abs=1e-4)


def test_a_batch_without_two_items_to_tell_apart_has_no_alignment(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    ranker, data, kinds = prepared(world, settings_with(alignment=0.3))
    batch = data.batch(torch.tensor([0, 0]), kinds)
    assert torch.equal(ranker.loss(batch), bce(ranker, batch))
    ranker.loss(batch).backward()  # type: ignore[no-untyped-call]
    hidden = data.batch(torch.arange(40), kinds)
    hidden.single_BS[:, 0] = 0  # every id hidden
    assert torch.equal(ranker.loss(hidden), bce(ranker, hidden))


@pytest.mark.parametrize("is_gated", [False, True])
def test_alignment_draws_each_items_embedding_to_its_own_adapted_vector(
    world: Any, settings_with: Callable[..., AdaptorSettings], is_gated: bool
) -> None:
    found = {}
    for weight in (0.0, 1.0):
        settings = settings_with(alignment=weight, residual_gate=is_gated, epochs=25, patience=25, form="linear")
        of_arms = arms.prepare(world.knowledge_vector, world.example, settings)
        data = world.load(settings)
        result = train.train("fibinet", data, of_arms.kinds("knowledge", data, 1), of_arms.width, settings, 1, "test")
        assert result.ranker is not None
        assert np.isfinite(result.test_logit).all()
        batch = data.batch(torch.arange(world.example.num_rows), of_arms.kinds("knowledge", data, 1))
        judge = Ranker(result.ranker.backbone, result.ranker.adaptor, alignment=1.0)
        found[weight] = (judge.loss(batch) - bce(judge, batch)).item()
    assert found[1.0] < found[0.0] - 0.2


def test_a_gate_at_zero_does_not_break_the_alignments_gradient(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    ranker, data, kinds = prepared(world, settings_with(alignment=1.0, residual_gate=True))
    ranker.loss(replace(data.batch(torch.arange(60), kinds))).backward()  # type: ignore[no-untyped-call]
    largest = max(float(p.grad.abs().max()) for p in ranker.parameters() if p.grad is not None)
    assert 0 < largest < 1e3
