"""Several servers: homes for families, weights, spill-over, and a server that dies half-way."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.errors import ServerUnreachable
from kar.llm.ask import Asked, ask
from kar.llm.endpoints import Endpoint, Endpoints, _score
from kar.llm.gate import Gate
from kar.llm.ledger import look_up
from kar.llm.stream import Request
from kar.llm.transport import Reply
from kar.settings import LLMSettings
from kar.store import Home
from tests.llm.conftest import NOW, request_of
from tests.llm.loopback import Server, loopback


class Nobody:
    """A transport that is never used: these tests only place requests."""

    async def post(self, body: bytes, request_id: str) -> Reply:
        raise AssertionError("nothing is sent here")

    async def get(self, path: str, *, at_root: bool = False) -> Reply:
        raise AssertionError("nothing is asked here")

    async def close(self) -> None:
        raise AssertionError("nothing is open here")


def servers(*weights: float, limit: int = 100) -> Endpoints:
    return Endpoints([Endpoint(n, f"http://server-{n}/v1", Nobody(), Gate(limit), weight) for n, weight in enumerate(weights)])


async def homes(endpoints: Endpoints, families: list[str]) -> list[int]:
    """Where each family goes while nothing else is in flight."""
    found = []
    for family in families:
        endpoint, _ = await endpoints.enter(family)
        endpoints.leave(endpoint)
        found.append(endpoint.place)
    return found


FAMILIES = [f"template@{n}" for n in range(600)]


async def test_families_are_spread_by_weight() -> None:
    counts = Counter(await homes(servers(1, 1, 2), FAMILIES))
    assert 100 < counts[0] < 200
    assert 100 < counts[1] < 200
    assert 240 < counts[2] < 360


async def test_a_server_that_leaves_moves_its_own_families_only() -> None:
    endpoints = servers(1, 1, 1)
    before = await homes(endpoints, FAMILIES)
    endpoints.leave_out(endpoints.all[1])
    after = await homes(endpoints, FAMILIES)
    assert all(b == a for b, a in zip(before, after, strict=True) if b != 1)
    assert {a for b, a in zip(before, after, strict=True) if b == 1} == {0, 2}


async def test_a_family_stays_at_home_until_home_is_fuller_by_a_quarter_of_a_window() -> None:
    endpoints = servers(1, 1, limit=40)
    places = [(await endpoints.enter("family"))[0].place for _ in range(80)]
    home = places[0]
    assert places[:11] == [home] * 11
    assert places[11] != home
    assert Counter(places) == {0: 40, 1: 40}  # a full home keeps nobody waiting while there is room elsewhere


async def test_a_request_without_family_goes_to_the_emptiest() -> None:
    endpoints = servers(1, 1, 1, limit=4)
    assert Counter([(await endpoints.enter(""))[0].place for _ in range(9)]) == {0: 3, 1: 3, 2: 3}


@given(st.text(max_size=40), st.integers(1, 5))
def test_for_all_families_the_home_does_not_depend_on_the_order_of_the_servers(family: str, count: int) -> None:
    endpoints = servers(*[1.0] * count).all
    best = max(endpoints, key=lambda e: _score(family, e)).base_url
    assert max(reversed(endpoints), key=lambda e: _score(family, e)).base_url == best


def settings_for(*running: Server, **more: object) -> LLMSettings:
    endpoints = [{"base_url": s.base_url} for s in running]
    return LLMSettings.model_validate(
        {"provider": "openai", "model": "tiny", "endpoints": endpoints, "concurrency": 8, "metrics_interval_s": 0.1, **more}
    )


def run(home: Path, settings: LLMSettings, requests: list[Request]) -> Asked:
    return ask(iter(requests), settings, Home(home, "s"), "r1", NOW, lambda *_: None)


def test_one_of_two_servers_dying_half_way_costs_no_answer_and_no_attempt(tmp_path: Path) -> None:
    requests = [request_of(f"p{n}", family=f"family {n % 4}") for n in range(300)]
    with loopback(delay_s=0.02) as first, loopback(delay_s=0.02) as second:

        def kill() -> None:
            while first.calls < 60:
                time.sleep(0.002)
            first.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        asked = run(tmp_path, settings_for(first, second, max_attempts=1), requests)
        killer.join()
        calls = first.calls + second.calls
    assert (asked.answered, asked.failed, asked.stopped_by) == (300, 0, "none")
    assert second.calls >= 200
    assert calls - 300 <= 8  # asked twice: what the dead one had in flight
    kept = look_up(Home(tmp_path, "s").ledger, [r.key for r in requests])
    assert {a.attempts for a in kept.values()} == {1}
    assert len(kept) == 300
    assert asked.pace[-1].endpoint == 1


def test_a_server_that_is_not_there_at_the_start_is_left_out(tmp_path: Path) -> None:
    with loopback() as gone:
        pass
    with loopback() as there:
        asked = run(tmp_path, settings_for(gone, there), [request_of(f"p{n}") for n in range(20)])
        assert there.calls == 20
    assert asked.answered == 20


def test_no_server_at_all_is_named(tmp_path: Path) -> None:
    with loopback() as one, loopback() as two:
        pass
    with pytest.raises(ServerUnreachable, match="no language model server answers"):
        run(tmp_path, settings_for(one, two), [request_of("p")])


def test_a_sick_server_is_left_out_although_it_answers(tmp_path: Path) -> None:
    """Its engine is dead: /health says 503, and every chat breaks."""
    with loopback(lambda call: "reset") as sick, loopback() as well:
        sick.health = 503
        asked = run(tmp_path, settings_for(sick, well, max_attempts=1), [request_of(f"p{n}") for n in range(50)])
        assert sick.calls <= 25  # what is sent while its health is asked for
    assert (asked.answered, asked.failed) == (50, 0)


def test_a_weight_is_a_share_of_the_work(tmp_path: Path) -> None:
    with loopback(delay_s=0.01) as light, loopback(delay_s=0.01) as heavy:
        endpoints = [{"base_url": light.base_url, "weight": 1}, {"base_url": heavy.base_url, "weight": 3}]
        run(tmp_path, settings_for(endpoints=endpoints, concurrency=12), [request_of(f"p{n}") for n in range(200)])
        assert heavy.calls > 2 * light.calls
        assert (light.most_in_flight, heavy.most_in_flight) == (4, 12)
