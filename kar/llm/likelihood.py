"""Prompt log-probabilities from a server that has them (vLLM: `prompt_logprobs`), through the client's transport.

For the optional judge of the quality gate: which bodies to send and what to make of the rows is pure arithmetic in
`kar.text.quality.likelihood`. Nothing is generated that is worth keeping, so nothing goes into the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from kar.errors import ServerRefused
from kar.llm.transport import Transport, TransportFault, transport_for
from kar.settings import LLMSettings

Rows = list[dict[str, Any] | None]  # per prompt token: token id → {"logprob", …}; None for the first


def prompt_logprobs(bodies: Sequence[dict[str, Any]], settings: LLMSettings, base_url: str) -> list[Rows | None]:
    """Ask for the log-probabilities of these bodies' prompts.

    Args:
        bodies: chat requests with `prompt_logprobs` set; as many are in flight as settings.concurrency says.
        base_url: up to and with /v1.

    Returns:
        In the order of the bodies; None where a request failed for itself (too long, a fault on the way).

    Raises:
        ServerRefused: the server answers and gives no prompt log-probabilities, or wants another key.
    """
    return asyncio.run(_all(bodies, settings, base_url))


async def _all(bodies: Sequence[dict[str, Any]], settings: LLMSettings, base_url: str) -> list[Rows | None]:
    transport, places = transport_for(settings, base_url), asyncio.Semaphore(settings.concurrency)

    async def one(place: int, body: dict[str, Any]) -> Rows | None:
        async with places:
            return await _one(transport, body, f"judge-{place}", settings)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(place, body)) for place, body in enumerate(bodies)]
    except* ServerRefused as refused:
        raise refused.exceptions[0] from None
    finally:
        await transport.close()
    return [task.result() for task in tasks]


async def _one(transport: Transport, body: dict[str, Any], name: str, settings: LLMSettings) -> Rows | None:
    """The rows of one body; None if it failed. A judge asks each once: a text that cannot be scored passes."""
    try:
        async with asyncio.timeout(settings.timeout_s):
            reply = await transport.post(orjson.dumps(body), name)
    except (TransportFault, TimeoutError):
        return None
    if reply.status in (401, 403):
        raise ServerRefused(
            f"the server refuses to score answers: {reply.status}", "mend the key in the environment variable that llm.api_key_env names"
        )
    if reply.status != 200:
        return None
    try:
        rows = orjson.loads(reply.content).get("prompt_logprobs")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    if not isinstance(rows, list):
        raise ServerRefused(
            "the server gives no prompt log-probabilities, which knowledge.judge needs",
            "set knowledge.judge = false, or serve the model with vLLM",
        )
    return rows
