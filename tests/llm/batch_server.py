"""A real server on the loopback that speaks OpenAI's Batch API: files, batches, their results; and fails on request.

    with batch_server() as server:                                   # each look moves a batch one state on, to completed
        …settings(base_url=server.base_url)…
    with batch_server(ends="expired", answers=lambda n: n < 3) as server:

Answers are those of `tests.llm.loopback.answer_to`. A batch goes validating → in_progress → finalizing → `ends`
(completed · failed · expired · cancelled), a state at each look.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.llm.loopback import answer_to

STATES = ("validating", "in_progress", "finalizing")


@dataclass
class Calls:
    """What the server saw, and what it keeps.

    Args:
        seen: "METHOD /path" of every request, in order.
        files: id → bytes; batches: id → as the API shows it.
    """

    base_url: str = ""
    seen: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    purposes: list[str] = field(default_factory=list)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)

    def count(self, start: str) -> int:
        return sum(call.startswith(start) for call in self.seen)


Fault = Callable[[str, int], str]
"""Given "METHOD /path" and how often it has come (from 1): "ok", a status code, "reset" or "html"; with "_after": done all the same."""


@contextlib.contextmanager
def batch_server(
    ends: str = "completed",
    *,
    fault: Fault = lambda call, times: "ok",
    answers: Callable[[int], bool] = lambda place: True,
    refuses: Callable[[int], bool] = lambda place: False,
    cuts: bool = False,
    checks: int = 0,
    quotes: str = "",
) -> Iterator[Calls]:
    """Run the server in a thread while the block lasts.

    Args:
        ends: the last state of each batch.
        fault: what happens to a call instead of an answer.
        answers: which places of a file get an answer before the batch ends; the others expire, or are cancelled.
        refuses: which places get a 400.
        cuts: answers stop at the token limit.
        checks: looks at a file before it is processed; no batch starts before that (Azure).
        quotes: stands in whatever it refuses.
    """
    calls, ready, stop = Calls(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    routes = _Routes(calls, ends, fault, answers, refuses, cuts, checks, quotes)

    async def serve() -> None:
        app = web.Application(client_max_size=2**26, middlewares=[routes.faults])
        app.router.add_post("/v1/files", routes.upload)
        app.router.add_get("/v1/files/{id}", routes.file)
        app.router.add_get("/v1/files/{id}/content", routes.content)
        app.router.add_post("/v1/batches", routes.create)
        app.router.add_get("/v1/batches", routes.list)
        app.router.add_get("/v1/batches/{id}", routes.retrieve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        calls.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run, name="batch-server")
    thread.start()
    try:
        assert ready.wait(10), "the batch server did not start"
        yield calls
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


class _Routes:
    def __init__(
        self,
        calls: Calls,
        ends: str,
        fault: Fault,
        answers: Callable[[int], bool],
        refuses: Callable[[int], bool],
        cuts: bool,
        checks: int,
        quotes: str,
    ) -> None:
        self._calls, self._ends, self._fault = calls, ends, fault
        self._answers, self._refuses, self._cuts, self._checks = answers, refuses, cuts, checks
        self._shown: dict[str, dict[str, Any]] = {}
        self._quotes = quotes

    @web.middleware
    async def faults(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        call = f"{request.method} {request.path.removeprefix('/v1')}"
        self._calls.seen.append(call)
        self._calls.headers.append({k.lower(): v for k, v in request.headers.items()})
        mode = self._fault(call, self._calls.seen.count(call))
        if mode == "ok":
            return await handler(request)  # type: ignore[no-any-return]
        if mode.endswith("_after"):
            await handler(request)
        mode = mode.removesuffix("_after")
        if mode == "reset":
            assert request.transport is not None
            request.transport.abort()
        if mode == "html":
            return web.Response(text="<html>a proxy's page</html>", content_type="text/html")
        status = int(mode) if mode.isdigit() else 500
        headers = {"Retry-After": "0.1"} if status == 429 else {}
        said = {"error": {"message": f"status {status} as asked for key {request.headers.get('Authorization', '')}"}}
        return web.json_response(said, status=status, headers=headers)

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        upload = form["file"]
        assert isinstance(upload, web.FileField)
        file_id = f"file-{len(self._calls.files) + 1}"
        self._calls.files[file_id] = upload.file.read()
        self._calls.purposes.append(str(form["purpose"]))
        self._shown[file_id] = {
            "id": file_id,
            "object": "file",
            "bytes": len(self._calls.files[file_id]),
            "created_at": int(time.time()),
            "filename": upload.filename,
            "purpose": form["purpose"],
            "status": "pending" if self._checks else "processed",
        }
        return web.json_response(self._shown[file_id])

    async def file(self, request: web.Request) -> web.Response:
        shown = self._shown[request.match_info["id"]]
        self._checks -= 1
        shown["status"] = "running" if self._checks > 0 else "processed"
        return web.json_response(shown)

    async def create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked["input_file_id"] not in self._calls.files:
            return web.json_response({"error": {"message": "no such file"}}, status=400)
        if self._shown[asked["input_file_id"]]["status"] != "processed":
            return web.json_response({"error": {"message": "the file is not processed"}}, status=400)
        batch = {
            "id": f"batch_{len(self._calls.batches) + 1}",
            "object": "batch",
            "status": STATES[0],
            "created_at": int(time.time()),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            **{name: asked[name] for name in ("input_file_id", "endpoint", "completion_window", "metadata")},
        }
        self._calls.batches[batch["id"]] = batch
        return web.json_response(batch)

    async def list(self, request: web.Request) -> web.Response:
        newest_first = list(self._calls.batches.values())[::-1]
        after = next((n + 1 for n, batch in enumerate(newest_first) if batch["id"] == request.query.get("after")), 0)
        page = newest_first[after : after + 2]
        return web.json_response({"object": "list", "data": page, "has_more": after + 2 < len(newest_first)})

    async def retrieve(self, request: web.Request) -> web.Response:
        batch = self._calls.batches.get(request.match_info["id"])
        if batch is None:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        if batch["status"] in STATES[:-1]:
            batch["status"] = STATES[STATES.index(batch["status"]) + 1]
        elif batch["status"] == STATES[-1]:
            self._end(batch)
        return web.json_response(batch)

    async def content(self, request: web.Request) -> web.Response:
        content = self._calls.files.get(request.match_info["id"])
        if content is None:
            return web.json_response({"error": {"message": "no such file"}}, status=404)
        return web.Response(body=content, content_type="application/octet-stream")

    def _end(self, batch: dict[str, Any]) -> None:
        """Write the result files, last request first: nobody promises an order."""
        batch["status"] = self._ends
        if self._ends == "failed":
            batch["errors"] = {
                "object": "list",
                "data": [{"code": "invalid_json", "message": f"this line is no request {self._quotes}".strip(), "line": 2}],
            }
            return
        output, errors = [], []
        lines = self._calls.files[batch["input_file_id"]].splitlines()
        for place, line in enumerate(map(orjson.loads, lines)):
            result = {"id": f"batch_req_{place}", "custom_id": line["custom_id"], "response": None, "error": None}
            if self._refuses(place):
                said = {"error": {"message": f"the prompt is too long {self._quotes}".strip()}}
                errors.append(result | {"response": {"status_code": 400, "request_id": f"req_{place}", "body": said}})
            elif self._answers(place):
                output.append(result | {"response": {"status_code": 200, "request_id": f"req_{place}", "body": self._answer(line["body"])}})
            else:
                code = "batch_cancelled" if self._ends == "cancelled" else "batch_expired"
                errors.append(result | {"error": {"code": code, "message": "This request was not executed."}})
        batch["request_counts"] = {"total": len(lines), "completed": len(output), "failed": len(errors)}
        for name, results in (("output_file_id", output), ("error_file_id", errors)):
            if results:
                batch[name] = f"file-{len(self._calls.files) + 1}"
                self._calls.files[batch[name]] = b"".join(orjson.dumps(r) + b"\n" for r in reversed(results))

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = "\n".join(str(m["content"]) for m in body["messages"])
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": f"{body['model']}-2026",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": answer_to(prompt)},
                    "finish_reason": "length" if self._cuts else "stop",
                }
            ],
            "usage": {"prompt_tokens": len(prompt) // 4, "completion_tokens": 30, "total_tokens": len(prompt) // 4 + 30},
        }
