"""Contract tests: every model in `RERANKERS` must hold them, with and without knowledge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kar.model.rerank import DLCM, RERANKERS, ListRanker, Shape
from kar.model.rerank.base import Reranker
from kar.model.rerank.candidates import ListBatch, ListData
from kar.model.rerank.train import Job, build, hide_ids, train

ARMS = ("base", "knowledge")
EVERY = pytest.mark.parametrize("model", sorted(RERANKERS))


def test_the_four_of_kars_table_are_there() -> None:
    assert sorted(RERANKERS) == ["dlcm", "mir", "prm", "setrank"]


def built(made: Any, model: str, arm: str, seed: int = 1) -> tuple[ListRanker, ListData]:
    prepared = made.prepared()
    data = prepared.data(arm, seed)
    return build(model, data, prepared.arms.width, made.adaptor, made.settings, seed), data


def everything(data: ListData) -> ListBatch:
    return data.batch(torch.arange(len(data.candidates.lists.user_L)))


def loss_of(ranker: ListRanker, batch: ListBatch) -> Tensor:
    return ranker.body.loss(ranker(batch), batch.label_BN)


@EVERY
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("lists", [1, 2, 33])
def test_there_is_one_finite_score_per_candidate(made: Any, model: str, arm: str, lists: int) -> None:
    ranker, data = built(made, model, arm)
    batch = data.batch(torch.arange(lists))
    scores = ranker(batch)
    assert scores.shape == (lists, 10)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert loss_of(ranker, batch).isfinite()


@EVERY
@pytest.mark.parametrize("arm", ARMS)
def test_gradients_reach_every_parameter(made: Any, model: str, arm: str) -> None:
    ranker, data = built(made, model, arm)
    batch = everything(data)
    ranker(batch)[batch.is_item_BN].square().sum().backward()  # of the scores: the loss does not see what is added to all of them
    unreached = [name for name, p in ranker.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unreached == []


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("arm", ARMS)
def test_a_reranker_overfits_fifty_lists(made: Any, model: str, arm: str) -> None:
    ranker, data = built(made, model, arm)
    batch = data.batch(torch.arange(50))
    one = torch.rand(batch.label_BN.shape, generator=torch.Generator().manual_seed(0)).masked_fill(~batch.is_item_BN, -1).argmax(dim=1)
    noise = torch.nn.functional.one_hot(one, 10).float()
    optimizer = torch.optim.Adam(ranker.parameters(), lr=3e-3)
    share = 0.0
    for _ in range(400):
        optimizer.zero_grad()
        scores = ranker(batch)
        share = float((scores.argmax(dim=1) == one).float().mean())
        if share > 0.95:
            break
        ranker.body.loss(scores, noise).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert share > 0.95


@EVERY
@pytest.mark.parametrize("arm", ARMS)
def test_equal_seeds_train_to_equal_bits(made: Any, model: Any, arm: str) -> None:
    prepared = made.prepared(epochs=1, dropout=0.1, item_id_dropout=0.2)
    first, again, other = (train(Job(model, arm, seed), prepared) for seed in (1, 1, 2))
    assert first.test_score.tobytes() == again.test_score.tobytes()
    assert [e.train_loss for e in first.epochs] == [e.train_loss for e in again.epochs]
    assert first.test_score.tobytes() != other.test_score.tobytes()


@pytest.mark.slow
@EVERY
def test_training_learns_from_knowledge_who_likes_what(crowd: Any, model: Any) -> None:
    """Two tastes, which the vectors of users and items tell: liked items must rise above disliked ones and strangers."""
    found = train(Job(model, "knowledge", 1), crowd.prepared(epochs=8, patience=8, learning_rate=1e-2))
    assert found.epochs[0].valid_ndcg < 0.6
    assert found.epochs[found.chosen].valid_ndcg > 0.65


def turned(batch: ListBatch, order_N: Tensor) -> ListBatch:
    """The candidates in another order; first stage's scores and knowledge go with them."""
    knowledge = []
    for kind, side in zip(batch.knowledge, batch.sides, strict=True):
        place = kind.place_B.view(len(batch.label_BN), -1)[:, order_N].flatten() if side == "item" else kind.place_B
        knowledge.append(replace(kind, place_B=place))
    return replace(
        batch,
        code_BNT=batch.code_BNT[:, order_N],
        is_item_BN=batch.is_item_BN[:, order_N],
        label_BN=batch.label_BN[:, order_N],
        score_BN=batch.score_BN[:, order_N],
        knowledge=tuple(knowledge),
    )


def whole(data: ListData) -> ListBatch:
    """The lists without a gap."""
    return data.batch(torch.from_numpy(np.flatnonzero(data.candidates.lists.is_item_LN.all(axis=1))))


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(("model", "is_of_sets"), [("setrank", True), ("mir", True), ("prm", False), ("dlcm", False)])
def test_a_set_model_scores_alike_in_any_order_and_a_list_model_does_not(made: Any, model: str, arm: str, is_of_sets: bool) -> None:
    ranker, data = built(made, model, arm)
    batch = whole(data)
    assert len(batch.label_BN) > 10
    ranker.eval()
    order_N = torch.randperm(10, generator=torch.Generator().manual_seed(4))
    there, here = ranker(turned(batch, order_N)), ranker(batch)[:, order_N]
    assert torch.allclose(there, here, atol=1e-5) == is_of_sets


@EVERY
def test_a_candidates_score_depends_on_the_candidates_beside_it(made: Any, model: str) -> None:
    ranker, data = built(made, model, "base")
    batch = whole(data)
    ranker.eval()
    other = batch.code_BNT.clone()
    other[:, 9] = other[:, 9].roll(1, dims=0)
    changed = ranker(replace(batch, code_BNT=other))
    assert (changed[:, 0] != ranker(batch)[:, 0]).any()


@EVERY
@pytest.mark.parametrize("arm", ARMS)
def test_a_gap_at_the_end_changes_no_score(made_of: Any, timed: Any, model: str, arm: str) -> None:
    made = made_of(timed, list_length=12)
    ranker, data = built(made, model, arm)
    ranker.eval()
    sizes = data.candidates.lists.is_item_LN.sum(axis=1)
    short = int(np.flatnonzero(sizes < 12)[0])
    size = int(sizes[short])
    batch = data.batch(torch.tensor([short]))
    cut = turned(batch, torch.arange(size))
    torch.testing.assert_close(ranker(batch)[:, :size], ranker(cut))
    assert (ranker(batch)[:, size:] < ranker(cut).min()).all()


@EVERY
def test_candidates_without_knowledge_get_the_learned_default(made: Any, model: str) -> None:
    ranker, data = built(made, model, "knowledge")
    ranker.eval()
    item_3 = int(np.flatnonzero(np.array(made.data.item_ids.to_pylist()) == 3)[0])
    holds_3 = torch.from_numpy(np.flatnonzero((made.lists.item_LN == item_3).any(axis=1)))
    before = ranker(data.batch(holds_3))
    with torch.no_grad():
        ranker.adaptor.default["item:facts"].add_(1.0)  # type: ignore[union-attr]
    assert (ranker(data.batch(holds_3)) != before).any(dim=1).all()


@EVERY
def test_no_knowledge_at_all_still_gives_scores(made_of: Any, timed: Any, model: str) -> None:
    made = made_of(timed.having(knowledge_vector=timed.knowledge_vector.slice(0, 0)), arms=["knowledge"])
    ranker, data = built(made, model, "knowledge")
    assert ranker(everything(data)).isfinite().all()


@EVERY
@pytest.mark.parametrize("arm", ARMS)
def test_an_empty_history_does_not_look_at_any_event(made: Any, model: str, arm: str) -> None:
    ranker, data = built(made, model, arm)
    ranker.eval()
    batch = data.batch(torch.arange(20))
    empty = replace(
        batch, history=replace(batch.history, length_B=torch.zeros(20, dtype=torch.int64), first_B=torch.zeros(20, dtype=torch.int64))
    )
    other = replace(empty, history=replace(empty.history, code_KH=batch.history.code_KH.flip(1)))
    if arm == "base":  # the means of an empty history are zeros: no event in line
        nothing = batch.history.code_KH[:, :0]
        empty, other = (
            replace(each, history=replace(each.history, code_KH=nothing, label_H=batch.history.label_H[:0])) for each in (empty, other)
        )
        assert torch.equal(ranker(empty), ranker(other))
    scores = ranker(empty)
    assert scores.isfinite().all()
    assert not torch.equal(scores, ranker(batch))


@EVERY
def test_the_users_vector_matters_at_every_place(made: Any, model: str) -> None:
    ranker, data = built(made, model, "knowledge")
    seen = ranker.see(whole(data))
    only_user = [kind.view for kind in data.kinds if kind.side == "user"]
    assert only_user == ["user.preference"]
    with torch.no_grad():
        ranker.adaptor.default["user:preference"].add_(1.0)  # type: ignore[union-attr]
    without = torch.tensor(
        [made.data.user_ids[int(made.lists.user_L[n])].as_py() == 1 for n in np.flatnonzero(made.lists.is_item_LN.all(axis=1))]
    )
    changed = (ranker.see(whole(data)).input_BNX != seen.input_BNX).any(dim=2)
    assert changed[without].all(), "user 1 has no vector"
    assert not changed[~without].any()


def test_mir_reads_the_knowledge_of_the_candidates_and_of_the_history(made: Any) -> None:
    """KAR's official MIR takes the vectors and ignores them."""
    ranker, data = built(made, "mir", "knowledge")
    ranker.eval()
    batch = everything(data)
    before = ranker(batch)
    for number, (kind, side) in enumerate(zip(batch.knowledge, batch.sides, strict=True)):
        vectors_NT = kind.vectors_NT.clone().requires_grad_()
        knowledge = [replace(kind, vectors_NT=vectors_NT) if n == number else other for n, other in enumerate(batch.knowledge)]
        ranker(replace(batch, knowledge=tuple(knowledge)))[batch.is_item_BN].square().sum().backward()
        assert vectors_NT.grad is not None
        assert (vectors_NT.grad.abs().sum(dim=1) > 0).float().mean() > 0.9, kind.view
        if side == "item":
            assert kind.place_H is not None
            elsewhere = replace(kind, place_H=torch.zeros_like(kind.place_H))
            assert not torch.allclose(ranker(replace(batch, knowledge=(*batch.knowledge[:number], elsewhere))), before)


def test_mir_reads_only_the_events_that_there_are(made: Any) -> None:
    ranker, data = built(made, "mir", "knowledge")
    body, seen = ranker.body, ranker.see(everything(data))
    x_BNZ = body.enter(seen.input_BNX)  # type: ignore[operator]
    list_BLZ, whole_BZ = body._read(seen.event_BLY, seen.is_event_BL)  # type: ignore[operator]
    weight_BNL = body.weights(seen, x_BNZ, list_BLZ, whole_BZ)  # type: ignore[operator]
    torch.testing.assert_close(weight_BNL.sum(dim=2), torch.ones_like(weight_BNL[..., 0]))
    assert not weight_BNL.masked_select(~seen.is_event_BL[:, None].expand_as(weight_BNL)).any()


def test_mir_reads_old_events_less(made: Any) -> None:
    """Five events all alike: with affinities above 0, the newest counts most."""
    ranker, data = built(made, "mir", "base")
    body, seen = ranker.body, ranker.see(everything(data))
    full = seen.is_event_BL.sum(dim=1) == 5
    assert full.sum() > 10
    ones_BLZ = torch.ones(*seen.event_BLY.shape[:2], body.shape.hidden)
    alike = replace(seen, event_BLY=torch.ones_like(seen.event_BLY), candidate_BNY=torch.zeros_like(seen.candidate_BNY))
    with torch.no_grad():
        body.by_item.weight.copy_(torch.eye(body.shape.hidden))  # type: ignore[union-attr, operator]
    set_BNZ = torch.ones(*seen.input_BNX.shape[:2], body.shape.hidden)
    weight_BNL = body.weights(alike, set_BNZ, ones_BLZ, ones_BLZ[:, 0])[full]  # type: ignore[operator]
    assert (weight_BNL.diff(dim=2) > 0).all()


def test_the_listwise_loss_of_a_hand_computed_list(made: Any) -> None:
    body, _ = built(made, "prm", "base")
    score, label = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    share = np.exp([2.0, 0.0, 1.0]) / np.exp([2.0, 0.0, 1.0]).sum()
    expected = -(np.log(share[0]) + np.log(share[2])) / 2
    assert Reranker.loss(body.body, score, label).item() == pytest.approx(expected, rel=1e-6)


def test_dlcms_attention_rank_loss_of_a_hand_computed_list() -> None:
    body = DLCM(Shape(3, 2, 3, 4, 2, 1, 0.0))
    score, label = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    share = np.exp([2.0, 0.0, 1.0]) / np.exp([2.0, 0.0, 1.0]).sum()
    wanted = np.array([0.5, 0.0, 0.5])
    expected = -(wanted * np.log(share) + (1 - wanted) * np.log(1 - share)).sum()
    assert body.loss(score, label).item() == pytest.approx(expected, rel=1e-5)
    certain = torch.tensor([[200.0, 0.0, 0.0]])
    assert body.loss(certain, label).isfinite()


def test_hidden_ids_are_hidden_in_the_drawn_share_alone(made: Any) -> None:
    _, data = built(made, "prm", "base")
    batch = everything(data)
    hidden = hide_ids(batch, data, 0.3, torch.Generator().manual_seed(0))
    is_changed = hidden.code_BNT != batch.code_BNT
    assert not is_changed[..., 1:].any()
    assert 0.2 < is_changed[..., 0].float().mean() < 0.4
    assert set(hidden.code_BNT[..., 0][is_changed[..., 0]].tolist()) == {data.data.fields.offset("item_id")}
    assert hide_ids(batch, data, 0.0, torch.Generator()) is batch


def test_a_candidate_carries_its_own_codes_history_and_label(made: Any) -> None:
    """The gathered batch against the tables, list by list."""
    _, data = built(made, "prm", "base")
    batch = everything(data)
    example = made.world.example.to_pylist()
    code_of = {item: made.data.single_ES[n].tolist() for n, item in enumerate(made.world.example["item_id"].to_pylist())}
    for number in range(len(made.lists.user_L)):
        items = [made.data.item_ids[int(item)].as_py() for item in made.lists.item_LN[number] if item >= 0]
        for place, item in enumerate(items):
            if item in code_of:
                assert batch.code_BNT[number, place].tolist() == code_of[item]
        first = example[int(made.lists.example_L[number])]
        assert batch.history.length_B[number] == min(first["position"], 5)
        assert batch.label_BN[number, : len(items)].tolist() == made.lists.label_LN[number, : len(items)].tolist()


def test_an_arm_of_another_form_trains_with_that_form(made: Any) -> None:
    prepared = made.prepared(arms=["knowledge", "linear"], epochs=1)
    found = {arm: train(Job("prm", arm, 1), prepared).parameter_count for arm in ("knowledge", "linear")}
    assert found["linear"] < found["knowledge"]
