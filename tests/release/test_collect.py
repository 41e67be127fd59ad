"""What collect keeps, what it removes, and when it refuses; and pins."""

from __future__ import annotations

import datetime as dt
import gc
import json
import os
import shutil
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import kar.release
from kar.errors import ReleaseBusy, ReleaseCorrupt, ReleaseError, ReleaseNotFound
from kar.release import durable, leases, manifest, pins, pointer
from kar.release.collect import judge, remove
from kar.release.loader import Stream
from tests.release import world

LATER = world.day(1000)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nights 0 … 5 are published; 2 and 3 were not promoted."""
    folder = tmp_path_factory.mktemp("six")
    for number in range(6):
        world.publish_day(folder, number, promote=number not in (2, 3))
    return folder


@pytest.fixture
def shelf(six: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    shutil.copytree(six, folder)
    return folder


def night(published: Path, number: int) -> str:
    return next(name for name in pointer.ids(published) if name.startswith(f"{world.day(number).date()}"))


def nights(published: Path) -> list[int]:
    """The numbers of the nights that are there."""
    return [int(name[8:10]) - 1 for name in pointer.ids(published)]


def test_the_releases_served_last_and_the_last_of_those_never_served_are_kept(shelf: Path) -> None:
    first = [night(shelf, 0), night(shelf, 1)]
    assert kar.release.collect(shelf, keep=2, at=LATER).removed == first
    assert nights(shelf) == [2, 3, 4, 5]
    kar.release.collect(shelf, keep=1, at=LATER)
    assert nights(shelf) == [3, 5]
    assert kar.release.open(shelf, verify=True).data_cutoff == world.day(5.5)


def test_a_dry_run_says_the_same_and_removes_nothing(shelf: Path) -> None:
    dry = kar.release.collect(shelf, keep=1, at=LATER, dry_run=True)
    assert nights(shelf) == [0, 1, 2, 3, 4, 5]
    done = kar.release.collect(shelf, keep=1, at=LATER)
    assert dry.judged == done.judged
    assert dry.freed_bytes == done.freed_bytes > 0
    assert (dry.is_dry_run, done.is_dry_run) == (True, False)


def test_every_release_has_its_reasons(shelf: Path) -> None:
    pins.add(shelf, night(shelf, 0), "study 7", at=world.day(9))
    with kar.release.open(shelf / "releases" / night(shelf, 1)).lease(300, "a training"):
        judged = {int(one.release[8:10]) - 1: one.why for one in judge(shelf, 1, dt.datetime.now(dt.UTC))}
    assert judged[0] == ("pinned: study 7",)
    assert judged[1][0].startswith(f"leased by a training (process {os.getpid()} on ")
    assert judged[2] == ()
    assert judged[3] == ("among the 1 published last that never were served",)
    assert judged[4] == ()
    assert judged[5] == ("served now",)


def test_the_release_served_now_is_kept_even_after_a_rollback_to_an_old_one(shelf: Path) -> None:
    kar.release.rollback(shelf, night(shelf, 0), at=world.day(20))
    kar.release.collect(shelf, keep=1, at=LATER)
    assert nights(shelf) == [0, 3]
    assert kar.release.open(shelf, verify=True).data_cutoff == world.day(0.5)


def test_a_leased_release_stays_until_its_lease_is_given_back(shelf: Path) -> None:
    old = kar.release.open(shelf / "releases" / night(shelf, 0))
    with old.lease(300):
        kar.release.collect(shelf, keep=1)
        assert nights(shelf) == [0, 3, 5]
        assert old.vectors("user", "user.preference", [103])[0][0, 0] == 1.0
    kar.release.collect(shelf, keep=1)
    assert nights(shelf) == [3, 5]


def test_a_lease_that_ran_out_protects_nothing_and_its_file_goes(shelf: Path) -> None:
    lease = leases.Lease(shelf, night(shelf, 0), 300, clock=lambda: world.day(6))
    assert kar.release.collect(shelf, keep=1, at=world.day(6)).leases_run_out == 0
    assert nights(shelf) == [0, 3, 5]
    told = kar.release.collect(shelf, keep=1, at=world.day(7))
    assert (told.leases_run_out, nights(shelf)) == (1, [3, 5])
    with pytest.raises(ReleaseNotFound, match=r"to lease: kar release collect removed 2026-11-01-\w+ at 2026-11-08T00"):
        lease.renew()
    lease.close()


def test_an_open_that_leases_never_meets_a_release_without_its_files(shelf: Path) -> None:
    release = kar.release.open(shelf, lease_s=300)
    world.publish_day(shelf, 6)
    kar.release.collect(shelf, keep=1)
    assert nights(shelf) == [3, 5, 6]
    assert release.vectors("item", "item.facts", ["i03"])[0][0, 0] == 5003.0


def test_a_join_that_needs_a_collected_release_names_collect_and_what_to_keep(shelf: Path) -> None:
    asked = world.examples([world.day(2.5)], [103], ["i03"])
    assert kar.release.join(shelf, asked).releases[0].id == night(shelf, 1)
    kar.release.collect(shelf, keep=1, at=LATER)
    with pytest.raises(ReleaseNotFound, match=r"kar release collect removed 2026-11-02-\w+ at 2029-[\s\S]*do: .*features\.keep"):
        kar.release.join(shelf, asked)
    with pytest.raises(ReleaseNotFound, match=r"kar release collect removed 2026-11-02"):
        kar.release.open(shelf, as_of=world.day(2.5))
    recent = world.examples([world.day(6.5)], [103], ["i03"])
    assert kar.release.join(shelf, recent).user_rows.tolist() == [1]


def test_a_leased_join_keeps_every_release_that_serves_it_until_it_is_dropped(shelf: Path) -> None:
    asked = world.examples([world.day(1.5), world.day(2.5)], [103, 103], ["i03", "i03"])
    joined = kar.release.join(shelf, asked, lease_s=300)
    kar.release.collect(shelf, keep=1)
    assert nights(shelf) == [0, 1, 3, 5]
    assert joined.vectors("item", "item.facts")[0][:, 0].tolist() == [3.0, 1003.0]
    del joined
    gc.collect()
    kar.release.collect(shelf, keep=1)
    assert nights(shelf) == [3, 5]


def test_a_leased_stream_keeps_its_releases_over_all_epochs(shelf: Path, tmp_path: Path) -> None:
    pq.write_table(world.examples([world.day(1.5), world.day(2.5)], [103, 103], ["i03", "i03"]), tmp_path / "e.parquet")
    stream = Stream(shelf, tmp_path / "e.parquet", lease_s=300)
    kar.release.collect(shelf, keep=1)
    assert nights(shelf) == [0, 1, 3, 5]
    for _ in range(2):
        assert [batch.vectors["item.facts"][:, 0].tolist() for batch in stream] == [[3.0, 1003.0]]


def test_a_pin_made_for_a_report_goes_with_that_report_alone(shelf: Path) -> None:
    name = night(shelf, 0)
    pins.add(shelf, name, at=world.day(9))
    pins.add(shelf, name, report_date="2026-11-01", at=world.day(9))
    pins.add(shelf, name, "other words", report_date="2026-11-01", at=world.day(9))
    assert [str(pin) for pin in pins.read(shelf)] == ["pinned", "pinned with the report of 2026-11-01: other words"]
    assert [pin.report_date for pin in pins.remove(shelf, report_date="2026-11-01")] == ["2026-11-01"]
    kar.release.collect(shelf, keep=1, at=LATER)
    assert 0 in nights(shelf)
    pins.remove(shelf, name)
    kar.release.collect(shelf, keep=1, at=LATER)
    assert 0 not in nights(shelf)


def test_what_is_not_there_cannot_be_pinned_and_what_is_not_pinned_not_unpinned(shelf: Path) -> None:
    with pytest.raises(ReleaseNotFound, match="there is no release 'nothing'"):
        pins.add(shelf, "nothing")
    with pytest.raises(ReleaseError, match=r"the report of 2026-11-01 is not pinned[\s\S]*pinned is nothing"):
        pins.remove(shelf, report_date="2026-11-01")
    assert not (shelf / "pins.json").exists()


@pytest.mark.parametrize(
    ("damaged", "says"),
    [("pins.json", "nobody can say what is pinned"), ("leases/x.json", "so none is removed"), ("CURRENT", "CURRENT")],
)
@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_file_that_could_protect_a_release_stops_collect(shelf: Path, damaged: str, says: str, content: str) -> None:
    (shelf / "leases").mkdir(exist_ok=True)
    (shelf / damaged).write_text(content)
    for dry_run in (True, False):
        with pytest.raises(ReleaseCorrupt, match=says):
            kar.release.collect(shelf, keep=1, at=LATER, dry_run=dry_run)
    assert nights(shelf) == [0, 1, 2, 3, 4, 5]


def test_a_current_that_points_nowhere_stops_collect(shelf: Path) -> None:
    shutil.rmtree(shelf / "releases" / night(shelf, 5))
    with pytest.raises(ReleaseNotFound, match="points at release"):
        kar.release.collect(shelf, keep=1, at=LATER)
    assert nights(shelf) == [0, 1, 2, 3, 4]


def test_a_release_that_this_version_cannot_read_is_kept_and_says_why(shelf: Path) -> None:
    path = shelf / "releases" / night(shelf, 1) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": manifest.FORMAT + 7}))
    told = {one.release: one.why for one in kar.release.collect(shelf, keep=1, at=LATER).judged}
    assert nights(shelf) == [1, 3, 5]
    assert "cannot be read" in told[night(shelf, 1)][0]


def test_collect_does_not_work_while_someone_publishes_and_says_who(shelf: Path) -> None:
    with durable.publisher_lock(shelf), pytest.raises(ReleaseBusy, match=rf"process {os.getpid()} on \S+ has been publishing since 20"):
        kar.release.collect(shelf, keep=1, at=LATER, wait_s=0.1)
    assert nights(shelf) == [0, 1, 2, 3, 4, 5]


def test_a_collector_that_was_killed_is_finished_by_the_next(shelf: Path) -> None:
    name = night(shelf, 0)
    (shelf / "releases" / name).rename(shelf / "releases" / f".{name}.0a1b2c3d.removed")
    assert nights(shelf) == [1, 2, 3, 4, 5]
    kar.release.collect(shelf, keep=9, at=LATER)
    assert not list((shelf / "releases").glob(".*"))
    assert "kar release collect removed" in pointer.gone(shelf, name)


def test_a_file_that_another_release_links_is_not_counted_as_freed_until_both_go(shelf: Path) -> None:
    zero, one = (shelf / "releases" / night(shelf, number) for number in (0, 1))
    shared = min(path.relative_to(zero) for path in zero.rglob("*.npy"))
    (one / shared).unlink()
    os.link(zero / shared, one / shared)
    size = {path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in (zero, one)}
    common = (one / shared).stat().st_size
    assert kar.release.collect(shelf, keep=2, at=LATER, dry_run=True).freed_bytes == size[zero] + size[one] - common
    pins.add(shelf, one.name)
    assert kar.release.collect(shelf, keep=2, at=LATER).freed_bytes == size[zero] - common
    assert (one / shared).stat().st_size == common


def test_another_may_remove_a_release_only_if_it_is_neither_served_nor_leased(shelf: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    with pytest.raises(ReleaseError, match="is served now"):
        remove(shelf, night(shelf, 5), now, "kar forget")
    old = night(shelf, 0)
    with kar.release.open(shelf / "releases" / old).lease(60, "a study"), pytest.raises(ReleaseError, match="is leased by a study"):
        remove(shelf, old, now, "kar forget")
    remove(shelf, old, now, "kar forget")
    assert "kar forget removed" in pointer.gone(shelf, old)
    assert nights(shelf) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("keep", [0, -3])
def test_at_least_one_release_is_kept(shelf: Path, keep: int) -> None:
    with pytest.raises(ReleaseError, match=rf"cannot keep {keep} releases"):
        kar.release.collect(shelf, keep=keep)


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ReleaseNotFound, match="there is no folder"):
        kar.release.collect(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_readers_with_leases_miss_no_file_while_one_publishes_and_one_collects(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    stop = threading.Event()
    faults: list[str] = []
    opened: set[str] = set()

    def read() -> None:
        while not stop.is_set():
            try:
                release = kar.release.open(tmp_path, lease_s=30)
                user = release.vectors("user", "user.preference", [103])[0][0, 0]
                item = release.vectors("item", "item.facts", ["i03"])[0][0, 0]
                opened.add(release.id)
                if item - user != 2.0:
                    faults.append(f"{release.id} mixes {user} and {item}")
            except ReleaseError as error:
                faults.append(str(error))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, 9):
        world.publish_day(tmp_path, number)
        kar.release.collect(tmp_path, keep=1)
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert len(opened) > 2
    assert len(pointer.ids(tmp_path)) <= 4


def test_a_collected_night_can_be_published_again_and_moves_nothing(shelf: Path) -> None:
    name = night(shelf, 0)
    kar.release.collect(shelf, keep=1, at=LATER)
    again = world.publish_day(shelf, 0)
    assert (again.path.name, again.is_new, again.is_promoted) == (name, True, False)
    assert kar.release.open(shelf, as_of=world.day(1.5)).id == name
