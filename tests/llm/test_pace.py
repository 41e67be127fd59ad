"""The watch: rows over time that stay few, and metrics that come and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from kar.llm.endpoints import Endpoint, Endpoints
from kar.llm.gate import Gate
from kar.llm.pace import Watch
from kar.llm.transport import AioTransport
from tests.llm.loopback import loopback
from tests.llm.simulated import Clock
from tests.llm.test_metrics import VLLM


async def test_rows_stay_under_their_limit_cover_the_whole_time_and_keep_the_mean_speed(tmp_path: Path) -> None:
    clock = Clock()
    with loopback() as server:
        transport = AioTransport(server.base_url)
        endpoint = Endpoint(0, server.base_url, transport, Gate(8))
        watch = Watch(Endpoints([endpoint]), reads_metrics=False, most_rows=20, clock=clock)
        for _ in range(1000):
            clock.now += 2
            endpoint.completion_tokens += 200
            endpoint.answered += 1
            await watch.look()
            assert len(watch.rows) <= 20
        await watch.look(is_last=True)
        await transport.close()
    rows = watch.rows
    assert len(rows) >= 10
    assert rows[0].second <= 2000 / 8
    assert (rows[-1].second, rows[-1].answered) == (2000, 1000)
    assert [row.second for row in rows] == sorted(row.second for row in rows)
    assert sum(row.tokens_per_s for row in rows[:-1]) / (len(rows) - 1) == pytest.approx(100, rel=0.1)


async def test_metrics_that_go_away_leave_the_window_as_it_is_and_may_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    with loopback() as server:
        server.metrics = VLLM
        transport = AioTransport(server.base_url)
        endpoint = Endpoint(0, server.base_url, transport, Gate(100))
        watch = Watch(Endpoints([endpoint]))
        await watch.look()
        assert (endpoint.gate.is_steered, endpoint.gate.window) == (True, 63)
        server.metrics = ""
        for _ in range(5):
            await watch.look()
        assert (endpoint.gate.is_steered, endpoint.gate.window) == (False, 63)
        assert watch.rows[-1].waiting == -1
        server.metrics = VLLM
        await watch.look()
        assert endpoint.gate.is_steered
        await transport.close()
    assert capsys.readouterr().err.count("no metrics to steer by") == 1


async def test_preemptions_and_hits_are_counted_from_the_beginning_and_survive_a_restart_of_the_server() -> None:
    with loopback() as server:
        transport = AioTransport(server.base_url)
        clock = Clock()  # the machine's may not move between two looks, which then are one row
        watch = Watch(Endpoints([Endpoint(0, server.base_url, transport, Gate(8))]), clock=clock)
        for page in (VLLM, VLLM.replace("1000.0", "1200.0").replace("640.0", "740.0").replace("} 2.0", "} 5.0")):
            server.metrics = page
            clock.now += 2
            await watch.look()
        assert [(row.preemptions, row.prefix_hit_share) for row in watch.rows][1] == (3, 0.5)
        assert watch.prefix_hit_share == 0.5
        server.metrics = VLLM.replace("1000.0", "10.0").replace("640.0", "9.0").replace("} 2.0", "} 0.0")
        await watch.look()
        assert watch.rows[-1].preemptions == 0
        await transport.close()


async def test_two_looks_in_the_same_millisecond_are_one_row() -> None:
    clock = Clock()
    with loopback() as server:
        transport = AioTransport(server.base_url)
        endpoint = Endpoint(0, server.base_url, transport, Gate(8))
        watch = Watch(Endpoints([endpoint]), reads_metrics=False, clock=clock)
        for answered in (3, 5):  # the last of one round, the first of the next
            endpoint.answered = answered
            await watch.look()
        clock.now += 2
        await watch.look(is_last=True)
        await transport.close()
    assert [(row.second, row.answered) for row in watch.rows] == [(0.0, 5), (2.0, 5)]
