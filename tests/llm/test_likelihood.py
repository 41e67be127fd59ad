"""The judge's call: a server with a real, if tiny, language model that gives the log-probability of each prompt token."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from kar.errors import ServerRefused
from kar.llm.likelihood import prompt_logprobs
from kar.settings import LLMSettings
from kar.text.quality.likelihood import bodies, likelihood, token_logprobs
from tests.llm.loopback import loopback

ASKED = [{"role": "user", "content": "Describe the entry: a submarine crew hunted in the cold Atlantic"}]
BLANK = [{"role": "user", "content": "Describe the entry:"}]
TRUE = "a submarine crew hunted in the Atlantic"
OTHER = "two sisters inherit a vineyard near Bordeaux"


def _rows(body: dict[str, Any]) -> list[dict[str, Any] | None]:
    """Words are tokens; a word that has stood before is likelier (a cache model, Kuhn and De Mori 1990)."""
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
def scoring(status: int = 200, *, has_rows: bool = True) -> Iterator[str]:
    """A server that answers /v1/chat/completions with prompt_logprobs; a body that says "too long" gets 400."""
    ready, loop, stop, address = threading.Event(), asyncio.new_event_loop(), asyncio.Event(), [""]

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        if "too long" in body["messages"][-1]["content"]:
            return web.Response(status=400, text="context")
        data = {"choices": [{"message": {"role": "assistant", "content": "x"}}], "prompt_logprobs": _rows(body) if has_rows else None}
        return web.json_response(data, status=status)

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address[0] = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: (asyncio.set_event_loop(loop), loop.run_until_complete(serve()), loop.close()))
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def test_a_text_about_its_source_gains_more_from_it_than_a_text_about_another() -> None:
    gains = {}
    with scoring() as base_url:
        for name, answer in (("true", TRUE), ("other", OTHER)):
            rows = prompt_logprobs(bodies("tiny", ASKED, BLANK, answer), LLMSettings(), base_url)
            given, alone, frame = (token_logprobs(r) for r in rows if r is not None)
            found = likelihood(given, alone, len(frame))
            assert found is not None
            assert found.tokens == len(answer.split())
            gains[name] = found.gain
    assert gains["true"] > 1.0 > gains["other"]


def test_rows_come_in_the_order_of_the_bodies_and_one_that_fails_is_none() -> None:
    asked = [bodies("tiny", ASKED, BLANK, text)[0] for text in ("one", "this is too long", "two words", "three more words")]
    with scoring() as base_url:
        rows = prompt_logprobs(asked, LLMSettings(concurrency=2), base_url)
    first = len(rows[0] or [])
    assert [None if r is None else len(r) - first for r in rows] == [0, None, 1, 2]


def test_a_server_without_prompt_logprobs_is_named_as_such() -> None:
    with scoring(has_rows=False) as base_url, pytest.raises(ServerRefused, match=r"knowledge\.judge needs"):
        prompt_logprobs(bodies("tiny", ASKED, BLANK, TRUE), LLMSettings(), base_url)


def test_a_server_that_wants_another_key_ends_the_judging() -> None:
    with scoring(status=401) as base_url, pytest.raises(ServerRefused, match="401"):
        prompt_logprobs(bodies("tiny", ASKED, BLANK, TRUE), LLMSettings(), base_url)


@pytest.mark.parametrize("mode", ["500", "truncated_json", "reset"])
def test_a_fault_on_the_way_scores_nothing_and_raises_nothing(mode: str) -> None:
    with loopback(lambda call: mode) as server:
        assert prompt_logprobs(bodies("tiny", ASKED, BLANK, TRUE)[:1], LLMSettings(), server.base_url) == [None]
        assert server.calls == 1
