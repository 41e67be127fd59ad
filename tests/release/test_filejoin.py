"""Examples from file to file: the same answers as the join in memory, every row kept, and all or nothing on disk."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kar.release
from kar.errors import ReleaseError, ReleaseNotFound, SpaceMismatch
from tests.release import world

LATE = dt.timedelta(hours=2)


@pytest.fixture(scope="module")
def three_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published")
    for number in range(3):
        world.publish_day(path, number)
    return path


def _some(count: int, seed: int = 1) -> pa.Table:
    """Examples of known and unknown users and items, from before the first release to after the last, with a label."""
    rng = np.random.default_rng(seed)
    table = world.examples(
        [world.day(float(t)) for t in rng.uniform(0, 5, count)],
        rng.integers(98, 140, count).tolist(),
        [f"i{n:02d}" for n in rng.integers(0, world.ITEMS + 2, count)],
    )
    return table.append_column("label", pa.array(rng.integers(0, 2, count), pa.int8()))


def _write(table: pa.Table, path: Path, rows: int = 1000) -> Path:
    pq.write_table(table, path, row_group_size=rows)
    return path


def test_a_joined_file_holds_the_examples_and_what_the_join_in_memory_says(three_nights: Path, tmp_path: Path) -> None:
    examples = _some(5000)
    told = kar.release.join_files(three_nights, _write(examples, tmp_path / "e.parquet"), tmp_path / "out.parquet")
    joined, found = kar.release.join(three_nights, examples), pq.read_table(tmp_path / "out.parquet")
    assert found.select(examples.column_names).equals(examples)
    for side, view, name in (("user", "user.preference", "user_preference"), ("item", "item.facts", "item_facts")):
        vectors, is_missing = joined.vectors(side, view)  # type: ignore[arg-type]
        assert found.column(f"{name}_is_missing").to_pylist() == is_missing.tolist()
        assert found.column(f"{name}_adapted_vector").to_pylist() == vectors.tolist()
        assert found.schema.field(f"{name}_adapted_vector").type == pa.list_(pa.field("element", pa.float32(), False), world.A)
        assert told.with_knowledge[view] == int((~is_missing).sum())
    names = [None if n < 0 else joined.releases[n].id for n in joined.release_numbers]
    assert found.column("release").to_pylist() == names
    assert (told.rows, told.before_first) == (5000, names.count(None))
    assert told.before_first > 0
    assert list(told.releases.values()) == [names.count(one) for one in told.releases]


def test_with_row_numbers_alone_the_vectors_are_gathered_from_the_named_release(three_nights: Path, tmp_path: Path) -> None:
    examples = _some(400)
    kar.release.join_files(three_nights, _write(examples, tmp_path / "e.parquet"), tmp_path / "out.parquet", rows_only=True)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == [
        *examples.column_names, "release", "user_row", "item_row", "user_preference_is_missing", "item_facts_is_missing",
    ]  # fmt: skip
    vectors, is_missing = kar.release.join(three_nights, examples).vectors("user", "user.preference")
    assert found.column("user_preference_is_missing").to_pylist() == is_missing.tolist()
    for row, (release, user_row) in enumerate(zip(found["release"].to_pylist(), found["user_row"].to_pylist(), strict=True)):
        if not is_missing[row]:
            held = kar.release.open(three_nights / "releases" / release)
            assert np.array_equal(held.vectors_at("user.preference", np.array([user_row]))[0][0], vectors[row])


def test_parts_are_as_many_as_asked_for_hold_every_row_once_and_keep_the_order(three_nights: Path, tmp_path: Path) -> None:
    examples = _some(1003)
    kar.release.join_files(three_nights, _write(examples, tmp_path / "e.parquet", 77), tmp_path / "parts", files=20)
    paths = sorted((tmp_path / "parts").iterdir())
    assert [path.name for path in paths] == [f"part-{n:05d}.parquet" for n in range(20)]
    parts = [pq.read_table(path) for path in paths]
    assert {len(part) for part in parts} == {50, 51}
    assert pa.concat_tables(parts).select(examples.column_names).equals(examples)


def test_more_parts_than_examples_are_as_many_as_the_examples(three_nights: Path, tmp_path: Path) -> None:
    kar.release.join_files(three_nights, _write(_some(3), tmp_path / "e.parquet"), tmp_path / "parts", files=20)
    assert [len(pq.read_table(path)) for path in sorted((tmp_path / "parts").iterdir())] == [1, 1, 1]


def test_a_folder_of_example_files_is_read_in_the_order_of_their_names(three_nights: Path, tmp_path: Path) -> None:
    examples = _some(30)
    (tmp_path / "in").mkdir()
    for number, first in ((1, 0), (2, 10), (3, 20)):
        _write(examples.slice(first, 10), tmp_path / f"in/{number}.parquet")
    kar.release.join_files(three_nights, tmp_path / "in", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").select(examples.column_names).equals(examples)


def test_examples_that_are_all_older_than_the_first_release_are_missing_and_not_dropped(three_nights: Path, tmp_path: Path) -> None:
    table = world.examples([world.day(-3)] * 4, [103] * 4, ["i03"] * 4)
    told = kar.release.join_files(three_nights, _write(table, tmp_path / "e.parquet"), tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert (told.rows, told.before_first, len(found)) == (4, 4, 4)
    assert found["user_preference_is_missing"].to_pylist() == [True] * 4
    assert found["item_facts_adapted_vector"].to_pylist() == [[0.5] * world.A] * 4


def test_one_view_of_the_encoders_vectors_may_be_asked_for(three_nights: Path, tmp_path: Path) -> None:
    table = world.examples([world.day(9)], [103], ["i03"])
    kar.release.join_files(
        three_nights, _write(table, tmp_path / "e.parquet"), tmp_path / "o.parquet", views=["item.facts"], kind="knowledge"
    )
    found = pq.read_table(tmp_path / "o.parquet")
    assert found.column_names[3:] == ["release", "item_facts_is_missing", "item_facts_knowledge_vector"]
    assert found["item_facts_knowledge_vector"].to_pylist()[0][0] == -2003.0


def test_times_in_another_zone_mean_the_same_instants(three_nights: Path, tmp_path: Path) -> None:
    examples = _some(200)
    in_tokyo = examples.set_column(2, "event_at", examples.column("event_at").cast(pa.timestamp("ns", tz="Asia/Tokyo")))
    for name, table in (("utc", examples), ("tokyo", in_tokyo)):
        kar.release.join_files(three_nights, _write(table, tmp_path / f"{name}.parquet"), tmp_path / f"{name}.out")
    kept = ["release", "user_preference_adapted_vector", "item_facts_is_missing"]
    assert pq.read_table(tmp_path / "tokyo.out").select(kept).equals(pq.read_table(tmp_path / "utc.out").select(kept))


def _twice(table: pa.Table) -> pa.Table:
    return table.append_column("user_id", table.column("user_id"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["event_at"]), r"lack the columns \['event_at'\]"),
        (lambda t: t.set_column(2, "event_at", t.column(2).cast(pa.timestamp("us"))), "not an instant with a time zone"),
        (lambda t: t.set_column(2, "event_at", t.column(2).cast(pa.date32())), "event_at of the examples is date32"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1).set_column(2, "event_at", pa.array([None], t.schema.field(2).type))]), "1 nulls"),
        (lambda t: t.set_column(0, "user_id", t.column(0).cast(pa.string())), "user ids are int64 in this release, asked for as string"),
        (lambda t: t.set_column(1, "item_id", pa.array([1] * len(t))), "item ids are string in this release, asked for as int64"),
        (_twice, r"hold the columns \['user_id'\] more than once"),
        (lambda t: t.rename_columns(["user_id", "item_id", "event_at", "release"]), r"would write the columns \['release'\]"),
        (lambda t: t.slice(0, 0), "holds no examples"),
    ],
)
def test_examples_that_do_not_fit_are_named_and_nothing_is_written(
    three_nights: Path, tmp_path: Path, change: Callable[[pa.Table], pa.Table], words: str
) -> None:
    _write(change(_some(300)), tmp_path / "e.parquet")
    with pytest.raises(ReleaseError, match=words):
        kar.release.join_files(three_nights, tmp_path / "e.parquet", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_a_file_that_is_none_is_named(three_nights: Path, tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"e.parquet cannot be read as Parquet"):
        kar.release.join_files(three_nights, tmp_path / "e.parquet", tmp_path / "out.parquet")
    with pytest.raises(ReleaseError, match="there is no file"):
        kar.release.join_files(three_nights, tmp_path / "absent.parquet", tmp_path / "out.parquet")
    with pytest.raises(ReleaseError, match=r"holds no \*.parquet"):
        kar.release.join_files(three_nights, three_nights, tmp_path / "out.parquet")


def test_a_damaged_piece_in_the_middle_leaves_nothing_behind(three_nights: Path, tmp_path: Path) -> None:
    path = _write(_some(20_000), tmp_path / "e.parquet", 2000)
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(7).column(0)
    data[place.data_page_offset : place.data_page_offset + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match=r"e.parquet cannot be read"):
        kar.release.join_files(three_nights, path, tmp_path / "parts", files=3)
    assert [one.name for one in tmp_path.iterdir()] == ["e.parquet"]


def test_what_exists_already_is_never_overwritten(three_nights: Path, tmp_path: Path) -> None:
    (tmp_path / "out.parquet").write_text("mine")
    with pytest.raises(ReleaseError, match=r"out.parquet exists already"):
        kar.release.join_files(three_nights, _write(_some(3), tmp_path / "e.parquet"), tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "mine"
    with pytest.raises(ReleaseError, match="cannot be written"):
        kar.release.join_files(three_nights, tmp_path / "e.parquet", tmp_path / "absent/out.parquet")


def test_files_of_several_schemas_are_named(three_nights: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    _write(_some(3), tmp_path / "in/1.parquet")
    _write(_some(3).drop_columns(["label"]), tmp_path / "in/2.parquet")
    with pytest.raises(ReleaseError, match=r"2.parquet has other columns than .*1.parquet"):
        kar.release.join_files(three_nights, tmp_path / "in", tmp_path / "out.parquet")


def test_a_space_that_is_not_the_models_and_spaces_that_do_not_mix_are_named(three_nights: Path, tmp_path: Path) -> None:
    path = shutil.copytree(three_nights, tmp_path / "published")
    examples = _write(world.examples([world.day(2), world.day(9)], [103] * 2, ["i03"] * 2), tmp_path / "e.parquet")
    space = kar.release.open(path).space_id
    kar.release.join_files(path, examples, tmp_path / "good.parquet", space_id=space)
    with pytest.raises(SpaceMismatch, match=f"lives in space {space}, not in another"):
        kar.release.join_files(path, examples, tmp_path / "out.parquet", space_id="another")
    world.publish_day(path, 4, adaptor={"sha": "b" * 64})
    with pytest.raises(SpaceMismatch, match="adapted vectors of several spaces"):
        kar.release.join_files(path, examples, tmp_path / "out.parquet")
    kar.release.join_files(path, examples, tmp_path / "rows.parquet", rows_only=True)  # each row names its release
    assert not (tmp_path / "out.parquet").exists()


def test_a_view_that_no_release_holds_is_named(three_nights: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"holds adapted vectors of \['user.mood'\]"):
        kar.release.join_files(three_nights, _write(_some(3), tmp_path / "e.parquet"), tmp_path / "o.parquet", views=["user.mood"])


def test_a_release_that_is_gone_is_named_before_anything_is_written(three_nights: Path, tmp_path: Path) -> None:
    path = shutil.copytree(three_nights, tmp_path / "published")
    shutil.rmtree(path / "releases" / min(one.id for one in kar.release.list_releases(path)))
    _write(_some(300), tmp_path / "e.parquet")
    with pytest.raises(ReleaseNotFound, match="served at the time of some examples, is gone"):
        kar.release.join_files(path, tmp_path / "e.parquet", tmp_path / "out.parquet")
    assert {one.name for one in tmp_path.iterdir()} == {"published", "e.parquet"}
