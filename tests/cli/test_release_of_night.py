"""`kar release verify` and `promote` by a night's date, as a scheduler calls them; in a folder and in an object store."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kar.release import pointer, remote
from kar.store import Home, Manifest
from tests.cli.in_process import kar as run_kar
from tests.release import world
from tests.release.test_remote import server, store
from tests.test_cli import shop

__all__ = ["server", "shop", "store"]
PASSED = {"check": "rows user", "measured": 1.0, "limit": 0.9, "is_passed": True, "why": "12 rows"}
FAILED = {"check": "coverage user.preference", "measured": 0.1, "limit": 0.4, "is_passed": False, "why": "0.1, at least 0.4 is wanted"}


def date(number: int) -> str:
    return world.day(number).date().isoformat()


def night(place: Home, number: int, gate: list[dict[str, Any]] | None = None, **changed: Any) -> str:
    """A release that was published and not promoted, and the features partition that says so."""
    sides = world.sides(newest=world.day(number + 0.5), offset=1000.0 * number)
    name = str(remote.publish(place.releases_at, sides, world.facts(world.day(number), **changed), promote=False).manifest["release"])
    partition = place.partition("features", world.day(number).date())
    partition.path.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"release_id": [name], "is_promoted": [False]}), partition.table("release"))
    figures = {"release_id": name, "gate": [PASSED] if gate is None else gate}
    Manifest("features", date(number), "sha", {}, figures=figures).write(partition.path)
    return name


@pytest.fixture
def home(shop: Path) -> Home:
    return Home(shop / "home", "world")


def kar(home: Home, *arguments: str) -> tuple[int, str, str]:
    done = run_kar(home.root.parent, *arguments, "-s", "world.toml")
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def promoted(home: Home, number: int, *more: str) -> dict[str, Any]:
    code, said, complaint = kar(home, "release", "promote", "--date", date(number), "--json", *more)
    assert code == 0, complaint
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    assert told["date"] == date(number)
    assert told["path"] == f"{home.releases_at}/releases/{told['release_id']}"
    return told


def test_a_night_s_release_is_verified_and_promoted_and_promoting_it_again_does_nothing(home: Home) -> None:
    name = night(home, 0)
    assert kar(home, "release", "verify", "--date", date(0))[1].startswith(f"{name}: every digest")
    told = promoted(home, 0)
    assert (told["release_id"], told["is_promoted"], told["served"], told["why"]) == (name, True, name, "")
    before = (home.published / "CURRENT").read_bytes()
    assert promoted(home, 0)["why"] == f"{name} is served already"
    assert (home.published / "CURRENT").read_bytes() == before
    assert kar(home, "release", "promote", "--date", date(0))[:2] == (0, f"{name} is served already\n")


def test_an_older_night_is_left_unserved_without_an_error(home: Home) -> None:
    older, newer = night(home, 0), night(home, 1)
    promoted(home, 1)
    told = promoted(home, 0)
    assert (told["release_id"], told["is_promoted"], told["served"]) == (older, False, newer)
    assert f"kar release rollback {older}" in told["why"]
    assert pointer.read_current(home.published).release == newer


def test_a_night_that_its_gate_held_back_ends_with_3_and_current_stays(home: Home) -> None:
    first = night(home, 0)
    promoted(home, 0)
    held = night(home, 1, [PASSED, FAILED])
    code, said, complaint = kar(home, "release", "promote", "--date", date(1), "--json")
    assert (code, said) == (3, "")
    assert "1 of 2 checks failed: coverage user.preference: 0.1, at least 0.4 is wanted" in complaint
    assert f"kar release promote --despite-gate {held}" in complaint
    assert pointer.read_current(home.published).release == first
    assert promoted(home, 1, "--despite-gate")["served"] == held
    assert promoted(home, 1)["is_promoted"], "what is served is not held back any more"


def test_an_older_night_that_its_gate_held_back_is_no_failure(home: Home) -> None:
    night(home, 0, [FAILED])
    night(home, 1)
    promoted(home, 1)
    assert not promoted(home, 0)["is_promoted"]


def test_a_release_that_its_own_gate_held_back_ends_with_3_by_its_id_too(home: Home) -> None:
    from kar.release.verdicts import GateVerdict

    verdict = GateVerdict("rows", 0.0, 1.0, False, "rows are 0")
    sides = world.sides(newest=world.day(0.5))
    name = str(remote.publish(home.releases_at, sides, world.facts(world.day(0)), gate=lambda *_: [verdict]).manifest["release"])
    code, _, complaint = kar(home, "release", "promote", name)
    assert (code, f"the gate of {name} said no: rows are 0" in complaint) == (3, True)


def test_a_damaged_release_of_a_night_is_found_and_not_promoted(home: Home) -> None:
    name = night(home, 0)
    part = next((home.published / "releases" / name).rglob("*.npy"))
    part.write_bytes(part.read_bytes()[:-1] + b"\x7f")
    for verb in ("verify", "promote"):
        code, _, complaint = kar(home, "release", verb, "--date", date(0))
        assert (code, part.name in complaint) == (1, True), verb
    assert not (home.published / "CURRENT").exists()


def test_a_night_without_features_names_the_command(home: Home) -> None:
    for verb in ("verify", "promote"):
        code, _, complaint = kar(home, "release", verb, "--date", date(7))
        assert (code, f"run: kar run features --date {date(7)}" in complaint) == (1, True)


def test_a_release_of_a_night_that_was_removed_is_named(home: Home) -> None:
    import shutil

    name = night(home, 0)
    shutil.rmtree(home.published / "releases" / name)
    code, _, complaint = kar(home, "release", "promote", "--date", date(0))
    assert (code, f"there is no release '{name}'" in complaint) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("promote", "2026", "--date", date(0)),
        ("verify", "2026", "--date", date(0)),
        ("promote", "2026", "--json"),
        ("promote", "--date", "x"),
    ],
)
def test_wrong_usage_ends_with_2(home: Home, arguments: tuple[str, ...]) -> None:
    assert kar(home, "release", *arguments)[0] == 2


def test_status_and_the_list_say_what_is_served_after_a_promotion_by_date(home: Home) -> None:
    name = night(home, 0)
    assert "never served" in kar(home, "release", "list")[1]
    promoted(home, 0)
    (line,) = [line for line in kar(home, "status")[1].splitlines() if name in line and line.startswith("→")]
    assert "never served" not in line


@pytest.mark.slow
def test_a_night_s_release_in_a_store_is_verified_promoted_and_said_to_be_served(shop: Path, request: pytest.FixtureRequest) -> None:
    bucket = request.getfixturevalue("store").bucket
    uri = f"s3://{bucket}/night"
    home = Home(shop / "home", "world", uri)
    with (shop / "world.toml").open("a") as stream:
        stream.write(f'\n[features]\npublished = "{uri}"\n')
    first = night(home, 0)
    assert kar(home, "release", "verify", "--date", date(0))[1].startswith(f"{first}: every digest")
    assert promoted(home, 0)["served"] == first
    second, third = night(home, 1, [FAILED]), night(home, 2)
    assert kar(home, "release", "promote", "--date", date(1))[0] == 3
    assert promoted(home, 2)["served"] == third
    told = promoted(home, 1)
    assert (told["release_id"], told["is_promoted"], told["served"]) == (second, False, third)
    assert remote.service(uri, third).is_now
    assert (remote.service(uri, first).is_now, remote.service(uri, first).since is not None) == (False, True)
    assert remote.service(uri, second).since is None
    assert any(line.startswith("→") and third in line for line in kar(home, "status")[1].splitlines())


def test_the_clock_of_a_service_is_the_first_time_that_current_was_moved_there(home: Home) -> None:
    one, two = night(home, 0), night(home, 1)
    at = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
    hour = dt.timedelta(hours=1)
    remote.promote(home.published, one, at)
    remote.promote(home.published, two, at + hour)
    remote.rollback(home.published, one, at + 2 * hour)
    found = remote.service(home.published, one)
    assert (found.is_there, found.is_now, found.since) == (True, True, at)
    assert remote.service(home.published, "none").is_known is False
