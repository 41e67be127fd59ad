"""kar's own path from planned requests to judged answers, as the stages take it: stream, ask, keep, judge, look up.

    python -m benchmarks.ours '{"plan": "request.parquet", "root": "home", "base_url": "…/v1", "in_flight": 64, …}'

asks what the file holds, and prints one JSON line: how many were `answered` and how many came `from_ledger`.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import load
from benchmarks.child import report
from kar.llm.ask import Asked, ask
from kar.llm.client import Request
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Answer, look_up
from kar.settings import KnowledgeSettings, LLMSettings
from kar.stages.knowledge import prompt_text
from kar.store import Home
from kar.text.quality import judge

AS_OF = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
REVISION = "bench"
_TEMPLATE_VERSION = "bench.user.preference@1:000000000000"
_PROMPT_TOKENS = 640
_ROWS = 5_000  # rows of a file in memory at a time


@dataclass(frozen=True)
class Task:
    """What one process is to do.

    Args:
        plan: the file of requests (`write_plan`).
        root: holds the ledger.
        results: file to write the answers to, in the plan's order; empty: none.
        judged: put each answer before the quality gate.
    """

    plan: str
    root: str
    base_url: str
    model: str
    in_flight: int
    results: str = ""
    judged: bool = True


class Judged:
    """The quality gate, one answer at a time: what `ask` calls with each good answer."""

    def __init__(self) -> None:
        self.settings = KnowledgeSettings()
        self.accepted = 0

    def __call__(self, request: Request, answer: Answer) -> Request | None:
        refusal = judge(answer.text, answer.finish_reason, prompt_text(request.body), self.settings)
        self.accepted += refusal is None
        return None


def request_of(model: str, messages: list[dict[str, str]]) -> Request:
    """A request as the plan has it."""
    body = body_bytes(load.body(model, messages))
    return Request(request_key(body, REVISION), body, _PROMPT_TOKENS, load.MAX_TOKENS, _TEMPLATE_VERSION)


def settings_for(base_url: str, model: str, in_flight: int) -> LLMSettings:
    return LLMSettings(provider="openai", model=model, base_url=base_url, concurrency=in_flight, context_tokens=8192)


def ask_chats(base_url: str, model: str, chats: list[list[dict[str, str]]], in_flight: int) -> tuple[float, float, int]:
    """Ask these chats once, with ledger (a new one), concurrency gate and quality gate.

    Returns:
        Seconds, seconds of processor time, answers that are in the ledger and passed the quality gate.
    """
    with tempfile.TemporaryDirectory(prefix="kar-bench-") as folder:
        judged, settings = Judged(), settings_for(base_url, model, in_flight)
        started, cpu_from = time.perf_counter(), time.process_time()
        asked = ask([request_of(model, messages) for messages in chats], settings, Home(Path(folder), "bench"), REVISION, AS_OF, judged)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_from
        return seconds, cpu_s, min(asked.answered, judged.accepted)


def write_plan(path: Path, model: str, numbers: Iterable[int]) -> None:
    """Write the requests of these numbers, a part at a time."""
    schema = pa.schema([("request_key", pa.string()), ("body", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        part: list[Request] = []
        for number in numbers:
            part.append(request_of(model, load.conversation(number)))
            if len(part) == _ROWS:
                writer.write_table(_table(part, schema))
                part = []
        writer.write_table(_table(part, schema))


def _table(part: list[Request], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array([r.key for r in part], pa.string()), pa.array([r.body.decode() for r in part], pa.string())], schema=schema)


def planned(path: Path) -> Iterator[Request]:
    """The requests of a plan, one by one."""
    for batch in pq.ParquetFile(path).iter_batches(_ROWS):
        for key, body in zip(batch.column("request_key").to_pylist(), batch.column("body").to_pylist(), strict=True):
            yield Request(key, body.encode(), _PROMPT_TOKENS, load.MAX_TOKENS, _TEMPLATE_VERSION)


def write_results(plan: Path, ledger: Path, path: Path) -> int:
    """Walk the plan against the ledger, a part at a time, and write the texts; returns how many there were."""
    schema, found = pa.schema([("request_key", pa.string()), ("text", pa.string())]), 0
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for batch in pq.ParquetFile(plan).iter_batches(_ROWS, columns=["request_key"]):
            answers = look_up(ledger, batch.column("request_key").to_pylist())
            found += len(answers)
            writer.write_table(pa.table([list(answers), [a.text for a in answers.values()]], schema=schema))
    return found


def run(task: Task) -> dict[str, int]:
    """Ask a plan; write what came of it if the task says where."""
    home, settings = Home(Path(task.root), "bench"), settings_for(task.base_url, task.model, task.in_flight)
    retry = Judged() if task.judged else lambda _request, _answer: None
    asked: Asked = ask(planned(Path(task.plan)), settings, home, REVISION, AS_OF, retry)
    written = write_results(Path(task.plan), home.ledger, Path(task.results)) if task.results else 0
    return {"answered": asked.answered, "from_ledger": asked.from_ledger, "written": written}


if __name__ == "__main__":
    report(run(Task(**json.loads(sys.argv[1]))))
