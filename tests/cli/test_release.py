"""`kar release` as its user meets it: what each verb prints, and what each mistake is told."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kar.release import durable, pointer
from kar.release.leases import Lease
from kar.store import Home, Manifest
from tests.cli.in_process import kar as run_kar
from tests.release import world
from tests.test_cli import shop

__all__ = ["shop"]
HOSTILE = "Loves \x1b[31mred\x1b[0m films \u202eand slow ones."


@pytest.fixture
def home(shop: Path) -> Home:
    """Nights 0, 1 and 2 are published, 1 was not promoted; the texts of 0 and 2 are there, those of 1 are gone."""
    place = Home(shop / "home", "world")
    for number in range(3):
        date = world.day(number).date()
        if number != 1:
            _knowledge(place, date, "sha" if number == 0 else "another sha")
        made = {"knowledge": {"date": date.isoformat(), "recipe_sha": "sha"}}
        world.publish_day(place.published, number, promote=number != 1, inputs=made)
    return place


def _knowledge(place: Home, date: dt.date, recipe_sha: str) -> None:
    partition = place.partition("knowledge", date)
    partition.path.mkdir(parents=True)
    rows = [
        {
            "view": "user.preference",
            "subject_id": str(100 + 3 * n),
            "text": HOSTILE if n == 1 and date.day == 1 else f"text {n} of the {date.day}.",
        }
        for n in range(world.USERS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), partition.table("knowledge"))
    Manifest("knowledge", date.isoformat(), recipe_sha, {}).write(partition.path)


def kar(home: Home, *arguments: str) -> tuple[int, str, str]:
    """`kar release ARGUMENTS`: exit code, what it said, what it complained of."""
    done = run_kar(home.root.parent, "release", *arguments, "-s", "world.toml")
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def ids(home: Home) -> list[str]:
    return pointer.ids(home.published)


def test_the_list_marks_what_is_served_and_notes_what_is_special(home: Home) -> None:
    kar(home, "pin", "2026-11-01", "--why", "study 7")
    with Lease(home.published, ids(home)[1], 300, "a training"):
        code, said, _ = kar(home, "list")
    lines = {line.split("2026-11-0")[1][0]: line for line in said.splitlines() if "2026-11-0" in line}
    assert code == 0
    assert [line[0] for line in lines.values()] == ["→", " ", " "]
    assert lines["1"].endswith("pinned")
    assert lines["2"].endswith("leased by 1, never served")
    assert "83.3%" in lines["3"]
    told = json.loads(kar(home, "list", "--json")[1])
    assert [one["is_current"] for one in told] == [True, False, False]
    assert told[2]["pins"][0]["why"] == "study 7"


def test_a_release_is_shown_by_the_beginning_of_its_name(home: Home) -> None:
    code, said, _ = kar(home, "show", "2026-11-02")
    assert code == 0
    assert said.startswith(f"release {ids(home)[1]}, not served now\n")
    assert "user.preference  83.3%, 4 adapted floats, 6 of knowledge" in said
    assert "reads" in said
    assert "knowledge of 2026-11-02" in said
    assert json.loads(kar(home, "show", "--json")[1])["release"] == ids(home)[2]
    assert ", served since 2026-11-04 02:00 UTC" in kar(home, "show")[1]


def test_a_comparison_shows_figures_and_the_texts_of_the_furthest_turned_and_steers_no_terminal(home: Home) -> None:
    code, said, complaint = kar(home, "diff", "--movers", "2")
    assert code == 0, complaint
    assert said.startswith(f"{ids(home)[0]} → {ids(home)[2]}\n")
    assert "users  12 → 12: 0 added, 0 lost" in said
    assert "of 10 with knowledge in both, 0 were asked again, 10 have another knowledge vector (100.0%)" in said
    block = said[said.index("furthest turned") : said.index("items  ")]
    assert block.count("cosine") == 2
    assert "before   Loves ⟨U+001B⟩[31mred⟨U+001B⟩[0m films ⟨U+202E⟩and slow ones." in block
    assert "after    text 1 of the 3." in block
    assert "the knowledge of 2026-11-03 was made again after" in block
    figures = json.loads(kar(home, "diff", "--json")[1])
    assert figures["users"]["views"][0]["changed"] == 10


def test_texts_that_are_gone_are_said_to_be_gone_once_a_view(home: Home) -> None:
    code, said, _ = kar(home, "diff", "2026-11-01", "2026-11-02")
    assert code == 0
    assert said.count("lay in the knowledge of 2026-11-02, which is gone from this home") == 2  # once a view
    assert "before   text 2 of the 1." in said


def test_what_was_served_before_is_compared_with_by_default_and_its_absence_is_said(home: Home) -> None:
    first = ids(home)[0]
    kar(home, "collect", "--keep", "1")
    assert first not in ids(home)
    code, _, complaint = kar(home, "diff")
    assert code == 1
    assert f"no release was served before {ids(home)[-1]}\n  do: name the one to compare with: {ids(home)[0]}" in complaint


def test_collect_says_why_each_release_stays_or_goes_and_a_dry_run_changes_nothing(home: Home) -> None:
    before = ids(home)
    code, said, _ = kar(home, "collect", "--keep", "1", "--dry-run")
    assert code == 0
    assert [line.split()[1] for line in said.splitlines()[1:4]] == ["would", "kept", "kept"]
    assert "1 of 3 releases would be removed" in said
    assert ids(home) == before
    assert "1 of 3 releases removed" in kar(home, "collect", "--set", "features.keep=1")[1]
    assert ids(home) == before[1:]
    code, _, complaint = kar(home, "show", before[0])
    assert code == 1
    assert f"there is no release '{before[0]}'" in complaint
    assert "kar release collect removed" in complaint


def test_pins_come_and_go(home: Home) -> None:
    name = ids(home)[0]
    assert kar(home, "pin", name, "--why", "study 7") == (0, f"{name} is pinned: study 7\n", "")
    assert "kept" in kar(home, "collect", "--keep", "1", "--dry-run")[1].splitlines()[1]
    assert kar(home, "unpin", "2026-11-01") == (0, f"{name} is no longer pinned: study 7\n", "")
    code, _, complaint = kar(home, "unpin", "2026-11-01")
    assert (code, "is not pinned" in complaint) == (1, True)


def test_a_report_pins_the_release_that_it_names(home: Home) -> None:
    date = dt.date(2026, 11, 1)
    assert "there is no report of 2026-11-01\n  do: run: kar run report --date 2026-11-01" in kar(home, "pin", "--report", "2026-11-01")[2]
    for stage in ("report", "features"):
        partition = home.partition(stage, date)
        partition.path.mkdir(parents=True)
        partition.manifest_path.write_text("{}")
    pq.write_table(pa.table({"release_id": [ids(home)[0]]}), home.partition("features", date).table("release"))
    assert kar(home, "pin", "--report", "2026-11-01")[1] == f"{ids(home)[0]} is pinned with the report of 2026-11-01\n"
    kar(home, "collect", "--keep", "1")
    assert len(ids(home)) == 3
    kar(home, "unpin", "--report", "2026-11-01")
    kar(home, "collect", "--keep", "1")
    assert len(ids(home)) == 2


def test_promoting_and_rolling_back_say_what_was_served_before(home: Home) -> None:
    first, second, third = ids(home)
    assert kar(home, "rollback", "2026-11-01") == (0, f"{first} is served; before it was {third}\n", "")
    assert kar(home, "promote", second) == (0, f"{second} is served; before it was {first}\n", "")
    assert kar(home, "promote", second) == (0, f"{second} is served already\n", "")
    code, _, complaint = kar(home, "promote", first)
    assert (code, f"do: to serve the older one on purpose: kar release rollback {first}" in complaint) == (1, True)
    assert kar(home, "verify")[1].startswith(f"{second}: every digest")


def test_a_damaged_current_is_said_beside_the_list_and_mended_by_a_rollback(home: Home) -> None:
    (home.published / "CURRENT").write_text("")
    code, said, _ = kar(home, "list")
    assert (code, "CURRENT is empty\n  do: name a release to serve: kar release rollback ID" in said) == (0, True)
    for verb in (["show"], ["diff"], ["verify"], ["pin"], ["collect"], ["promote", "2026-11-02"]):
        code, _, complaint = kar(home, *verb)
        assert (code, "CURRENT is empty" in complaint) == (1, True), verb
    assert kar(home, "rollback", "2026-11-03")[1] == f"{ids(home)[2]} is served\n"
    assert kar(home, "verify")[0] == 0


def test_whoever_publishes_meanwhile_is_named_to_those_who_do_not_wait(home: Home) -> None:
    soon = ("--set", "features.publisher_wait_s=0")
    with durable.publisher_lock(home.published):
        for verb in (["collect"], ["promote", "2026-11-02"], ["rollback", "2026-11-01"]):
            code, _, complaint = kar(home, *verb, *soon)
            told = f"kar: process {os.getpid()} on {os.uname().nodename} has been publishing since 20"
            assert (code, complaint[: len(told)]) == (1, told), verb
        assert kar(home, "list")[0] == kar(home, "pin")[0] == kar(home, "collect", "--dry-run")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("collect", "--keep", "0"), "Invalid value for '--keep'"),
        (("diff", "--movers", "-1"), "Invalid value for '--movers'"),
        (("unpin",), "name a release, or a report's date"),
        (("pin", "2026-11-01", "--report", "2026-11-01"), "not both"),
        (("pin", "--report", "yesterday"), "is no date"),
        (("promote",), "name a release, or a night's date"),
    ],
)
def test_wrong_usage_ends_with_2(home: Home, arguments: tuple[str, ...], says: str) -> None:
    code, _, complaint = kar(home, *arguments)
    assert (code, says in " ".join(complaint.split())) == (2, True), complaint


@pytest.mark.parametrize("verb", ["show", "diff", "verify", "pin", "unpin", "promote", "rollback"])
def test_a_release_that_is_none_is_named(home: Home, verb: str) -> None:
    code, _, complaint = kar(home, verb, "2027")
    assert code == 1
    assert "2027" in complaint
    assert "  do: " in complaint


def test_before_the_first_release_every_verb_says_what_is_missing(shop: Path) -> None:
    for verb in (["show"], ["diff"], ["verify", "x"], ["pin"], ["promote", "x"], ["rollback", "x"]):
        done = run_kar(shop, "release", *verb, "-s", "world.toml")
        assert (done.returncode, "  do: " in done.stderr) == (1, True), verb
    assert "no release is published" in run_kar(shop, "release", "list", "-s", "world.toml").stdout
    assert not (shop / "home" / "world" / "published").exists()
