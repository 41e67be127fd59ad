"""What keeping costs: µs a row to put, and the look-up of many keys among many rows."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import load, replies
from benchmarks.ours import AS_OF, REVISION
from benchmarks.table import Row, rounded
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Answer, Ledger

_KEYS = 100_000
_PART = 10_000


def answer_of(number: int) -> Answer:
    """A good answer to a request of 2.5 kB; every number has a key of its own."""
    body = body_bytes(load.body(replies.MODEL, load.conversation(number)))
    return Answer(
        key=request_key(body, REVISION),
        body=body.decode(),
        text=replies.ANSWER,
        finish_reason="stop",
        prompt_tokens=replies.PROMPT_TOKENS,
        cached_tokens=replies.CACHED_TOKENS,
        completion_tokens=replies.COMPLETION_TOKENS,
        reasoning_tokens=0,
        lost_tokens=0,
        model=replies.MODEL,
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
    """Put `count` rows, look up 100,000 of their keys (all, if there are fewer), compact, look up again."""
    with tempfile.TemporaryDirectory(prefix="kar-bench-") as name:
        folder, keys = Path(name), []
        put_s = cpu_s = 0.0
        with Ledger.open(folder) as ledger:
            for start in range(0, count, _PART):
                part = [answer_of(number) for number in range(start, min(start + _PART, count))]
                keys += [answer.key for answer in part]
                started, cpu_from = time.perf_counter(), time.process_time()
                for answer in part:
                    ledger.put(answer)
                ledger.flush()
                put_s, cpu_s = put_s + time.perf_counter() - started, cpu_s + time.process_time() - cpu_from
        wanted = random.Random(1).sample(keys, min(_KEYS, count))
        yield Row(f"ledger: put {count:,} rows of 3.4 kB until they are committed", "kar", rounded(1e6 * put_s / count), "µs/row")
        yield Row(f"ledger: put {count:,} rows of 3.4 kB, CPU", "kar", rounded(1e6 * cpu_s / count), "µs/row")
        yield from _look_ups(folder, wanted, count, "in SQLite")
        with Ledger.open(folder) as ledger:
            started = time.perf_counter()
            ledger.compact()
            yield Row(f"ledger: compact {count:,} rows to Parquet", "kar", rounded(time.perf_counter() - started), "s")
        yield from _look_ups(folder, wanted, count, "compacted")


def _look_ups(folder: Path, wanted: list[str], count: int, state: str) -> Iterator[Row]:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield Row(f"ledger: size of {count:,} rows, {state}", "kar", rounded(size / count), "bytes/row")
    with Ledger.open(folder) as ledger:
        started = time.perf_counter()
        held = ledger.held(wanted)
        held_s = time.perf_counter() - started
        started = time.perf_counter()
        found = ledger.get_many(wanted)
        found_s = time.perf_counter() - started
    if not len(held) == len(found) == len(wanted):
        raise RuntimeError(f"of {len(wanted)} keys {len(held)} were held and {len(found)} found")
    yield Row(f"ledger: which of {len(wanted):,} keys are held, among {count:,} rows, {state}", "kar", rounded(held_s), "s")
    yield Row(f"ledger: answers to {len(wanted):,} keys, among {count:,} rows, {state}", "kar", rounded(found_s), "s")
