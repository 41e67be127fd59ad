"""Requests a second and what they cost: every system on the same chats against the same mock server, in turn."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator

from benchmarks import mock_server, replies, systems
from benchmarks.child import Measured, measure
from benchmarks.table import Row, median_row

COUNT, IN_FLIGHT, LATENCY_MS, REPETITIONS = 5_000, 64, 50.0, 3


def rows(peers_python: str, *, count: int = COUNT, repetitions: int = REPETITIONS, latency_ms: float = LATENCY_MS) -> Iterator[Row]:
    """Measure all systems in turn, `repetitions` times; what cannot be imported is named on stderr and left out.

    Args:
        peers_python: the interpreter for the systems that are not in ours.
        latency_ms: of each answer; at 0 the figure is the ceiling of client and mock server together.
    """
    what = f"{count:,} requests, {IN_FLIGHT} in flight, {latency_ms:g} ms"
    runs, mock_cpu_s = _runs(peers_python, count, repetitions, latency_ms)
    speeds = {system: [count / m.said["seconds"] for m in done] for system, done in runs.items()}
    cpu = {system: [1000 * m.said["cpu_s"] / count for m in done] for system, done in runs.items()}
    judged = f"{systems.OURS}, then its quality gate on all answers"
    speeds[judged] = [count / (m.said["seconds"] + m.said["judged_seconds"]) for m in runs[systems.OURS]]
    cpu[judged] = [1000 * (m.said["cpu_s"] + m.said["judged_cpu_s"]) / count for m in runs[systems.OURS]]
    base = next(iter(runs))  # the systems' order puts it first
    if latency_ms:
        floor = [1000 * IN_FLIGHT / latency_ms]
        yield median_row(f"throughput: {what} (ratio to {base})", "arithmetic ceiling", floor, "requests/s", speeds[base])
    for system in speeds:
        yield median_row(f"throughput: {what} (ratio to {base})", system, speeds[system], "requests/s", speeds[base])
    for system in cpu:
        yield median_row(f"CPU of the asking: {what} (ratio to {base})", system, cpu[system], "ms/request", cpu[base])
    for system, done in runs.items():
        yield median_row(f"CPU of the process, imports too: {what}", system, [m.cpu_s for m in done], "s")
    for system, done in runs.items():
        yield median_row(f"peak memory: {what}", system, [m.peak_mb for m in done], "MB")
    yield median_row(f"CPU of the mock server: {what}", "mock server", [1000 * s / count for s in mock_cpu_s], "ms/request")


def _runs(peers_python: str, count: int, repetitions: int, latency_ms: float) -> tuple[dict[str, list[Measured]], list[float]]:
    runs: dict[str, list[Measured]] = defaultdict(list)
    mock_cpu_s, missing = [], set()
    with mock_server.serving(latency_ms) as mock:
        for repetition in range(repetitions):
            for system in systems.SYSTEMS:
                if system in missing:
                    continue
                python = peers_python if system in systems.IN_PEERS_PYTHON else sys.executable
                task = systems.Task(system, mock.base_url, count, IN_FLIGHT, replies.MODEL)
                mock.stats(reset=True)
                done = measure("benchmarks.systems", vars(task), python)
                if "missing" in done.said:
                    missing.add(system)
                    print(f"left out: {system} ({done.said['missing']} is not installed for {python})", file=sys.stderr)
                    continue
                seen = mock.stats()
                _check(system, done.said["answers"], seen, count)
                runs[f"{system} {done.said['version']}".strip()].append(done)
                mock_cpu_s.append(seen.cpu_s)
                speed = count / done.said["seconds"]
                print(f"  {repetition + 1}/{repetitions} {system}: {speed:,.0f} requests/s, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return dict(runs), mock_cpu_s


def _check(system: str, answers: int, seen: mock_server.Seen, count: int) -> None:
    """A figure counts only if the work was done: every request once, every answer read, never more in flight than allowed."""
    if answers != count or seen.calls != count or seen.most_in_flight > IN_FLIGHT:
        raise RuntimeError(f"{system} did not do the work: {answers} good answers of {count}, the server saw {seen}")
