"""The training loop: choices on valid, test apart, and what it does with awkward data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from kar import metrics
from kar.errors import ModelError
from kar.model import arms
from kar.model.batches import TrainingData
from kar.model.train import Trained, predict, shuffled, train
from kar.settings import AdaptorSettings


def trained(world: Any, settings: AdaptorSettings, arm: Any = "base", backbone: str = "fibinet") -> tuple[Trained, TrainingData]:
    data = world.load(settings)
    prepared = arms.prepare(world.knowledge_vector, world.example, settings)
    return train(backbone, data, prepared.kinds(arm, data, 1), prepared.width, settings, 1, "test"), data


def test_knowledge_that_tells_the_taste_is_learned_and_shuffled_knowledge_is_not(
    world: Any, settings_with: Callable[..., AdaptorSettings]
) -> None:
    settings = settings_with(epochs=12, patience=12, history_events=1, item_fields=[], history_knowledge=False)
    found = {}
    for arm in ("knowledge", "permuted"):
        result, data = trained(world, settings, arm)
        found[arm] = metrics.auc(data.label_E.numpy()[data.split_rows["test"]], result.test_logit)
    assert found["knowledge"] > 0.95
    assert found["permuted"] < found["knowledge"] - 0.1


def test_knowledge_in_the_history_tells_the_taste_where_the_target_alone_cannot(
    world: Any, settings_with: Callable[..., AdaptorSettings]
) -> None:
    """Without knowledge of the user, whose taste it is shows only in what the items of the history are."""
    found = {}
    for in_history in (True, False):
        settings = settings_with(epochs=30, patience=30, history_events=5, item_fields=[], user_views=[], history_knowledge=in_history)
        result, data = trained(world, settings, "knowledge")
        found[in_history] = metrics.auc(data.label_E.numpy()[data.split_rows["test"]], result.test_logit)
    assert found[True] > 0.95
    assert found[False] < found[True] - 0.1


def test_the_epoch_with_the_best_valid_auc_is_kept_and_patience_ends_the_training(
    world: Any, settings_with: Callable[..., AdaptorSettings]
) -> None:
    settings = settings_with(epochs=40, patience=2, learning_rate=0.03)
    result, data = trained(world, settings)
    aucs = [epoch.valid_auc for epoch in result.epochs]
    assert result.chosen == int(np.argmax(aucs))  # the first of equals
    assert len(aucs) == min(result.chosen + 1 + settings.patience, 40) < 40
    valid = data.split_rows["valid"]
    assert result.ranker is not None
    np.testing.assert_array_equal(predict(result.ranker, data, [], valid), result.valid_logit)
    assert metrics.auc(data.label_E.numpy()[valid], result.valid_logit) == result.valid_auc


def test_no_choice_looks_at_the_test_labels(world: Any, settings: AdaptorSettings) -> None:
    is_test = world.example["split"].to_numpy(zero_copy_only=False) == "test"
    label = np.where(is_test, 1 - world.example["label"].to_numpy(), world.example["label"].to_numpy())
    at = world.example.column_names.index("label")
    turned = world.having(example=world.example.set_column(at, "label", pa.array(label)))
    one, other = trained(world, settings)[0], trained(turned, settings)[0]
    assert one.test_logit.tobytes() == other.test_logit.tobytes()
    assert [e.valid_auc for e in one.epochs] == [e.valid_auc for e in other.epochs]


def test_the_future_of_a_user_does_not_reach_a_logit(world: Any, settings: AdaptorSettings) -> None:
    data = world.load(settings)
    result, _ = trained(world, settings)
    assert result.ranker is not None
    first = data.split_rows["test"][:1]  # position 2: its own event and all later ones are changed below
    own = int(data.start_E[first] + data.length_E[first])
    data.event_KV[:, own:] = data.event_KV[:, own:].flip(1)
    np.testing.assert_array_equal(predict(result.ranker, data, [], first), result.test_logit[:1])


def test_a_last_batch_of_one_row_trains(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    rows = len(world.load(settings_with()).split_rows["train"])
    for backbone in ("fibinet", "din"):
        result, _ = trained(world, settings_with(batch_size=rows - 1, epochs=1), "knowledge", backbone)
        assert np.isfinite(result.test_logit).all()


@settings_of_hypothesis(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 1000))
def test_every_row_comes_once_an_epoch_and_blocks_stay_together(count: int, block: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    order = shuffled(count, block, generator)
    assert sorted(order.tolist()) == list(range(count))
    breaks = int((order.diff() != 1).sum())
    assert breaks <= count // block + 1
    if count > 50 and block < 5:
        assert order.tolist() != shuffled(count, block, generator).tolist()


def test_users_that_training_never_saw_are_predicted(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    result, _ = trained(world, settings_with(use_user_id=True, user_fields=["age"], epochs=1), "knowledge")
    assert np.isfinite(result.test_logit).all()


def test_a_loss_that_is_not_finite_is_a_named_error(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    with pytest.raises(ModelError, match="the loss of epoch"):
        trained(world, settings_with(learning_rate=1e30, epochs=5, patience=5))


def test_training_leaves_torchs_seed_and_threads_as_they_were(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    torch.manual_seed(11)
    torch.set_num_threads(1)
    expected = torch.rand(1, generator=torch.Generator().manual_seed(11))
    trained(world, settings_with(epochs=1, dropout=0.1, threads=2))
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.gpu
def test_a_gpu_starts_from_the_same_weights_and_learns_the_same_taste(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    for backbone in ("fibinet", "din"):
        cpu, gpu = (trained(world, settings_with(device=device, epochs=1), "knowledge", backbone)[0] for device in ("cpu", "cuda"))
        np.testing.assert_allclose(gpu.test_logit, cpu.test_logit, atol=1e-3)
