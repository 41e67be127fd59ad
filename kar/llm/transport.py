"""Bytes to a server and back: aiohttp for vLLM and its like, the openai package for the hosted providers.

A transport sends the body it is given, byte for byte, tries once, and does not interpret the answer. Whatever keeps
an answer from arriving whole is a `TransportFault`; a status code is not a fault. A reply that repeats the key comes without it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from kar.llm.secret import without
from kar.settings import LLMSettings

MAX_ANSWER_BYTES = 8 * 2**20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class TransportFault(Exception):
    """No whole answer arrived. `kind` is the exception's type; `was_sent` whether the server may have worked on it."""

    def __init__(self, kind: str, *, was_sent: bool = True) -> None:
        self.kind, self.was_sent = kind, was_sent
        super().__init__(kind)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Look header names up in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Transport(Protocol):
    """One server."""

    async def post(self, body: bytes, request_id: str) -> Reply:
        """POST the body to /chat/completions. Raises TransportFault."""
        ...

    async def get(self, path: str, *, at_root: bool = False) -> Reply:
        """GET a path under the base URL (/models), or at the server's root (/health, /metrics, /version). Raises TransportFault."""
        ...

    async def close(self) -> None: ...


def transport_for(settings: LLMSettings, base_url: str) -> Transport:
    """The transport that fits the address. Call it inside the event loop."""
    key = os.environ.get(settings.api_key_env, "")
    host = urlsplit(base_url).hostname or ""
    if host == "api.openai.com" or host.endswith(".openai.azure.com"):
        return OpenAITransport(base_url, key)
    return AioTransport(base_url, key)


class AioTransport:
    """aiohttp: 0.3 ms of CPU a request, where the openai package takes 1.5 to 3.

    Args:
        base_url: up to and with /v1.
        api_key: sent as a bearer token if it is not empty.
        max_answer_bytes: a longer answer is cut off and counts as a fault.
    """

    def __init__(self, base_url: str, api_key: str = "", max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._base_url = base_url.rstrip("/")
        self._root = root_of(base_url)
        self._chat = URL(self._base_url + "/chat/completions")
        self._max_bytes, self._key = max_answer_bytes, api_key
        # identity: nobody can send a small answer that unpacks to gigabytes
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),  # the gate is the limit
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),  # the client times each attempt as a whole
            trust_env=urlsplit(base_url).hostname not in _LOOPBACK,
            auto_decompress=False,
        )

    async def post(self, body: bytes, request_id: str) -> Reply:
        return await self._send("POST", self._chat, body, {"X-Request-Id": request_id})

    async def get(self, path: str, *, at_root: bool = False) -> Reply:
        return await self._send("GET", URL((self._root if at_root else self._base_url) + path))

    async def close(self) -> None:
        await self._session.close()

    async def _send(self, method: str, url: URL, data: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        try:
            async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
                content = await response.content.readany()
                if not response.content.at_eof():
                    content = await self._rest(response.content, content)
                return Reply(response.status, response.headers, without(content, self._key, is_answer=response.status == 200))
        except aiohttp.ClientConnectorError as error:
            raise TransportFault(type(error).__name__, was_sent=False) from error
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError and ConnectionError are OSErrors
            raise TransportFault(type(error).__name__) from error

    async def _rest(self, stream: aiohttp.StreamReader, first: bytes) -> bytes:
        """What follows the first piece of an answer, as long as the whole is not too long."""
        content = bytearray(first)
        while chunk := await stream.readany():
            content += chunk
            if len(content) > self._max_bytes:
                raise TransportFault(f"AnswerTooLong: over {self._max_bytes} bytes")
        return bytes(content)


def root_of(base_url: str) -> str:
    """The server's root: where /health and /metrics lie, beside the /v1 that the base URL ends with."""
    return base_url.rstrip("/").removesuffix("/v1")


class OpenAITransport:
    """The openai package over its aiohttp transport, with its own retries switched off: ours count and are stored.

    Args:
        base_url: https://api.openai.com/v1, or https://NAME.openai.azure.com/openai/v1.
        api_key: the key; empty is refused by the provider, not here.
        max_answer_bytes: a longer answer counts as a fault.
    """

    def __init__(self, base_url: str, api_key: str, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        import httpx2
        import openai

        self._openai, self._response = openai, httpx2.Response
        self._max_bytes, self._key = max_answer_bytes, api_key
        self._client = openai.AsyncOpenAI(
            api_key=api_key or "none",
            base_url=base_url,
            max_retries=0,
            timeout=None,
            http_client=openai.DefaultAioHttpClient(timeout=None),
        )

    async def post(self, body: bytes, request_id: str) -> Reply:
        headers = {"X-Request-Id": request_id, "Content-Type": "application/json"}
        try:
            response = await self._client.post("/chat/completions", cast_to=self._response, content=body, options={"headers": headers})
        except self._openai.APIStatusError as error:
            response = error.response
        except self._openai.APIConnectionError as error:
            raise TransportFault(type(error.__cause__ or error).__name__) from error
        return self._reply(response.status_code, response.headers, response.content)

    async def get(self, path: str, *, at_root: bool = False) -> Reply:
        if at_root:
            return Reply(404, {}, b"")  # hosted providers show neither health nor metrics
        try:
            response = await self._client.get(path, cast_to=self._response)
        except self._openai.APIStatusError as error:
            response = error.response
        except self._openai.APIConnectionError as error:
            raise TransportFault(type(error.__cause__ or error).__name__, was_sent=False) from error
        return self._reply(response.status_code, response.headers, response.content)

    async def close(self) -> None:
        await self._client.close()

    def _reply(self, status: int, headers: Mapping[str, str], content: bytes) -> Reply:
        if len(content) > self._max_bytes:
            raise TransportFault(f"AnswerTooLong: over {self._max_bytes} bytes")
        # its headers take any case
        return Reply(status, headers, without(content, self._key, is_answer=status == 200))
