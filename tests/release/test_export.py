"""A release as plain tables: nothing lost on the way, two times for other tools' joins, and never half a folder."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kar.release
from kar.errors import ReleaseError
from kar.release.export import export
from kar.release.publish import Published, publish
from kar.release.rows import Pooled, SideRows
from tests.release import world


def test_an_export_holds_every_row_and_every_column_of_the_release(night: Published, tmp_path: Path) -> None:
    release = kar.release.open(night.path)
    written = export(release, tmp_path / "plain")
    assert (written.rows, written.files) == ({"user": world.USERS, "item": world.ITEMS}, 2)
    table = pq.read_table(tmp_path / "plain" / "user_knowledge")
    view = ("is_missing", "adapted_vector", "knowledge_vector", "evidence_newest_at", "asked_at", "origin", "model")
    assert table.column_names == ["user_id", *(f"preference_{part}" for part in view), "event_timestamp", "created_timestamp"]
    assert table.column("user_id").to_pylist() == release.ids("user").to_pylist()
    vectors = np.array(table.column("preference_adapted_vector").to_pylist(), np.float32)
    assert np.array_equal(vectors, release.vectors("user", "user.preference", release.ids("user"))[0])
    assert table.schema.field("preference_adapted_vector").type == pa.list_(pa.field("element", pa.float32(), nullable=False), world.A)
    assert table.column("preference_is_missing").to_pylist() == [n in (0, 5) for n in range(world.USERS)]


def test_the_rows_are_cut_evenly_over_as_many_files_as_wanted_but_no_file_is_empty(night: Published, tmp_path: Path) -> None:
    written = export(kar.release.open(night.path), tmp_path / "plain", ("item",), files=8)
    sizes = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "plain" / "item_knowledge").iterdir())]
    assert (written.files, sum(sizes), max(sizes) - min(sizes)) == (8, world.ITEMS, 1)
    assert export(kar.release.open(night.path), tmp_path / "more", ("user",), files=50).files == world.USERS


def test_by_the_clock_of_publication_every_row_is_served_from_the_same_instant(night: Published, tmp_path: Path) -> None:
    export(kar.release.open(night.path), tmp_path / "plain")
    table = pq.read_table(tmp_path / "plain" / "item_knowledge")
    published_at = dt.datetime(2026, 11, 2, 2, tzinfo=dt.UTC)
    assert set(table.column("event_timestamp").to_pylist()) == {published_at} == set(table.column("created_timestamp").to_pylist())


def test_by_the_clock_of_evidence_a_row_is_served_from_the_newest_event_it_has_seen_and_a_pooled_one_from_just_after(
    tmp_path: Path,
) -> None:
    users, items = world.sides(newest=lambda n: world.day(n))
    liked = replace(
        world.view_rows("user.liked_facts", world.USERS, missing=set(range(6)), newest=lambda n: world.day(n)),
        knowledge=np.zeros((world.USERS, 0), np.float32),
        pooled_from=Pooled("item.facts", "liked", 30),
    )
    publish(tmp_path / "published", (SideRows("user", users.ids, (*users.views, liked)), items), world.facts())
    export(kar.release.open(tmp_path / "published"), tmp_path / "plain", clock="evidence")
    times = pq.read_table(tmp_path / "plain" / "user_knowledge").column("event_timestamp").to_pylist()
    assert times[0] == times[5] == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)  # without knowledge: it has seen nothing
    assert times[4] == world.day(4)
    assert times[7] == world.day(7) + dt.timedelta(microseconds=1)


def test_a_folder_that_exists_is_refused_and_only_an_earlier_export_is_replaced(night: Published, tmp_path: Path) -> None:
    release = kar.release.open(night.path)
    export(release, tmp_path / "plain", files=3)
    with pytest.raises(ReleaseError, match=r"exists already"):
        export(release, tmp_path / "plain")
    assert export(release, tmp_path / "plain", overwrite=True).files == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ReleaseError, match=r"no earlier export"):
        export(release, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_release_that_breaks_off_leaves_no_folder(night: Published, tmp_path: Path) -> None:
    release = kar.release.open(night.path)
    next(night.path.glob("item_knowledge/*.parquet")).unlink()
    with pytest.raises(ReleaseError):
        export(release, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
    assert not list(tmp_path.glob(".plain*"))


def test_a_release_of_nobody_is_exported_as_an_empty_table(tmp_path: Path) -> None:
    users, items = world.view_rows("user.preference", 0, missing=set(), newest=None), world.sides()[1]
    publish(tmp_path / "published", (SideRows("user", pa.array([], pa.int64()), (users,)), items), world.facts())
    written = export(kar.release.open(tmp_path / "published"), tmp_path / "plain", files=4)
    assert (written.rows["user"], pq.read_table(tmp_path / "plain" / "user_knowledge").num_rows) == (0, 0)


@pytest.mark.parametrize("files", [0, -1, 10_001])
def test_a_number_of_files_out_of_range_is_named(night: Published, tmp_path: Path, files: int) -> None:
    with pytest.raises(ReleaseError, match=r"cannot be exported as"):
        export(kar.release.open(night.path), tmp_path / "plain", files=files)
