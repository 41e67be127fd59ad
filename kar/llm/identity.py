"""Who a server is: the model behind its name, the version of its software, how much context it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import orjson

from kar.errors import ModelChanged, ServerRefused, ServerUnreachable
from kar.llm.local import model_revision
from kar.llm.transport import Reply, Transport, TransportFault, transport_for
from kar.settings import LLMSettings
from kar.store import Home

_TIMEOUT_S = 10.0
_PAUSES_S = (0.2, 0.5, 0.0)


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What a server says of itself; what it does not say is empty.

    Args:
        model: the name that it was asked about.
        root: what it loaded under that name: a folder, or a hub's name.
        revision: of the weights.
        server_version: its software, e.g. "vllm 0.32.0".
        context_tokens: prompt and answer together; None: not said.
    """

    model: str
    root: str = ""
    revision: str = ""
    server_version: str = ""
    context_tokens: int | None = None

    @property
    def is_silent(self) -> bool:
        """Whether it says nothing of itself: many hosted servers, and proxies in trouble."""
        return not (self.root or self.revision or self.server_version)


def server_identity(settings: LLMSettings, *, timeout_s: float | None = None) -> ServerIdentity:
    """Ask the server of the settings; of several the first that answers.

    Args:
        timeout_s: for all addresses and attempts together; None: as long as those take.

    Raises:
        ServerUnreachable: none answers, or not in time.
        ServerRefused: it wants another key.
    """
    addresses = [e.base_url for e in settings.endpoints] or [settings.base_url]

    async def first() -> ServerIdentity:
        for place, base_url in enumerate(addresses):
            transport = transport_for(settings, base_url)
            try:
                return await identify(transport, base_url, settings.model)
            except ServerUnreachable:
                if place == len(addresses) - 1:
                    raise
            finally:
                await transport.close()
        raise AssertionError("no address")

    async def in_time() -> ServerIdentity:
        async with asyncio.timeout(timeout_s):
            return await first()

    try:
        return asyncio.run(in_time())
    except TimeoutError as error:
        raise ServerUnreachable(
            f"no language model server answers within {timeout_s} s", "start the server, or mend llm.base_url"
        ) from error


def key_revision(settings: LLMSettings, home: Home, identity: ServerIdentity | None = None) -> str:
    """What stands for the model's exact weights in a request key.

    Args:
        identity: of the server; None: nobody was asked, or there is no server yet.

    Returns:
        The setting; else the local model's digest; else what the server reports: `root@revision`, either alone, or
        nothing. A root that only repeats the model's name says nothing; of a folder only the last part counts, because
        where it lies is no part of what it is.

    Raises:
        SettingsError: a local model that has not been fetched.
    """
    if own := model_revision(settings, home):
        return own
    if identity is None:
        return ""
    root = PurePosixPath(identity.root).name if identity.root.startswith("/") else identity.root
    return "@".join(part for part in (root if root != settings.model else "", identity.revision) if part)


def check_planned(settings: LLMSettings, home: Home, identity: ServerIdentity, planned: str) -> None:
    """Hold the server against the revision that stands in the planned request keys. Only what the server itself says counts.

    Args:
        identity: as it says now.
        planned: the revision in the keys; empty: nothing was known when the plan was made.

    Raises:
        ModelChanged: it serves another model, so its answers would be kept under keys that are not theirs.
    """
    if identity.is_silent or model_revision(settings, home):  # the setting and a local model's digest need no server
        return
    served = key_revision(settings, home, identity)
    if served != planned:
        raise ModelChanged(
            f"the plan was made for revision {planned or 'unknown'}, the server now serves {served or 'one that it does not name'}",
            "run: kar run prompts",
        )


async def identify(transport: Transport, base_url: str, model: str) -> ServerIdentity:
    """See whether a server answers, and who it is.

    Raises:
        ServerUnreachable: nothing answers at the address, three times.
        ServerRefused: it wants another key.
    """
    reply = await _models(transport, base_url)
    if reply.status in (401, 403):
        detail = reply.content[:200].decode("utf-8", "replace")
        raise ServerRefused(
            f"the server at {base_url} refuses: {reply.status} {detail}",
            "mend the key in the environment variable that llm.api_key_env names, and run again",
        )
    listed = _json(reply).get("data")
    cards = [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
    card = next((card for card in cards if card.get("id") == model), {})
    longest = card.get("max_model_len")
    return ServerIdentity(
        model=model,
        root=_text(card, "root"),
        revision=_text(card, "revision"),
        server_version=await _version(transport, _text(card, "owned_by")),
        context_tokens=longest if isinstance(longest, int) and longest > 0 else None,
    )


async def _models(transport: Transport, base_url: str) -> Reply:
    fault = ""
    for pause_s in _PAUSES_S:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await transport.get("/models")
        except (TransportFault, TimeoutError) as error:
            fault = error.kind if isinstance(error, TransportFault) else "TimeoutError"
            await asyncio.sleep(pause_s)
    raise ServerUnreachable(
        f"no language model server answers at {base_url} ({fault})",
        "start the server, mend llm.base_url, or set llm.provider = 'local'",
    )


async def _version(transport: Transport, made_by: str) -> str:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            version = _text(_json(await transport.get("/version", at_root=True)), "version")
    except (TransportFault, TimeoutError):
        return ""
    return f"{made_by} {version}".strip() if version else ""


def _json(reply: Reply) -> Mapping[str, Any]:
    """The object in a good reply; empty if there is none."""
    try:
        data = orjson.loads(reply.content) if reply.status == 200 else {}
    except orjson.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""
