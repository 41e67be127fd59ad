"""A real server on the loopback that speaks /v1/chat/completions, answers deterministically and fails on request.

    with loopback() as server:                              # every call is answered
        …settings(base_url=server.base_url)…
    with loopback(lambda call: "500" if call.number == 1 else "ok") as server:

What it says depends on the prompt alone; a body with a JSON schema is answered by it, one with prompt_logprobs gets those of a
tiny language model too. Modes:
    ok · slow (after 0.3 s) · never (no answer at all) · reset (the connection breaks) · truncated_json · wrong_type ·
    no_choices · huge (an answer of 64 MiB) · gzip_bomb (64 MiB in 64 kB) · empty · reasoned_out (no text, length) ·
    refusal · echo · loop · length (cut) · no_usage · short · schemaless (prose, whatever the schema
    says) · empty_factors · other_json · scoreless (no prompt_logprobs, whatever is asked) · 429 · 429_after (Retry-After: 0.2) · 503 · and any other status
    code as text · status code:text, with that text
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

_TEXT = """
slow quick warm cold bright dark tender harsh gentle loud quiet strange plain rich sparse funny grim witty bold shy odd calm wild
brisk dry lush neat raw sly stark suave tense terse vast wry young old rural urban royal humble ancient modern foreign familiar
haunted hopeful jealous lonely loyal musical nervous noble patient playful proud rough sacred savage sleepy stormy stubborn tragic
"""
_WORDS = _TEXT.split()
REFUSAL = "I'm sorry, but as an AI language model I cannot provide information about that. Please provide me with more context first."


@dataclass(frozen=True)
class Call:
    """One request: its number (from 1), its body, and how often this very body has come (from 1)."""

    number: int
    body: dict[str, Any]
    times: int

    @property
    def prompt(self) -> str:
        return "\n".join(str(m["content"]) for m in self.body["messages"])


Behaviour = Callable[[Call], str]


@dataclass
class Server:
    """What the server saw."""

    base_url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_in_flight: int = 0
    probes: int = 0
    dropped: int = 0  # requests whose client went away before the answer
    metrics: str = ""  # what GET /metrics says; empty: 404
    health: int = 200
    version: str = ""  # of GET /version; empty: 404
    card: dict[str, Any] = field(default_factory=lambda: {"id": "tiny", "object": "model"})
    kill: Callable[[], None] = lambda: None  # breaks every connection and stops to listen
    _in_flight: int = 0

    @property
    def calls(self) -> int:
        """Chat requests received, failed ones too."""
        return len(self.bodies)


def answer_to(prompt: str, count: int = 30) -> str:
    """The answer to a prompt: `count` different words drawn by its digest, in three sentences."""
    seed = hashlib.sha256(prompt.encode()).digest()
    order = sorted(_WORDS, key=lambda word: hashlib.sha256(seed + word.encode()).digest())[:count]
    size = -(-count // 3)
    return " ".join(" ".join(order[i : i + size]).capitalize() + "." for i in range(0, count, size))


def schema_of(body: dict[str, Any]) -> dict[str, Any] | None:
    """The schema that the body holds the answer to, as vLLM takes it (text or object) or as hosted providers do."""
    found = body.get("structured_outputs", {}).get("json") or body.get("response_format", {}).get("json_schema", {}).get("schema")
    schema: dict[str, Any] | None = orjson.loads(found) if isinstance(found, str) else found
    return schema


def answer_in_factors(prompt: str, schema: dict[str, Any]) -> str:
    """The object that the schema asks for, keys in its order, six words each that depend on prompt and key."""
    texts = {key: answer_to(f"{key}: {prompt}", 6)[: rule.get("maxLength")] for key, rule in schema["properties"].items()}
    return orjson.dumps(texts).decode()


def logprob_rows(body: dict[str, Any]) -> list[dict[str, Any] | None]:
    """`prompt_logprobs` of a body. Words are tokens; one that has stood before is likelier (a cache model, Kuhn and De Mori 1990)."""
    words = [word for m in body["messages"] for word in [f"<{m['role']}>", *m["content"].split()]]
    if body["add_generation_prompt"]:
        words.append("<assistant>")
    rows: list[dict[str, Any] | None] = [None]
    for place in range(1, len(words)):
        seen = words[:place].count(words[place])
        share = 0.5 * seen / place + 0.5 / 1000
        rows.append({str(place): {"logprob": math.log(share), "rank": 1, "decoded_token": words[place]}})
    return rows


@contextlib.contextmanager
def loopback(
    behaviour: Behaviour = lambda call: "ok",
    *,
    answers: dict[str, tuple[str, str]] | None = None,
    delay_s: float = 0.0,
    port: int = 0,
    status_of_models: int = 200,
    card: dict[str, str] | None = None,
    key: str = "",
) -> Iterator[Server]:
    """Run the server in a thread while the block lasts.

    Args:
        behaviour: names the mode for each call.
        answers: further modes → (text, finish reason).
        delay_s: before each answer.
        port: 0: a free one.
        status_of_models: what GET /v1/models answers.
        card: what it says there of the model besides its name, e.g. root and revision.
        key: without it every request is answered by 401, which quotes the Authorization header; empty: nobody is asked for one.
    """
    server = Server(card={"id": "tiny", "object": "model", **(card or {})})
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=2**24, middlewares=[_doorkeeper(key)] if key else [])
        routes = _Routes(server, behaviour, answers or {}, delay_s, status_of_models)
        app.router.add_post("/v1/chat/completions", routes.chat)
        app.router.add_get("/v1/models", routes.models)
        app.router.add_get("/metrics", routes.metrics)
        app.router.add_get("/health", routes.health)
        app.router.add_get("/version", routes.version)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

        def kill() -> None:
            for connection in list(runner.server.connections if runner.server else ()):
                if connection.transport is not None:
                    connection.transport.abort()
            stop.set()

        server.kill = lambda: loop.call_soon_threadsafe(kill) and None
        ready.set()
        await stop.wait()
        await runner.cleanup()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run, name="loopback")
    thread.start()
    try:
        assert ready.wait(10), "the loopback server did not start"
        yield server
    finally:
        with contextlib.suppress(RuntimeError):  # it was killed
            loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def _doorkeeper(key: str) -> Any:
    @web.middleware
    async def ask(request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if given != f"Bearer {key}":
            return web.Response(status=401, text=f"Incorrect API key provided: {given.removeprefix('Bearer ')}. Find yours in the console.")
        response: web.StreamResponse = await handler(request)
        return response

    return ask


class _Routes:
    def __init__(
        self,
        server: Server,
        behaviour: Behaviour,
        answers: dict[str, tuple[str, str]],
        delay_s: float,
        status_of_models: int,
    ) -> None:
        self._server, self._behaviour, self._answers = server, behaviour, answers
        self._delay_s, self._status_of_models = delay_s, status_of_models
        self._times: dict[bytes, int] = {}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        server, raw = self._server, await request.read()
        server.bodies.append(raw)
        server.headers.append({k.lower(): v for k, v in request.headers.items()})
        self._times[raw] = self._times.get(raw, 0) + 1
        call = Call(server.calls, orjson.loads(raw), self._times[raw])
        server._in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server._in_flight)
        try:
            await asyncio.sleep(self._delay_s)
            mode = self._behaviour(call)
            if mode in self._answers:
                return _reply(call, mode, *self._answers[mode])
            return await _respond(request, call, mode)
        except asyncio.CancelledError:
            server.dropped += 1
            raise
        finally:
            server._in_flight -= 1

    async def models(self, _: web.Request) -> web.Response:
        self._server.probes += 1
        return web.json_response({"object": "list", "data": [self._server.card]}, status=self._status_of_models)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self._server.metrics, status=200 if self._server.metrics else 404)

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=self._server.health)

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self._server.version}, status=200 if self._server.version else 404)


async def _respond(request: web.Request, call: Call, mode: str) -> web.StreamResponse:
    schema = None if mode == "schemaless" else schema_of(call.body)
    text, finish = answer_to(call.prompt) if schema is None else answer_in_factors(call.prompt, schema), "stop"
    if mode == "slow":
        await asyncio.sleep(0.3)
    elif mode == "never":
        await asyncio.sleep(3600)
    elif mode == "reset":
        assert request.transport is not None
        request.transport.abort()
    elif mode == "huge":
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                await response.write(b" " * 2**20)
        return response
    elif mode == "gzip_bomb":
        bomb = gzip.compress(b" " * 2**26 + b"{}")
        return web.Response(body=bomb, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})
    elif mode == "429_after":
        return web.Response(status=429, text="slow down", headers={"Retry-After": "0.2"})
    elif mode.isdigit():
        return web.Response(status=int(mode), text=f"status {mode} as asked")
    elif mode[:3].isdigit() and mode[3:4] == ":":
        return web.Response(status=int(mode[:3]), text=mode[4:])
    elif mode in ("empty", "reasoned_out"):
        text, finish = "", "stop" if mode == "empty" else "length"
    elif mode == "refusal":
        text = REFUSAL
    elif mode == "short":
        text = "A film."
    elif mode == "echo":
        text = call.prompt
    elif mode == "loop":
        text = "The film is about a film that is about a film. " * 8
    elif mode == "empty_factors" and schema is not None:
        text = orjson.dumps(dict.fromkeys(schema["properties"], "")).decode()
    elif mode == "other_json":
        text = orjson.dumps({"title": text}).decode()
    elif mode == "length" and schema is not None:
        text, finish = text[:-20], "length"
    elif mode == "length":
        text, finish = text.rstrip(".") + " and then", "length"
    return _reply(call, mode, text, finish)


def _reply(call: Call, mode: str, text: str, finish: str) -> web.Response:
    prompt_tokens, completion_tokens = len(call.prompt) // 4, len(text.split())
    data: dict[str, Any] = {
        "id": "chat-1",
        "object": "chat.completion",
        "model": call.body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": prompt_tokens // 2},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
    }
    if "prompt_logprobs" in call.body and mode != "scoreless":
        data["prompt_logprobs"] = logprob_rows(call.body)
    if mode == "no_choices":
        data["choices"] = []
    if mode == "no_usage":
        del data["usage"]
    body = orjson.dumps(data)
    if mode == "truncated_json":
        body = body[: len(body) // 2]
    return web.Response(body=body, content_type="text/html" if mode == "wrong_type" else "application/json")
