"""Examples streamed from Parquet: the same examples, the same vocabularies, the same learning as where all are in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kar import metrics
from kar.errors import ModelError
from kar.model import stream
from kar.model.bases import base_of
from kar.model.batches import SPLITS, Batch
from kar.model.data import fit
from kar.model.loaded import Loaded, Tables
from kar.model.pools import Pool, Pools, Resident
from kar.model.stream import Segments, resident
from kar.model.train import train
from kar.settings import AdaptorSettings
from kar.store import Home
from tests.model.conftest import CAP, make_world
from tests.model.test_stage import run, settings_of, table_of


def tables_of(world: Any, folder: Path) -> Tables:
    """The world's tables as files of small row groups, none of which ends where a user does."""
    paths = {field.name: folder / f"{field.name}.parquet" for field in dataclasses.fields(Tables)}
    for name, path in paths.items():
        pq.write_table(getattr(world, name), path, row_group_size=17)
    return Tables(**paths)


@pytest.fixture(params=[False, True], ids=["int", "string"])
def is_text(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def tables(is_text: bool, tmp_path: Path) -> Tables:
    return tables_of(make_world(users=30, is_text=is_text), tmp_path)


def rows_of(pools: list[Pool]) -> dict[int, list[Any]]:
    """Example id → all that a batch of it holds."""
    found: dict[int, list[Any]] = {}
    for pool in pools:
        for row in pool.rows:
            batch: Batch = pool.data.batch(row[None], pool.kinds)
            own = [batch.single_BS, batch.code_KH, batch.label_H, batch.label_B]
            own += [torch.cat([torch.zeros(1, 16), kind.vectors_NT])[kind.place_B] for kind in batch.knowledge]
            own += [torch.cat([torch.zeros(1, 16), kind.vectors_NT])[kind.place_H] for kind in batch.knowledge if kind.place_H is not None]
            assert int(pool.data.example_id_E[row]) not in found
            found[int(pool.data.example_id_E[row])] = [value.tolist() for value in own]
    return found


@pytest.mark.parametrize("base", ["thin", "same_evidence", "rich"])
def test_the_pools_hold_every_example_once_just_as_it_is_in_memory(
    tables: Tables, settings_with: Callable[..., AdaptorSettings], base: Any
) -> None:
    settings = settings_with(bases=[base], published_base=base, user_fields=["age"])
    resident = Loaded(tables, settings.model_copy(update={"stream_rows": 0}), CAP)
    streamed = Loaded(tables, settings.model_copy(update={"stream_rows": 3}), CAP)  # a segment a user: a pool of eight users
    assert resident.pools(base, "permuted", 1) is None
    assert streamed.data(base).fields == resident.data(base).fields
    pools = streamed.pools(base, "permuted", 1)
    assert pools is not None
    data = resident.data(base)
    for split in SPLITS:
        whole = rows_of(list(Resident(data, resident.arms.kinds("permuted", data, 1)).pools(split)))
        parts = list(pools.pools(split))
        assert len(parts) > 1 or split != "train"
        assert rows_of(parts) == whole
        assert list(rows_of(parts)) == list(whole)  # in file order
        assert pools.count(split) == len(whole) == streamed.count(base, split)
        drawn = list(pools.pools(split, torch.Generator().manual_seed(1)))
        assert rows_of(drawn) == whole


@pytest.mark.parametrize("base", ["thin", "rich"])
def test_examples_that_are_gathered_part_by_part_are_those_of_one_part(
    tables: Tables, settings_with: Callable[..., AdaptorSettings], base: Any, is_text: bool
) -> None:
    settings = settings_with(bases=[base], published_base=base, user_fields=["age"])
    whole = make_world(users=30, is_text=is_text).load(settings)
    read = [pq.read_table(path) for path in (tables.example_item, tables.user_attribute, tables.item_attribute)]
    segments = Segments.of(tables.example, tables.sequence, 100)
    assert len(list(segments.parts())) > 2
    parts = resident(segments, fit(segments.parts(), read[0], read[1], read[2], base_of(base, settings, CAP)), "cpu")
    for field in dataclasses.fields(whole):
        one, other = getattr(whole, field.name), getattr(parts, field.name)
        if field.name == "split_rows":
            assert {name: rows.tolist() for name, rows in one.items()} == {name: rows.tolist() for name, rows in other.items()}
        elif field.name == "lists" and one is not None:
            assert torch.equal(one.item_E, other.item_E)
            assert torch.equal(one.code_X, other.code_X)
        elif isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other), field.name
        elif isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
        elif isinstance(one, pa.Array):
            assert one.equals(other)


def test_starting_from_principal_components_is_refused_where_examples_are_streamed(
    tables: Tables, settings_with: Callable[..., AdaptorSettings]
) -> None:
    with pytest.raises(ModelError, match="pca_init looks at the items of all examples"):
        Loaded(tables, settings_with(pca_init=True, stream_rows=40), CAP)


@pytest.mark.parametrize("name", ["example", "sequence"])
def test_a_table_without_rows_is_a_named_error(world: Any, settings: AdaptorSettings, tmp_path: Path, name: str) -> None:
    empty = world.having(**{name: getattr(world, name).slice(0, 0)})
    with pytest.raises(ModelError, match=f"the table {name} has no rows"):
        Loaded(tables_of(empty, tmp_path), settings, CAP)


def test_what_a_verdict_needs_of_the_examples_is_the_same(tables: Tables, settings_with: Callable[..., AdaptorSettings]) -> None:
    resident, streamed = (Loaded(tables, settings_with(stream_rows=rows), CAP) for rows in (0, 30))
    whole, judged = resident.data("same_evidence"), streamed.data("same_evidence")
    for split in ("valid", "test"):
        one, other = whole.split_rows[split], judged.split_rows[split]
        for name in ("example_id_E", "user_E", "item_E", "train_count_E"):
            np.testing.assert_array_equal(getattr(whole, name)[one], getattr(judged, name)[other])
        np.testing.assert_array_equal(whole.label_E[one], judged.label_E[other])
        np.testing.assert_array_equal(resident.arms.covered(whole)[one], streamed.arms.covered(judged)[other])
    assert len(judged.split_rows["train"]) == 0
    with pytest.raises((IndexError, RuntimeError)):  # it has no histories, and says so
        judged.batch(torch.from_numpy(judged.split_rows["test"]))


@dataclasses.dataclass
class Stopping:
    """Pools that stop a training in the middle of a pass over train."""

    inner: Pools
    left: int

    def count(self, split: str) -> int:
        return self.inner.count(split)

    def pools(self, split: str, draw: torch.Generator | None = None) -> Iterator[Pool]:
        for pool in self.inner.pools(split, draw):
            if split == "train" and self.left == 0:
                raise KeyboardInterrupt
            yield pool
        self.left -= split == "train"


def logits(tables: Tables, settings: AdaptorSettings, work: Path | None = None, stop_in_pass: int | None = None) -> tuple[Any, Loaded]:
    loaded = Loaded(tables, settings, CAP)
    data = loaded.data("same_evidence")
    kinds = loaded.arms.kinds("knowledge", data, 1)
    pools: Pools | None = loaded.pools("same_evidence", "knowledge", 1)
    if stop_in_pass is not None:
        assert pools is not None
        pools = Stopping(pools, stop_in_pass)
    return train("fibinet", data, kinds, loaded.arms.width, settings, 1, "test", pools=pools, state_path=work), loaded


def test_one_pool_of_all_rows_is_the_resident_case(tables: Tables, settings_with: Callable[..., AdaptorSettings]) -> None:
    found = [logits(tables, settings_with(stream_rows=rows, dropout=0.1, item_id_dropout=0.1))[0] for rows in (0, 1_000_000)]
    assert found[0].test_logit.tobytes() == found[1].test_logit.tobytes()
    assert [e.train_loss for e in found[0].epochs] == [e.train_loss for e in found[1].epochs]


def test_streamed_examples_are_learned_from_as_resident_ones(tmp_path: Path, settings_with: Callable[..., AdaptorSettings]) -> None:
    tables = tables_of(make_world(users=60), tmp_path)
    for rows in (0, 14):
        settings = settings_with(epochs=8, patience=8, item_fields=[], history_knowledge=False, stream_rows=rows)
        result, loaded = logits(tables, settings)
        data = loaded.data("same_evidence")
        assert metrics.auc(data.label_E.numpy()[data.split_rows["test"]], result.test_logit) > 0.95, rows


def test_a_streamed_training_goes_on_as_an_unbroken_one(tmp_path: Path, settings_with: Callable[..., AdaptorSettings]) -> None:
    tables = tables_of(make_world(), tmp_path)
    whole, _ = logits(tables, settings_with(stream_rows=20, epochs=4, patience=4))
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        logits(tables, settings_with(stream_rows=20, epochs=4, patience=4), state, stop_in_pass=2)
    resumed, _ = logits(tables, settings_with(stream_rows=20, epochs=4, patience=4), state)
    assert len(resumed.epochs) == 4
    assert resumed.test_logit.tobytes() == whole.test_logit.tobytes()


def test_the_stage_streams_and_says_so(world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path) -> None:
    found = {}
    for rows in (0, 40):
        home = Home(tmp_path / str(rows), "world")
        manifest = run(world, home, settings_of(settings_with(stream_rows=rows, epochs=1, backbones=["din"], published_backbone="din")))
        found[rows] = manifest, table_of(home, "metric").select(["arm", "split", "slice", "metric", "example_count", "user_count"])
        assert manifest.figures["stream_rows"] == rows
    assert found[0][1].equals(found[40][1])
    assert found[0][0].figures["example_counts"] == found[40][0].figures["example_counts"]
    assert found[0][0].figures["test_covered_share"] == found[40][0].figures["test_covered_share"]


def test_examples_that_would_take_half_of_the_memory_left_are_streamed(
    tmp_path: Path, settings_with: Callable[..., AdaptorSettings]
) -> None:
    small, large = tmp_path / "small.parquet", tmp_path / "large.parquet"
    pq.write_table(pa.table({"user_id": [1, 2]}), small)
    count = stream.available_bytes() // 100  # at 250 bytes each, more than there is
    with pq.ParquetWriter(large, pa.schema([("user_id", pa.int8())])) as writer:
        for _ in range(0, count, 1 << 22):
            writer.write_table(pa.table({"user_id": pa.array(np.zeros(1 << 22, np.int8))}))
    assert stream.pool_rows(small, small, settings_with(), 2) == 0
    assert stream.pool_rows(small, large, settings_with(), 2) == stream.POOL_ROWS
    assert stream.pool_rows(large, small, settings_with(stream_rows=0), 2) == 0
    assert stream.pool_rows(small, small, settings_with(stream_rows=7), 2) == 7


def test_the_vectors_are_mapped_and_not_read_into_memory(world: Any, settings: AdaptorSettings, tmp_path: Path) -> None:
    from kar.model.resume import Work

    tables = tables_of(world, tmp_path)
    plain, mapped = Loaded(tables, settings, CAP), Loaded(tables, settings, CAP, work=Work(tmp_path / "work"))
    for view, vectors in plain.arms.vectors.items():
        again = mapped.arms.vectors[view]
        assert isinstance(again.matrix_RT, np.memmap)
        assert again.subject_ids.equals(vectors.subject_ids)
        np.testing.assert_array_equal(again.matrix_RT, vectors.matrix_RT)
    data = mapped.data("same_evidence")
    kind = mapped.arms.kinds("knowledge", data, 1)[1]
    assert kind.vectors_RT.data_ptr() == mapped.arms.vectors["item.facts"].matrix_RT.ctypes.data
