"""Listing, promoting and rolling back."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import pytest

import kar.release
from kar.errors import ReleaseCorrupt, ReleaseError, ReleaseNotFound
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
