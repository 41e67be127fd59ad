"""`kar ledger` as its user meets it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kar.llm.ledger import Ledger
from kar.llm.ledger.places import part_paths
from tests.cli import in_process
from tests.llm.ledger.rows import answer, failed, key

SETTINGS = """
[scenario]
name = "shop"
domain = "movies"
[sources]
folder = "."
[sources.interactions]
path = "interactions.csv"
format = "csv"
columns = {user_id = "user", item_id = "item", event_at = "at"}
[llm]
usd_per_million_prompt_tokens = 1000.0
usd_per_million_completion_tokens = 10000.0
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with settings and a ledger of three rows in two files."""
    (tmp_path / "shop.toml").write_text(SETTINGS)
    with Ledger.open(tmp_path / "home" / "shop" / "ledger") as ledger:
        ledger.put(answer("a"))
        ledger.compact()
        ledger.put(answer("b", after_s=2))
        ledger.put(failed("b"))
    return tmp_path


def kar(folder: Path, *arguments: str, home: str = "home") -> subprocess.CompletedProcess[str]:
    return in_process.kar(folder, "ledger", *arguments, "--settings", "shop.toml", home=home)


def test_stats_show_rows_tokens_and_money(shop: Path) -> None:
    done = kar(shop, "stats")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[1] == "rows     3 (1 exhausted, 2 ok)"
    assert lines[2] == "keys     2 different requests"
    assert lines[3].endswith("in 1 shards and 1 parts")
    assert lines[4] == "money    0.18 USD at the prices in [llm]"
    assert lines[-2].split() == [
        "model",
        "template",
        "version",
        "day",
        "rows",
        "good",
        *["prompt", "cached", "completion", "reasoning", "lost", "USD"],
    ]
    assert lines[-1].split() == ["tiny", "t@1:abc", "2026-11-20", "3", "2", "33", "15", "14", "9", "6", "0.1790"]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_ledger_moves_to_another_machine_and_a_second_import_adds_nothing(shop: Path, suffix: str) -> None:
    out = kar(shop, "export", f"rows.{suffix}")
    assert (out.returncode, out.stdout) == (0, f"3 rows written to rows.{suffix}\n")
    first, second = (kar(shop, "import", f"rows.{suffix}", home="elsewhere") for _ in range(2))
    assert (first.returncode, first.stdout) == (0, "3 rows read, 3 added, 0 were there already\n")
    assert (second.returncode, second.stdout) == (0, "3 rows read, 0 added, 3 were there already\n")
    assert kar(shop, "verify", home="elsewhere").stdout.startswith("3 rows: every key")


@pytest.mark.parametrize("verb", [("stats",), ("export", "rows.parquet")])
def test_without_a_ledger_the_commands_say_so(shop: Path, verb: tuple[str, ...]) -> None:
    done = kar(shop, *verb, home="empty")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no ledger" in done.stderr
    assert "do:" in done.stderr
    assert not (shop / "empty").exists()


@pytest.mark.parametrize(("name", "says"), [("missing.parquet", "there is no file"), ("shop.toml", "no known format")])
def test_an_import_of_what_is_no_ledger_says_so(shop: Path, name: str, says: str) -> None:
    done = kar(shop, "import", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_part_is_named_by_each_command_and_the_rest_can_be_saved(shop: Path) -> None:
    [part] = part_paths(shop / "home" / "shop" / "ledger")
    part.write_bytes(part.read_bytes()[:-20])
    for verb in ("stats", "verify"):
        done = kar(shop, verb)
        assert done.returncode == 1
        assert part.name in done.stderr
        assert "kar ledger export" in done.stderr
        assert "Traceback" not in done.stderr
    done = kar(shop, "export", "rows.parquet")
    assert (done.returncode, done.stdout) == (0, "2 rows written to rows.parquet\n")
    assert part.name in done.stderr
    assert key("a") not in done.stdout


def test_compact_moves_the_rows_of_every_shard_into_parts_and_loses_none(shop: Path) -> None:
    place = shop / "home" / "shop" / "ledger"
    with Ledger.open(place, shard="ask-3") as ledger:
        ledger.put(answer("c"))
    before = kar(shop, "stats").stdout.splitlines()[1]
    done = kar(shop, "compact")
    assert (done.returncode, done.stdout) == (0, "3 rows of 2 shards moved; 1 parts before, 3 now\n")
    assert in_process.ledger_files(shop, "shop") == (0, 3)
    assert kar(shop, "stats").stdout.splitlines()[1] == before
    again = kar(shop, "compact")
    assert (again.returncode, again.stdout) == (0, "0 rows of 2 shards moved; 3 parts before, 3 now\n")


def test_compact_lets_many_small_parts_grow_together(shop: Path) -> None:
    place = shop / "home" / "shop" / "ledger"
    for number in range(9):
        with Ledger.open(place, shard=f"ask-{number}") as ledger:
            ledger.put(answer(f"question {number}"))
    done = kar(shop, "compact")
    assert done.returncode == 0, done.stderr
    assert len(part_paths(place)) < 9
    assert kar(shop, "verify").stdout.startswith("12 rows")


def test_compact_moves_nothing_while_one_shard_is_written(shop: Path) -> None:
    with Ledger.open(shop / "home" / "shop" / "ledger", shard="ask-3") as ledger:
        ledger.put(answer("c"))
        ledger.flush()
        done = kar(shop, "compact")
    assert (done.returncode, done.stdout) == (1, "")
    assert "another process writes the ledger" in done.stderr
    assert in_process.ledger_files(shop, "shop") == (3, 1)


def test_compact_of_a_home_without_a_ledger_does_nothing(shop: Path) -> None:
    done = kar(shop, "compact", home="empty")
    assert (done.returncode, "nothing to compact" in done.stdout) == (0, True)
    assert not (shop / "empty").exists()
