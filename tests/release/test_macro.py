"""The DuckDB macro says what the join in Python says: releases, rows, masks and vectors, on both clocks."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kar.release
from kar.errors import ReleaseError
from kar.release import shelf
from kar.release.asof import CLOCKS, Clock
from kar.release.publish import publish
from kar.release.rows import Pooled
from tests.release import world


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nights and a rollback; a pooled view that came with the third; evidence of some users newer than the release's date."""
    path = tmp_path_factory.mktemp("a folder's published")
    for number in range(3):
        users, items = world.sides(newest=lambda n, at=number: world.day(at + n / 4), offset=1000.0 * number)
        if number == 2:
            view = world.view_rows("user.liked_facts", world.USERS, missing={3}, newest=world.day(3.5), offset=7.0)
            pooled = replace(view, knowledge=view.knowledge[:, :0], pooled_from=Pooled("item.facts", "liked", 30))
            users = replace(users, views=(*users.views, pooled))
        publish(path, (users, items), world.facts(world.day(number)))
    shelf.rollback(path, min(one.id for one in kar.release.list_releases(path)), at=world.day(5))
    shelf.promote(path, max(one.id for one in kar.release.list_releases(path)), at=world.day(6))
    return path


def _some(count: int) -> pa.Table:
    rng = np.random.default_rng(3)
    times = [world.day(float(t)) for t in rng.uniform(0, 8, count)]
    times[:3] = [world.day(1) + dt.timedelta(hours=2), world.day(3.5), world.day(6)]
    users = [*rng.integers(98, 140, count - 1).tolist(), None]
    table = world.examples(times, users, [f"i{n:02d}" for n in rng.integers(0, world.ITEMS + 2, count)])
    return table.append_column("row", pa.array(range(count)))


def _by_macro(path: Path, examples: pa.Table, *, clock: Clock = "published", rows_only: bool = False) -> pa.Table:
    return _run(kar.release.duckdb_macro(path, clock=clock, rows_only=rows_only), examples)


def _run(script: str, examples: pa.Table) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute(script)
        connection.register("mine", examples)
        found: pa.Table = connection.sql("from kar_features('mine') order by \"row\"").to_arrow_table()
    return found


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("rows_only", [True, False])
def test_the_macro_and_the_join_of_files_write_the_same_columns_and_values(
    nights: Path, tmp_path: Path, clock: Clock, rows_only: bool
) -> None:
    examples = _some(500)
    pq.write_table(examples, tmp_path / "e.parquet")
    kar.release.join_files(nights, tmp_path / "e.parquet", tmp_path / "out.parquet", clock=clock, rows_only=rows_only)
    expected, found = pq.read_table(tmp_path / "out.parquet"), _by_macro(nights, examples, clock=clock, rows_only=rows_only)
    assert found.column_names == expected.column_names
    for name in expected.column_names[4:]:
        assert found.column(name).to_pylist() == expected.column(name).to_pylist(), name
    assert len(set(expected["release"].to_pylist())) == (4 if clock == "published" else 1)


def test_layers_count_as_their_newest_and_removed_subjects_not_at_all(tmp_path: Path) -> None:
    """As `kar.release.layout` says of layers: written here by hand, whatever the publisher makes of its nights."""
    world.publish_day(tmp_path, 0)
    with_vectors, with_rows = (kar.release.duckdb_macro(tmp_path, rows_only=rows_only) for rows_only in (False, True))
    folder = next((tmp_path / "releases").iterdir()) / "user_knowledge"
    base = pq.read_table(sorted(folder.glob("*.parquet"))[0])
    base = base.drop_columns([name for name in ("layer", "is_removed") if name in base.column_names])
    for path in folder.iterdir():
        path.unlink()

    def put(table: pa.Table, layer: int, is_removed: list[bool]) -> None:
        table = table.append_column("layer", pa.array([layer] * len(table), pa.int16()))
        pq.write_table(table.append_column("is_removed", pa.array(is_removed)), folder / f"part-00-{layer}.parquet")

    put(base, 0, [False] * len(base))
    newer = base.slice(1, 2)
    vectors = pa.array([[9.0] * world.A] * 2, newer.schema.field("preference_adapted_vector").type)
    put(newer.set_column(newer.column_names.index("preference_adapted_vector"), "preference_adapted_vector", vectors), 1, [False, True])
    examples = world.examples([world.day(9)] * 4, [100, 103, 106, 109], ["i03"] * 4).append_column("row", pa.array(range(4)))
    found = _run(with_vectors, examples)
    assert found["user_preference_adapted_vector"].to_pylist()[1] == [9.0] * world.A
    assert found["user_preference_is_missing"].to_pylist() == [True, False, True, False]  # 100 never had knowledge, 106 was removed
    assert _run(with_rows, examples)["user_row"].to_pylist() == [0, 1, -1, 2]


def test_a_night_that_was_published_as_a_layer_reads_as_the_join_reads_it(tmp_path: Path) -> None:
    """One user changed and one went: the base is linked, a layer is written, and SQL must see neither the old row nor the gone one."""
    users, items = world.sides()
    publish(tmp_path, (users, items), world.facts())
    keep = np.array([n for n in range(world.USERS) if n != 4])
    view = users.views[0]
    adapted = view.adapted.copy()
    adapted[1] = 77.0
    told = {name: getattr(view, name).take(pa.array(keep)) for name in ("evidence_newest_at", "asked_at", "origin", "model")}
    newer = replace(view, is_missing=view.is_missing[keep], adapted=adapted[keep], knowledge=view.knowledge[keep], **told)
    second = publish(tmp_path, (replace(users, ids=users.ids.take(pa.array(keep)), views=(newer,)), items), world.facts(world.day(1)))
    assert len(list((second.path / "user_knowledge").iterdir())) == 2
    ids = users.ids.to_pylist()
    examples = world.examples([world.day(9)] * len(ids), ids, ["i03"] * len(ids)).append_column("row", pa.array(range(len(ids))))
    joined, found = kar.release.join(tmp_path, examples), _by_macro(tmp_path, examples)
    assert found["user_preference_adapted_vector"].to_pylist() == joined.vectors("user", "user.preference")[0].tolist()
    assert found["user_preference_adapted_vector"].to_pylist()[1] == [77.0] * world.A
    assert _by_macro(tmp_path, examples, rows_only=True)["user_row"].to_pylist() == joined.rows("user").tolist()
    assert joined.rows("user").tolist()[3:6] == [3, -1, 4]


def test_running_the_script_again_sees_the_night_that_came_since(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    script = kar.release.duckdb_macro(tmp_path)
    second = world.publish_day(tmp_path, 1)
    with duckdb.connect() as connection:
        connection.execute(script)
        connection.register("mine", world.examples([world.day(9)], [103], ["i03"]))
        assert connection.execute("select release from kar_features('mine')").fetchall() == [(second.manifest["release"],)]


def test_what_the_join_refuses_the_macro_refuses(nights: Path, tmp_path: Path) -> None:
    examples = _some(20)
    with pytest.raises(duckdb.Error, match="event_at is no instant"):
        _by_macro(nights, examples.set_column(2, "event_at", examples.column("event_at").cast(pa.timestamp("us"))))
    path = shutil.copytree(nights, tmp_path / "published")
    world.publish_day(path, 9, adaptor={"sha": "b" * 64})
    late = world.examples([world.day(9), world.day(20)], [103] * 2, ["i03"] * 2).append_column("row", pa.array(range(2)))
    with pytest.raises(duckdb.Error, match="such vectors do not mix"):
        _by_macro(path, late)
    assert len(_by_macro(path, late, rows_only=True)) == 2
    shutil.rmtree(path / "releases" / min(one.id for one in kar.release.list_releases(path)))
    with pytest.raises(duckdb.Error, match="which served some of the examples, is gone"):
        _by_macro(path, late.set_column(2, "event_at", pa.array([world.day(1.5)] * 2, pa.timestamp("us", tz="UTC"))), rows_only=True)
    with pytest.raises(ReleaseError, match="no clock"):
        kar.release.duckdb_macro(nights, clock="now")  # type: ignore[arg-type]
