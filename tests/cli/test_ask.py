"""`kar ask` and what a program reads of `kar run`: exit codes, the last line, several processes at once, a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kar.llm.ledger import COMMIT_WINDOW_S
from tests import world
from tests.cli.in_process import kar
from tests.llm.loopback import Server, loopback
from tests.test_cli import DATE, ROOT, SETTINGS, shop

__all__ = ["shop"]
WORLD = ["-s", "world.toml", *DATE]
PLANNED = 32
IN_FLIGHT, DELAY_S = 4, 0.05


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own, begun and not waited for."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KAR_HOME": str(folder / "home"), "COLUMNS": "100"}
    command = [sys.executable, "-m", "kar", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def at(server: Server, *more: str) -> list[str]:
    """Arguments that lead to a server."""
    return [*WORLD, "--set", f"llm.base_url={server.base_url}", *[word for one in more for word in ("--set", one)]]


@pytest.mark.slow
def test_two_processes_ask_a_night_at_the_same_time_and_the_stage_judges_what_they_brought(shop: Path) -> None:
    kar(shop, "run", "sources", *WORLD)
    kar(shop, "run", "histories", *WORLD)
    with loopback(delay_s=DELAY_S) as server:
        planned = last_line(kar(shop, "run", "prompts", *at(server), "--json"))
        assert planned["figures"]["requests"] == planned["rows"]["request"] == PLANNED
        askers = [started(shop, "ask", *at(server), "--shard", f"{place}/2", "--json") for place in range(2)]
        ends = [ended(asker) for asker in askers]
        assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]
        assert server.calls == PLANNED
    told = [last_line(end) for end in ends]
    assert sum(one["planned"] for one in told) == sum(one["calls"] for one in told) == PLANNED
    assert [(one["date"], one["shard"], one["stopped_by"]) for one in told] == [
        ("2026-11-19", "0/2", "none"),
        ("2026-11-19", "1/2", "none"),
    ]
    done = kar(shop, "run", "knowledge", *WORLD, "--answers", "held", "--json")
    assert done.returncode == 0, done.stderr
    judged = last_line(done)
    assert (judged["stage"], judged["rows"]["knowledge"], judged["rejected"], judged["warnings"]) == ("knowledge", PLANNED, {}, 0)
    figures = judged["figures"]
    assert (figures["calls"], figures["from_ledger"], figures["stopped_by"]) == (PLANNED, 0, "none")
    assert figures["tokens"] == sum(one["tokens"] for one in told) > 0
    assert Path(judged["path"]).is_dir()
    assert len(list(Path(judged["path"]).glob("*.parquet"))) == 4
    again = kar(shop, "run", "knowledge", *WORLD, "--json")
    assert last_line(again) == judged
    for line in [end.stdout.splitlines()[-1] for end in (*ends, done)]:
        assert len(line) < 2_000
        assert "Film" not in line
        assert line.isascii()


def test_a_deadline_that_has_come_is_a_success_that_is_said(shop: Path) -> None:
    kar(shop, "plan", *WORLD)
    asked = kar(shop, "ask", *WORLD, "--stop-in", "-1", "--json")
    assert (asked.returncode, last_line(asked)["stopped_by"], last_line(asked)["calls"]) == (0, "deadline", 0)
    judged = kar(shop, "run", "knowledge", *WORLD, "--answers", "held", "--json")
    assert judged.returncode == 0
    assert last_line(judged)["figures"]["stopped_by"] == "deadline"
    assert last_line(judged)["rejected"] == {"over_budget": PLANNED}


def test_the_stage_stops_in_time_too(shop: Path) -> None:
    kar(shop, "plan", *WORLD)
    done = kar(shop, "run", "knowledge", *WORLD, "--stop-in", "0", "--json")
    assert (done.returncode, last_line(done)["figures"]["stopped_by"]) == (0, "deadline")


def test_without_json_a_person_reads_the_same(shop: Path) -> None:
    kar(shop, "plan", *WORLD)
    with loopback() as server:
        done = kar(shop, "ask", *at(server))
    assert done.returncode == 0
    assert f"planned            {PLANNED}\n" in done.stdout
    assert "stopped_by         none\n" in done.stdout


def test_the_whole_flow_ends_with_a_line_about_every_stage(shop: Path) -> None:
    texts = [
        json.dumps({"item_id": item, "text": f"Film {item} is one of a kind, and whoever likes such films will like it."})
        for item in range(1, 21)
    ]
    (shop / "facts.jsonl").write_text("\n".join(texts) + "\n")
    small = [
        "adaptor.backbones=['fibinet']",
        "adaptor.epochs=1",
        "adaptor.resamples=100",
        "adaptor.threads=1",
        "examples.valid_share=0.2",
        "examples.test_share=0.3",
    ]
    imported = ["prompts.views=['item.facts']", "knowledge.imports.item.facts=facts.jsonl", f"knowledge.imports_folder={shop}"]
    done = kar(shop, "run", "all", *WORLD, "--json", *[word for one in (*small, *imported) for word in ("--set", one)])
    assert done.returncode in (0, 3), done.stderr
    told = last_line(done)
    assert [stage["stage"] for stage in told["stages"]][:2] == ["sources", "histories"]
    assert len(told["stages"]) == 9
    by_name = {stage["stage"]: stage for stage in told["stages"]}
    assert by_name["features"]["figures"]["release_id"].startswith("2026-11-19")
    assert "Film" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("shard", ["2/2", "x", "1", "-1/2", "0/0", "1/2/3"])
def test_what_is_no_share_is_wrong_usage(shop: Path, shard: str) -> None:
    done = kar(shop, "ask", *WORLD, "--shard", shard)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "I/N" in done.stderr


@pytest.mark.parametrize("answers", ["", "some"])
def test_answers_that_are_neither_asked_nor_held_are_wrong_usage(shop: Path, answers: str) -> None:
    assert kar(shop, "run", "knowledge", *WORLD, "--answers", answers).returncode == 2


def test_a_date_that_is_not_planned_is_a_named_error(shop: Path) -> None:
    done = kar(shop, "ask", *WORLD, "--shard", "0/2")
    assert done.returncode == 1
    assert "has not been made for 2026-11-19" in done.stderr
    assert "do: run: kar run prompts --date 2026-11-19" in done.stderr
    assert not (shop / "home" / "world" / "ledger").exists()


def test_a_server_that_is_away_is_a_named_error_and_the_same_command_goes_on(shop: Path) -> None:
    kar(shop, "plan", *WORLD)
    away = kar(shop, "ask", *WORLD, "--shard", "0/2")
    assert away.returncode == 1
    assert "127.0.0.1:9" in away.stderr
    with loopback() as server:
        done = kar(shop, "ask", *at(server), "--shard", "0/2", "--json")
    told = last_line(done)
    assert (told["attempts"], told["calls"]) == (2, told["planned"])


@pytest.mark.slow
def test_a_share_killed_with_sigkill_and_run_again_pays_nothing_twice_beyond_the_window(tmp_path: Path) -> None:
    world.write(tmp_path / "data", users=150, items=100, events=8)
    (tmp_path / "world.toml").write_text(SETTINGS.format(folder=tmp_path / "data", prompts=ROOT / "prompts"))
    kar(tmp_path, "plan", *WORLD)
    with loopback(delay_s=DELAY_S) as server:
        there = at(server, f"llm.concurrency={IN_FLIGHT}")
        killed, other = (started(tmp_path, "ask", *there, "--shard", f"{place}/2", "--json") for place in range(2))
        while server.calls < 100 and killed.poll() is None:
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        assert ended(killed).returncode == -signal.SIGKILL
        second = last_line(ended(other))
        before = server.calls
        again = ended(started(tmp_path, "ask", *there, "--shard", "0/2", "--json"))
        assert again.returncode == 0, again.stderr
        first = last_line(again)
        repaid = server.calls - 250
        assert before < 250, "it was killed before its end"
    window = COMMIT_WINDOW_S / DELAY_S * IN_FLIGHT  # the most that can be answered in one window
    assert 0 <= repaid <= IN_FLIGHT + window
    assert (first["attempts"], first["planned"] + second["planned"]) == (2, 250)
    assert first["answered"] == first["planned"], "what the killed attempt had answered is counted from the ledger"
    judged = last_line(kar(tmp_path, "run", "knowledge", *WORLD, "--answers", "held", "--json"))
    assert judged["figures"]["calls"] == first["calls"] + second["calls"] == 250
    assert judged["figures"]["from_ledger"] == 0
    assert judged["rejected"].get("not_asked", 0) == 0
