"""Streams, rows and look-ups: what a training job gets, with numpy, torch and Arrow."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kar.release
from kar.errors import ReleaseError, SpaceMismatch
from kar.release.loader import Batch
from tests.release import world

COUNT = 1000
VIEWS = ("user.preference", "item.facts")


@pytest.fixture(scope="module")
def three_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nights; the third knows a user more, so that rows differ from release to release."""
    path = tmp_path_factory.mktemp("published")
    for number in range(3):
        world.publish_day(path, number)
    return path


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand examples in order of time, in row groups of 64; `n` numbers them."""
    rng = np.random.default_rng(5)
    times = [world.day(float(t)) for t in np.sort(rng.uniform(0, 5, COUNT))]
    table = world.examples(times, rng.integers(98, 140, COUNT).tolist(), [f"i{n:02d}" for n in rng.integers(0, 22, COUNT)])
    table = table.append_column("n", pa.array(range(COUNT))).append_column("label", pa.array(rng.random(COUNT) < 0.3))
    path = tmp_path_factory.mktemp("examples") / "e.parquet"
    pq.write_table(table, path, row_group_size=64)
    return path


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    table = pq.read_table(examples)
    for number in range(10):
        pq.write_table(table.slice(number * 100, 100), folder / f"{number}.parquet")
    return folder


def _whole(batches: list[Batch]) -> Batch:
    def joint(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return Batch(joint([b.columns for b in batches]), joint([b.vectors for b in batches]), joint([b.is_missing for b in batches]))


def _assert_is_the_join(found: Batch, three_nights: Path, examples: Path) -> None:
    """Every example once, each with what the join in memory gives it."""
    joined, order = kar.release.join(three_nights, pq.read_table(examples)), found.columns["n"]
    assert sorted(order.tolist()) == list(range(COUNT))
    for view in VIEWS:
        vectors, is_missing = joined.vectors("user" if view.startswith("user") else "item", view)
        assert np.array_equal(found.vectors[view], vectors[order])
        assert np.array_equal(found.is_missing[view], is_missing[order])
        assert 0 < is_missing.sum() < COUNT


def test_a_stream_gives_every_example_in_order_with_what_the_join_gives_it(three_nights: Path, examples: Path) -> None:
    stream = kar.release.Stream(three_nights, examples, columns=["n", "label"], batch_rows=128)
    batches = list(stream)
    assert [len(batch) for batch in batches] == [128] * 7 + [104]
    assert len(stream) == COUNT
    found = _whole(batches)
    assert found.columns["n"].tolist() == list(range(COUNT))
    _assert_is_the_join(found, three_nights, examples)


def test_a_shuffled_stream_gives_every_example_once_in_another_order_every_epoch(
    three_nights: Path, many_shards: Path, examples: Path
) -> None:
    stream = kar.release.Stream(three_nights, many_shards, columns=["n"], batch_rows=32, seed=3)
    first, second = _whole(list(stream)), _whole(list(stream))
    again = _whole(list(kar.release.Stream(three_nights, many_shards, columns=["n"], batch_rows=32, seed=3)))
    for found in (first, second):
        _assert_is_the_join(found, three_nights, examples)
    orders = [found.columns["n"].tolist() for found in (first, second, again)]
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != list(range(COUNT))
    assert [n // 100 for n in orders[0][::100]] != sorted(n // 100 for n in orders[0][::100])  # pieces are shuffled too


def test_shares_and_workers_together_read_every_example_once(three_nights: Path, many_shards: Path, examples: Path) -> None:
    parts = []
    for share in range(2):
        stream = kar.release.Stream(three_nights, many_shards, columns=["n"], seed=3, share=(share, 2))
        for worker in range(3):
            parts += list(stream.worker(worker, 3, epoch=0))
    _assert_is_the_join(_whole(parts), three_nights, examples)


def test_a_stream_keeps_to_the_releases_it_found(three_nights: Path, examples: Path, tmp_path: Path) -> None:
    path = shutil.copytree(three_nights, tmp_path / "published")
    stream = kar.release.Stream(path, examples, columns=["n"])
    before = _whole(list(stream))
    world.publish_day(path, 3)  # it serves some of the examples, for whoever opens now
    for found in (_whole(list(stream)), _whole(list(pickle.loads(pickle.dumps(stream))))):
        assert np.array_equal(before.vectors["item.facts"], found.vectors["item.facts"])
    now = _whole(list(kar.release.Stream(path, examples, columns=["n"])))
    assert not np.array_equal(before.vectors["item.facts"], now.vectors["item.facts"])


def test_a_batch_is_also_an_arrow_table(three_nights: Path, examples: Path) -> None:
    batch = next(iter(kar.release.Stream(three_nights, examples, columns=["n"], batch_rows=10)))
    table = batch.arrow()
    assert table.column_names == ["n", "user.preference", "user.preference_is_missing", "item.facts", "item.facts_is_missing"]
    assert table["item.facts"].to_pylist() == batch.vectors["item.facts"].tolist()


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"columns": ["rating"]}, ReleaseError, r"no columns \['rating'\]"),
        ({"views": ["user.mood"]}, ReleaseError, "no view 'user.mood'"),
        ({"batch_rows": 0}, ReleaseError, "batches of 0 rows"),
        ({"share": (2, 2)}, ReleaseError, r"share \(2, 2\)"),
        ({"space_id": "another"}, SpaceMismatch, "not in another"),
        ({"clock": "now"}, ReleaseError, "no clock 'now'"),
    ],
)
def test_what_a_stream_cannot_do_is_named_before_the_first_batch(
    three_nights: Path, examples: Path, changed: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        kar.release.Stream(three_nights, examples, **changed)  # type: ignore[arg-type]


def test_vectors_of_two_spaces_never_meet_in_a_stream(three_nights: Path, examples: Path, tmp_path: Path) -> None:
    path = shutil.copytree(three_nights, tmp_path / "published")
    world.publish_day(path, 3, adaptor={"sha": "b" * 64})
    with pytest.raises(SpaceMismatch, match="several spaces"):
        kar.release.Stream(path, examples)


def test_look_ups_as_arrow_keep_the_order_asked_for(three_nights: Path) -> None:
    release = kar.release.open(three_nights)
    found = kar.release.lookup(release, "user", [106, 4711, 100, 106])
    assert found.column_names == ["user_id", "preference_is_missing", "preference_adapted_vector"]
    assert found["preference_is_missing"].to_pylist() == [False, True, True, False]
    assert found["preference_adapted_vector"].to_pylist()[0][0] == 2002.0
    assert found.schema.field("preference_adapted_vector").type.list_size == world.A
    items = kar.release.lookup(release, "item", pa.array(["i04", "none"]), kind="knowledge")
    assert items["facts_knowledge_vector"].to_pylist()[1] == [0.0] * world.T


def test_torch_loaders_with_and_without_workers_give_tensors_of_every_example(
    three_nights: Path, many_shards: Path, examples: Path
) -> None:
    data = pytest.importorskip("torch.utils.data")
    for workers in (0, 2):
        stream = kar.release.Stream(three_nights, many_shards, columns=["n", "item_id"], batch_rows=64, seed=1)
        loader = data.DataLoader(kar.release.torch_dataset(stream), batch_size=None, num_workers=workers)
        batches = [
            Batch(*({key: np.asarray(value) for key, value in batch[name].items()} for name in ("columns", "vectors", "is_missing")))
            for batch in loader
        ]
        _assert_is_the_join(_whole(batches), three_nights, examples)
    again = pickle.loads(pickle.dumps(kar.release.torch_dataset(stream)))
    assert next(iter(again))["vectors"]["item.facts"].shape == (64, world.A)


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_draws_rows_of_examples_in_memory_by_number(three_nights: Path, examples: Path, workers: int) -> None:
    data = pytest.importorskip("torch.utils.data")
    table = pq.read_table(examples)
    rows = kar.release.Rows(kar.release.join(three_nights, table), {"n": table["n"].to_numpy()})
    loader = data.DataLoader(rows, batch_size=96, shuffle=True, collate_fn=kar.release.collate, num_workers=workers)
    batches = [
        Batch(*({key: value.numpy() for key, value in batch[name].items()} for name in ("columns", "vectors", "is_missing")))
        for batch in loader
    ]
    found = _whole(batches)
    _assert_is_the_join(found, three_nights, examples)
    assert found.columns["n"].tolist() != list(range(COUNT))


def test_single_rows_collate_to_what_the_batch_is(three_nights: Path, examples: Path) -> None:
    torch = pytest.importorskip("torch")
    table = pq.read_table(examples)
    rows = kar.release.Rows(kar.release.join(three_nights, table), {"n": table["n"].to_numpy()}, views=["item.facts"])
    assert len(rows) == COUNT
    one_by_one, at_once = kar.release.collate([rows[3], rows[7], rows[-1]]), kar.release.collate(rows.__getitems__([3, 7, COUNT - 1]))
    assert torch.equal(one_by_one["vectors"]["item.facts"], at_once["vectors"]["item.facts"])
    assert one_by_one["columns"]["n"].tolist() == [3, 7, COUNT - 1]
    with pytest.raises(IndexError):
        rows[COUNT]
    with pytest.raises(ReleaseError, match="columns of other lengths"):
        kar.release.Rows(kar.release.join(three_nights, table), {"n": np.arange(3)})
