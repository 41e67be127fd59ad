"""What the LLM room's tests share."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from kar.llm.budget import Budget, Stop
from kar.llm.client import Client, Request, Tally
from kar.llm.endpoints import Endpoint, Endpoints
from kar.llm.gate import Gate
from kar.llm.greeting import greet
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Answer, Ledger
from kar.llm.pace import Watch
from kar.llm.stream import Stream
from kar.llm.transport import AioTransport, Transport

NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)


def request_of(prompt: str, max_tokens: int = 50, family: str = "") -> Request:
    """A request as the plan would write it."""
    body = body_bytes({"model": "tiny", "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, "temperature": 0})
    return Request(request_key(body, "r1"), body, len(prompt) // 4, max_tokens, "t@1:abc", family)


class Asker:
    """Asks a server once with settings that do not dawdle; keeps what came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ends: list[Answer] = []
        self.tally = Tally()
        self.gate = Gate(8)

    async def __call__(
        self,
        base_url: str,
        requests: Iterable[Request],
        *,
        budget: Budget | None = None,
        transport: Callable[[str], Transport] = AioTransport,
        timeout_s: float = 5.0,
        max_attempts: int = 3,
        patience_s: float = 5.0,
        gone_patience_s: float = 1.0,
        secret: str = "",
    ) -> Stop:
        opened = transport(base_url)
        endpoints = Endpoints([Endpoint(0, base_url, opened, self.gate)], patience_s=gone_patience_s)
        watching = asyncio.create_task(Watch(endpoints, interval_s=0.05, reads_metrics=False).run())
        with Ledger.open(self.folder) as ledger:
            client = Client(
                endpoints,
                ledger,
                budget or Budget(),
                revision="r1",
                as_of=NOW,
                timeout_s=timeout_s,
                max_attempts=max_attempts,
                backoff_s=0.01,
                patience_s=patience_s,
                secret=secret,
            )
            self.tally = client.tally
            try:
                await greet(endpoints, "tiny", secret)
                return await client.ask_all(Stream(requests, ledger), self.ends.append)
            finally:
                watching.cancel()
                await opened.close()


@pytest.fixture
def ask(tmp_path: Path) -> Asker:
    return Asker(tmp_path / "ledger")
