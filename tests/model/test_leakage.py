"""The leak checks of every training: what a prompt was shown, what is held out, and whether a figure rests on how ids are numbered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from kar.errors import LeakError
from kar.model import leakage
from kar.model.ranker import build
from kar.model.train import predict
from kar.settings import AdaptorSettings
from tests.model.conftest import World


def parts(world: World) -> list[pa.Table]:
    """The examples in parts, as they are streamed."""
    return [world.example.slice(start, 50) for start in range(0, world.example.num_rows, 50)]


def test_examples_after_their_users_history_pass(world: Any) -> None:
    leakage.refuse(parts(world), world.history(), world.example_item)
    assert len(parts(world)) > 2


def test_an_example_inside_its_users_shown_history_is_a_leak(world: Any) -> None:
    with pytest.raises(LeakError, match=r"examples lie inside the history .*; the first: user 1, item \d+, place 2"):
        leakage.refuse(parts(world), world.history(more=1), world.example_item)


def test_a_user_without_history_may_have_examples_from_the_first_event_on(world: Any) -> None:
    last = world.history(more=1).filter(np.arange(18) == 17)  # user 18's prompt saw one too many
    with pytest.raises(LeakError, match=r"examples lie inside .* user 18"):
        leakage.refuse(parts(world), last, world.example_item)
    leakage.refuse(parts(world), last.slice(0, 0), world.example_item)


def test_a_training_example_of_a_held_out_item_is_a_leak_and_a_tested_one_is_not(world: Any) -> None:
    def holding_out(item: int) -> pa.Table:
        return world.example_item.set_column(
            1, "is_held_out", pa.array([found == item for found in world.example_item["item_id"].to_pylist()])
        )

    leakage.refuse(parts(world), world.history(), holding_out(20))  # item 20 is seen by tested users only
    with pytest.raises(LeakError, match=r"examples are trained on although their item is held out of training; the first: .*item 7,"):
        leakage.refuse(parts(world), world.history(), holding_out(7))


def renumbered(world: World, table: pa.Table, user: dict[int, int], item: dict[int, int]) -> pa.Table:
    for name, to in (("user_id", user), ("item_id", item)):
        if name in table.column_names:
            values = pa.array([to[value] for value in table[name].to_pylist()])
            table = table.set_column(table.column_names.index(name), name, values)
    keys = [key for key in ("example_id", "user_id", "position", "item_id", "place") if key in table.column_names]
    if "example_id" in keys:  # the row number in (user_id, position) order
        table = table.sort_by([("user_id", "ascending"), ("position", "ascending")])
        return table
    return table.sort_by([(key, "ascending") for key in keys])


def test_how_users_and_items_are_numbered_moves_no_logit(world: Any, settings: AdaptorSettings) -> None:
    """Check 2: an id that told something, such as one given in the order of popularity over all time, could do so only by its code."""
    draw = np.random.default_rng(11)
    user, item = (dict(zip(range(1, n + 1), (draw.permutation(n) + 1).tolist(), strict=True)) for n in (18, 20))
    assert sum(a != b for a, b in user.items()) > 10
    names = ("example", "example_item", "sequence", "user_attribute", "item_attribute")
    other = world.having(**{name: renumbered(world, getattr(world, name), user, item) for name in names})
    rich = settings.model_copy(update={"bases": ["rich"], "published_base": "rich", "user_fields": ["age"]})
    data, data_of_other = world.load(rich), other.load(rich)
    ranker = build("din", data, [], 1, rich, seed=1)
    torch.nn.init.normal_(ranker.backbone.embedding.weight, generator=torch.Generator().manual_seed(0))
    theirs = build("din", data_of_other, [], 1, rich, seed=2)
    theirs.load_state_dict(ranker.state_dict())
    # the same embeddings, each at the row that its value has under the other numbers
    with torch.no_grad():
        for field, vocabulary in data.vocabularies.items():
            renamed = {"item_id": item, "user_id": user}.get(field, {})
            values = [renamed.get(value, value) for value in vocabulary.values.to_pylist()]
            there = data_of_other.vocabularies[field].values.to_pylist()
            assert sorted(values) == there
            rows = torch.tensor([there.index(value) + 1 for value in values]) + data_of_other.fields.offset(field)
            first = data.fields.offset(field)
            theirs.backbone.embedding.weight[rows] = ranker.backbone.embedding.weight[first + 1 : first + 1 + len(values)]
    every = np.arange(world.example.num_rows)
    expected = dict(zip(data.example_id_E.tolist(), predict(ranker, data, [], every).tolist(), strict=True))
    found = dict(zip(data_of_other.example_id_E.tolist(), predict(theirs, data_of_other, [], every).tolist(), strict=True))
    assert np.std(list(expected.values())) > 1e-3
    assert found == pytest.approx(expected, abs=1e-5)
