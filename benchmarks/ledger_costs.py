"""What keeping costs: µs a row to put, and the look-up of many keys among many rows."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import load, mock_server
from benchmarks.ours import AS_OF, REVISION
from benchmarks.table import Row, rounded
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Answer, Ledger

_KEYS = 100_000
_PART = 10_000


def answer_of(number: int) -> Answer:
    """A good answer to a request of 2.5 kB; every number has a key of its own."""
    body = body_bytes(load.body(mock_server.MODEL, load.conversation(number)))
    return Answer(
        key=request_key(body, REVISION),
        body=body.decode(),
        text=mock_server.ANSWER,
        finish_reason="stop",
        prompt_tokens=mock_server.PROMPT_TOKENS,
        cached_tokens=mock_server.CACHED_TOKENS,
        completion_tokens=mock_server.COMPLETION_TOKENS,
        reasoning_tokens=0,
        lost_tokens=0,
        model=mock_server.MODEL,
        revision=REVISION,
        template_version="bench.user.preference@1:000000000000",
        attempts=1,
        status="ok",
        detail="",
        asked_at=AS_OF,
        started_at=AS_OF,
        ended_at=AS_OF,
    )


def rows(count: int) -> Iterator[Row]:
    """Put `count` rows, then look up 100,000 of their keys (all, if there are fewer) in random order."""
    with tempfile.TemporaryDirectory(prefix="kar-bench-") as folder:
        keys, put_s, cpu_s = [], 0.0, 0.0
        with Ledger.open(Path(folder)) as ledger:
            for start in range(0, count, _PART):
                part = [answer_of(number) for number in range(start, min(start + _PART, count))]
                keys += [answer.key for answer in part]
                started, cpu_from = time.perf_counter(), time.process_time()
                for answer in part:
                    ledger.put(answer)
                ledger.flush()
                put_s, cpu_s = put_s + time.perf_counter() - started, cpu_s + time.process_time() - cpu_from
        yield Row(f"ledger: put {count:,} rows of 3.4 kB until they are committed", "kar", rounded(1e6 * put_s / count), "µs/row")
        yield Row(f"ledger: put {count:,} rows of 3.4 kB, CPU", "kar", rounded(1e6 * cpu_s / count), "µs/row")
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        yield Row(f"ledger: size on disk, {count:,} rows", "kar", rounded(size / count), "bytes/row")
        wanted = random.Random(1).sample(keys, min(_KEYS, count))
        with Ledger.open(Path(folder)) as ledger:
            started = time.perf_counter()
            found = ledger.get_many(wanted)
            seconds = time.perf_counter() - started
        if len(found) != len(wanted):
            raise RuntimeError(f"{len(found)} of {len(wanted)} keys were found")
        yield Row(f"ledger: answers to {len(wanted):,} keys among {count:,} rows", "kar", rounded(seconds), "s")
