"""A language model server that costs next to nothing: vLLM's addresses and names, one prepared answer, a chosen latency.

    python -m benchmarks.mock_server --latency-ms 50        prints its port, serves until it is stopped

    POST /v1/chat/completions   the answer (about 150 tokens, with usage) after the latency
    GET  /v1/models, /version, /metrics   as vLLM says them; the gauges and counters are live
    GET  /stats                 what it saw, as JSON; /stats?reset=1 counts from nothing afterwards

It reads no JSON and parses no more of HTTP/1.1 than Content-Length, so that a client is never measured against its server:
less than 0.1 ms of processor time a request. It runs on uvloop where that is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import cast

MODEL = "mock-8b"
VERSION = "0.33.0"
PROMPT_TOKENS, CACHED_TOKENS, COMPLETION_TOKENS = 640, 512, 150
MAX_NUM_SEQS = 256
ANSWER = (
    "This person keeps coming back to slow, carefully built dramas and to crime stories in which the outcome matters less than the people "
    "who live with it. The highest marks go to films whose characters carry a quiet grief, while loud comedies and effects for their own "
    "sake are rated low, even where a famous cast plays in them. Older European titles sit beside recent American ones, so country and "
    "period seem to matter little; mood decides. A sparse score and long, patient camera work are welcome, and endings may stay open. Award "
    "winners are neither sought nor avoided. Two documentaries with full marks suggest an interest in real work and ordinary places, and "
    "the few sequels on the list were given up early, which fits somebody who prefers a story that is told once, and well."
)


@dataclass
class Seen:
    """What the server saw since it started, or since the last reset."""

    calls: int = 0
    answered: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    probes: int = 0
    cpu_s: float = 0.0


def _reply(content: bytes, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nserver: mock\r\ncontent-type: {content_type}\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _json(data: object) -> bytes:
    return _reply(json.dumps(data).encode())


_CHAT = _json(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1795000000,
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": ANSWER, "reasoning": None, "tool_calls": []}, "finish_reason": "stop"}
        ],
        "usage": {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": COMPLETION_TOKENS,
            "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
            "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
        },
    }
)
_MODELS = _json({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "vllm", "root": MODEL, "max_model_len": 8192}]})
_VERSION = _json({"version": VERSION})
_NOT_FOUND = _reply(b'{"detail": "Not Found"}', "404 Not Found")


class _Server:
    """The state behind all connections."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s, self.seen = latency_s, Seen()
        self.ever_answered = 0
        self._cpu_from = time.process_time()
        self._loop = asyncio.get_running_loop()

    def take(self, method: bytes, path: bytes, transport: asyncio.Transport) -> None:
        """Answer one request, now or later."""
        if method == b"POST" and path == b"/v1/chat/completions":
            seen = self.seen
            seen.calls += 1
            seen.in_flight += 1
            seen.most_in_flight = max(seen.most_in_flight, seen.in_flight)
            if self.latency_s:
                self._loop.call_later(self.latency_s, self._answer, transport)
            else:
                self._answer(transport)
        else:
            transport.write(self._get(path) if method == b"GET" else _NOT_FOUND)

    def _answer(self, transport: asyncio.Transport) -> None:
        self.seen.in_flight -= 1
        if not transport.is_closing():
            self.seen.answered += 1
            self.ever_answered += 1
            transport.write(_CHAT)

    def _get(self, path: bytes) -> bytes:
        self.seen.probes += 1
        if path == b"/metrics":
            return _reply(self._metrics().encode(), content_type="text/plain; version=0.0.4; charset=utf-8")
        if path.startswith(b"/stats"):
            self.seen.cpu_s = time.process_time() - self._cpu_from
            said = _json(asdict(self.seen))
            if path.endswith(b"reset=1"):
                self.seen, self._cpu_from = Seen(in_flight=self.seen.in_flight), time.process_time()
            return said
        return {b"/v1/models": _MODELS, b"/version": _VERSION, b"/health": _reply(b"")}.get(path, _NOT_FOUND)

    def _metrics(self) -> str:
        """The exposition of vLLM 0.33: gauges as they are, counters with _total."""
        running = min(self.seen.in_flight, MAX_NUM_SEQS)
        values = {
            ("gauge", "num_requests_running"): running,
            ("gauge", "num_requests_waiting"): self.seen.in_flight - running,
            ("gauge", "kv_cache_usage_perc"): 0.5 * running / MAX_NUM_SEQS,
            ("counter", "num_preemptions"): 0,
            ("counter", "prefix_cache_queries"): self.ever_answered * PROMPT_TOKENS,
            ("counter", "prefix_cache_hits"): self.ever_answered * CACHED_TOKENS,
            ("counter", "prompt_tokens"): self.ever_answered * PROMPT_TOKENS,
            ("counter", "generation_tokens"): self.ever_answered * COMPLETION_TOKENS,
        }
        lines = []
        for (kind, name), value in values.items():
            full = f"vllm:{name}_total" if kind == "counter" else f"vllm:{name}"
            lines += [
                f"# HELP vllm:{name} {name}",
                f"# TYPE vllm:{name} {kind}",
                f'{full}{{engine="0",model_name="{MODEL}"}} {float(value)}',
            ]
        return "\n".join(lines) + "\n"


class _Connection(asyncio.Protocol):
    """One client's connection: requests come whole or in pieces, one after another."""

    def __init__(self, server: _Server) -> None:
        self._server, self._waiting = server, b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        data = self._waiting + data if self._waiting else data
        while (head_end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:head_end]
            end = head_end + 4 + _content_length(head)
            if len(data) < end:
                break
            method, path, _ = head.split(b" ", 2)
            self._server.take(method, path, self._transport)
            data = data[end:]
        self._waiting = data


def _content_length(head: bytes) -> int:
    """The value of the header; 0 without one. (A chunked body is not understood: no client that is measured sends one.)"""
    lower = head.lower()
    place = lower.find(b"\r\ncontent-length:")
    return int(lower[place + 17 :].split(b"\r\n", 1)[0]) if place >= 0 else 0


async def _serve(port: int, latency_s: float) -> None:
    server = _Server(latency_s)
    listening = await asyncio.get_running_loop().create_server(lambda: _Connection(server), "127.0.0.1", port, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


@dataclass(frozen=True)
class Mock:
    """A running mock server. `base_url` is up to and with /v1."""

    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self, *, reset: bool = False) -> Seen:
        """What it saw; with `reset` it counts from nothing afterwards."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats{'?reset=1' if reset else ''}", timeout=30) as response:
            return Seen(**json.load(response))


@contextlib.contextmanager
def serving(latency_ms: float) -> Iterator[Mock]:
    """Run the server in a process of its own while the block lasts."""
    command = [sys.executable, "-m", "benchmarks.mock_server", "--latency-ms", str(latency_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Mock(int(process.stdout.readline()))
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--latency-ms", type=float, default=50.0)
    arguments = parser.parse_args()
    runner = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        runner = uvloop.run
    with contextlib.suppress(KeyboardInterrupt):
        runner(_serve(arguments.port, arguments.latency_ms / 1000))


if __name__ == "__main__":
    main()
