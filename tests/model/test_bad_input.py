"""Bad input to a training: handled, or an error that says what is wrong and what to do.

Elsewhere: vectors that are not finite or of another width than the checkpoint's, `test_checkpoint`; than each other, `test_knowledge`; a
checkpoint of another space, `tests/stages/test_features.py` and `tests/release/test_reader.py`; labels and classes of resident examples,
`test_batches`; a training killed in mid-epoch, `test_resume` and `test_killed_stage`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from kar.errors import KarError, ModelError
from kar.model.backbones import BACKBONES
from kar.model.batches import Kind
from kar.model.loaded import Loaded
from kar.model.pools import Pool, Resident
from kar.model.resume import Work
from kar.model.train import predict, train
from kar.settings import AdaptorSettings
from kar.store import Home
from tests.model.conftest import CAP, World
from tests.model.test_stage import run, settings_of, table_of
from tests.model.test_stream import tables_of


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def relabelled(world: World, split: str, label: int) -> World:
    """The world with one label on a whole split; label 2: on its last example alone."""
    is_of = world.example["split"].to_numpy(zero_copy_only=False) == split
    if label == 2:
        is_of[: np.flatnonzero(is_of)[-1]] = False
    labels = np.where(is_of, label, world.example["label"].to_numpy())
    return world.having(example=with_column(world.example, "label", labels))


def kinds_of(loaded: Loaded) -> list[Kind]:
    return loaded.arms.kinds("knowledge", loaded.data("same_evidence"), 1)


def said(error: pytest.ExceptionInfo[KarError]) -> bool:
    return bool(error.value.what) and bool(error.value.do)


@pytest.mark.parametrize("rows", [0, 40], ids=["resident", "streamed"])
@pytest.mark.parametrize(
    ("split", "label", "message"),
    [
        ("train", 1, "all 69 train examples have the label 1"),
        ("valid", 0, "all 69 valid examples have the label 0"),
        ("test", 2, "labels are 0 or 1, there is 2"),
        ("train", 2, "labels are 0 or 1, there is 2"),
    ],
)
def test_labels_that_cannot_be_learned_or_judged_are_refused_before_any_training(
    world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path, rows: int, split: str, label: int, message: str
) -> None:
    tables = tables_of(relabelled(world, split, label), tmp_path)
    with pytest.raises(ModelError, match=message) as error:
        Loaded(tables, settings_with(stream_rows=rows), CAP).data("same_evidence")
    assert said(error)


def test_one_class_only_in_test_is_said_and_its_auc_is_not_made_up(
    world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path
) -> None:
    home = Home(tmp_path, "world")
    settings = settings_of(settings_with(arms=["base", "knowledge"], backbones=["fibinet"], epochs=1))
    manifest = run(relabelled(world, "test", 1), home, settings)
    assert "all 69 test examples have one label, so AUC is not defined on them" in manifest.warnings
    rows = [row for row in table_of(home, "metric").to_pylist() if row["split"] == "test" and row["slice"] == "all"]
    of = {name: [row["value"] for row in rows if row["metric"] == name] for name in ("auc", "gauc", "logloss")}
    assert np.isnan(of["auc"]).all()
    assert np.isnan(of["gauc"]).all()
    assert np.isfinite(of["logloss"]).all()
    assert all(np.isnan(row["difference"]) for row in table_of(home, "comparison").to_pylist() if row["metric"] == "auc")
    assert "beats" not in manifest.figures["verdict"]


@pytest.mark.parametrize("rows", [0, 40], ids=["resident", "streamed"])
def test_an_example_outside_its_users_sequence_is_refused(
    world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path, rows: int
) -> None:
    last_user = pc.equal(world.sequence["user_id"], 18)
    shortened = world.having(sequence=world.sequence.filter(pc.invert(pc.and_(last_user, pc.greater(world.sequence["position"], 5)))))
    for broken in (shortened, world.having(sequence=world.sequence.filter(pc.invert(last_user)))):
        with pytest.raises(ModelError, match="an example is not at its position") as error:
            Loaded(tables_of(broken, tmp_path), settings_with(stream_rows=rows), CAP).data("same_evidence")
        assert said(error)


@pytest.mark.parametrize("is_mapped", [False, True], ids=["in memory", "mapped"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_named_with_its_view_and_subject(
    world: Any, settings: AdaptorSettings, tmp_path: Path, is_mapped: bool, wrong: float
) -> None:
    table = world.knowledge_vector
    keys = table.select(["view", "subject_id"]).to_pylist()
    row = keys.index({"view": "item.facts", "subject_id": "7"})
    flat = table["vector"].combine_chunks().flatten().to_numpy().copy()
    flat[16 * row + 5] = wrong
    broken = world.having(knowledge_vector=with_column(table, "vector", pa.FixedSizeListArray.from_arrays(pa.array(flat), 16)))
    work = Work(tmp_path / "work") if is_mapped else None
    with pytest.raises(ModelError, match=r"view item\.facts: 1 vectors are not finite, first that of '7'") as error:
        Loaded(tables_of(broken, tmp_path), settings, CAP, work=work)
    assert said(error)
    assert not list(tmp_path.glob("work/*/item.facts.npy"))  # nothing half made that a later run would take


@pytest.mark.parametrize("is_mapped", [False, True], ids=["in memory", "mapped"])
@pytest.mark.parametrize("view", ["item.facts", "user.preference"])
def test_vectors_of_two_widths_are_refused_within_a_view_and_between_views(
    world: Any, settings: AdaptorSettings, tmp_path: Path, is_mapped: bool, view: str
) -> None:
    table, work = world.knowledge_vector, Work(tmp_path / "work") if is_mapped else None
    of_view = table["view"].to_numpy(zero_copy_only=False) == view
    for shortened in (of_view, of_view & (np.cumsum(of_view) == 4)):  # the whole view; one vector of it
        vectors = [vector[:8] if short else vector for vector, short in zip(table["vector"].to_pylist(), shortened, strict=True)]
        broken = world.having(knowledge_vector=with_column(table, "vector", pa.array(vectors, pa.list_(pa.float32()))))
        with pytest.raises(ModelError, match="width") as error:
            kinds_of(Loaded(tables_of(broken, tmp_path), settings, CAP, work=work))
        assert said(error)


def test_an_arm_without_any_of_its_vectors_trains_on_the_learned_defaults(world: Any, settings: AdaptorSettings, tmp_path: Path) -> None:
    none = world.having(knowledge_vector=world.knowledge_vector.filter(pc.match_substring(world.knowledge_vector["view"], ".raw")))
    loaded = Loaded(tables_of(none, tmp_path), settings, CAP, work=Work(tmp_path / "work"))
    data = loaded.data("same_evidence")
    kinds = loaded.arms.kinds("knowledge", data, 1)
    assert not loaded.arms.covered(data).any()
    result = train("din", data, kinds, loaded.arms.width, settings, 1, "test")
    assert np.isfinite(result.test_logit).all()
    assert result.ranker is not None
    assert result.ranker.adaptor is not None
    assert all(float(result.ranker.adaptor.missing(kind.view).detach().abs().sum()) > 0 for kind in kinds)  # learned


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_a_batch_of_one_row_trains_and_is_predicted_as_among_others(
    world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path, backbone: str
) -> None:
    """The last batch of an epoch, and a pool that holds one row alone."""
    settings = settings_with(batch_size=68, epochs=1)  # 69 training rows
    loaded = Loaded(tables_of(world, tmp_path), settings, CAP)
    data = loaded.data("same_evidence")
    kinds = loaded.arms.kinds("knowledge", data, 1)
    assert len(data.split_rows["train"]) % settings.batch_size == 1
    result = train(backbone, data, kinds, loaded.arms.width, settings, 1, "test")
    assert result.ranker is not None
    assert all(bool(torch.isfinite(value).all()) for value in result.ranker.state_dict().values())
    alone = np.concatenate([predict(result.ranker, data, kinds, data.split_rows["test"][row : row + 1]) for row in range(5)])
    np.testing.assert_allclose(alone, result.test_logit[:5], atol=1e-5)


def test_pools_of_one_row_train(world: Any, settings: AdaptorSettings, tmp_path: Path) -> None:
    class Single(Resident):
        def pools(self, split: str, draw: torch.Generator | None = None) -> Any:
            for pool in super().pools(split, draw):
                yield from (Pool(pool.data, pool.kinds, row) for row in torch.split(pool.rows, 1))

    loaded = Loaded(tables_of(world, tmp_path), settings, CAP)
    data = loaded.data("same_evidence")
    kinds = loaded.arms.kinds("knowledge", data, 1)
    result = train("fibinet", data, kinds, loaded.arms.width, settings, 1, "test", pools=Single(data, kinds))
    assert np.isfinite(result.test_logit).all()
    assert len(result.test_logit) == len(data.split_rows["test"])


@pytest.mark.parametrize("rows", [0, 40], ids=["resident", "streamed"])
def test_users_none_of_whom_training_saw_are_predicted_by_the_unknown_user(
    world: Any, settings_with: Callable[..., AdaptorSettings], tmp_path: Path, rows: int
) -> None:
    settings = settings_with(bases=["rich"], published_base="rich", user_fields=["age"], epochs=1, stream_rows=rows)
    loaded = Loaded(tables_of(world, tmp_path), settings, CAP)
    data = loaded.data("rich")
    kinds = loaded.arms.kinds("knowledge", data, 1)
    place = (*data.target_fields, *data.profile_fields).index("user_id")
    for split in ("valid", "test"):
        codes = data.single_ES[torch.from_numpy(data.split_rows[split]), place]
        assert codes.unique().tolist() == [data.fields.offset("user_id")]
    pools = loaded.pools("rich", "knowledge", 1)
    result = train("din", data, kinds, loaded.arms.width, settings, 1, "test", pools=pools)
    assert np.isfinite(result.test_logit).all()


def test_vectors_made_anew_are_mapped_anew(world: Any, settings: AdaptorSettings, tmp_path: Path) -> None:
    """Other vectors under the same settings: nothing of the old ones is gone on with."""
    tables = tables_of(world, tmp_path)
    before = Work.of(tmp_path / "work", tables.paths(), {})
    Loaded(tables, settings, CAP, work=before)
    assert (before.folder / "vectors" / "item.facts.npy").is_file()
    pq.write_table(world.knowledge_vector.slice(1), tables.knowledge_vector)
    after = Work.of(tmp_path / "work", tables.paths(), {})
    assert after.folder != before.folder
    assert not before.folder.exists()
