"""A reader's lease: taken, renewed, given back, and what happens where it cannot be."""

from __future__ import annotations

import datetime as dt
import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kar.release
from kar.errors import ReleaseCorrupt, ReleaseError, ReleaseNotFound
from kar.release import leases
from kar.release.publish import Published
from tests.release import world

REPOSITORY = Path(__file__).resolve().parents[2]


class Clock:
    """Stands still until it is set."""

    def __init__(self, now: dt.datetime) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now


def files(published: Path) -> list[Path]:
    return sorted((published / "leases").glob("*.json"))


def wait_until(is_so: object, seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < until, "it never came"
        time.sleep(0.01)


def test_a_lease_says_who_reads_what_and_is_gone_after_the_block(night: Published, tmp_path: Path) -> None:
    release = kar.release.open(tmp_path)
    with release.lease(300, "a training"):
        told = leases.read_all(tmp_path)
        assert [(one.release, one.reader, one.pid) for one in told] == [(release.id, "a training", os.getpid())]
        assert dt.timedelta(0) <= told[0].expires_at - told[0].taken_at - dt.timedelta(seconds=300) < dt.timedelta(seconds=5)
        assert list(leases.live(tmp_path, told[0].taken_at)) == [release.id]
    assert files(tmp_path) == []


def test_a_lease_is_given_back_when_the_block_fails(night: Published, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), kar.release.open(tmp_path).lease(300):
        _ = 1 / 0
    assert files(tmp_path) == []


def test_a_thread_renews_a_lease_before_it_runs_out(night: Published, tmp_path: Path) -> None:
    with kar.release.open(tmp_path).lease(0.15) as lease:
        first = leases.read_all(tmp_path)[0].expires_at
        wait_until(lambda: leases.read_all(tmp_path)[0].expires_at >= first + dt.timedelta(seconds=0.3))
        assert lease.is_held
        assert lease.problem == ""


def test_an_opened_release_keeps_its_lease_as_long_as_the_object_lives(night: Published, tmp_path: Path) -> None:
    release = kar.release.open(tmp_path, lease_s=300)
    assert [one.release for one in leases.read_all(tmp_path)] == [release.id]
    assert release.vectors("user", "user.preference", [103])[0][0, 0] == 1.0
    del release
    gc.collect()
    assert files(tmp_path) == []


def test_a_release_that_cannot_be_opened_leaves_no_lease_behind(night: Published, tmp_path: Path) -> None:
    gone = min(night.path.rglob("*.npy"))
    gone.unlink()
    with pytest.raises(ReleaseCorrupt, match=rf"{gone.name} is missing"):
        kar.release.open(tmp_path, lease_s=300)
    assert files(tmp_path) == []


def test_renewing_under_a_clock_that_went_backwards_shortens_nothing(night: Published, tmp_path: Path) -> None:
    clock = Clock(world.day(10))
    with leases.Lease(tmp_path, night.path.name, 3600, clock=clock) as lease:
        clock.now = world.day(3)
        lease.renew()
        assert leases.read_all(tmp_path)[0].expires_at == world.day(10) + dt.timedelta(hours=1)
        clock.now = world.day(11)
        lease.renew()
        assert leases.read_all(tmp_path)[0].expires_at == world.day(11) + dt.timedelta(hours=1)


def test_a_lease_lives_on_for_the_difference_of_two_machines_clocks(night: Published, tmp_path: Path) -> None:
    clock = Clock(world.day(10))
    with leases.Lease(tmp_path, night.path.name, 3600, clock=clock) as lease:
        ends = lease.told.expires_at + leases.ALLOWANCE
        assert lease.told.is_live(ends)
        assert not lease.told.is_live(ends + dt.timedelta(seconds=1))
        assert leases.live(tmp_path, ends + dt.timedelta(seconds=1)) == {}
        clock.now = ends + dt.timedelta(seconds=1)
        assert not lease.is_held


def test_a_lease_on_a_release_that_is_gone_is_refused_and_leaves_no_file(night: Published, tmp_path: Path) -> None:
    release = kar.release.open(tmp_path)
    shutil.rmtree(night.path)
    with pytest.raises(ReleaseNotFound, match=rf"there is no release '{night.path.name}'"):
        release.lease(300)
    assert files(tmp_path) == []


def test_a_lease_that_ran_out_and_whose_release_went_says_so(night: Published, tmp_path: Path) -> None:
    with kar.release.open(tmp_path).lease(0.05) as lease:
        shutil.rmtree(night.path)
        wait_until(lambda: lease.problem)
        assert "there is no release" in lease.problem


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 8 * 24 * 3600])
def test_a_lease_of_no_time_or_of_weeks_is_refused_and_names_pin(night: Published, tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ReleaseError, match=r"a lease of .* is none[\s\S]*kar release pin"):
        kar.release.open(tmp_path).lease(seconds)


def test_a_release_outside_a_published_folder_needs_no_lease(night: Published, tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy" / night.path.name
    shutil.copytree(night.path, elsewhere)
    with pytest.raises(ReleaseError, match="lies in no published folder"):
        kar.release.open(elsewhere).lease(60)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"release": "a"}', '{"release": "a", "reader": "b", "pid": 1, "host": "h", "taken_at": 3}']
)
def test_a_damaged_lease_file_is_named(night: Published, tmp_path: Path, content: str) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "broken.json").write_text(content)
    with pytest.raises(ReleaseCorrupt, match=r"broken\.json .*\n  do: see that no reader is running"):
        leases.read_all(tmp_path)
    with kar.release.open(tmp_path).lease(60):  # a reader is not kept from reading by another's damage
        assert len(files(tmp_path)) == 2


def test_a_lease_that_cannot_be_written_names_the_folder(night: Published, tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("a file where the folder should be")
    with pytest.raises(ReleaseError, match=r"no lease could be written in .*leases"):
        kar.release.open(tmp_path).lease(60)


def test_a_copy_in_another_process_neither_renews_nor_ends_the_lease(night: Published, tmp_path: Path) -> None:
    with kar.release.open(tmp_path).lease(300) as lease:
        copy = pickle.loads(pickle.dumps(lease))
        copy.close()
        copy.renew()
        assert not copy.is_held
        child = os.fork()
        if child == 0:
            lease.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert len(files(tmp_path)) == 1


def test_the_file_of_a_killed_reader_stays_until_it_runs_out(night: Published, tmp_path: Path) -> None:
    script = "import sys, kar.release\nlease = kar.release.open(sys.argv[1]).lease(300)\nprint('held', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "held\n"
        reader.kill()
    told = json.loads(files(tmp_path)[0].read_text())
    assert told["pid"] == reader.pid
    ended = leases.read_all(tmp_path)[0].expires_at + dt.timedelta(minutes=2)
    with leases.keeping(tmp_path, alone=True):
        assert leases.drop_run_out(tmp_path, ended - dt.timedelta(minutes=3)) == 0
        assert leases.drop_run_out(tmp_path, ended) == 1
    assert files(tmp_path) == []


def test_a_reader_that_ends_gives_its_lease_back(night: Published, tmp_path: Path) -> None:
    script = "import sys, kar.release\nrelease = kar.release.open(sys.argv[1], lease_s=300)\nprint(len(list(release.views('user'))))"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, check=True, capture_output=True)
    assert files(tmp_path) == []
