"""A night of 200 items against a real vLLM server: what is paid, what is lost, what happens when something is killed.

Calls are counted at the server. An answer of this file is 16 tokens long, so most are cut; what matters here is that
each is asked for once, kept, and ends in the tables.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MAX_QUEUED, MAX_SEQS
from tests.integration.night import ANSWER_TOKENS, COUNT, Night
from tests.integration.vllm_server import VllmServer, until

pytestmark = pytest.mark.vllm
NewNight = Callable[..., Night]


@pytest.fixture
def new_night(server: VllmServer, model_folder: Path, tmp_path: Path) -> NewNight:
    def make(name: str = "night", tokenizer: Path | str = model_folder, **how: Any) -> Night:
        return Night(tmp_path / name, server.base_url, tokenizer, **how)

    return make


def test_a_night_asks_each_item_once_and_a_second_run_asks_nothing(server: VllmServer, new_night: NewNight) -> None:
    night, before = new_night(), server.answered()
    night.ask()
    assert server.answered() - before == COUNT
    figures = night.manifest().figures
    assert (figures["calls"], figures["answered"], figures["from_ledger"]) == (COUNT, COUNT, 0)
    assert figures["completion_tokens"] <= COUNT * ANSWER_TOKENS
    assert figures["server_version"].startswith("vllm ")
    assert 0.3 < figures["prefix_hit_share"] < 1.0  # most of a prompt is the template's constant beginning
    first = night.bytes_of_tables()
    night.ask()
    night.forget_the_tables()
    night.ask()
    assert server.answered() - before == COUNT
    assert night.manifest().figures["from_ledger"] == COUNT
    assert night.bytes_of_tables() == first

    planned, paid = night.planned_tokens(), night.paid()
    assert len(paid) == COUNT
    assert max(abs(planned[key] - answer.prompt_tokens) for key, answer in paid.items()) <= 5
    assert {answer.revision for answer in paid.values()} == {"smollm2-135m-instruct"}  # the root that the server names, without its folders

    night.describe({7: "A lighthouse keeper finds a letter."})
    night.ask()
    assert server.answered() - before == COUNT + 1
    assert night.manifest().figures["calls"] == 1


def test_after_sigkill_little_is_paid_twice_and_the_tables_are_those_of_a_calm_night(server: VllmServer, new_night: NewNight) -> None:
    night, before, calls_before = new_night("killed"), server.answered(), server.calls()
    with night.start() as process:
        assert until(lambda: server.answered() - before >= COUNT // 2, 600.0, 0.2)
        process.send_signal(signal.SIGKILL)
    server.wait_until_idle()
    paid_first, kept = server.answered() - before, len(night.paid())
    assert COUNT // 2 <= paid_first < COUNT
    assert paid_first - kept <= MAX_SEQS  # answered and not committed: what came in one window
    night.ask()
    assert len(night.paid()) == COUNT
    assert server.answered() - before == COUNT + paid_first - kept
    assert server.calls() - calls_before <= COUNT + 2 * MAX_SEQS  # those in flight, and the window

    calm = new_night("calm")
    shutil.copytree(
        night.home.ledger, calm.home.ledger, dirs_exist_ok=True
    )  # a model's answers differ between runs; tables made of them do not
    before = server.calls()
    calm.ask()
    assert server.calls() == before
    assert calm.bytes_of_tables() == night.bytes_of_tables()


def test_sigterm_makes_the_server_stop_working_at_once_and_keeps_what_came(server: VllmServer, new_night: NewNight) -> None:
    night, before = new_night(), server.answered()
    with night.start() as process:
        assert until(lambda: server.answered() - before >= COUNT // 4, 600.0, 0.2)
        process.send_signal(signal.SIGTERM)
        assert until(lambda: server.running() == 0, 15.0, 0.1)
        written = server.metric("vllm:generation_tokens_total")
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "kar: stopped; what was paid for is kept" in said
    assert server.metric("vllm:generation_tokens_total") == written
    paid = server.answered() - before
    assert COUNT // 4 <= paid < COUNT
    assert paid - MAX_SEQS <= len(night.paid()) <= paid  # an answer may have been on its way when the connection closed
    kept = len(night.paid())
    night.ask()
    assert server.answered() - before == COUNT + paid - kept


def test_a_burst_that_the_queue_has_no_room_for_ends_well_for_every_item(server: VllmServer, new_night: NewNight) -> None:
    night, before, refused_before = new_night(concurrency=4 * MAX_QUEUED), server.answered(), server.refusals()
    night.ask()
    figures, refused = night.manifest().figures, server.refusals() - refused_before
    assert refused > 0
    assert figures["pushed_back"] == refused
    assert server.answered() - before == COUNT
    assert {answer.attempts for answer in night.paid().values()} == {1}
    assert len(night.paid()) == COUNT
    windows = night.table("knowledge", "pace").column("window").to_pylist()
    assert min(windows) < windows[0]
    assert min(windows) <= MAX_QUEUED


def test_a_prompt_that_is_longer_than_the_plan_thought_costs_one_row(server: VllmServer, new_night: NewNight) -> None:
    """Without the model's tokenizer the plan takes four characters for a token; Chinese has more tokens than characters."""
    night = new_night(tokenizer="", items=24)
    night.describe({3: "這部電影講述燈塔守護者的故事。" * 130})
    before = server.answered()
    night.ask()
    assert server.answered() - before == 23
    refused = [row for row in night.table("knowledge", "refused").to_pylist() if row["reason"] == "bad_request"]
    assert [row["subject_id"] for row in refused] == ["3"]
    assert "2048" in refused[0]["detail"]
    assert night.manifest().rejected["bad_request"] == 1


def test_a_server_killed_under_load_and_started_again_costs_no_answer(server: VllmServer, new_night: NewNight) -> None:
    night, before = new_night(), server.answered()
    with night.start() as process:
        assert until(lambda: server.answered() - before >= COUNT // 3, 600.0, 0.2)
        server.kill()
        server.start()  # on the same port; its counters begin at 0
        _, said = process.communicate(timeout=600)
    assert "server: gone" in said
    if process.returncode != 0:  # a start that took longer than the client waits: the command is repeated, as it says
        assert process.returncode == 1
        assert "do: start it again and repeat the command; every answer so far is kept" in said
        night.ask()
    assert len(night.paid()) == COUNT
    assert server.answered() <= COUNT - COUNT // 3 + MAX_SEQS  # what was answered before is not asked again; a window may be
    assert {answer.attempts for answer in night.paid().values()} == {1}
    assert sum(night.manifest().tables[name]["rows"] for name in ("knowledge", "refused")) == COUNT
