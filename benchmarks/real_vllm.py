"""kar against a real vLLM server on the CPU (`make bench-vllm`): speed beside vLLM's own clients, and what prefix order buys.

    python -m benchmarks.real_vllm --python .venv-vllm/bin/python --model .kar/_models/smollm2-135m-instruct [--out file.json]

    serve    answer tokens/s of kar's client (ledger and gate on) and of `vllm bench serve`, the same prompts, in turn
    batch    the same against `vllm run-batch`, which has the engine in its own process and no server in between
    order    seconds and prefix hits of the same requests by value, and side by side with a warm-up request

The prompts are those of a planned night of the generated world. Before each run the server forgets its prefixes, so that
no run finds what the one before it computed. Figures are medians of alternating repetitions after a warm-up run.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.table import Row, median_row
from kar.llm.ask import Asked, ask
from kar.llm.batch.lines import request_line
from kar.llm.client import Request
from kar.llm.key import request_key
from kar.settings import LLMSettings
from kar.store import Home
from tests.integration.night import Night
from tests.integration.vllm_server import MODEL, VllmServer, command, environment

IN_FLIGHT = 64  # twice what the server works on at once: its batch never runs dry
_REVISION = "real"  # of the model, in the keys
AS_OF = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
_BENCH = "import argparse; from vllm.benchmarks.serve import add_cli_args, main; p = argparse.ArgumentParser(); add_cli_args(p); main(p.parse_args())"
_RATE = re.compile(r"100% Completed \| (\d+)/\1 \[[^,]*, +([\d.]+) *(req/s|s/req)\]")


@dataclass(frozen=True)
class Bench:
    """Where vLLM is, and how much to ask.

    Args:
        python: of its virtual environment.
        folder: the model.
        count: prompts of a run.
        tokens: most tokens of an answer.
    """

    python: Path
    folder: Path
    count: int
    tokens: int
    repetitions: int

    def server(self, scratch: Path) -> VllmServer:
        return VllmServer(self.python, self.folder, scratch / "server.log", variables={"VLLM_SERVER_DEV_MODE": "1"})

    def night(self, scratch: Path, base_url: str, order: str = "value") -> Night:
        """Planned requests, as many about users as about items."""
        half = self.count // 2
        how: dict[str, Any] = {"users": half, "items": half, "views": ("user.preference", "item.facts"), "answer_tokens": self.tokens}
        return Night(scratch / order, base_url, self.folder, order=order, **how)


def requests_of(night: Night) -> list[Request]:
    """In the order in which the plan sends them."""
    columns = ["body", "prompt_tokens", "answer_tokens", "template_version", "family"]
    rows = night.table("prompts", "request").select(columns).to_pylist()
    return [
        Request(
            request_key(r["body"].encode(), _REVISION),
            r["body"].encode(),
            r["prompt_tokens"],
            r["answer_tokens"],
            r["template_version"],
            r["family"],
        )
        for r in rows
    ]


def ask_all(server: VllmServer, requests: list[Request], *, warm_up: bool = False) -> Asked:
    """Ask with kar's client and a new ledger; the server has forgotten all prefixes."""
    _forget(server)
    settings = LLMSettings(provider="openai", model=MODEL, base_url=server.base_url, concurrency=IN_FLIGHT, warm_up=warm_up)
    with tempfile.TemporaryDirectory(prefix="kar-bench-") as folder:
        asked = ask(requests, settings, Home(Path(folder), "bench"), _REVISION, AS_OF, lambda *_: None, total=len(requests))
    if asked.answered != len(requests):
        raise RuntimeError(f"{asked.answered} of {len(requests)} requests were answered")
    return asked


def serve_rows(bench: Bench) -> Iterator[Row]:
    """kar and `vllm bench serve` in turn against one server."""
    with tempfile.TemporaryDirectory(prefix="kar-bench-") as folder, bench.server(Path(folder)) as server:
        requests = requests_of(bench.night(Path(folder), server.base_url))
        prompts = _as_text(requests, bench, Path(folder) / "prompts.jsonl")
        ours, led, theirs = list[float](), list[float](), list[float]()
        ask_all(server, requests[:IN_FLIGHT])
        for _ in range(bench.repetitions):
            ours.append(_speed(ask_all(server, requests)))
            theirs.append(_bench_serve(server, prompts, bench))
            led.append(_speed(ask_all(server, requests, warm_up=True)))
    name = f"answer tokens/s: {len(requests)} prompts, {IN_FLIGHT} in flight (ratio to vllm bench serve)"
    yield median_row(name, "vllm bench serve", theirs, "tokens/s", theirs)
    yield median_row(name, "kar", ours, "tokens/s", theirs)
    yield median_row(name, "kar, llm.warm_up on", led, "tokens/s", theirs)


def batch_rows(bench: Bench) -> Iterator[Row]:
    """kar against a server and `vllm run-batch` without one, in turn: never both at once."""
    ours, theirs = list[float](), list[float]()
    for _ in range(bench.repetitions):
        with tempfile.TemporaryDirectory(prefix="kar-bench-") as name:
            scratch = Path(name)
            with bench.server(scratch) as server:
                requests = requests_of(bench.night(scratch, server.base_url))
                ask_all(server, requests[:IN_FLIGHT])
                asked = ask_all(server, requests)
            ours.append(_speed(asked))
            theirs.append(_run_batch(requests, bench, scratch))
    name = f"answer tokens/s: {len(requests)} prompts (ratio to vllm run-batch, its start left out)"
    yield median_row(name, "vllm run-batch", theirs, "tokens/s", theirs)
    yield median_row(name, "kar", ours, "tokens/s", theirs)


def order_rows(bench: Bench) -> Iterator[Row]:
    """The same requests by value, and as prefix order sends them."""
    with tempfile.TemporaryDirectory(prefix="kar-bench-") as name, bench.server(Path(name)) as server:
        scratch = Path(name)
        by_value = requests_of(bench.night(scratch, server.base_url, "value"))
        by_prefix = requests_of(bench.night(scratch, server.base_url, "prefix"))
        if {r.key for r in by_value} != {r.key for r in by_prefix}:
            raise RuntimeError("the two orders are not of the same requests")
        systems = {
            "by value": (by_value, False),
            "by value, warm-up": (by_value, True),
            "prefix order, warm-up": (by_prefix, True),
        }
        runs: dict[str, list[Asked]] = {system: [] for system in systems}
        ask_all(server, by_value[:IN_FLIGHT])
        for _ in range(bench.repetitions):
            for system, (requests, warm_up) in systems.items():
                runs[system].append(ask_all(server, requests, warm_up=warm_up))
    what = f"{len(by_value)} prompts of {len({r.family for r in by_value})} families"
    plain = [asked.seconds for asked in runs["by value"]]
    for system, asked in runs.items():
        yield median_row(f"seconds for {what} (ratio to by value)", system, [a.seconds for a in asked], "s", plain)
    for system, asked in runs.items():
        yield Row(f"prompt tokens from the prefix cache, {what}", system, statistics.median(a.prefix_hit_share for a in asked), "share")


def _speed(asked: Asked) -> float:
    return asked.completion_tokens / asked.seconds


def _forget(server: VllmServer) -> None:
    """Empty the prefix cache (only in vLLM's development mode). It refuses while a request runs."""
    server.wait_until_idle()
    status, said = server.send("POST", "/reset_prefix_cache", None)
    if status != 200:
        raise RuntimeError(f"the server does not forget its prefixes: {status} {said}")


def _as_text(requests: list[Request], bench: Bench, path: Path) -> Path:
    """The prompts as the chat template writes them, for `vllm bench serve`, which sends no system message otherwise."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bench.folder)
    with path.open("w") as sink:
        for request in requests:
            text = tokenizer.apply_chat_template(json.loads(request.body)["messages"], tokenize=False, add_generation_prompt=True)
            sink.write(json.dumps({"prompt": text}) + "\n")
    return path


def _bench_serve(server: VllmServer, prompts: Path, bench: Bench) -> float:
    """Answer tokens/s, as it reports them."""
    _forget(server)
    result = prompts.with_name("result.json")
    flags = ["--backend", "openai", "--host", "127.0.0.1", "--port", str(server.port), "--model", MODEL, "--tokenizer", str(bench.folder)]
    flags += ["--dataset-name", "custom", "--dataset-path", str(prompts), "--skip-chat-template", "--disable-shuffle", "--no-oversample"]
    flags += ["--num-prompts", str(bench.count), "--custom-output-len", str(bench.tokens), "--temperature", "0", "--disable-tqdm"]
    flags += ["--max-concurrency", str(IN_FLIGHT), "--save-result", "--result-dir", str(result.parent), "--result-filename", result.name]
    _run([str(bench.python), "-c", _BENCH, *flags])
    said = json.loads(result.read_text())
    if said["completed"] != bench.count:
        raise RuntimeError(f"vllm bench serve: {said['completed']} of {bench.count} requests were answered")
    return float(said["output_throughput"])


def _run_batch(requests: list[Request], bench: Bench, scratch: Path) -> float:
    """Answer tokens/s from its first request to its last, by its own progress line."""
    lines, out = scratch / "in.jsonl", scratch / "out.jsonl"
    lines.write_bytes(b"".join(request_line(request.key, request.body) for request in requests))
    said = _run(command(bench.python, "vllm.entrypoints.openai.run_batch", bench.folder, "-i", str(lines), "-o", str(out)))
    answers = [json.loads(line)["response"]["body"] for line in out.read_text().splitlines()]
    found = _RATE.search(said)
    if found is None or len(answers) != len(requests):
        raise RuntimeError(f"vllm run-batch: {len(answers)} answers; it said:\n{said[-2000:]}")
    rate: float = float(found[2]) if found[3] == "req/s" else 1.0 / float(found[2])
    tokens = [int(answer["usage"]["completion_tokens"]) for answer in answers]
    return rate * sum(tokens) / len(tokens)


def _run(program: list[str]) -> str:
    done = subprocess.run(program, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program[1:4]} ended with code {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


_SECTIONS = {"serve": serve_rows, "batch": batch_rows, "order": order_rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of the virtual environment that holds vLLM")
    parser.add_argument("--model", type=Path, required=True, help="the unpacked model's folder")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    parser.add_argument("--only", nargs="+", choices=list(_SECTIONS), default=list(_SECTIONS))
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    bench = Bench(arguments.python.absolute(), arguments.model, arguments.count, arguments.tokens, arguments.repetitions)
    rows: list[Row] = []
    for name in arguments.only:
        started = time.perf_counter()
        rows += _SECTIONS[name](bench)
        print(f"{name} took {time.perf_counter() - started:.0f} s", file=sys.stderr)
        if arguments.out:
            table.write(rows, arguments.out)
    print(table.text(rows))


if __name__ == "__main__":
    main()
