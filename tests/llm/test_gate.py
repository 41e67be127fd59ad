"""The gate: a window that halves on push-back and grows back slowly."""

from __future__ import annotations

import asyncio

from kar.llm.gate import Gate


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_no_more_than_the_window_are_inside() -> None:
    gate = Gate(3)
    most = 0

    async def visit() -> None:
        nonlocal most
        await gate.enter()
        most = max(most, gate.in_flight)
        await asyncio.sleep(0.001)
        gate.leave()

    await asyncio.gather(*(visit() for _ in range(20)))
    assert most == 3
    assert gate.in_flight == 0


async def test_push_backs_of_requests_sent_together_halve_the_window_once() -> None:
    clock = Clock()
    gate = Gate(16, clock=clock)
    entered = [await gate.enter() for _ in range(16)]
    clock.now += 1
    for at in entered:
        gate.push_back(at)
    assert gate.window == 8
    clock.now += 1
    gate.push_back(clock())
    assert gate.window == 4
    for _ in range(10):
        clock.now += 1
        gate.push_back(clock())
    assert gate.window == 1


async def test_the_window_grows_by_one_per_window_of_answers_after_a_rest_and_not_beyond_its_limit() -> None:
    clock = Clock()
    gate = Gate(8, no_growth_s=10, clock=clock)
    gate.push_back(clock())
    gate.answered()
    assert gate.window == 4
    clock.now += 10
    for _ in range(4):
        gate.answered()
    assert 4.8 < gate.window < 5.01
    for _ in range(100):
        gate.answered()
    assert gate.window == 8


async def test_nobody_enters_before_retry_after_has_gone_by() -> None:
    gate = Gate(4)
    loop = asyncio.get_running_loop()
    gate.push_back(await gate.enter(), retry_after_s=0.2)
    gate.leave()
    started = loop.time()
    await gate.enter()
    assert loop.time() - started >= 0.19


async def test_a_waiter_that_gives_up_hands_its_turn_on() -> None:
    gate = Gate(1)
    await gate.enter()
    first, second = asyncio.create_task(gate.enter()), asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    gate.leave()
    first.cancel()
    async with asyncio.timeout(1):
        await second
    assert gate.in_flight == 1
