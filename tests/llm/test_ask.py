"""A run's asking from end to end: two rounds, the servers' metrics, what it looked like, and signals that end it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kar.errors import ModelChanged
from kar.llm.ask import Asked, Retry, ask
from kar.llm.client import Request
from kar.llm.ledger import Answer, Ledger
from kar.settings import LLMSettings
from kar.store import Home
from tests.llm.conftest import NOW, request_of
from tests.llm.loopback import answer_to, loopback
from tests.llm.test_metrics import VLLM

ROOT = Path(__file__).parents[2]


def never(request: Request, answer: Answer) -> None:
    """No second round."""


def run(home: Path, base_url: str, requests: list[Request], retry: Retry = never, **more: object) -> Asked:
    settings = LLMSettings.model_validate(
        {"provider": "openai", "model": "tiny", "base_url": base_url, "concurrency": 8, "metrics_interval_s": 0.05, **more}
    )
    return ask(iter(requests), settings, Home(home, "s"), "r1", NOW, retry)


def longer(request: Request, answer: Answer) -> Request | None:
    """The same with more tokens; "p3" is left as it is."""
    prompt = next(p for p in (f"p{n}" for n in range(10)) if f'"{p}"' in answer.body)
    return None if prompt == "p3" else request_of(prompt, request.answer_tokens * 2)


def test_cut_answers_are_asked_once_more_when_all_others_have_been(tmp_path: Path) -> None:
    requests = [request_of(f"p{n}") for n in range(6)]
    with loopback(lambda call: "length" if call.body["max_tokens"] == 50 and call.prompt in ("p0", "p3", "p4") else "ok") as server:
        asked = run(tmp_path, server.base_url, requests, longer)
        assert server.calls == 8
        assert set(server.bodies[6:]) == {request_of(p, 100).body for p in ("p0", "p4")}
    assert (asked.answered, asked.retried, asked.calls, asked.stopped_by) == (8, 2, 8, "none")
    with Ledger.open(Home(tmp_path, "s").ledger) as ledger:
        rows = ledger.find([requests[0].key])[requests[0].key]
    assert [(a.finish_reason, a.retry_of) for a in rows] == [("length", ""), ("stop", requests[0].key)]


def test_second_answers_are_found_again_and_not_paid_twice(tmp_path: Path) -> None:
    requests = [request_of(f"p{n}") for n in range(6)]
    with loopback(lambda call: "length" if call.body["max_tokens"] == 50 else "ok") as server:
        run(tmp_path, server.base_url, requests)
        run(tmp_path, server.base_url, requests, longer)
        assert server.calls == 6 + 5
        again = run(tmp_path, server.base_url, requests, longer)
        assert server.calls == 11
        assert server.probes == 2  # the third run asked nobody anything
    assert (again.from_ledger, again.retried, again.calls, again.identity) == (11, 5, 0, None)


def test_a_run_that_its_budget_stopped_asks_nothing_a_second_time(tmp_path: Path) -> None:
    with loopback(lambda call: "length") as server:
        asked = run(tmp_path, server.base_url, [request_of(f"p{n}") for n in range(6)], longer, token_budget=120, concurrency=1)
        calls = server.calls
    assert asked.stopped_by == "token_budget"
    assert 1 <= calls < 6


def test_the_servers_metrics_steer_the_window_and_are_shown_over_time(tmp_path: Path) -> None:
    with loopback(delay_s=0.02) as server:
        server.metrics, server.version = VLLM, "0.32.0"  # 12 running, 3 waiting: a little too long a queue, always
        server.card |= {"owned_by": "vllm", "revision": "r1"}
        asked = run(tmp_path, server.base_url, [request_of(f"p{n}") for n in range(100)])
    pace = asked.pace
    assert pace[0].window == 7
    assert pace[-1].window < 7
    assert [(p.waiting, p.running, p.kv_share, p.preemptions) for p in pace] == [(3, 12, 0.25, 0)] * len(pace)
    assert (pace[0].answered, pace[-1].answered) == (0, 100)
    assert [p.second for p in pace] == sorted(p.second for p in pace)
    assert sum(p.tokens_per_s > 0 for p in pace) >= 3
    with Ledger.open(Home(tmp_path, "s").ledger) as ledger:
        assert {a.server_version for a in ledger.get_many(request_of(f"p{n}").key for n in range(100)).values()} == {"vllm 0.32.0"}


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ({"revision": "r2"}, "now serves r2"),
        ({"root": "org/tiny"}, "now serves org/tiny"),
        ({"owned_by": "vllm"}, "one that it does not name"),
    ],
)
def test_another_model_than_the_planned_one_is_a_named_error_before_the_first_paid_call(
    tmp_path: Path, card: dict[str, str], says: str
) -> None:
    with loopback(card=card) as server:
        server.version = "0.32.0"
        with pytest.raises(ModelChanged, match=f"made for revision r1, the server .*{says}"):
            run(tmp_path, server.base_url, [request_of("p1")])
        assert server.calls == 0
        asked = run(tmp_path, server.base_url, [request_of("p1")], revision="r1")  # the setting wins, nothing is compared
        assert (asked.answered, server.calls) == (1, 1)


def test_a_server_that_says_nothing_of_itself_cannot_be_compared(tmp_path: Path) -> None:
    with loopback() as server:
        assert run(tmp_path, server.base_url, [request_of("p1")]).answered == 1


def test_without_metrics_the_window_is_the_setting_and_it_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with loopback(delay_s=0.02) as server:
        asked = run(tmp_path, server.base_url, [request_of(f"p{n}") for n in range(100)])
        assert server.most_in_flight == 8
    assert {p.window for p in asked.pace} == {8}
    assert {(p.waiting, p.running, p.preemptions) for p in asked.pace} == {(-1, -1, -1)}
    assert all(math.isnan(p.kv_share) for p in asked.pace)
    assert capsys.readouterr().err.count("no metrics to steer by") == 1


def test_metrics_that_are_switched_off_are_not_read(tmp_path: Path) -> None:
    with loopback() as server:
        server.metrics = VLLM
        asked = run(tmp_path, server.base_url, [request_of(f"p{n}") for n in range(20)], metrics="off")
    assert {(p.window, p.waiting) for p in asked.pace} == {(8, -1)}


def test_the_share_of_prompt_tokens_from_the_cache_is_told(tmp_path: Path) -> None:
    later = VLLM.replace("1000.0", "1400.0").replace(" 640.0", " 940.0")
    with loopback(lambda call: setattr(server, "metrics", later) or "ok") as server:
        server.metrics = VLLM
        asked = run(tmp_path, server.base_url, [request_of("prompt of 24 characters.")])
    assert asked.prefix_hit_share == 0.75
    assert (asked.prompt_tokens, asked.cached_tokens) == (6, 3)


def test_one_of_a_large_family_is_answered_before_its_crowd_is_let_in(tmp_path: Path) -> None:
    alone: list[bool] = []
    with loopback(lambda call: alone.append(server.calls == 1) or "ok", delay_s=0.05) as server:
        run(tmp_path, server.base_url, [request_of(f"p{n}", family="t@1") for n in range(20)], warm_up=True)
        assert server.most_in_flight == 8
    assert alone[0]


_RUN = """
import sys, signal
from pathlib import Path
from tests.llm.test_ask import run, request_of
def end(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, end)
try:
    run(Path(sys.argv[1]), sys.argv[2], [request_of(f"p{n}") for n in range(200)])
except KeyboardInterrupt:
    print("stopped", flush=True)
    sys.exit(1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_the_connections_at_once_and_keeps_what_came_back(tmp_path: Path, number: signal.Signals) -> None:
    with loopback(lambda call: "ok" if call.number <= 30 else "never") as server:
        command = [sys.executable, "-c", _RUN, str(tmp_path), server.base_url]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
        ) as process:
            while server.calls < 38 and process.poll() is None:
                time.sleep(0.005)
            assert (server.calls, server.dropped) == (38, 0)
            process.send_signal(number)
            until = time.monotonic() + 30
            while server.dropped < 8 and time.monotonic() < until:
                time.sleep(0.005)
            assert server.dropped == 8
            assert process.stdout is not None
            assert process.stdout.read() == b"stopped\n"
        assert process.returncode == 1
    with loopback() as again:
        asked = run(tmp_path, again.base_url, [request_of(f"p{n}") for n in range(200)])
        assert again.calls == 170
    assert (asked.from_ledger, asked.answered) == (30, 170)


def test_the_memory_does_not_grow_with_the_number_of_requests(tmp_path: Path) -> None:
    """The streams of 2,000 and of 20,000 requests, all held: what is kept of them does not differ."""
    import tracemalloc

    requests = [request_of(f"p{n}") for n in range(10)]
    with loopback() as server:
        run(tmp_path, server.base_url, requests)

    def many(count: int) -> Iterator[Request]:
        for n in range(count):
            yield requests[n % 10]

    def most(count: int) -> int:
        tracemalloc.start()
        settings = LLMSettings(provider="openai", model="tiny", base_url=server.base_url)
        asked = ask(many(count), settings, Home(tmp_path, "s"), "r1", NOW, never)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert asked.calls == 0
        return peak

    most(2_000)  # what is imported and cached the first time
    assert most(20_000) < most(2_000) + 100_000


def test_the_answers_are_those_of_the_prompts(tmp_path: Path) -> None:
    with loopback() as server:
        run(tmp_path, server.base_url, [request_of(f"p{n}") for n in range(50)])
    with Ledger.open(Home(tmp_path, "s").ledger) as ledger:
        held = ledger.get_many(request_of(f"p{n}").key for n in range(50))
    assert {held[request_of(f"p{n}").key].text for n in range(50)} == {answer_to(f"p{n}") for n in range(50)}
