"""Several processes write several shards at the same time, and every reader sees all of them."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kar.errors import AlreadyRunning, LedgerError
from kar.llm.ledger import Ledger, look_up
from kar.llm.ledger.places import shard_path
from tests.llm.ledger.rows import ROOT, answer, failed, key

_WRITER = """
import sys
from pathlib import Path
from kar.llm.ledger import Ledger
from tests.llm.ledger.rows import answer
shard = sys.argv[2]
with Ledger.open(Path(sys.argv[1]), shard=shard) as ledger:
    print("open", flush=True)
    sys.stdin.readline()
    for number in range(300):
        ledger.put(answer(f"{shard}-{number}"))
    ledger.compact() if shard == "two" else ledger.flush()
"""


def test_processes_write_their_shards_at_the_same_time_and_all_rows_are_seen(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), shard], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        for shard in ("main", "two", "three")
    ]
    for writer in writers:  # all three are open before the first one writes
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
    with pytest.raises(AlreadyRunning, match=r"answers\.two\.sqlite"):
        Ledger.open(tmp_path, shard="two")
    assert [writer.communicate(b"go\n") and writer.returncode for writer in writers] == [0, 0, 0]
    keys = {key(f"{shard}-{number}") for shard in ("main", "two", "three") for number in range(300)}
    with Ledger.open(tmp_path, shard="four") as ledger:
        assert ledger.count() == 900
        assert ledger.held(keys | {key("nobody's")}) == keys
    assert look_up(tmp_path, keys).keys() == keys


def test_a_row_that_another_shard_commits_is_seen_by_a_ledger_that_is_already_open(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, shard="reader") as reader:
        assert reader.held([key("k")]) == set()
        with Ledger.open(tmp_path, shard="writer") as writer:
            writer.put(answer("k"))
            writer.flush()
            assert reader.held([key("k")]) == {key("k")}
            writer.compact()
            assert reader.get(key("k")) == answer("k")
            assert reader.count() == 1


def test_a_shard_that_another_process_is_about_to_make_holds_nothing_yet(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, shard="one") as mine:
        mine.put(answer("one"))
        mine.flush()
        with contextlib.closing(sqlite3.connect(shard_path(tmp_path, "two"))) as file:
            file.execute("PRAGMA journal_mode = WAL")  # the file is there, its tables are not
            assert mine.held([key("one"), key("two")]) == {key("one")}
            assert mine.count() == 1
        with Ledger.open(tmp_path, shard="two") as other:
            other.put(answer("two"))
            other.flush()
            assert mine.held([key("one"), key("two")]) == {key("one"), key("two")}


@pytest.mark.parametrize("seed", range(6))
def test_which_good_answer_counts_does_not_depend_on_where_the_rows_lie(tmp_path: Path, seed: int) -> None:
    order = random.Random(seed)
    good = [answer("k", f"text {n}", after_s=2 + n % 4) for n in range(8)]  # 0 and 4 end first, at the same moment
    rows = [failed("k", after_s=1), *good, answer("other", after_s=9, retry_of=key("k"))]
    order.shuffle(rows)
    for row in rows:
        with Ledger.open(tmp_path, shard=order.choice("abc")) as ledger:
            ledger.put(row)
            if order.random() < 0.4:
                ledger.compact()
    with Ledger.open(tmp_path) as ledger:
        found = ledger.find([key("k")])[key("k")]
        assert ledger.get(key("k")) == found[1]
    assert len(found) == 10
    assert [row.ended_at for row in found] == sorted(row.ended_at for row in rows)
    assert found[1].text == "text 4"  # of two that end at the same moment the digest decides: always the same one


def test_an_answer_that_waits_for_its_commit_does_not_hide_an_earlier_one(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, shard="other") as other:
        other.put(answer("k", "early", after_s=1))
    with Ledger.open(tmp_path, window_s=60) as ledger:
        ledger.put(answer("k", "late", after_s=9))
        found = ledger.get(key("k"))
        assert found is not None
        assert found.text == "early"


@pytest.mark.parametrize("shard", ["", "../elsewhere", "a b", "a.b", "x" * 65])
def test_a_shard_has_a_plain_name(tmp_path: Path, shard: str) -> None:
    with pytest.raises(LedgerError, match="cannot name a shard"):
        Ledger.open(tmp_path / "ledger", shard=shard)
    assert not (tmp_path / "ledger").exists()


def test_an_answer_under_a_key_that_is_not_its_bodys_is_refused(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        with pytest.raises(LedgerError, match="not that of its body"):
            ledger.put(answer("k", key=key("another")))
        with pytest.raises(LedgerError, match="not that of its body"):
            ledger.put(answer("k", revision="r2"))
        assert ledger.count() == 0


def test_half_a_surrogate_pair_is_replaced_and_stops_nobody(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.put(answer("k", "half \ud83c of a pair"))
        ledger.put(answer("l", "NUL \x00 stays"))
        ledger.flush()
        assert {a.text for a in ledger.get_many([key("k"), key("l")]).values()} == {"half ? of a pair", "NUL \x00 stays"}


def test_who_asks_beside_others_writes_the_first_shard_that_nobody_writes(tmp_path: Path) -> None:
    with Ledger.open_beside(tmp_path) as first, Ledger.open_beside(tmp_path) as second:
        assert (first.path.name, second.path.name) == ("answers.ask-0.sqlite", "answers.ask-1.sqlite")
        second.put(answer("k"))
    with Ledger.open_beside(tmp_path) as again, Ledger.open(tmp_path) as main:
        assert again.path.name == "answers.ask-0.sqlite"
        assert main.held([key("k")]) == {key("k")}
