"""A language model server in simulated time: a batch, a queue before it, a memory that can run out. No sockets, no chance."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kar.llm.gate import Gate
from kar.llm.metrics import Reading

STEP_S = 0.1


@dataclass
class _Request:
    """Tokens it will make, made, and of its prompt."""

    length: int
    prompt: int
    made: int = 0


class SimulatedServer:
    """Continuous batching: each step every running request makes one token; one that finds no memory is sent back to the queue.

    Args:
        batch: most requests running.
        memory_tokens: of all running requests together.
    """

    def __init__(self, batch: int, memory_tokens: int = 10**9) -> None:
        self.batch, self.memory_tokens = batch, memory_tokens
        self.running: list[_Request] = []
        self.waiting: deque[_Request] = deque()
        self.preemptions = 0
        self.made = 0
        self.used_tokens = 0
        self._number = 0

    def submit(self) -> None:
        """A request whose answer has 20 to 59 tokens, by its number."""
        self._number += 1
        self.waiting.append(_Request(20 + self._number * 7 % 40, prompt=50))

    def step(self) -> int:
        """One tenth of a second. Returns how many requests ended."""
        while self.waiting and len(self.running) < self.batch and self.used_tokens + self.waiting[0].prompt <= self.memory_tokens:
            self.running.append(self.waiting.popleft())
            self.used_tokens += self.running[-1].prompt
        for request in self.running:
            request.made += 1
        self.made += len(self.running)
        self.used_tokens += len(self.running)
        while self.used_tokens > self.memory_tokens and len(self.running) > 1:
            thrown_out = self.running.pop()
            self.used_tokens -= thrown_out.prompt + thrown_out.made
            self.made -= thrown_out.made  # for nothing
            thrown_out.made = 0
            self.waiting.appendleft(thrown_out)
            self.preemptions += 1
        ended = [r for r in self.running if r.made >= r.length]
        if ended:
            self.used_tokens -= sum(r.prompt + r.made for r in ended)
            self.running = [r for r in self.running if r.made < r.length]
        return len(ended)

    def reading(self) -> Reading:
        return Reading(len(self.waiting), len(self.running), min(1.0, self.used_tokens / self.memory_tokens), self.preemptions)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Moment:
    """What was seen every two seconds."""

    window: float
    in_flight: int
    reading: Reading


def drive(server: SimulatedServer, gate: Gate, clock: Clock, seconds: float, *, steered: bool = True) -> list[Moment]:
    """Keep the gate as full as it may be for so long; steer it every two seconds."""
    moments: list[Moment] = []
    for step in range(round(seconds / STEP_S)):
        while gate.has_room():
            gate.take()
            server.submit()
        for _ in range(server.step()):
            gate.leave()
            gate.answered()
        clock.now += STEP_S
        if step % 20 == 19:
            reading = server.reading()
            if steered:
                gate.steer(reading)
            moments.append(Moment(gate.window, gate.in_flight, reading))
    return moments
