"""The first stage: an initial order that has not seen the labels which a re-ranker learns from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kar.model.rerank import first_stage


def test_popularity_counts_the_training_examples_of_other_users(made: Any) -> None:
    candidates = made.candidates()
    scores = first_stage.scores(candidates, made.data, made.adaptor, made.settings)
    train = [row for row in made.world.example.to_pylist() if row["split"] == "train"]
    for candidate in range(0, len(scores), 7):
        user = made.data.user_ids[int(candidates.data.user_E[candidate])].as_py()
        item = made.data.item_ids[int(candidates.data.item_E[candidate])].as_py()
        others = sum(row["item_id"] == item and row["user_id"] != user for row in train)
        assert scores[candidate] == np.float32(np.log1p(others))


def test_a_train_list_is_scored_by_a_ranker_that_has_not_seen_its_users_labels(made: Any) -> None:
    settings = made.settings.model_copy(update={"first_stage": "ranker"})
    data = made.candidates().data
    halves = first_stage._halves(data, settings.draw_seed)
    assert not set(data.user_E[halves[0]]) & set(data.user_E[halves[1]])
    assert sorted([*halves[0], *halves[1]]) == data.split_rows["train"].tolist()

    label_E = data.label_E.clone()
    label_E[torch.from_numpy(halves[0])] = 1 - label_E[torch.from_numpy(halves[0])]
    before = first_stage.crossed(data, made.adaptor, settings)
    after = first_stage.crossed(replace(data, label_E=label_E), made.adaptor, settings)
    assert np.array_equal(before[halves[0]], after[halves[0]]), "its own labels moved its score"
    assert (before[halves[1]] != after[halves[1]]).all()
    for split in ("valid", "test"):
        assert (before[data.split_rows[split]] != after[data.split_rows[split]]).all()


def test_the_initial_order_falls_and_leaves_equals_as_they_were_drawn(made: Any) -> None:
    drawn = made.candidates()
    score_C = np.zeros(len(drawn.data.user_E), np.float32)
    assert np.array_equal(drawn.ordered(score_C).in_order(made.lists.item_LN), made.lists.item_LN)
    score_C = np.random.default_rng(0).integers(0, 3, len(score_C)).astype(np.float32)
    found = drawn.ordered(score_C)
    is_item_LN, score_LN = found.in_order(made.lists.is_item_LN), found.in_order(found.score_LN)
    assert np.array_equal(is_item_LN, made.lists.is_item_LN), "gaps stay at the end"
    assert (np.diff(score_LN, axis=1)[is_item_LN[:, 1:]] <= 0).all()
    standard_LN = found.standard_scores().numpy()
    assert not standard_LN[~is_item_LN].any()
    full = is_item_LN.all(axis=1)
    np.testing.assert_allclose(standard_LN[full].mean(axis=1), 0, atol=1e-6)


def test_the_codes_of_a_batch_follow_the_initial_order(made: Any) -> None:
    drawn = made.candidates()
    ordered = drawn.ordered(np.random.default_rng(1).random(len(drawn.data.user_E)).astype(np.float32))
    rows = torch.arange(len(made.lists.user_L))
    before, after = made.prepared(drawn).data("base", 1).batch(rows), made.prepared(ordered).data("base", 1).batch(rows)
    for name in ("code_BNT", "label_BN", "is_item_BN"):
        moved = ordered.in_order(getattr(before, name)[..., 0].numpy() if name == "code_BNT" else getattr(before, name).numpy())
        found = getattr(after, name)[..., 0].numpy() if name == "code_BNT" else getattr(after, name).numpy()
        is_item = after.is_item_BN.numpy()
        assert np.array_equal(moved[is_item], found[is_item])
