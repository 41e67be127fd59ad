"""Id dropout: how many ids are hidden, on which side, and that valid, test and histories keep theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kar.model.batches import Batch, TrainingData
from kar.model.data import ITEM_MEAN
from kar.model.ranker import build
from kar.model.train import hide_ids, predict
from kar.model.vocabulary import UNKNOWN
from kar.settings import AdaptorSettings

RICH = {"bases": ["rich"], "published_base": "rich", "user_fields": ["age"]}


def whole(data: TrainingData) -> Batch:
    """The training examples many times over, so that a share can be told from another."""
    return data.batch(torch.from_numpy(data.split_rows["train"]).repeat(60))


def changed(data: TrainingData, before: Batch, after: Batch) -> dict[str, torch.Tensor]:
    """Field → which rows of it are no longer what they were; those are the unknown code now."""
    found = {}
    for place, name in enumerate((*data.target_fields, *data.profile_fields)):
        is_changed_B = before.single_BS[:, place] != after.single_BS[:, place]
        assert (after.single_BS[is_changed_B, place] == data.fields.offset(name) + UNKNOWN).all()
        found[name] = is_changed_B
    return found


@pytest.mark.parametrize(("item", "user"), [(0.15, 0.0), (0.0, 0.4), (0.3, 0.1)])
def test_the_stated_share_of_each_side_is_hidden_and_nothing_else(
    world: Any, settings_with: Callable[..., AdaptorSettings], item: float, user: float
) -> None:
    settings = settings_with(**RICH, item_id_dropout=item, user_id_dropout=user)
    data = world.load(settings)
    before = whole(data)
    after = hide_ids(before, data, settings, torch.Generator().manual_seed(0))
    found = changed(data, before, after)
    assert found["item_id"].float().mean() == pytest.approx(item, abs=0.02)
    assert found["user_id"].float().mean() == pytest.approx(user, abs=0.02)
    assert not any(found[name].any() for name in found if name not in ("item_id", "user_id", ITEM_MEAN))
    if item and user:  # drawn apart
        assert (found["item_id"] & found["user_id"]).float().mean() == pytest.approx(item * user, abs=0.02)
    assert torch.equal(before.code_KH, after.code_KH)  # histories keep their ids
    assert torch.equal(before.label_B, after.label_B)


def test_an_items_mean_goes_with_its_id(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    settings = settings_with(**RICH, item_id_dropout=0.5)
    data = world.load(settings)
    before = whole(data)
    found = changed(data, before, hide_ids(before, data, settings, torch.Generator().manual_seed(0)))
    place = len(data.target_fields) + data.profile_fields.index(ITEM_MEAN)
    has_mean_B = before.single_BS[:, place] != data.fields.offset(ITEM_MEAN)
    assert has_mean_B.any()
    assert torch.equal(found[ITEM_MEAN], found["item_id"] & has_mean_B)


def test_without_dropout_the_batch_is_the_same_object_and_nothing_is_drawn(world: Any, settings: AdaptorSettings) -> None:
    data, draw = world.load(settings), torch.Generator().manual_seed(0)
    batch, state = whole(data), draw.get_state()
    assert hide_ids(batch, data, settings, draw) is batch
    assert torch.equal(draw.get_state(), state)


def test_valid_and_test_are_judged_with_their_ids(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    hiding, plain = settings_with(item_id_dropout=0.9), settings_with()
    data = world.load(plain)
    ranker = build("fibinet", data, [], 1, plain, seed=1)
    torch.nn.init.normal_(ranker.backbone.embedding.weight, generator=torch.Generator().manual_seed(0))
    for split in ("valid", "test"):
        rows = data.split_rows[split]
        found = predict(ranker, data, [], rows)
        batch = data.batch(torch.from_numpy(rows))
        with torch.inference_mode():
            shown = ranker(batch).numpy()
            hidden = ranker(hide_ids(batch, data, hiding, torch.Generator().manual_seed(0))).numpy()
        assert found == pytest.approx(shown, abs=1e-6)
        assert abs(found - hidden).max() > 1e-3
