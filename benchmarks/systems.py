"""The systems that are measured beside each other: each asks the same chats, in a process of its own.

    python -m benchmarks.systems '{"system": "aiohttp", "base_url": "http://127.0.0.1:8000/v1", "count": 5000, "in_flight": 64}'

prints one JSON line: `seconds` and `cpu_s` of the asking alone (imports and the making of the chats are not in it), `answers`; or
`missing`, the package that this interpreter does not hold. Every system turns messages into bytes, sends, and reads text and
token counts out of the reply; kar also derives the key, checks the reply, keeps the answer in its ledger and drives its concurrency
gate by the server's metrics; then it finds every answer in the ledger again and puts it before the quality gate.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from benchmarks import load
from benchmarks.child import main

Messages = list[dict[str, str]]
AskOne = Callable[[Messages], Awaitable[tuple[str, int]]]


@dataclass(frozen=True)
class Task:
    """What one run is to do."""

    system: str
    base_url: str
    count: int
    in_flight: int
    model: str


@dataclass
class Said:
    """What a system did; `judged_…` is what kar's quality gate took after the asking."""

    seconds: float
    cpu_s: float
    answers: int
    version: str = ""
    judged_seconds: float = 0.0
    judged_cpu_s: float = 0.0


async def _all(task: Task, chats: list[Messages], ask_one: AskOne) -> int:
    """As many workers as requests may be in flight; returns how many answers held text and usage."""
    left = iter(chats)
    good = 0

    async def work() -> None:
        nonlocal good
        for messages in left:
            text, tokens = await ask_one(messages)
            good += bool(text) and tokens > 0

    await asyncio.gather(*(work() for _ in range(task.in_flight)))
    return good


async def _aiohttp(task: Task, chats: list[Messages]) -> int:
    import aiohttp
    import orjson

    url, headers = f"{task.base_url}/chat/completions", {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def ask_one(messages: Messages) -> tuple[str, int]:
            async with session.post(url, data=orjson.dumps(load.body(task.model, messages))) as response:
                data = orjson.loads(await response.read())
            return data["choices"][0]["message"]["content"], data["usage"]["completion_tokens"]

        return await _all(task, chats, ask_one)


async def _httpx2(task: Task, chats: list[Messages]) -> int:
    import httpx2
    import orjson

    url, headers = f"{task.base_url}/chat/completions", {"Content-Type": "application/json"}
    async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), timeout=60.0, headers=headers) as client:

        async def ask_one(messages: Messages) -> tuple[str, int]:
            response = await client.post(url, content=orjson.dumps(load.body(task.model, messages)))
            data = orjson.loads(response.content)
            return data["choices"][0]["message"]["content"], data["usage"]["completion_tokens"]

        return await _all(task, chats, ask_one)


async def _openai(task: Task, chats: list[Messages]) -> int:
    import openai

    return await _through_openai(task, chats, openai.AsyncOpenAI(api_key="none", base_url=task.base_url, max_retries=0))


async def _openai_aiohttp(task: Task, chats: list[Messages]) -> int:
    import openai

    transport = openai.DefaultAioHttpClient()
    return await _through_openai(
        task, chats, openai.AsyncOpenAI(api_key="none", base_url=task.base_url, max_retries=0, http_client=transport)
    )


async def _through_openai(task: Task, chats: list[Messages], client: Any) -> int:
    async def ask_one(messages: Messages) -> tuple[str, int]:
        done = await client.chat.completions.create(**load.body(task.model, messages))
        return done.choices[0].message.content, done.usage.completion_tokens

    async with client:
        return await _all(task, chats, ask_one)


async def _litellm(task: Task, chats: list[Messages]) -> int:
    import litellm

    async def ask_one(messages: Messages) -> tuple[str, int]:
        done = await litellm.acompletion(
            **load.body(f"openai/{task.model}", messages), api_base=task.base_url, api_key="none", num_retries=0
        )
        return done.choices[0].message.content, done.usage.completion_tokens

    return await _all(task, chats, ask_one)


_PEERS: dict[str, tuple[str, Callable[[Task, list[Messages]], Coroutine[Any, Any, int]]]] = {
    "aiohttp": ("aiohttp", _aiohttp),
    "httpx2": ("httpx2", _httpx2),
    "openai, aiohttp transport": ("openai", _openai_aiohttp),
    "openai": ("openai", _openai),
    "litellm": ("litellm", _litellm),
}
BASELINE, OURS = "aiohttp", "kar"
SYSTEMS = (BASELINE, OURS, *(name for name in _PEERS if name != BASELINE))
IN_PEERS_PYTHON = ("litellm",)


def run(task: Task) -> Said:
    """Ask all chats of the task with its system. Raises ImportError where the system's package is missing."""
    chats = [load.conversation(number) for number in range(task.count)]
    if task.system == OURS:
        from benchmarks import ours

        did = ours.ask_chats(task.base_url, task.model, chats, task.in_flight)
        return Said(did.seconds, did.cpu_s, did.accepted, "", did.judged_seconds, did.judged_cpu_s)
    package, ask = _PEERS[task.system]
    importlib.import_module(package)
    started, cpu_from = time.perf_counter(), time.process_time()
    answers = asyncio.run(ask(task, chats))
    return Said(time.perf_counter() - started, time.process_time() - cpu_from, answers, version=importlib.metadata.version(package))


if __name__ == "__main__":
    main(Task, lambda task: vars(run(task)))
