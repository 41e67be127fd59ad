"""Opening a release and looking vectors up."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kar.release
from kar.errors import ReleaseError, ReleaseNotFound, SpaceMismatch
from kar.release.ids import IdIndex
from kar.release.publish import Published, publish
from tests.release import world


def test_vectors_come_in_the_order_of_the_ids_with_repeats_and_strangers(tmp_path: Path, night: Published) -> None:
    release = kar.release.open(tmp_path)
    vectors, is_missing = release.vectors("user", "user.preference", np.array([133, 103, 7, 133, 115]))
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == [11.0, 1.0, 0.5, 11.0, 0.5]
    assert is_missing.tolist() == [False, False, True, False, True]  # 7 is unknown, 115 is row 5, which has no knowledge


def test_knowledge_vectors_are_zero_where_nothing_is_known(tmp_path: Path, night: Published) -> None:
    vectors, is_missing = kar.release.open(tmp_path).vectors("item", "item.facts", ["i04", "i00", "stranger"], kind="knowledge")
    assert vectors[:, 0].tolist() == [-4.0, 0.0, 0.0]
    assert vectors.shape == (3, world.T)
    assert is_missing.tolist() == [False, True, True]


def test_string_ids_with_spaces_and_emoji_are_found(tmp_path: Path) -> None:
    publish(tmp_path, world.sides(text_users=True), world.facts())
    release = kar.release.open(tmp_path, verify=True)
    assert release.ids("user").to_pylist()[1:3] == ["u 1 🎬", "u 10 🎬"]
    assert release.rows("user", ["u 10 🎬", "u 1", "u 1 🎬"]).tolist() == [2, -1, 1]


def test_properties_say_what_the_manifest_says(tmp_path: Path) -> None:
    done = world.publish_day(tmp_path, 3)
    release = kar.release.open(tmp_path)
    assert release.id == done.path.name
    assert release.space_id == done.manifest["space_id"]
    assert release.data_cutoff == world.day(3.5)
    assert release.published_at == world.day(4) + dt.timedelta(hours=2)
    assert release.views("user") == ["user.preference"]
    assert release.views("item") == ["item.facts"]
    assert (release.width("item.facts"), release.width("item.facts", "knowledge")) == (world.A, world.T)


def test_matrices_are_memory_mapped_and_cannot_be_written(tmp_path: Path, night: Published) -> None:
    matrix = kar.release.open(tmp_path).matrix("user.preference")
    assert isinstance(matrix, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 1.0


def test_an_open_release_stays_what_it_was_when_another_is_published(tmp_path: Path, night: Published) -> None:
    release = kar.release.open(tmp_path)
    world.publish_day(tmp_path, 1)
    assert release.vectors("user", "user.preference", [103])[0][0, 0] == 1.0
    assert kar.release.open(tmp_path).vectors("user", "user.preference", [103])[0][0, 0] == 1001.0


def test_as_of_opens_what_was_served_then(tmp_path: Path) -> None:
    days = [world.publish_day(tmp_path, n) for n in range(3)]
    late = dt.timedelta(hours=2)
    assert kar.release.open(tmp_path, as_of=world.day(1) + late).id == days[0].path.name
    assert kar.release.open(tmp_path, as_of=world.day(3)).id == days[1].path.name
    assert kar.release.open(tmp_path, as_of=world.day(99)).id == days[2].path.name
    with pytest.raises(ReleaseNotFound, match=r"served nothing at .*; the first release was served from 2026-11-02T02:00"):
        kar.release.open(tmp_path, as_of=world.day(1))
    with pytest.raises(ReleaseError, match="has no time zone"):
        kar.release.open(tmp_path, as_of=dt.datetime(2026, 11, 3))
    with pytest.raises(ReleaseError, match="as_of chooses among several"):
        kar.release.open(days[0].path, as_of=world.day(3))


def test_a_pointer_without_its_list_serves_from_the_publication_on(tmp_path: Path, night: Published) -> None:
    (tmp_path / "CURRENT").write_text(f'{{"release": "{night.path.name}", "manifest_sha256": "{night.manifest_sha}"}}')
    assert kar.release.open(tmp_path, as_of=world.day(2)).id == night.path.name
    with pytest.raises(ReleaseNotFound):
        kar.release.open(tmp_path, as_of=world.day(1))


def test_another_space_is_refused(tmp_path: Path, night: Published) -> None:
    release = kar.release.open(tmp_path)
    release.require_space(release.space_id)
    with pytest.raises(SpaceMismatch, match="not in 0123456789abcdef"):
        release.require_space("0123456789abcdef")


@pytest.mark.parametrize(
    ("side", "view", "words"),
    [
        ("user", "user.taste", "no view 'user.taste' of users"),
        ("user", "item.facts", "no view 'item.facts' of users"),
        ("shop", "user.preference", "no side 'shop'"),
    ],
)
def test_a_view_or_side_that_is_none_is_named(tmp_path: Path, night: Published, side: str, view: str, words: str) -> None:
    with pytest.raises(ReleaseError, match=words):
        kar.release.open(tmp_path).vectors(side, view, [1])  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [["103"], [1.5], np.array([True]), [2**70], [[103]]])
def test_ids_of_another_type_are_refused(tmp_path: Path, night: Published, ids: object) -> None:
    with pytest.raises(ReleaseError, match="user ids are int64 in this release"):
        kar.release.open(tmp_path).rows("user", ids)


def test_numbers_asked_of_string_ids_are_refused(tmp_path: Path, night: Published) -> None:
    with pytest.raises(ReleaseError, match="item ids are string in this release, asked for as int64"):
        kar.release.open(tmp_path).rows("item", [3])


def test_ids_may_come_as_any_kind_of_array(tmp_path: Path, night: Published) -> None:
    release = kar.release.open(tmp_path)
    for ids in (
        [103, None],
        pa.array([103, None], pa.int32()),
        pa.chunked_array([[103], [None]]),
        pa.array([103, None]).dictionary_encode(),
    ):
        assert release.rows("user", ids).tolist() == [1, -1]
    for ids in (np.array(["i03", "zz"]), pa.array(["i03", "zz"], pa.large_string()), pa.array(["i03", None]).dictionary_encode()):
        assert release.rows("item", ids).tolist() == [3, -1]
    for ids in ([], np.array([], np.int64), pa.array([], pa.int64())):
        assert release.rows("user", ids).tolist() == []


def test_a_release_deleted_under_a_reader_is_named(tmp_path: Path, night: Published) -> None:
    release = kar.release.open(tmp_path)
    shutil.rmtree(night.path)
    with pytest.raises(ReleaseNotFound, match="was deleted while it was open"):
        release.vectors("user", "user.preference", [103])


@settings(deadline=None)
@given(
    known=st.sets(st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20), max_size=40),
    asked=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-25, 25), max_size=60),
)
def test_int_rows_are_those_of_a_dict_for_all_ids(known: set[int], asked: list[int]) -> None:
    row_of = {value: row for row, value in enumerate(sorted(known))}
    index = IdIndex(pa.array(sorted(known), pa.int64()), "user")
    assert index.rows(pa.array(asked, pa.int64())).tolist() == [row_of.get(value, -1) for value in asked]


@settings(deadline=None)
@given(known=st.sets(st.text(max_size=5), max_size=30), asked=st.lists(st.none() | st.text(max_size=5), max_size=60))
def test_text_rows_are_those_of_a_dict_for_all_ids(known: set[str], asked: list[str | None]) -> None:
    ids = sorted(known, key=str.encode)
    row_of: dict[str | None, int] = {value: row for row, value in enumerate(ids)}
    found = IdIndex(pa.array(ids, pa.string()), "user").rows(pa.array(asked, pa.string()))
    assert found.tolist() == [row_of.get(value, -1) for value in asked]


def test_a_large_question_over_dense_ids_is_answered_by_table_as_by_search() -> None:
    numbers = np.arange(10, 90_000, 3)
    index = IdIndex(pa.array(numbers), "user")
    asked = np.random.default_rng(1).integers(-100, 100_000, 60_000)
    small = np.concatenate([index.rows(part) for part in np.array_split(asked, 10)])
    assert index._direct is None
    large = index.rows(asked)
    assert index._direct is not None
    assert np.array_equal(small, large)
    assert np.array_equal(large, np.where(np.isin(asked, numbers), (asked - 10) // 3, -1))
