"""A publisher may die at any instant: CURRENT always opens and verifies, and the next publisher cleans up."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import kar.release
from kar.release import pointer
from tests.release import world

REPOSITORY = Path(__file__).resolve().parents[2]

_PUBLISH_FOREVER = """
import itertools, pathlib, sys
from tests.release import world
print("ready", flush=True)
for number in itertools.count(int(sys.argv[2])):
    world.publish_day(pathlib.Path(sys.argv[1]), number)
    print("published", flush=True)
"""

# Python tells an audit hook about every open, mkdir, link, rename and remove before it happens; the n-th one kills the process.
_DIE_AT_EACH_STEP = """
import os, pathlib, signal, sys
from tests.release import world
path = pathlib.Path(sys.argv[1])
steps = {"open", "os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir"}
deaths, stride = 0, int(sys.argv[2])
while True:
    child = os.fork()
    if child == 0:
        seen = 0
        def hook(event, args):
            global seen
            if event in steps and str(path) in str(args[0]):
                if seen == deaths:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
        sys.addaudithook(hook)
        world.publish_day(path, 1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else "done", flush=True)
    if not os.WIFSIGNALED(status):
        break
    sys.stdin.readline()
    deaths += stride
"""


def _python(script: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_publisher_killed_at_random_instants_never_breaks_current(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    generator = random.Random(5)
    dates = []
    for after in (0, 1, 0, 2, 1):
        first = len(dates) * 1000 + 1
        with _python(_PUBLISH_FOREVER, tmp_path, first) as publisher:
            assert publisher.stdout is not None
            assert publisher.stdout.readline() == "ready\n"
            for _ in range(after):
                assert publisher.stdout.readline() == "published\n"
            time.sleep(generator.uniform(0.0, 0.1))
            publisher.send_signal(signal.SIGKILL)
        dates.append(kar.release.open(tmp_path, verify=True).manifest["date"])
        for release in pointer.ids(tmp_path):
            kar.release.verify(tmp_path / "releases" / release)
    assert dates == sorted(dates)
    assert dates[-1] > "2026-11-01"
    world.publish_day(tmp_path, 9_000)
    assert not list((tmp_path / "releases").glob(".*"))


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_a_publisher_killed_before_each_of_its_file_operations_never_breaks_current(tmp_path: Path, stride: int) -> None:
    """Every operation with the slow mark, every seventh without."""
    old = world.publish_day(tmp_path, 0).path.name
    served = []
    with _python(_DIE_AT_EACH_STEP, tmp_path, stride) as publisher:
        assert publisher.stdout is not None
        assert publisher.stdin is not None
        while publisher.stdout.readline() == "killed\n":
            served.append(kar.release.open(tmp_path, verify=len(served) % 4 == 0).id)
            publisher.stdin.write("on\n")
            publisher.stdin.flush()
    new = kar.release.open(tmp_path, verify=True)
    assert len(served) * stride > 25, f"only {len(served)} file operations were seen: the hook missed them"
    assert set(served) <= {old, new.id}
    assert new.manifest["date"] == "2026-11-02"
    assert not list((tmp_path / "releases").glob(".*"))


def test_readers_see_only_whole_releases_while_one_publishes(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    stop = threading.Event()
    faults: list[str] = []
    opened: set[str] = set()

    def read() -> None:
        while not stop.is_set():
            release = kar.release.open(tmp_path)
            user, item = release.vectors("user", "user.preference", [103])[0][0, 0], release.vectors("item", "item.facts", ["i03"])[0][0, 0]
            opened.add(release.id)
            if item - user != 2.0:
                faults.append(f"{release.id} mixes {user} and {item}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, 13):
        world.publish_day(tmp_path, number)
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert len(opened) > 2


def test_two_publishers_at_once_both_finish(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys\nfrom tests.release import world\n"
        "for n in range(5): world.publish_day(pathlib.Path(sys.argv[1]), n + 100 * int(sys.argv[2]))"
    )
    publishers = [_python(script, tmp_path, number) for number in (0, 1)]
    for publisher in publishers:
        publisher.communicate(timeout=60)
        assert publisher.returncode == 0
    assert len(kar.release.list_releases(tmp_path)) == 10
    assert kar.release.open(tmp_path, verify=True).data_cutoff == world.day(104.5)


@pytest.mark.parametrize("reader", ["mapped", "not yet read"])
def test_a_matrix_that_is_mapped_outlives_the_release(tmp_path: Path, reader: str) -> None:
    done = world.publish_day(tmp_path, 0)
    release = kar.release.open(tmp_path)
    if reader == "mapped":
        before = release.vectors("user", "user.preference", [103])[0]
    for path in done.path.rglob("*"):
        if path.is_file():
            path.unlink()
    if reader == "mapped":
        assert (release.vectors("user", "user.preference", [103])[0] == before).all()
    else:
        with pytest.raises(kar.release.ReleaseNotFound, match="deleted while it was open"):
            release.vectors("user", "user.preference", [103])
