"""A run killed with SIGKILL and run again: what was committed is not asked again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from kar.llm.ask import ask
from kar.llm.ledger import COMMIT_WINDOW_S, look_up
from kar.settings import LLMSettings
from kar.store import Home
from tests.llm.conftest import NOW, request_of
from tests.llm.loopback import loopback

ROOT = Path(__file__).parents[2]
COUNT, IN_FLIGHT, DELAY_S = 600, 8, 0.02

_RUN = """
import sys
import time
from pathlib import Path
from tests.llm.test_resume import COUNT, run
run(sys.argv[1], Path(sys.argv[2]))
"""


def run(base_url: str, root: Path) -> int:
    """Ask all; returns how many answers were in the ledger already."""
    settings = LLMSettings(provider="openai", model="tiny", base_url=base_url, concurrency=IN_FLIGHT)
    requests = [request_of(f"p{n}") for n in range(COUNT)]
    asked = ask(iter(requests), settings, Home(root, "s"), "r1", NOW, lambda *_: None)
    assert asked.from_ledger + asked.answered == COUNT
    return asked.from_ledger


def test_after_sigkill_no_more_is_paid_again_than_was_in_flight_or_in_the_window(tmp_path: Path) -> None:
    with loopback(delay_s=DELAY_S) as server:
        command = [sys.executable, "-c", _RUN, server.base_url, str(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
            while server.calls < COUNT // 2 and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        first = server.calls
        assert COUNT // 2 <= first < COUNT
        from_ledger = run(server.base_url, tmp_path)
        repaid = server.calls - COUNT
    window = COMMIT_WINDOW_S / DELAY_S * IN_FLIGHT  # the most that can be answered in one window
    assert from_ledger > 0
    assert repaid <= IN_FLIGHT + window
    assert server.calls - first == COUNT - from_ledger
    assert len(look_up(Home(tmp_path, "s").ledger, [request_of(f"p{n}").key for n in range(COUNT)])) == COUNT


def test_all_answers_in_the_ledger_make_no_call_and_need_no_server(tmp_path: Path) -> None:
    with loopback() as server:
        run(server.base_url, tmp_path)
        assert server.calls == COUNT
    assert run("http://127.0.0.1:9/v1", tmp_path) == COUNT


def test_equal_requests_are_asked_once(tmp_path: Path) -> None:
    with loopback() as server:
        settings = LLMSettings(provider="openai", model="tiny", base_url=server.base_url)
        ask([request_of("same")] * 5 + [request_of("other")], settings, Home(tmp_path, "s"), "r1", NOW, lambda *_: None)
        assert server.calls == 2
