"""kar's own path from planned requests to judged answers, as the stages take it: stream, ask, keep, look up, judge.

    python -m benchmarks.ours '{"plan": "request.parquet", "root": "home", "base_url": "…/v1", "in_flight": 64, …}'

asks what the file holds, and prints one JSON line: how many were `answered` and how many came `from_ledger`.
"""

from __future__ import annotations

import datetime as dt
import itertools
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
from kar.llm.ask import ask
from kar.llm.client import Request
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Ledger, look_up
from kar.settings import KnowledgeSettings, LLMSettings
from kar.stages.knowledge.asking import prompt_text
from kar.store import Home
from kar.text.quality import Candidate, QualityGate, load_domain_words

AS_OF = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
REVISION = "bench"
_TEMPLATE_VERSION = "bench.user.preference@1:000000000000"
_PROMPT_TOKENS = 640
_ROWS = 2_048  # rows of a file in memory at a time
_PROMPTS = Path(__file__).parents[1] / "prompts"


@dataclass(frozen=True)
class Task:
    """What one process is to do.

    Args:
        plan: the file of requests (`write_plan`).
        root: holds the ledger.
        results: file to write the answers to, in the plan's order; empty: none.
    """

    plan: str
    root: str
    base_url: str
    model: str
    in_flight: int
    results: str = ""


@dataclass(frozen=True)
class Timed:
    """Seconds and seconds of processor time, of the asking and of the judging after it; answers that were found and accepted."""

    seconds: float
    cpu_s: float
    judged_seconds: float
    judged_cpu_s: float
    accepted: int


def request_of(model: str, messages: list[dict[str, str]]) -> Request:
    """A request as the plan has it."""
    body = body_bytes(load.body(model, messages))
    return Request(request_key(body, REVISION), body, _PROMPT_TOKENS, load.MAX_TOKENS, _TEMPLATE_VERSION, family=_TEMPLATE_VERSION)


def settings_for(base_url: str, model: str, in_flight: int) -> LLMSettings:
    return LLMSettings(provider="openai", model=model, revision=REVISION, base_url=base_url, concurrency=in_flight, context_tokens=8192)


def ask_chats(base_url: str, model: str, chats: list[list[dict[str, str]]], in_flight: int) -> Timed:
    """Ask these chats with ledger (a new one) and concurrency gate, then put every answer before the quality gate."""
    settings, gate = settings_for(base_url, model, in_flight), quality_gate()
    with tempfile.TemporaryDirectory(prefix="kar-bench-") as folder:
        home, keys = Home(Path(folder), "bench"), list[str]()
        times = [(time.perf_counter(), time.process_time())]
        ask(_noted((request_of(model, messages) for messages in chats), keys), settings, home, REVISION, AS_OF, lambda *_: None)
        times.append((time.perf_counter(), time.process_time()))
        accepted = judge(home.ledger, keys, gate)
        times.append((time.perf_counter(), time.process_time()))
    (seconds, cpu_s), (judged_seconds, judged_cpu_s) = ((end[0] - begin[0], end[1] - begin[1]) for begin, end in itertools.pairwise(times))
    return Timed(seconds, cpu_s, judged_seconds, judged_cpu_s, accepted)


def _noted(requests: Iterable[Request], keys: list[str]) -> Iterator[Request]:
    for request in requests:
        keys.append(request.key)
        yield request


def quality_gate() -> QualityGate:
    """The gate of the domain movies with all its checks, over the catalogue of the load."""
    titles = [load.title(number) for number in range(load.ITEMS)]
    return QualityGate(KnowledgeSettings(), titles, {"user.preference": 25}, load_domain_words(_PROMPTS, "movies"))


def judge(folder: Path, keys: list[str], gate: QualityGate) -> int:
    """Judge and remember what the ledger holds for these keys, a part at a time; returns how many passed."""
    accepted = 0
    with Ledger.open(folder) as ledger:
        for start in range(0, len(keys), _ROWS):
            found = ledger.find(keys[start : start + _ROWS])
            for answer in (rows[0] for rows in found.values()):
                prompt = prompt_text(answer.body)
                titles = tuple(line[2:].rpartition(": ")[0] for line in prompt.splitlines() if line.endswith(" of 5 stars"))
                candidate = Candidate("user.preference", answer.key, answer.text, answer.finish_reason, prompt, titles)
                if gate.judge(candidate) is None:
                    gate.remember(candidate)
                    accepted += 1
    return accepted


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
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS):
            for key, body in zip(batch.column("request_key").to_pylist(), batch.column("body").to_pylist(), strict=True):
                yield Request(key, body.encode(), _PROMPT_TOKENS, load.MAX_TOKENS, _TEMPLATE_VERSION, family=_TEMPLATE_VERSION)


def write_results(plan: Path, ledger: Path, path: Path) -> int:
    """Walk the plan against the ledger, a part at a time, and write the texts; returns how many there were."""
    schema, found = pa.schema([("request_key", pa.string()), ("text", pa.string())]), 0
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer, pq.ParquetFile(plan, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS, columns=["request_key"]):
            answers = look_up(ledger, batch.column("request_key").to_pylist())
            found += len(answers)
            writer.write_table(pa.table([list(answers), [a.text for a in answers.values()]], schema=schema))
    return found


def run(task: Task) -> dict[str, int]:
    """Ask a plan; write what came of it if the task says where."""
    home, settings = Home(Path(task.root), "bench"), settings_for(task.base_url, task.model, task.in_flight)
    asked = ask(planned(Path(task.plan)), settings, home, REVISION, AS_OF, lambda *_: None)
    written = write_results(Path(task.plan), home.ledger, Path(task.results)) if task.results else 0
    return {"answered": asked.answered, "from_ledger": asked.from_ledger, "written": written}


if __name__ == "__main__":
    report(run(Task(**json.loads(sys.argv[1]))))
