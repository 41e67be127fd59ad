"""Nights that share files: what is linked, what a layer holds, and that no history of nights shows in what a reader gets."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kar.release
from kar.errors import ReleaseCorrupt
from kar.release import durable, layout
from kar.release.publish import Published, publish
from kar.release.rows import Layering, SideRows, ViewRows
from tests.release import world

A, T = 3, 2
# where there is a file system in memory, hundreds of small releases need not wait for a disk
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
VIEWS = ("user.preference", "user.taste")
ONE = Layering()


def _side(subjects: dict[Any, int], *, text: bool = False) -> SideRows:
    """Every subject with vectors, times and words that its number tells; a number below 0 is one without knowledge."""
    ids = sorted(subjects, key=str.encode) if text else sorted(subjects)
    numbers = np.array([subjects[id_] for id_ in ids], np.int64)
    return SideRows("user", pa.array(ids, pa.string() if text else pa.int64()), tuple(_view(view, numbers) for view in VIEWS))


def _view(view: str, numbers: np.ndarray) -> ViewRows:
    numbers = numbers if view == VIEWS[0] else numbers // 2  # some changes touch one view only
    is_missing, default = numbers < 0, np.full(A, 0.5, np.float32)
    adapted, knowledge = np.zeros((len(numbers), A), np.float32), np.zeros((len(numbers), T), np.float32)
    adapted[:, 0], knowledge[:, 1] = numbers, -numbers
    adapted[is_missing], knowledge[is_missing] = default, 0.0
    told = [None if n < 0 else int(n) for n in numbers]
    times = pa.array([None if n is None else world.day(n % 7) for n in told], layout.TIME)
    words = pa.array([None if n is None else f"w{n % 3}" for n in told], pa.string())
    return ViewRows(view, is_missing, adapted, knowledge, default, times, times, words, words)


def _publish(path: Path, subjects: dict[Any, int], number: int, *, text: bool = False, layering: Layering = ONE) -> Published:
    return publish(path, (_side(subjects, text=text), world.sides()[1]), world.facts(world.day(number)), layering=layering)


def _bytes(release: kar.release.Release) -> tuple[Any, ...]:
    """All that a reader can get of the users."""
    rows = np.arange(len(release.ids("user")))
    return (
        release.ids("user").to_pylist(),
        release.table("user").to_pylist(),
        *(release.gather(view, rows, kind).tobytes() for view in VIEWS for kind in layout.KINDS),
        *(np.asarray(release.matrix(view, kind)).tobytes() for view in VIEWS for kind in layout.KINDS),
        *(release.is_missing("user", view).tobytes() for view in VIEWS),
        *(release.evidence_newest_us("user", view).tobytes() for view in VIEWS),
    )


_NIGHT = st.dictionaries(st.integers(0, 30), st.integers(-2, 6), max_size=31)


@settings(max_examples=10, deadline=None)
@given(
    nights=st.lists(st.tuples(_NIGHT, st.sets(st.integers(0, 30), max_size=6)), min_size=1, max_size=4),
    text=st.booleans(),
    most=st.integers(1, 4),
    bucket_rows=st.sampled_from([12, 1000]),
)
def test_no_history_of_nights_shows_in_a_release(
    nights: list[tuple[dict[int, int], set[int]]], text: bool, most: int, bucket_rows: int
) -> None:
    """Each night changes and adds some, and removes some; by layers it is the very release that one publication of it all is."""
    layering = Layering(bucket_rows=bucket_rows, compact_at=0.6, most_layers=most)
    subjects: dict[Any, int] = {(f"uü{n}" if text else 3 * n - 20): n for n in range(12)}
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        for number, (changes, gone) in enumerate([({}, set()), *nights]):
            for n, value in changes.items():
                subjects[f"uü{n}" if text else 3 * n - 20] = value
            for n in gone:
                subjects.pop(f"uü{n}" if text else 3 * n - 20, None)
            by_layers = _publish(Path(folder) / "nightly", subjects, number, text=text, layering=layering)
        whole = _publish(Path(folder) / "once", subjects, len(nights), text=text)
        assert whole.path.name == by_layers.path.name
        nightly, once = kar.release.open(by_layers.path, verify=True), kar.release.open(whole.path, verify=True)
        assert _bytes(nightly) == _bytes(once)
        row_of = {id_: row for row, id_ in enumerate(once.ids("user").to_pylist())}
        asked = [*subjects, *(["", "zz"] if text else [-99, 10**12])]
        kind = pa.string() if text else pa.int64()
        fresh = kar.release.open(by_layers.path)
        for some in (asked[:2], asked[-1:], asked):  # few questions are answered otherwise than many
            assert fresh.rows("user", pa.array(some, kind)).tolist() == [row_of.get(id_, -1) for id_ in some]


def _inode(done: Published, name: str) -> int:
    return (done.path / name).stat().st_ino


THOUSAND = {n: n for n in range(1000)}


def _layers(done: Published) -> list[tuple[int, int, int, int]]:
    return [(f["bucket"], f["layer"], f["rows"], f["removed"]) for f in done.manifest["tables"]["user_knowledge"]["files"]]


def test_a_night_writes_a_layer_of_what_changed_and_links_the_rest(tmp_path: Path) -> None:
    first = _publish(tmp_path, THOUSAND, 0)
    changed = {**THOUSAND, 7: 8, 2000: 1}
    del changed[400]
    second = _publish(tmp_path, changed, 1)
    assert _layers(second) == [(0, 0, 1000, 0), (0, 1, 3, 1)]
    for entry in ("user_knowledge/part-00-0.parquet", "users.preference.adapted-00-0.npy", "users.index-00-0.arrow"):
        assert _inode(first, entry) == _inode(second, entry)
    for entry in ("item_knowledge/part-00-0.parquet", "items.facts.adapted-00-0.npy"):  # the items did not change at all
        assert _inode(first, entry) == _inode(second, entry)
    layer = pq.read_table(second.path / "user_knowledge/part-00-1.parquet").to_pylist()
    assert [(row["user_id"], row["layer"], row["is_removed"]) for row in layer] == [(7, 1, False), (400, 1, True), (2000, 1, False)]
    assert second.written_bytes == second.manifest["bytes"]["written"]
    total = sum(path.stat().st_size for path in second.path.rglob("*") if path.is_file() and path.name != "manifest.json")
    assert sum(second.manifest["bytes"].values()) == total


def test_an_unchanged_bucket_is_linked_and_a_changed_one_is_not(tmp_path: Path) -> None:
    first = _publish(tmp_path, THOUSAND, 0, layering=Layering(bucket_rows=250))
    second = _publish(tmp_path, {**THOUSAND, 3: 99}, 1, layering=Layering(bucket_rows=250))
    assert [file[:2] for file in _layers(first)] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert len(_layers(second)) == 5
    assert second.written_bytes < 0.1 * first.written_bytes


def test_a_bucket_is_written_whole_again_once_its_layers_hold_a_quarter_of_it_or_are_too_many(tmp_path: Path) -> None:
    layering = Layering(compact_at=0.25, most_layers=3)
    _publish(tmp_path, THOUSAND, 0, layering=layering)
    found = []
    subjects = dict(THOUSAND)
    for number, count in enumerate((100, 100, 100, 1, 1, 1, 1), start=1):
        subjects |= dict.fromkeys(range(count), 5000 + number)
        found.append([layer for _, layer, _, _ in _layers(_publish(tmp_path, subjects, number, layering=layering))])
    assert found == [[0, 1], [0, 1, 2], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0]]


def test_another_space_or_other_views_share_nothing(tmp_path: Path) -> None:
    first = _publish(tmp_path, THOUSAND, 0)
    side = _side(THOUSAND)
    fewer = SideRows("user", side.ids, side.views[:1])
    second = publish(tmp_path, (fewer, world.sides()[1]), world.facts(world.day(1)))
    assert _layers(second) == [(0, 0, 1000, 0)]
    assert _inode(first, "users.index-00-0.arrow") != _inode(second, "users.index-00-0.arrow")
    kar.release.verify(tmp_path)


def test_a_damaged_file_of_the_release_before_is_not_handed_on(tmp_path: Path) -> None:
    first = _publish(tmp_path, THOUSAND, 0)
    path = first.path / "users.preference.adapted-00-0.npy"
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x10
    path.write_bytes(bytes(data))
    second = _publish(tmp_path, {**THOUSAND, 7: 8}, 1)
    assert _layers(second) == [(0, 0, 1000, 0)]
    kar.release.verify(second.path)
    with pytest.raises(ReleaseCorrupt, match="the sha256 should be"):
        kar.release.verify(first.path)


@pytest.mark.parametrize("name", ["users.index-00-1.arrow", "user_knowledge/part-00-1.parquet", "users.taste.knowledge-00-1.npy"])
def test_a_flipped_byte_in_a_layer_is_found_by_name(tmp_path: Path, name: str) -> None:
    _publish(tmp_path, THOUSAND, 0)
    done = _publish(tmp_path, {**THOUSAND, 7: 8}, 1)
    data = bytearray((done.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (done.path / name).write_bytes(bytes(data))
    with pytest.raises(ReleaseCorrupt, match=f"{name}: the sha256 should be"):
        kar.release.verify(done.path)


def test_a_job_without_our_code_reads_layers_with_one_clause(tmp_path: Path) -> None:
    _publish(tmp_path, THOUSAND, 0)
    changed = {**THOUSAND, 7: 8, 2000: 1}
    del changed[400]
    done = _publish(tmp_path, changed, 1)
    files = f"{done.path}/user_knowledge/*.parquet"
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"select user_id, preference_adapted_vector[1] from read_parquet('{files}') "
            "qualify row_number() over (partition by user_id order by layer desc) = 1 and not is_removed order by user_id"
        ).fetchall()
    assert rows == sorted(changed.items())


def test_the_files_are_copied_where_they_cannot_be_linked(tmp_path: Path) -> None:
    """/dev/shm is another file system, so that no hard link crosses over."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    (tmp_path / "a").write_bytes(b"vectors")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        durable.link(tmp_path / "a", Path(folder) / "b")
        assert (Path(folder) / "b").read_bytes() == b"vectors"
