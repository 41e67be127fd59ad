"""Listing, promoting and rolling back; two who do so at once."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import kar.release
from kar.errors import ReleaseBusy, ReleaseCorrupt, ReleaseError, ReleaseNotFound
from kar.release import durable, manifest, pins, pointer, shelf
from kar.release.publish import publish
from tests.release import world


def test_the_newest_publication_is_listed_first_and_marks_the_current_one(tmp_path: Path) -> None:
    done = [world.publish_day(tmp_path, number) for number in (3, 4, 1)]
    listed = kar.release.list_releases(tmp_path)
    assert [one.id for one in listed] == [done[1].path.name, done[0].path.name, done[2].path.name]
    assert [one.is_current for one in listed] == [True, False, False]
    assert [one.served_since is None for one in listed] == [False, False, True]
    assert listed[0].data_cutoff == world.day(4.5)
    assert listed[0].published_at == world.day(5) + dt.timedelta(hours=2)
    assert listed[0].space_id == done[1].manifest["space_id"]


def test_an_empty_folder_lists_nothing(tmp_path: Path) -> None:
    assert kar.release.list_releases(tmp_path) == []


def test_a_damaged_release_is_listed_with_its_problem(tmp_path: Path) -> None:
    first, second = world.publish_day(tmp_path, 0), world.publish_day(tmp_path, 1)
    (first.path / "manifest.json").write_text("{")
    listed = {one.id: one for one in kar.release.list_releases(tmp_path)}
    assert "is not JSON" in listed[first.path.name].problem
    assert listed[second.path.name].problem == ""


def test_a_held_back_release_can_be_promoted_later(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    held = world.publish_day(tmp_path, 1, promote=False)
    assert kar.release.promote(tmp_path, held.path.name, at=world.day(8))["release"] == held.path.name
    assert kar.release.open(tmp_path).id == held.path.name
    assert kar.release.open(tmp_path, as_of=world.day(7)).id != held.path.name


def test_promoting_what_is_served_already_changes_nothing(tmp_path: Path) -> None:
    done = world.publish_day(tmp_path, 0)
    before = (tmp_path / "CURRENT").read_bytes()
    kar.release.promote(tmp_path, done.path.name)
    assert (tmp_path / "CURRENT").read_bytes() == before


def test_promoting_an_older_release_is_refused_and_names_rollback(tmp_path: Path) -> None:
    first = world.publish_day(tmp_path, 0)
    second = world.publish_day(tmp_path, 1)
    with pytest.raises(ReleaseError, match=rf"is not newer[\s\S]*do: .*kar release rollback {first.path.name}"):
        kar.release.promote(tmp_path, first.path.name)
    assert kar.release.open(tmp_path).id == second.path.name


def test_a_rollback_serves_the_older_release_until_a_newer_night(tmp_path: Path) -> None:
    first = world.publish_day(tmp_path, 0)
    world.publish_day(tmp_path, 1)
    kar.release.rollback(tmp_path, first.path.name, at=world.day(3))
    assert kar.release.open(tmp_path, verify=True).id == first.path.name
    third = world.publish_day(tmp_path, 2)
    assert kar.release.open(tmp_path).id == third.path.name


def test_a_damaged_release_cannot_be_promoted(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    held = world.publish_day(tmp_path, 1, promote=False)
    path = held.path / "items.facts.adapted-00-0.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"1234")
    before = (tmp_path / "CURRENT").read_bytes()
    for act in (kar.release.promote, kar.release.rollback):
        with pytest.raises(ReleaseCorrupt, match=r"items\.facts\.adapted-00-0\.npy: the sha256"):
            act(tmp_path, held.path.name)
    assert (tmp_path / "CURRENT").read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "points nowhere"])
def test_a_rollback_mends_a_pointer_that_is_broken(tmp_path: Path, damage: str) -> None:
    first, second = world.publish_day(tmp_path, 0), world.publish_day(tmp_path, 1)
    if damage == "empty":
        (tmp_path / "CURRENT").write_text("")
    else:
        shutil.rmtree(second.path)
    with pytest.raises(ReleaseError):
        kar.release.open(tmp_path)
    kar.release.rollback(tmp_path, first.path.name, at=world.day(5))
    assert kar.release.open(tmp_path, verify=True).id == first.path.name


@pytest.mark.parametrize("name", ["nothing", "", ".", "..", "../releases", ".publish.lock"])
def test_a_release_that_is_none_is_named_with_those_that_are(tmp_path: Path, name: str) -> None:
    done = world.publish_day(tmp_path, 0)
    for act in (kar.release.promote, kar.release.rollback):
        with pytest.raises(ReleaseNotFound, match=rf"there is no release {name!r}[\s\S]*name one of: {done.path.name}"):
            act(tmp_path, name)


def test_a_short_name_is_the_one_release_that_begins_so(tmp_path: Path) -> None:
    first, second = world.publish_day(tmp_path, 0), world.publish_day(tmp_path, 1)
    assert pointer.named(tmp_path, "2026-11-01") == first.path
    assert pointer.named(tmp_path, second.path.name) == second.path
    assert pointer.named(tmp_path, None) == second.path
    with pytest.raises(ReleaseNotFound, match=rf"may be 2 releases[\s\S]*say which: {first.path.name}, {second.path.name}"):
        pointer.named(tmp_path, "2026")
    for none in ("", "2026-11-03", "..", "*"):
        with pytest.raises(ReleaseNotFound, match="there is no release"):
            pointer.named(tmp_path, none)


def test_a_release_whose_gate_said_no_is_promoted_only_on_purpose(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    path = world.publish_day(tmp_path, 1, promote=False).path
    found = manifest.read(path)
    found["gate"] = [{"check": c, "measured": 1.0, "limit": 0.9, "is_passed": c == "keys", "why": f"{c} are 1"} for c in ("keys", "rows")]
    found["release"] = manifest.release_id(found)
    (path / "manifest.json").write_bytes(manifest.to_bytes(found))
    held = path.rename(path.with_name(found["release"])).name
    with pytest.raises(ReleaseError, match=r"the gate of \S+ said no: rows are 1\n  do: .*--despite-gate"):
        kar.release.promote(tmp_path, held)
    assert kar.release.list_releases(tmp_path)[0].failed_checks == ["rows"]
    assert kar.release.open(tmp_path).id != held
    kar.release.promote(tmp_path, held, despite_gate=True)
    assert kar.release.open(tmp_path).id == held


def test_who_lost_current_while_verifying_is_told_who_won(tmp_path: Path) -> None:
    first = world.publish_day(tmp_path, 0)
    world.publish_day(tmp_path, 1)
    decided_on = pointer.digest(tmp_path)
    third = world.publish_day(tmp_path, 2)
    before = (tmp_path / "CURRENT").read_bytes()
    who = rf"process {os.getpid()} on \S+ made it serve {third.path.name} at 2026-11-04T02:00"
    with pytest.raises(ReleaseBusy, match=rf"was moved while {first.path.name} was being verified: {who}"):
        pointer.swap(tmp_path, first.path.name, world.day(9), decided_on)
    assert (tmp_path / "CURRENT").read_bytes() == before
    pointer.swap(tmp_path, first.path.name, world.day(9), pointer.digest(tmp_path))
    assert kar.release.open(tmp_path).id == first.path.name


def test_a_promotion_that_waited_for_a_publisher_does_not_undo_what_it_promoted(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    held = world.publish_day(tmp_path, 1, promote=False)
    told: list[str] = []

    def promote() -> None:
        try:
            kar.release.promote(tmp_path, held.path.name)
        except ReleaseBusy as error:
            told.append(str(error))

    with durable.publisher_lock(tmp_path):
        waiting = threading.Thread(target=promote)
        waiting.start()
        time.sleep(0.3)  # it verifies, then waits; if it were slower it would decide on what is served later, and win
        pointer.swap(tmp_path, kar.release.open(tmp_path).id, world.day(30))
    waiting.join()
    assert len(told) == 1
    assert "was moved while" in told[0]
    assert kar.release.open(tmp_path).data_cutoff == world.day(0.5)


def test_a_publisher_that_waited_in_vain_says_who_publishes(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    script = (
        "import pathlib, sys\nfrom kar.release import durable\n"
        "with durable.publisher_lock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        who = rf"process {other.pid} on {os.uname().nodename} has been publishing since 20\S+ in .*; waited 0\.1 s for it"
        with pytest.raises(ReleaseBusy, match=who), durable.publisher_lock(tmp_path, 0.1):
            pass
        other.kill()
    with durable.publisher_lock(tmp_path, 0):  # the kernel let go when it died
        assert json.loads((tmp_path / ".publish.lock").read_bytes())["pid"] == os.getpid()
    assert (tmp_path / ".publish.lock").read_bytes() == b""


def test_nothing_is_published_or_promoted_beside_a_publisher_that_does_not_finish(tmp_path: Path) -> None:
    first, second = world.publish_day(tmp_path, 0), world.publish_day(tmp_path, 1)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with durable.publisher_lock(tmp_path):
        with pytest.raises(ReleaseBusy, match=rf"process {os.getpid()} .* waited 0.1 s"):
            publish(tmp_path, world.sides(newest=world.day(2.5)), world.facts(world.day(2)), wait_s=0.1)
        with pytest.raises(ReleaseBusy, match="has been publishing since"):
            kar.release.rollback(tmp_path, first.path.name, wait_s=0)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert kar.release.open(tmp_path).id == second.path.name


def test_what_is_wrong_with_the_folder_is_listed_beside_the_releases(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    assert shelf.problems(tmp_path, world.day(9)) == []
    assert "which has not come yet" in shelf.problems(tmp_path, world.day(1))[0].what
    pins.add(tmp_path, pointer.ids(tmp_path)[0], "for a study")
    assert str(kar.release.list_releases(tmp_path)[0].pins[0]) == "pinned: for a study"
    (tmp_path / "pins.json").write_text("")
    (tmp_path / "leases" / "x.json").write_text("")
    (tmp_path / "CURRENT").write_text("")
    assert [error.what.count("is empty") for error in shelf.problems(tmp_path, world.day(9))] == [1, 1, 1]
    assert [one.is_current for one in kar.release.list_releases(tmp_path)] == [False]


@pytest.mark.parametrize(
    "content",
    [b"", b" ", b"{", b"[]", b"null", b"\xff\xfe", b'{"release": "a"}', b'{"release": "a", "manifest_sha256": "b", "served": [3]}'],
)
def test_a_current_of_any_damage_is_named_and_a_rollback_mends_it(tmp_path: Path, content: bytes) -> None:
    done = world.publish_day(tmp_path, 0)
    (tmp_path / "CURRENT").write_bytes(content)
    with pytest.raises(ReleaseCorrupt, match=r"CURRENT (is empty|cannot be read)[\s\S]*do: .*kar release rollback"):
        kar.release.open(tmp_path)
    kar.release.rollback(tmp_path, done.path.name, at=world.day(5))
    assert kar.release.open(tmp_path, verify=True).id == done.path.name


def test_mending_a_current_that_points_nowhere_keeps_what_was_served_when(tmp_path: Path) -> None:
    first, second = world.publish_day(tmp_path, 0), world.publish_day(tmp_path, 1)
    shutil.rmtree(second.path)
    kar.release.rollback(tmp_path, first.path.name, at=world.day(5))
    assert [entry.release for entry in pointer.read_current(tmp_path).served] == [first.path.name, second.path.name, first.path.name]
    assert kar.release.open(tmp_path, as_of=world.day(1.5)).id == first.path.name


def test_a_clock_that_went_backwards_keeps_the_served_list_in_order(tmp_path: Path) -> None:
    first, second = world.publish_day(tmp_path, 0), world.publish_day(tmp_path, 1)
    kar.release.rollback(tmp_path, first.path.name, at=world.day(0))
    served = pointer.read_current(tmp_path).served
    assert [entry.release for entry in served] == [first.path.name, second.path.name, first.path.name]
    assert [entry.since for entry in served] == sorted(entry.since for entry in served)
    assert kar.release.open(tmp_path, as_of=world.day(3)).id == first.path.name
