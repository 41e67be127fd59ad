"""A night of 200 items against a real vLLM server: what is paid, what is lost, what happens when something is killed.

Calls are counted at the server. An answer of this file is 24 tokens long, so most are cut; what matters here is that
each is asked for once, kept, and ends in the tables.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kar.llm.ledger import look_up
from tests.integration.conftest import MAX_QUEUED, MAX_SEQS
from tests.integration.night import ANSWER_TOKENS, COUNT, Night
from tests.integration.vllm_server import VllmServer, until

pytestmark = pytest.mark.vllm
NewNight = Callable[..., Night]


@pytest.fixture
def new_night(server: VllmServer, model_folder: Path, tmp_path: Path) -> NewNight:
    def make(name: str = "night", **how: int) -> Night:
        return Night(tmp_path / name, server.base_url, model_folder, **how)

    return make


def held(night: Night) -> int:
    """Planned requests with a good answer in the ledger."""
    return len(look_up(night.home.ledger, night.keys()))


def test_a_night_asks_each_item_once_and_a_second_run_asks_nothing(server: VllmServer, new_night: NewNight) -> None:
    night, before = new_night(), server.answered()
    night.ask()
    assert server.answered() - before == COUNT
    figures = night.manifest().figures
    assert (figures["calls"], figures["answered"], figures["from_ledger"]) == (COUNT, COUNT, 0)
    assert figures["completion_tokens"] <= COUNT * ANSWER_TOKENS
    bytes_before = night.bytes_of_tables()
    night.ask()
    night.forget_the_tables()
    night.ask()
    assert server.answered() - before == COUNT
    assert night.manifest().figures["from_ledger"] == COUNT
    assert night.bytes_of_tables() == bytes_before
    night.rename_item(7, "The Long Way Home (1931)")
    night.ask()
    assert server.answered() - before == COUNT + 1
    assert night.manifest().figures["calls"] == 1


def test_the_plan_s_token_counts_are_the_server_s(server: VllmServer, new_night: NewNight) -> None:
    night = new_night()
    night.ask()
    planned = night.planned_tokens()
    paid = {key: answer.prompt_tokens for key, answer in look_up(night.home.ledger, list(planned)).items()}
    assert len(paid) == COUNT
    assert max(abs(planned[key] - tokens) for key, tokens in paid.items()) <= 5


def test_after_sigkill_a_night_is_finished_without_paying_much_twice(server: VllmServer, new_night: NewNight) -> None:
    night, before, calls_before = new_night(), server.answered(), server.calls()
    with night.start() as process:
        assert until(lambda: server.answered() - before >= COUNT // 2, 120.0)
        process.send_signal(signal.SIGKILL)
    server.wait_until_idle()
    paid_first, kept = server.answered() - before, held(night)
    assert COUNT // 2 <= paid_first < COUNT
    assert paid_first - kept <= MAX_SEQS  # answered, but not committed yet: what came in one window
    night.ask()
    assert server.calls() - calls_before <= COUNT + 2 * MAX_SEQS  # in flight, and the window
    assert server.answered() - before == COUNT + paid_first - kept
    assert held(night) == COUNT


def test_a_night_that_was_killed_ends_in_the_tables_of_one_that_was_not(server: VllmServer, new_night: NewNight) -> None:
    killed, calm = new_night("killed"), new_night("calm")
    before = server.answered()
    with killed.start() as process:
        assert until(lambda: server.answered() - before >= COUNT // 2, 120.0)
        process.send_signal(signal.SIGKILL)
    server.wait_until_idle()
    killed.ask()
    shutil.copytree(killed.home.ledger, calm.home.ledger)  # a model's answers differ from run to run; the tables made of them do not
    before = server.calls()
    calm.ask()
    assert server.calls() == before
    assert calm.bytes_of_tables() == killed.bytes_of_tables()


def test_sigterm_makes_the_server_stop_working_at_once_and_keeps_what_came(server: VllmServer, new_night: NewNight) -> None:
    night, before = new_night(), server.answered()
    with night.start() as process:
        assert until(lambda: server.answered() - before >= COUNT // 4, 120.0)
        process.send_signal(signal.SIGTERM)
        assert until(lambda: server.running() == 0, 5.0)
        written = server.metric("vllm:generation_tokens_total")
        _, said = process.communicate(timeout=30)
    assert process.returncode in (0, 1), said
    assert "Traceback" not in said
    assert server.metric("vllm:generation_tokens_total") == written
    paid = server.answered() - before
    assert paid < COUNT
    assert held(night) == paid
    night.ask()
    assert server.answered() - before == COUNT


def test_a_burst_that_the_queue_has_no_room_for_ends_well_for_every_item(server: VllmServer, new_night: NewNight) -> None:
    night, before, refused_before = new_night(concurrency=4 * MAX_QUEUED), server.answered(), server.refusals()
    night.ask()
    figures, refused = night.manifest().figures, server.refusals() - refused_before
    assert refused > 0
    assert figures["pushed_back"] == refused
    assert server.answered() - before == COUNT
    answers = look_up(night.home.ledger, night.keys())
    assert len(answers) == COUNT
    assert {answer.attempts for answer in answers.values()} == {1}


def test_a_prompt_that_is_too_long_costs_one_row(server: VllmServer, new_night: NewNight) -> None:
    """The plan would cut it; here the plan is told that the context is longer than it is."""
    night = new_night()
    night.believe_in_a_longer_context()
    night.rename_item(3, "Endless " * 3000)
    before = server.answered()
    night.ask()
    assert server.answered() - before == COUNT - 1
    refused = [row for row in night.table("knowledge", "refused").to_pylist() if row["reason"] == "bad_request"]
    assert [row["subject_id"] for row in refused] == ["3"]
    assert night.manifest().rejected["bad_request"] == 1


def test_a_server_killed_under_load_and_started_again_costs_no_answer(server: VllmServer, new_night: NewNight) -> None:
    night, before = new_night(), server.answered()
    with night.start() as process:
        assert until(lambda: server.answered() - before >= COUNT // 3, 120.0)
        server.kill()
        server.start()
        _, said = process.communicate(timeout=120)
    assert "Traceback" not in said
    if process.returncode != 0:
        assert "do: start it again and repeat the command" in said
        kept = held(night)
        assert COUNT // 3 - MAX_SEQS <= kept < COUNT
        night.ask()
        assert server.answered() == COUNT - kept
    assert held(night) == COUNT
    assert sum(night.manifest().tables[name]["rows"] for name in ("knowledge", "refused")) == COUNT
