"""`kar forget requests FOLDER`: what others ask for is worked off, what is done leaves the files, nothing that comes meanwhile is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kar.errors import AlreadyRunning, SourceError
from kar.forget import work_off
from kar.release.leases import Lease
from kar.store import Home, read_forgotten, trainings
from kar.store.locking import locked
from tests.cli.in_process import kar as command
from tests.forget.homes import DAY, ITEM, LATER, USER, begin, holding, settings
from tests.forget.test_forget import KILLED, as_toml


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "requests"
    made.mkdir()
    return made


def ids(path: Path) -> list[str]:
    return path.read_text().split()


def users(home: Home) -> int:
    return int(pq.read_table(home.partition("sources", DAY).table("user")).num_rows)


def test_both_files_are_worked_off_in_one_go_and_the_receipt_stays(tmp_path: Path, folder: Path) -> None:
    home, data = begin(tmp_path)
    (folder / "user.txt").write_text(f"{USER}\nu5\r\n\n")
    (folder / "item.txt").write_text(f"\ufeff{ITEM}\n")
    before = users(home)
    told = work_off(settings(data), home, folder, LATER)
    assert (told.done, told.unknown, told.waiting) == (3, [], 0)
    assert told.receipt is not None
    assert (len(told.receipt.users), len(told.receipt.items)) == (2, 1)
    assert users(home) == before - 2
    assert holding(home.path, USER, ITEM) == {USER: [], ITEM: []}
    assert (ids(folder / "user.txt"), ids(folder / "item.txt")) == ([], [])
    assert USER.encode() not in (folder / "user.txt").read_bytes()
    assert len(list((home.path / "forgotten" / "receipts").glob("*.json"))) == 1
    again = work_off(settings(data), home, folder, LATER)
    assert (again.done, again.receipt) == (0, None)


def test_an_id_that_nothing_knows_is_told_and_stays_and_the_others_are_done(tmp_path: Path, folder: Path) -> None:
    home, data = begin(tmp_path)
    (folder / "user.txt").write_text(f"u999\n{USER}\n")
    told = work_off(settings(data), home, folder, LATER)
    assert (told.done, told.unknown, told.waiting) == (1, [("user", "u999")], 0)
    assert ids(folder / "user.txt") == ["u999"]
    assert not read_forgotten(home).holds("user", "u999")
    alone = work_off(settings(data), home, folder, LATER)
    assert (alone.receipt, alone.unknown) == (None, [("user", "u999")])


def test_what_is_appended_meanwhile_is_there_for_the_next_time(tmp_path: Path, folder: Path) -> None:
    home, data = begin(tmp_path)
    path = folder / "user.txt"
    path.write_text(f"{USER}\n")
    is_over, written = threading.Event(), []

    def append() -> None:
        while not is_over.wait(0.002):
            written.append(f"later-{len(written)}")
            with path.open("a") as stream:
                stream.write(written[-1] + "\n")

    other = threading.Thread(target=append)
    other.start()
    try:
        told = work_off(settings(data), home, folder, LATER)
    finally:
        is_over.set()
        other.join()
    assert told.done == 1
    assert len(written) > 20
    assert ids(path) == written


def test_a_line_without_an_end_is_half_an_id_and_waits(tmp_path: Path, folder: Path) -> None:
    home, data = begin(tmp_path)
    before = users(home)
    (folder / "user.txt").write_text(f"{USER}\nu1")  # u16 is being written
    told = work_off(settings(data), home, folder, LATER)
    assert (told.done, told.waiting) == (1, 1)
    assert users(home) == before - 1
    with (folder / "user.txt").open("a") as stream:
        stream.write("6\n")
    assert work_off(settings(data), home, folder, LATER).done == 1
    known = set(pq.read_table(home.partition("sources", DAY).table("user"))["user_id"].to_pylist())
    assert ("u1" in known, "u16" in known) == (True, False)


def test_who_was_forgotten_already_is_done_and_leaves(tmp_path: Path, folder: Path) -> None:
    home, data = begin(tmp_path)
    for _ in range(2):
        with (folder / "user.txt").open("a") as stream:
            stream.write(f"{USER}\n")
        told = work_off(settings(data), home, folder, LATER)
        assert (told.done, told.unknown, ids(folder / "user.txt")) == (1, [], [])


def test_whose_release_a_reader_holds_waits_and_is_done_when_the_lease_is_over(tmp_path: Path, folder: Path) -> None:
    from kar.release import pointer

    home, data = begin(tmp_path)
    (folder / "user.txt").write_text(f"{USER}\n")
    (tmp_path / "shop.toml").write_text(as_toml(settings(data)))
    with Lease(home.published, pointer.ids(home.published)[0], 300, "a training"):
        held = command(tmp_path, "forget", "requests", str(folder), "--settings", "shop.toml")
        assert (held.returncode, "0 requests done, 0 unknown, 1 waiting" in held.stdout) == (1, True), held.stderr
        assert ids(folder / "user.txt") == [USER]
    done = command(tmp_path, "forget", "requests", str(folder), "--settings", "shop.toml")
    assert (done.returncode, "1 requests done, 0 unknown, 0 waiting" in done.stdout) == (0, True), done.stdout + done.stderr
    assert ids(folder / "user.txt") == []


def test_a_dry_run_says_what_would_go_and_changes_nothing(tmp_path: Path, folder: Path) -> None:
    home, data = begin(tmp_path)
    (folder / "user.txt").write_text(f"{USER}\nu999\n")
    before = users(home)
    told = work_off(settings(data), home, folder, LATER, is_dry=True)
    assert told.receipt is not None
    assert (told.receipt.is_dry, told.done, told.unknown) == (True, 0, [("user", "u999")])
    assert (users(home), (folder / "user.txt").read_text()) == (before, f"{USER}\nu999\n")


def test_two_do_not_work_one_folder_off_and_a_missing_one_is_named(tmp_path: Path, folder: Path) -> None:
    home, data = begin(tmp_path)
    with locked(folder / ".kar.lock", "", ""), pytest.raises(AlreadyRunning, match="works off"):
        work_off(settings(data), home, folder, LATER)
    with pytest.raises(SourceError, match="there is no folder"):
        work_off(settings(data), home, folder / "none", LATER)
    assert work_off(settings(data), home, folder, LATER).receipt is None


def test_the_command_tells_and_counts_and_an_unknown_id_is_no_failure(tmp_path: Path, folder: Path) -> None:
    _, data = begin(tmp_path)
    (tmp_path / "shop.toml").write_text(as_toml(settings(data)))
    (folder / "user.txt").write_text("u999\nu5\n")
    done = command(tmp_path, "forget", "requests", str(folder), "--settings", "shop.toml")
    assert done.returncode == 0, done.stderr
    assert "unknown: user u999; it stays in user.txt" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 requests done, 1 unknown, 0 waiting"
    assert command(tmp_path, "forget", "requests", "--settings", "shop.toml").returncode == 2
    assert command(tmp_path, "forget", "requests", str(folder), "more", "--settings", "shop.toml").returncode == 2


def test_a_line_that_is_no_id_of_the_scenario_is_told_and_stays(tmp_path: Path, folder: Path) -> None:
    from tests import world

    home, _ = begin(tmp_path)
    (folder / "user.txt").write_text("alice\n")
    told = work_off(world.settings(tmp_path), home, folder, LATER)
    assert (told.receipt, told.unknown, ids(folder / "user.txt")) == (None, [("user", "alice")], ["alice"])


@pytest.mark.slow
def test_a_killed_one_is_gone_on_with_although_more_was_asked_meanwhile(tmp_path: Path, folder: Path) -> None:
    home, data = begin(tmp_path)
    (folder / "user.txt").write_text(f"{USER}\n")
    script = KILLED.replace("import Subjects, forget", "import work_off").replace(
        'forget(settings(Path(sys.argv[2])), Home.of("world", Path(sys.argv[1])), Subjects(users=frozenset({USER})), LATER)',
        'work_off(settings(Path(sys.argv[2])), Home.of("world", Path(sys.argv[1])), Path(sys.argv[4]), LATER)',
    )
    assert "work_off(settings" in script
    command_line = [sys.executable, "-c", script, str(home.root), str(data), "40", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(command_line, env=environment, check=False).returncode == -signal.SIGKILL
    assert ids(folder / "user.txt") == [USER], "who is not done stays"
    with (folder / "user.txt").open("a") as stream:
        stream.write("u5\n")
    told = work_off(settings(data), home, folder, LATER)
    assert (told.done, told.unknown, told.waiting) == (2, [], 0)
    assert holding(home.path, USER)[USER] == []


def test_a_person_s_word_on_a_training_outlives_the_rewriting_of_its_partition(tmp_path: Path, folder: Path) -> None:
    home, data = begin(tmp_path)
    trainings.decide(home.partition("adaptor", DAY), True, LATER, "looked at it")
    (folder / "user.txt").write_text(f"{USER}\n")
    assert work_off(settings(data), home, folder, LATER).done == 1
    word = trainings.word_on(home.partition("adaptor", DAY))
    assert word is not None
    assert word.why == "looked at it"
