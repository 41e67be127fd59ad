"""Vectors joined to examples: who has one, who is shuffled, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from kar.errors import ModelError
from kar.model import arms, knowledge
from kar.model.arms import Arms
from kar.settings import AdaptorSettings

NO_EVENTS = torch.empty(0, dtype=torch.int64)


def vectors_of(world: Any, view: str) -> dict[str, list[float]]:
    rows = world.knowledge_vector.filter(pc.equal(world.knowledge_vector["view"], view)).to_pylist()
    return {row["subject_id"]: row["vector"] for row in rows}


def prepare(world: Any, settings: AdaptorSettings) -> Arms:
    return arms.prepare(world.knowledge_vector, world.example, settings)


def test_each_example_gets_its_own_subjects_vector(world: Any, settings: AdaptorSettings) -> None:
    data = world.load(settings)
    for view, side in (("user.preference", "user"), ("item.facts", "item")):
        expected = vectors_of(world, view)
        kind = next(k for k in prepare(world, settings).kinds("knowledge", data, 1) if k.view == view)
        batch = kind.batch(torch.arange(world.example.num_rows), NO_EVENTS)
        table = torch.cat([torch.full((1, 16), torch.nan), batch.vectors_NT])
        found = table[batch.place_B].numpy()
        for row, subject in enumerate(world.example[f"{side}_id"].to_pylist()):
            if str(subject) in expected:
                np.testing.assert_array_equal(found[row], np.float32(expected[str(subject)]))
            else:
                assert batch.place_B[row] == 0


def test_text_ids_find_the_same_vectors_as_numbers(world: Any, text_world: Any, settings: AdaptorSettings) -> None:
    rows = text_world.knowledge_vector.to_pylist()
    ids = [f"{'user 🙂' if row['view'].startswith('user') else 'item é'} {int(row['subject_id']):04d}" for row in rows]
    named = text_world.having(knowledge_vector=text_world.knowledge_vector.set_column(1, "subject_id", pa.array(ids)))
    of_text, of_numbers = (prepare(w, settings).kinds("knowledge", w.load(settings), 1) for w in (named, world))
    for found, expected in zip(of_text, of_numbers, strict=True):
        assert torch.equal(found.row_E, expected.row_E)
        assert (found.row_E > 0).any()


def test_a_batch_holds_each_distinct_subject_once(world: Any, settings: AdaptorSettings) -> None:
    kind = prepare(world, settings).kinds("knowledge", world.load(settings), 1)[0]
    rows = torch.arange(60)
    batch = kind.batch(rows, NO_EVENTS)
    subjects = {user for user in world.example["user_id"].to_pylist()[:60] if user != 1}
    assert len(batch.vectors_NT) == len(subjects)
    assert batch.vectors_NT.unique(dim=0).shape == batch.vectors_NT.shape


def test_each_event_of_a_history_gets_its_own_items_vector(world: Any, settings: AdaptorSettings) -> None:
    expected = vectors_of(world, "item.facts")
    user, item = prepare(world, settings).kinds("knowledge", world.load(settings), 1)
    assert user.row_V is None
    event_H = torch.arange(world.sequence.num_rows)
    batch = item.batch(torch.arange(1), event_H)
    assert batch.place_H is not None
    table = torch.cat([torch.full((1, 16), torch.nan), batch.vectors_NT])
    found = table[batch.place_H].numpy()
    assert len(batch.vectors_NT) == len(expected)
    for row, subject in enumerate(world.sequence["item_id"].to_pylist()):
        if str(subject) in expected:
            np.testing.assert_array_equal(found[row], np.float32(expected[str(subject)]))
        else:
            assert batch.place_H[row] == 0


def test_a_text_that_has_seen_an_event_newer_than_an_example_stays_out_of_the_histories(world: Any, settings: AdaptorSettings) -> None:
    oldest = pc.min(world.example["event_at"])
    items = world.example_item["item_id"].to_pylist()
    newest = pa.array([oldest.as_py().replace(year=2027) if item % 2 else oldest.as_py().replace(year=2025) for item in items])
    at = world.example_item.column_names.index("evidence_newest_at")
    late = world.having(example_item=world.example_item.set_column(at, "evidence_newest_at", newest.cast(oldest.type)))
    kind = prepare(late, settings).kinds("knowledge", late.load(settings), 1)[1]
    assert kind.row_V is not None
    serves = kind.row_V.numpy() > 0
    np.testing.assert_array_equal(serves, world.sequence["item_id"].to_numpy() % 2 == 0)


def test_the_items_of_the_history_carry_none_where_the_settings_say_so(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    data = world.load(settings_with())
    assert all(kind.row_V is None for kind in prepare(world, settings_with(history_knowledge=False)).kinds("knowledge", data, 1))


def test_knowledge_serves_only_examples_that_may_meet_it_and_raw_text_serves_all(world: Any, settings: AdaptorSettings) -> None:
    data = world.load(settings)
    allowed = np.arange(world.example.num_rows) % 2 == 0
    at = world.example.column_names.index("has_user_knowledge")
    half = world.having(example=world.example.set_column(at, "has_user_knowledge", pa.array(allowed)))
    of_arms = prepare(half, settings)
    served = {arm: of_arms.kinds(arm, data, 1)[0].row_E.numpy() > 0 for arm in ("text", "knowledge", "permuted")}
    has_vector = world.example["user_id"].to_numpy() != 1
    np.testing.assert_array_equal(served["knowledge"], allowed & has_vector)
    np.testing.assert_array_equal(served["permuted"], allowed & has_vector)
    assert served["text"].all()


def test_the_permuted_arm_gives_each_subject_anothers_vector_and_the_same_ones_none(world: Any, settings: AdaptorSettings) -> None:
    data, of_arms = world.load(settings), prepare(world, settings)
    own, shuffled, again, other = (
        of_arms.kinds(arm, data, seed)[1] for arm, seed in (("knowledge", 1), ("permuted", 1), ("permuted", 1), ("permuted", 2))
    )
    assert torch.equal(own.row_E > 0, shuffled.row_E > 0)
    assert torch.equal(shuffled.row_E, again.row_E)
    assert not torch.equal(shuffled.row_E, other.row_E)
    pairs = set(zip(own.row_E.tolist(), shuffled.row_E.tolist(), strict=True)) - {(0, 0)}
    assert len(pairs) == 19 == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # one to one
    assert sum(a != b for a, b in pairs) > 15


def test_covered_means_knowledge_on_both_sides(world: Any, settings: AdaptorSettings) -> None:
    covered = prepare(world, settings).covered(world.load(settings))
    user, item = world.example["user_id"].to_numpy(), world.example["item_id"].to_numpy()
    np.testing.assert_array_equal(covered, (user != 1) & (item != 3))


def test_a_side_without_views_has_none_in_any_arm(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    settings = settings_with(user_views=[])
    data = world.load(settings)
    views = {arm: [kind.view for kind in prepare(world, settings).kinds(arm, data, 1)] for arm in ("base", "text", "knowledge", "permuted")}
    assert views == {"base": [], "text": ["item.raw"], "knowledge": ["item.facts"], "permuted": ["item.facts"]}
    with pytest.raises(ModelError, match="both empty"):
        prepare(world, settings_with(user_views=[], item_views=[]))


def test_the_text_arm_without_raw_vectors_is_a_named_error(
    world: Any, settings: AdaptorSettings, settings_with: Callable[..., AdaptorSettings]
) -> None:
    without = world.having(knowledge_vector=world.knowledge_vector.filter(pc.not_equal(world.knowledge_vector["view"], "item.raw")))
    with pytest.raises(ModelError, match=r"text arm needs vectors of item\.raw"):
        prepare(without, settings)
    assert prepare(without, settings_with(arms=["base", "knowledge"])).width == 16


def test_a_vector_that_is_not_finite_is_a_named_error(world: Any, settings: AdaptorSettings) -> None:
    flat = world.knowledge_vector["vector"].combine_chunks().flatten().to_numpy().copy()
    flat[16 * 2 + 5] = np.nan
    broken = world.knowledge_vector.set_column(3, "vector", pa.FixedSizeListArray.from_arrays(pa.array(flat), 16))
    with pytest.raises(ModelError, match=r"view user\.preference: 1 vectors are not finite, first that of '4'"):
        prepare(world.having(knowledge_vector=broken), settings)


def ragged(world: Any, width_of: Callable[[str], int]) -> Any:
    """The world with vectors cut to a width per row."""
    rows = world.knowledge_vector.to_pylist()
    lists = pa.array([row["vector"][: width_of(f"{row['view']} {row['subject_id']}")] for row in rows], pa.list_(pa.float32()))
    return world.having(knowledge_vector=world.knowledge_vector.set_column(3, "vector", lists))


def test_vectors_of_different_widths_are_a_named_error_within_a_view_and_within_an_arm(world: Any, settings: AdaptorSettings) -> None:
    with pytest.raises(ModelError, match=r"item\.facts holds vectors of different widths: \[12, 16\]"):
        prepare(ragged(world, lambda row: 12 if row == "item.facts 9" else 16), settings)
    by_view = ragged(world, lambda row: 12 if row.startswith("item.facts") else 16)
    with pytest.raises(ModelError, match=r"item\.facts holds vectors of width 12, another view of the arm 16"):
        prepare(by_view, settings).kinds("knowledge", world.load(settings), 1)


def test_vectors_of_two_encoders_in_one_arm_are_a_named_error(world: Any, settings: AdaptorSettings) -> None:
    names = ["a" if view == "item.facts" else "b" for view in world.knowledge_vector["view"].to_pylist()]
    mixed = world.having(knowledge_vector=world.knowledge_vector.set_column(2, "encoder_id", pa.array(names)))
    with pytest.raises(ModelError, match="several encoders: a, b"):
        prepare(mixed, settings)


def test_a_view_without_vectors_is_empty_and_not_an_error(world: Any) -> None:
    assert knowledge.read(world.knowledge_vector, "item.tags").vectors_NT.shape == (0, 0)
