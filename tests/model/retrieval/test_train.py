"""Negatives, ranks and the training of the towers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from kar.errors import ModelError
from kar.model.knowledge import read
from kar.model.retrieval.judge import Judged, comparison_rows, metric_rows
from kar.model.retrieval.splits import Pairs, Split, cut
from kar.model.retrieval.texts import Feature
from kar.model.retrieval.towers import Towers
from kar.model.retrieval.train import Negatives, by_popularity, ranks, train


@pytest.fixture(scope="module")
def split(pairs: Pairs) -> Split:
    return cut(pairs, "random", 0, 1)


@pytest.fixture(scope="module")
def facts(world: Any, pairs: Pairs) -> Feature:
    return Feature.of("item.facts", read(world.vectors, "item.facts"), pairs.item_ids)


def met_in_train(pairs: Pairs, split: Split) -> dict[int, set[int]]:
    return {user: set(pairs.item_P[split.train_P][pairs.user_P[split.train_P] == user].tolist()) for user in range(len(pairs.user_ids))}


def test_no_negative_counts_that_the_user_met_in_train_and_every_other_item_is_drawn(pairs: Pairs, split: Split) -> None:
    met, draw = met_in_train(pairs, split), Negatives(pairs, split, 1)
    users = np.array([3, 0, 3, 17])
    for _ in range(20):
        item_K, weight_BK = draw.of(users, 12)
        assert len(set(item_K.tolist())) == 12
        assert [[int(item) not in met[user] for item in item_K] for user in users.tolist()] == weight_BK.astype(bool).tolist()
    item_K, weight_BK = draw.of(users, 1000)
    assert sorted(item_K.tolist()) == list(range(len(pairs.item_ids)))
    assert weight_BK[0].sum() == len(pairs.item_ids) - len(met[3])


def test_in_time_an_item_that_is_not_ranked_is_no_negative(pairs: Pairs) -> None:
    split = cut(pairs, "temporal", 0, 1)
    split.is_candidate_I[[2, 5]] = False
    assert not {2, 5} & set(Negatives(pairs, split, 1).of(np.array([0]), 1000)[0].tolist())


def test_ranks_are_those_of_sorting_all_items_that_the_user_did_not_meet_in_train(pairs: Pairs, split: Split) -> None:
    draw = np.random.default_rng(2)
    tops = draw.normal(size=(len(pairs.user_ids), 4)).astype(np.float32), draw.normal(size=(len(pairs.item_ids), 4)).astype(np.float32)
    met, found = met_in_train(pairs, split), ranks(pairs, split, split.test_P, tops, 1)
    for row, rank in zip(split.test_P.tolist(), found.tolist(), strict=True):
        user, item = int(pairs.user_P[row]), int(pairs.item_P[row])
        order = [i for i in np.argsort(-(tops[0][user] @ tops[1].T), kind="stable").tolist() if i not in met[user]]
        assert order.index(item) == rank


def test_ranks_do_not_depend_on_how_many_scores_are_held(pairs: Pairs, split: Split) -> None:
    score = np.random.default_rng(2).integers(0, 4, len(pairs.item_ids)).astype(np.float32)
    whole = ranks(pairs, split, split.test_P, score, 1)
    assert ranks(pairs, split, split.test_P, score, 1, held=3 * len(pairs.item_ids)).tolist() == whole.tolist()


def test_equal_scores_stand_in_an_order_that_is_drawn_and_not_in_that_of_the_ids(pairs: Pairs, split: Split) -> None:
    level = ranks(pairs, split, split.test_P, np.zeros(len(pairs.item_ids), np.float32), 1)
    again = ranks(pairs, split, split.test_P, np.zeros(len(pairs.item_ids), np.float32), 1)
    assert level.tolist() == again.tolist()
    by_id = np.corrcoef(level, pairs.item_P[split.test_P])[0, 1]
    assert abs(by_id) < 0.6
    assert len(set(level.tolist())) > 5, "a model that says nothing finds what is drawn, not everything"


def test_popularity_counts_positives_of_train_alone(pairs: Pairs, split: Split) -> None:
    liked = split.train_P[pairs.is_positive_P[split.train_P]]
    count = np.bincount(pairs.item_P[liked], minlength=len(pairs.item_ids)).astype(np.float32)
    assert by_popularity(pairs, split, 1).rank_F.tolist() == ranks(pairs, split, split.test_P, count, 1).tolist()


def test_an_item_without_a_vector_has_the_learned_default_and_no_other(pairs: Pairs, facts: Feature, small_of: Callable[..., Any]) -> None:
    missing = int(np.flatnonzero(~facts.has_I)[0])
    assert pairs.item_ids[missing].as_py() == "3"
    torch.manual_seed(1)
    towers = Towers(4, len(pairs.item_ids), [facts], small_of()).eval()
    before = towers.items().detach().numpy().copy()
    with torch.no_grad():
        towers.missing[0].fill_(3.0)
    after = towers.items().detach().numpy()
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [missing]
    towers.items().sum().backward()
    assert towers.missing[0].grad is not None
    assert towers.missing[0].grad.abs().sum() > 0


def test_some_items_come_out_of_the_tower_as_all_of_them_do(pairs: Pairs, facts: Feature, small_of: Callable[..., Any]) -> None:
    for features in ([], [facts], [facts, facts]):
        towers = Towers(4, len(pairs.item_ids), features, small_of()).eval()
        some = torch.tensor([7, 2, 2])
        assert torch.allclose(towers.items(some), towers.items()[some], atol=1e-6)


def test_texts_that_tell_the_taste_are_learned_and_shuffled_ones_are_not(
    sequence_with: Callable[..., pa.Table], vectors_with: Callable[..., pa.Table], small_of: Callable[..., Any]
) -> None:
    """Of 80 items each is met by few, so that who met it says little and its text much."""
    pairs = Pairs.of(sequence_with(users=70, items=80, events=12))
    split, facts = (
        cut(pairs, "random", 0, 1),
        Feature.of("item.facts", read(vectors_with(["item.facts"], 80), "item.facts"), pairs.item_ids),
    )
    settings = small_of(epochs=20, patience=20)
    ndcg = {}
    for name, features in (("facts", [facts]), ("permuted", [facts.permuted(1)]), ("id", [])):
        done = train(name, pairs, split, features, settings, 1)
        ndcg[name] = Judged.of(name, pairs, split, 1, done).value_LM[:, 2].mean()
        assert done.chosen == int(np.argmax(done.valid_ndcg))
    popular = Judged.of("popularity", pairs, split, 0, by_popularity(pairs, split, 1)).value_LM[:, 2].mean()
    assert ndcg["facts"] > 1.5 * max(popular, ndcg["permuted"]), (popular, ndcg)
    assert ndcg["facts"] > ndcg["id"], ndcg


def test_the_same_seed_gives_the_same_ranks_and_another_one_others(
    pairs: Pairs, split: Split, facts: Feature, small_of: Callable[..., Any]
) -> None:
    one, again, other = (train("facts", pairs, split, [facts], small_of(), seed) for seed in (1, 1, 2))
    assert one.rank_F.tolist() == again.rank_F.tolist() != other.rank_F.tolist()
    assert one.valid_ndcg == again.valid_ndcg


def test_it_stops_when_valid_no_longer_gets_better(pairs: Pairs, split: Split, small_of: Callable[..., Any]) -> None:
    done = train("id", pairs, split, [], small_of(epochs=40, patience=2, learning_rate=0.2), 1)
    assert len(done.valid_ndcg) == done.chosen + 3 < 40


def test_a_loss_that_is_no_longer_finite_is_a_named_error(pairs: Pairs, split: Split, small_of: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=r"retrieval: id, random split 0: the loss of epoch"):
        train("id", pairs, split, [], small_of(learning_rate=1e30), 1)


def judged_of(split: Split, arm: str, users: list[int], value: list[list[float]], seed: int = 1, *, is_single: bool = False) -> Judged:
    trained: Any = None
    return Judged(arm, split, seed, np.array(users), np.array(value), is_single, trained)


def test_precision_is_not_told_where_every_user_has_one_item_to_find(split: Split) -> None:
    value = [[0.1, 1.0, 0.5]]
    many = metric_rows([judged_of(split, "id", [1], value)], set())
    single = metric_rows([judged_of(split, "id", [1], value, is_single=True)], {("random", "id")})
    assert [(row["metric"], row["has_seen"]) for row in many] == [("p@10", False), ("r@10", False), ("ndcg@10", False)]
    assert [(row["metric"], row["has_seen"]) for row in single] == [("r@10", True), ("ndcg@10", True)]
    both = [judged_of(split, arm, [1, 2], value * 2, is_single=True) for arm in ("id", "popularity")]
    assert {row["metric"] for row in comparison_rows(both, set(), 100)} == {"r@10", "ndcg@10"}


def test_a_difference_averages_seeds_and_takes_users_with_all_their_splits(pairs: Pairs, split: Split) -> None:
    other = cut(pairs, "random", 1, 1)
    found = [
        judged_of(split, "original", [1, 2, 3], [[0, 0, 0.6], [0, 0, 0.2], [0, 0, 0.1]], seed=1),
        judged_of(split, "original", [1, 2, 3], [[0, 0, 0.8], [0, 0, 0.4], [0, 0, 0.3]], seed=2),
        judged_of(other, "original", [1, 3], [[0, 0, 0.5], [0, 0, 0.5]]),
        judged_of(split, "popularity", [1, 2, 3], [[0, 0, 0.1]] * 3),
        judged_of(other, "popularity", [1, 3], [[0, 0, 0.1]] * 2),
    ]
    [row] = [row for row in comparison_rows(found, set(), 200) if row["metric"] == "ndcg@10"]
    assert (row["arm_a"], row["arm_b"], row["user_count"], row["split_count"], row["seed_count"]) == ("original", "popularity", 3, 2, 2)
    assert row["difference"] == pytest.approx((0.7 + 0.3 + 0.2 + 0.5 + 0.5) / 5 - 0.1)
    assert row["low"] < row["difference"] < row["high"]
