"""What kar pays again, and how much memory it holds: calls are counted at the mock server, memory by the kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import mock_server, replies
from benchmarks.child import measure
from benchmarks.ours import Task, write_plan
from benchmarks.table import Row, rounded
from kar.llm.ledger import COMMIT_WINDOW_S

IN_FLIGHT, LATENCY_S = 64, 0.05
_MODEL = replies.MODEL


def resume_rows(count: int = 3_000) -> Iterator[Row]:
    """Kill a run with SIGKILL half-way, run it again, count what the server answered twice."""
    with tempfile.TemporaryDirectory(prefix="kar-bench-") as folder, mock_server.serving(1000 * LATENCY_S) as mock:
        plan = Path(folder) / "request.parquet"
        write_plan(plan, _MODEL, range(count))
        task = Task(str(plan), folder, mock.base_url, _MODEL, IN_FLIGHT)
        command = [sys.executable, "-m", "benchmarks.ours", json.dumps(vars(task))]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while mock.stats().calls < count // 2 and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the run ended with code {process.returncode} before it could be killed")
        killed_at = mock.stats().calls
        said = measure("benchmarks.ours", vars(task)).said
        repaid = mock.stats().calls - count
        if said["answered"] + said["from_ledger"] != count:
            raise RuntimeError(f"the second run did not finish: {said}, {count} were planned")
    bound = IN_FLIGHT + round(COMMIT_WINDOW_S / LATENCY_S * IN_FLIGHT)
    name = f"calls paid twice: SIGKILL at {killed_at:,} of {count:,}, run again (ratio to in flight + commit window)"
    yield Row(name, "kar", repaid, "calls", round(repaid / bound, 3))
    yield Row(name, "in flight + commit window", bound, "calls", 1.0)


def changed_rows(count: int = 200) -> Iterator[Row]:
    """Run 200 inputs, run them again, change one and run again: calls each time."""
    with tempfile.TemporaryDirectory(prefix="kar-bench-") as folder, mock_server.serving(0) as mock:
        plan = Path(folder) / "request.parquet"
        task = Task(str(plan), folder, mock.base_url, _MODEL, IN_FLIGHT)
        for numbers, what in (
            (range(count), f"calls for {count} new inputs"),
            (range(count), f"calls for the same {count} inputs again"),
            ([*range(1, count), count], f"calls after one of {count} inputs changed"),
        ):
            mock.stats(reset=True)
            write_plan(plan, _MODEL, numbers)
            measure("benchmarks.ours", vars(task))
            yield Row(what, "kar", mock.stats().calls, "calls")


def memory_rows(counts: tuple[int, ...]) -> Iterator[Row]:
    """Ask so many planned requests from a file, write the results to a file: peak memory, and the speed beside it."""
    first_mb = 0.0
    with mock_server.serving(0) as mock:
        for count in counts:
            with tempfile.TemporaryDirectory(prefix="kar-bench-") as folder:
                plan = Path(folder) / "request.parquet"
                write_plan(plan, _MODEL, range(count))
                task = Task(str(plan), folder, mock.base_url, _MODEL, IN_FLIGHT, str(Path(folder) / "results.parquet"))
                started = time.perf_counter()
                done = measure("benchmarks.ours", vars(task))
                seconds = time.perf_counter() - started
                if done.said != {"answered": count, "from_ledger": 0, "written": count}:
                    raise RuntimeError(f"not all of {count} requests were answered and written: {done.said}")
            first_mb = first_mb or done.peak_mb
            ratio = round(done.peak_mb / first_mb, 3)
            yield Row(
                f"peak memory of {count:,} planned requests, 0 ms (ratio to {counts[0]:,})", "kar", rounded(done.peak_mb), "MB", ratio
            )
            yield Row(f"ask, keep, look up, write {count:,} requests, 0 ms", "kar", rounded(count / seconds), "requests/s")
            print(f"  memory {count:,}: {done.peak_mb:.0f} MB, {seconds:.0f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
