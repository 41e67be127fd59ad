"""Batches against a slow and obvious gathering of the same tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from kar.errors import ModelError
from kar.model.batches import TrainingData, lay_out
from kar.settings import AdaptorSettings


def slow_histories(world: Any, length: int) -> list[list[tuple[object, float]]]:
    """Each example's (item, rating) pairs, read row by row."""
    rows = world.sequence.to_pylist()
    return [
        [
            (r["item_id"], r["rating"])
            for r in rows
            if r["user_id"] == e["user_id"] and e["position"] - length <= r["position"] < e["position"]
        ]
        for e in world.example.to_pylist()
    ]


def decoded(data: TrainingData, codes: np.ndarray[Any, Any], field: str, values: list[object]) -> list[object]:
    """Codes of a field as the values that have them; "unknown" for the unknown code."""
    names = {data.fields.offset(field): "unknown", **{data.fields.offset(field) + 1 + n: value for n, value in enumerate(values)}}
    return [names[code] for code in codes.tolist()]


@pytest.mark.parametrize("name", ["world", "text_world"])
def test_histories_are_the_events_before_the_example_in_order(name: str, request: pytest.FixtureRequest, settings: AdaptorSettings) -> None:
    world = request.getfixturevalue(name)
    data = world.load(settings)
    batch = data.batch(torch.arange(world.example.num_rows))
    seen = _train_items(world)
    place, begin_B = batch.windows.events_of_examples  # the line holds an event once, though several histories hold it
    items = decoded(data, batch.code_KH[0, place].numpy(), "item_id", seen)
    ratings = decoded(data, batch.code_KH[2, place].numpy(), "rating", [1.0, 2.0, 4.0, 5.0])
    expected = slow_histories(world, 5)
    assert [len(h) for h in expected] == batch.length_B.tolist()
    assert begin_B.tolist() == np.cumsum([0, *map(len, expected)])[:-1].tolist()
    assert items == [item if item in seen else "unknown" for h in expected for item, _ in h]
    assert ratings == [rating for h in expected for _, rating in h]
    assert batch.label_H[place].tolist() == [int(rating > 3) for h in expected for _, rating in h]


def _train_items(world: Any) -> list[object]:
    """Items of the training users' sequences, sorted: all of them are targets or stand before one."""
    users = pc.unique(world.example.filter(pc.equal(world.example["split"], "train"))["user_id"])
    return sorted(pc.unique(world.sequence.filter(pc.is_in(world.sequence["user_id"], users))["item_id"]).to_pylist())


def test_the_padded_history_holds_the_same_events_as_the_one_in_line(world: Any, settings: AdaptorSettings) -> None:
    data = world.load(settings)
    batch = data.batch(torch.tensor([40, 0, 7, 100, 12]))
    place_BL, is_event_BL = batch.places()
    code_BLK = lay_out(batch.code_KH.t(), place_BL)
    assert torch.equal(code_BLK[is_event_BL].t(), batch.code_KH[:, batch.windows.events_of_examples[0]])
    assert is_event_BL.sum(dim=1).tolist() == batch.length_B.tolist()


def test_an_empty_history_has_no_events(world: Any, settings: AdaptorSettings, settings_with: Callable[..., AdaptorSettings]) -> None:
    first = pc.equal(world.sequence["position"], 0).to_numpy()
    starts = world.sequence.filter(pa.array(first)).drop_columns("label").append_column("label", pa.array([0, 1] * 9))
    example = pa.table(
        {
            **{n: starts[n] for n in ("user_id", "item_id", "event_at", "position", "label")},
            "example_id": np.arange(18),
            "split": ["train", "valid", "test"] * 6,
        }
    )
    data = world.having(example=example).load(settings)
    batch = data.batch(torch.arange(18))
    assert batch.code_KH.shape == (3, 0)
    place_BL, is_event_BL = batch.places()
    assert not is_event_BL.any()
    assert torch.equal(lay_out(torch.ones(0, 3), place_BL), torch.zeros(18, 1, 3))


def test_ids_and_values_outside_training_share_one_unknown_code(world: Any, settings: AdaptorSettings) -> None:
    data = world.load(settings)
    seen = _train_items(world)
    unseen = sorted(set(pc.unique(world.sequence["item_id"]).to_pylist()) - set(seen))
    assert unseen == [20]
    assert data.fields.sizes["item_id"] == len(seen) + 1
    is_unseen = world.example["item_id"].to_numpy() == 20
    assert is_unseen.sum() > 0
    assert set(data.single_ES[is_unseen, 0].tolist()) == {data.fields.offset("item_id")}
    assert data.fields.offset("item_id") not in data.single_ES[~is_unseen, 0].tolist()
    # its genre is known although the item is not
    assert data.fields.offset("genre") not in data.single_ES[is_unseen, 1].tolist()


def test_an_item_is_known_from_a_training_history_alone(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    position = world.example["position"].to_numpy()
    late = world.example.filter(pa.array((position >= 8) | (world.example["split"].to_numpy(zero_copy_only=False) != "train")))
    short, long = (world.having(example=late).load(settings_with(history_events=n)) for n in (1, 30))
    only_history = long.fields.sizes["item_id"] - short.fields.sizes["item_id"]
    assert only_history > 0
    assert long.fields.sizes["item_id"] == len(_train_items(world)) + 1


def test_attributes_are_the_first_value_by_place(world: Any, settings: AdaptorSettings) -> None:
    backwards = world.item_attribute.take(pa.array(np.arange(world.item_attribute.num_rows)[::-1]))
    data = world.having(item_attribute=backwards).load(settings)
    genres = decoded(data, data.single_ES[:, 1].numpy(), "genre", ["Comedy", "Horror"])
    assert genres == ["Comedy" if item % 2 else "Horror" for item in world.example["item_id"].to_pylist()]


def test_user_fields_follow_the_settings_and_new_users_are_unknown(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    data = world.load(settings_with(bases=["rich"], published_base="rich", user_fields=["age"]))
    assert data.profile_fields[:2] == ("user_id", "user age")
    is_train = world.example["split"].to_numpy(zero_copy_only=False) == "train"
    unknown = data.fields.offset("user_id")
    assert set(data.single_ES[~is_train, 2].tolist()) == {unknown}
    assert unknown not in data.single_ES[is_train, 2].tolist()
    assert "user_id" not in world.load(settings_with()).fields.sizes


def test_a_missing_rating_has_a_bucket_of_its_own(world: Any, settings: AdaptorSettings) -> None:
    none = pa.array(np.full(world.sequence.num_rows, np.nan))
    data = world.having(sequence=world.sequence.set_column(3, "rating", none)).load(settings)
    assert data.fields.sizes["rating"] == 1
    assert set(data.event_KV[-1].tolist()) == {data.fields.offset("rating")}


def test_fields_share_one_table_without_overlap(world: Any, settings: AdaptorSettings) -> None:
    data = world.load(settings)
    sizes = data.fields.sizes
    assert list(sizes) == ["item_id", "genre", "rating"]
    assert [data.fields.offset(field) for field in sizes] == [0, sizes["item_id"], sizes["item_id"] + sizes["genre"]]
    assert int(max(data.single_ES.max(), data.event_KV.max())) < data.fields.total


def test_training_examples_per_item_are_counted(world: Any, settings: AdaptorSettings) -> None:
    train = world.example.filter(pc.equal(world.example["split"], "train"))["item_id"].to_pylist()
    assert world.load(settings).train_count_E.tolist() == [train.count(item) for item in world.example["item_id"].to_pylist()]


def _split(world: Any, **to: str) -> Any:
    names = [to.get(name, name) for name in world.example["split"].to_pylist()]
    return world.having(example=world.example.set_column(world.example.column_names.index("split"), "split", pa.array(names)))


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_without_rows_is_a_named_error(world: Any, settings: AdaptorSettings, split: str) -> None:
    other = "test" if split != "test" else "valid"
    with pytest.raises(ModelError, match=f"no {split} examples"):
        _split(world, **{split: other}).load(settings)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_one_class_only_is_a_named_error_where_it_is_needed(world: Any, settings: AdaptorSettings, split: str) -> None:
    label = np.where(world.example["split"].to_numpy(zero_copy_only=False) == split, 1, world.example["label"].to_numpy())
    example = world.example.set_column(world.example.column_names.index("label"), "label", pa.array(label))
    with pytest.raises(ModelError, match=f"{split} examples have the label 1"):
        world.having(example=example).load(settings)


def test_a_label_that_is_not_zero_or_one_is_a_named_error(world: Any, settings: AdaptorSettings) -> None:
    example = world.example.set_column(world.example.column_names.index("label"), "label", pc.multiply(world.example["label"], 2))
    with pytest.raises(ModelError, match="labels are 0 or 1, there is 2"):
        world.having(example=example).load(settings)


def test_an_example_that_is_not_at_its_position_is_a_named_error(world: Any, settings: AdaptorSettings) -> None:
    shifted = world.example.set_column(world.example.column_names.index("position"), "position", pc.subtract(world.example["position"], 1))
    with pytest.raises(ModelError, match="not at its position"):
        world.having(example=shifted).load(settings)
    with pytest.raises(ModelError, match="order without gaps"):
        world.having(sequence=world.sequence.slice(1)).load(settings)


def test_an_attribute_that_no_item_has_is_a_named_error(world: Any, settings_with: Callable[..., AdaptorSettings]) -> None:
    with pytest.raises(ModelError, match="no item has the attribute 'colour'"):
        world.load(settings_with(item_fields=["colour"]))
