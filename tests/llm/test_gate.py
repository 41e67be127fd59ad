"""The gate: the law of its window against a simulated server, and what 429 and 503 do to it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kar.llm.gate import Gate, next_window
from kar.llm.metrics import Reading
from tests.llm.simulated import Clock, SimulatedServer, drive

READINGS = st.builds(
    Reading,
    waiting=st.integers(0, 10**6),
    running=st.integers(0, 10**4),
    kv_share=st.floats(0, 1.5),
    preemptions=st.integers(0, 10**6),
)


def reading(waiting: int = 0, running: int = 20, kv_share: float = 0.3, preemptions: int = 0) -> Reading:
    return Reading(waiting, running, kv_share, preemptions)


def after(window: float, seen: Reading, *, preempted: bool = False, is_used: bool = True, is_settled: bool = True) -> float:
    return next_window(window, 512, seen, preempted=preempted, is_used=is_used, is_settled=is_settled)


def test_an_empty_queue_lets_the_window_grow_by_four_or_a_twentieth() -> None:
    assert after(16, reading()) == 20
    assert after(200, reading()) == 210
    assert after(16, reading(), is_used=False) == 16
    assert after(16, reading(kv_share=0.9)) == 16
    assert after(511, reading()) == 512


def test_a_shallow_queue_is_left_alone_and_a_longer_one_trimmed() -> None:
    assert after(100, reading(waiting=2)) == 100
    assert after(100, reading(waiting=3)) == 99
    assert after(100, reading(waiting=10)) == 99


def test_a_deep_queue_full_memory_and_thrown_out_requests_shrink_the_window_by_a_fifth() -> None:
    assert after(100, reading(waiting=11)) == 80
    assert after(100, reading(kv_share=0.96)) == 80
    assert after(100, reading(), preempted=True) == 80
    assert after(1, reading(waiting=11)) == 1


def test_nothing_shrinks_further_before_the_last_shrinking_has_taken_effect() -> None:
    assert after(100, reading(waiting=50), is_settled=False) == 100


@given(st.floats(1, 512), st.integers(1, 512), READINGS, st.booleans(), st.booleans(), st.booleans())
def test_for_all_readings_the_window_stays_between_one_and_the_limit(
    window: float, limit: int, seen: Reading, preempted: bool, is_used: bool, is_settled: bool
) -> None:
    assert 1 <= next_window(window, limit, seen, preempted=preempted, is_used=is_used, is_settled=is_settled) <= limit


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 100), st.integers(1, 200))
def test_for_all_batch_sizes_the_window_settles_where_the_batch_is_full_and_the_queue_short(batch: int, limit: int) -> None:
    server, clock = SimulatedServer(batch), Clock()
    gate = Gate(limit, clock=clock)
    moments = drive(server, gate, clock, 160 + 10 * limit // batch)  # what was let in at first must drain: 4 s an answer
    assert all(1 <= m.window <= limit and m.in_flight <= limit for m in moments)
    settled = moments[-30:]
    assert max(m.reading.waiting for m in settled) <= max(8, 0.5 * batch)  # 8: it grows by 4 at least, and sees it one look later
    fullest = min(limit, batch)  # what could run at all
    assert sum(m.reading.running for m in settled) / len(settled) >= 0.8 * fullest


def test_a_window_far_too_wide_comes_down_and_does_not_fall_below_what_the_server_can_do() -> None:
    server, clock = SimulatedServer(batch=20), Clock()
    gate = Gate(400, clock=clock)
    gate.steer(reading())
    gate.window = 400.0
    moments = drive(server, gate, clock, 400)
    assert min(m.window for m in moments) >= 14
    assert max(m.reading.waiting for m in moments[-30:]) <= 10
    assert len(server.running) >= 16


def test_a_server_that_thrashes_is_relieved_and_does_hardly_less() -> None:
    """Memory for 20 to 30 requests, a batch of 100: with a fixed window of 100 it throws out what it has begun."""
    clock = Clock()
    left_alone, relieved = SimulatedServer(100, memory_tokens=2_000), SimulatedServer(100, memory_tokens=2_000)
    drive(left_alone, Gate(100, clock=clock), clock, 300, steered=False)
    gate = Gate(100, clock=clock)
    moments = drive(relieved, gate, clock, 300)
    assert gate.window < 40
    assert relieved.preemptions < left_alone.preemptions / 4
    assert relieved.made >= 0.9 * left_alone.made
    assert all(m.window >= 1 for m in moments)


def test_without_metrics_the_window_is_the_limit() -> None:
    gate = Gate(100)
    gate.steer(None)
    assert (gate.window, gate.is_steered) == (100, False)


def test_with_metrics_the_window_starts_at_64_and_when_they_go_it_stays_where_it_was() -> None:
    clock = Clock()
    gate = Gate(100, clock=clock)
    gate.steer(reading(waiting=1))
    assert (gate.window, gate.is_steered) == (64, True)
    gate.steer(None)
    for _ in range(1000):
        clock.now += 1
        gate.answered()
    assert (gate.window, gate.is_steered) == (64, False)
    gate.steer(reading(waiting=1))
    assert gate.is_steered


def test_a_steered_window_grows_only_when_it_was_full() -> None:
    gate = Gate(100)
    gate.steer(reading())
    gate.steer(reading())
    assert gate.window == 64
    for _ in range(64):
        gate.take()
    gate.steer(reading())
    assert gate.window == 68


def test_push_backs_of_requests_sent_together_halve_the_window_once() -> None:
    clock = Clock()
    gate = Gate(16, clock=clock)
    entered = [gate.take() for _ in range(16)]
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


def test_without_metrics_the_window_grows_by_one_per_window_of_answers_after_a_rest_and_not_beyond_its_limit() -> None:
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


def test_a_steered_window_does_not_grow_for_ten_seconds_after_a_push_back() -> None:
    clock = Clock()
    gate = Gate(64, clock=clock)
    for _ in range(64):
        gate.take()
    gate.steer(reading())
    gate.push_back(clock())
    gate.steer(reading())
    assert gate.window == 32
    clock.now += 10
    gate.steer(reading())
    assert gate.window == 36


def test_nobody_enters_before_retry_after_has_gone_by() -> None:
    clock = Clock()
    gate = Gate(4, clock=clock)
    gate.push_back(gate.take(), retry_after_s=5)
    gate.leave()
    assert (gate.has_room(), gate.closed_s()) == (False, 5)
    clock.now += 5
    assert (gate.has_room(), gate.closed_s()) == (True, 0)
