"""The arms' vectors, and which texts have seen what a split asks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kar.errors import ModelError
from kar.model.knowledge import Vectors
from kar.model.retrieval.splits import Pairs, cut
from kar.model.retrieval.texts import Evidence, Feature, item_views, plans
from kar.settings import RetrievalSettings
from kar.tables import whole_view

THERE = ["item.raw", "item.facts", "item.facts:mood", "item.facts@noise", "item.tags", "user.raw", "user.preference"]


def test_without_a_choice_every_whole_view_of_items_is_judged(small_of: Callable[..., RetrievalSettings]) -> None:
    assert item_views(THERE, small_of()) == ["item.facts", "item.tags"]
    assert item_views(THERE, small_of(views=["item.facts:mood"])) == ["item.facts:mood"]
    with pytest.raises(ModelError, match=r"retrieval.views names item.infer, and there are no vectors of it"):
        item_views(THERE, small_of(views=["item.infer"]))


def test_the_arms_are_the_views_alone_and_together(small_of: Callable[..., RetrievalSettings]) -> None:
    of = small_of(arms=["popularity", "id", "original", "views", "all", "enriched", "permuted"])
    found = {plan.arm: plan.views for plan in plans(of, ["item.facts", "item.tags"], THERE)}
    assert found == {
        "id": (),
        "original": ("item.raw",),
        "item.facts": ("item.facts",),
        "item.tags": ("item.tags",),
        "all": ("item.facts", "item.tags"),
        "enriched": ("item.raw", "item.facts", "item.tags"),
        "permuted": ("item.facts", "item.tags"),
    }


@pytest.mark.parametrize(
    ("arms", "views", "there", "said"),
    [
        (["noise"], ["item.facts", "item.tags"], THERE, r"the noise arm needs vectors of item.tags@noise.*\n.*controls = \[\"noise\"\]"),
        (["original"], ["item.facts"], ["item.facts"], "the original arm needs vectors of item.raw"),
        (["all"], [], ["item.raw"], r"no view of items has vectors(.|\n)*retrieval.arms = "),
    ],
)
def test_vectors_that_were_not_made_are_named(
    small_of: Callable[..., RetrievalSettings], arms: list[str], views: list[str], there: list[str], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        plans(small_of(arms=arms), views, there)


def feature() -> Feature:
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3) ** 2
    return Feature.of("item.facts", Vectors.of(pa.array(["1", "2", "9", "4"]), vectors), pa.array(["4", "3", "2", "1"]))


def test_a_feature_is_centred_and_scaled_over_the_items_that_have_it() -> None:
    found = feature()
    assert found.has_I.tolist() == [True, False, True, True]
    assert found.vector_IT[found.has_I].mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert np.square(found.vector_IT[found.has_I]).mean() == pytest.approx(1)
    assert (found.vector_IT[1] == 0).all()
    assert found.vector_IT[0, 0] > found.vector_IT[2, 0] > found.vector_IT[3, 0]


def test_texts_that_are_all_alike_tell_nothing() -> None:
    found = Feature.of("item.facts", Vectors.of(pa.array(["1", "2"]), np.full((2, 3), 0.1, np.float32)), pa.array(["1", "2"]))
    assert (found.vector_IT == 0).all()


def test_shuffling_keeps_who_has_a_vector_and_all_the_vectors() -> None:
    found, shuffled = feature(), [feature().permuted(seed) for seed in range(8)]
    assert all((one.has_I == found.has_I).all() for one in shuffled)
    assert all(sorted(one.vector_IT.tolist()) == sorted(found.vector_IT.tolist()) for one in shuffled)
    assert len({one.vector_IT.tobytes() for one in shuffled}) > 1


def texts_of(rows: list[tuple[list[tuple[str, str]], int | None]]) -> pa.Table:
    """Texts by the pairs that they saw and the microsecond of the newest."""
    at: Any = [None if newest is None else dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=newest) for _, newest in rows]
    return pa.table(
        {
            "evidence_users": pa.array([[user for user, _ in seen] for seen, _ in rows], pa.list_(pa.string())),
            "evidence_items": pa.array([[item for _, item in seen] for seen, _ in rows], pa.list_(pa.string())),
            "evidence_newest_at": pa.array(at, pa.timestamp("us", "UTC")),
        }
    )


def test_a_text_has_seen_a_split_if_it_lists_one_of_its_pairs(pairs: Pairs) -> None:
    def named(row: int) -> tuple[str, str]:
        return pairs.user_ids[pairs.user_P[row]].as_py(), pairs.item_ids[pairs.item_P[row]].as_py()

    split = cut(pairs, "random", 0, 1)
    held, known = named(split.held_P[3]), named(split.train_P[3])
    newest = int(pairs.at_P.max())
    assert Evidence.of(texts_of([([], None), ([known], newest)]), pairs).seen(split, pairs) == 0
    assert Evidence.of(texts_of([([known], newest), ([known, held], newest), ([held], newest)]), pairs).seen(split, pairs) == 2
    assert Evidence.of(texts_of([([("nobody", "nothing"), (held[0], "nothing")], newest)]), pairs).seen(split, pairs) == 0


def test_a_text_that_lists_no_pair_is_judged_by_its_newest_event(pairs: Pairs) -> None:
    split = cut(pairs, "random", 0, 1)
    rows = [([], int(pairs.at_P.max())), ([], split.held_at - 1), ([], split.held_at), ([], None)]
    assert Evidence.of(texts_of(rows), pairs).seen(split, pairs) == 2


def test_in_time_a_listed_pair_of_train_does_not_excuse_a_text_from_after_the_cut(pairs: Pairs) -> None:
    split = cut(pairs, "temporal", 0, 1)
    row = split.train_P[0]
    known = pairs.user_ids[pairs.user_P[row]].as_py(), pairs.item_ids[pairs.item_P[row]].as_py()
    assert Evidence.of(texts_of([([known], split.held_at - 1)]), pairs).seen(split, pairs) == 0
    assert Evidence.of(texts_of([([known], split.held_at)]), pairs).seen(split, pairs) == 1


def test_a_text_about_neighbours_is_judged_by_time_and_has_seen_too_much_where_nobody_can_tell(pairs: Pairs) -> None:
    split = cut(pairs, "random", 0, 1)
    row = split.train_P[0]
    known = pairs.user_ids[pairs.user_P[row]].as_py(), pairs.item_ids[pairs.item_P[row]].as_py()
    texts = texts_of([([known], split.held_at), ([], None), ([], split.held_at - 1)])
    assert Evidence.of(texts, pairs).seen(split, pairs) == 0
    for names, seen in (([["7"], ["7"], ["7"]], 2), ([["7"], [], []], 1), ([[], [], []], 0)):
        beside = pa.array(names, pa.list_(pa.string()))
        assert Evidence.of(texts.append_column("neighbour_items", beside), pairs).seen(split, pairs) == seen


@pytest.mark.parametrize("view", ["item.facts", "item.facts:mood", "item.facts@noise", "item.facts:mood@noise"])
def test_a_factor_and_a_control_have_the_evidence_of_their_view(view: str) -> None:
    assert whole_view(view) == "item.facts"
