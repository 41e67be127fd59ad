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

from benchmarks import replies


@dataclass
class Seen:
    """What the server saw since it started, or since the last reset."""

    calls: int = 0
    answered: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    probes: int = 0
    cpu_s: float = 0.0


class _Server:
    """The state behind all connections."""

    def __init__(self, latency_s: float, *, is_varied: bool) -> None:
        self.latency_s, self.is_varied, self.seen = latency_s, is_varied, Seen()
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
            transport.write(self._get(path) if method == b"GET" else replies.NOT_FOUND)

    def _answer(self, transport: asyncio.Transport) -> None:
        self.seen.in_flight -= 1
        if not transport.is_closing():
            self.seen.answered += 1
            self.ever_answered += 1
            transport.write(replies.chat(replies.varied_answer(self.ever_answered)) if self.is_varied else replies.CHAT)

    def _get(self, path: bytes) -> bytes:
        self.seen.probes += 1
        if path == b"/metrics":
            return replies.reply(
                replies.metrics(self.seen.in_flight, self.ever_answered).encode(), content_type="text/plain; version=0.0.4; charset=utf-8"
            )
        if path.startswith(b"/stats"):
            self.seen.cpu_s = time.process_time() - self._cpu_from
            said = replies.json_reply(asdict(self.seen))
            if path.endswith(b"reset=1"):
                self.seen, self._cpu_from = Seen(in_flight=self.seen.in_flight), time.process_time()
            return said
        return {b"/v1/models": replies.MODELS, b"/version": replies.VERSIONS, b"/health": replies.reply(b"")}.get(path, replies.NOT_FOUND)


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


async def _serve(port: int, latency_s: float, *, is_varied: bool) -> None:
    server = _Server(latency_s, is_varied=is_varied)
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
def serving(latency_ms: float, *, is_varied: bool = False) -> Iterator[Mock]:
    """Run the server in a process of its own while the block lasts."""
    command = [sys.executable, "-m", "benchmarks.mock_server", "--latency-ms", str(latency_ms), *(["--varied"] if is_varied else [])]
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
    parser.add_argument("--varied", action="store_true", help="every answer is another one (made at the call: costs 0.1 ms)")
    arguments = parser.parse_args()
    runner = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        runner = uvloop.run
    with contextlib.suppress(KeyboardInterrupt):
        runner(_serve(arguments.port, arguments.latency_ms / 1000, is_varied=arguments.varied))


if __name__ == "__main__":
    main()
