"""A real lineage server on the loopback: keeps the events that are posted to it, and fails on request.

Modes: ok · 500 · 401 (quotes the Authorization header back) · never (takes the connection and says nothing).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """What came in, whole or refused."""

    url: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def told(self) -> list[tuple[str, str]]:
        return [(event["job"]["name"], event["eventType"]) for event in self.events]


@contextlib.contextmanager
def receiving(mode: str = "ok") -> Iterator[Receiver]:
    receiver = Receiver()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.raw.append(raw)
            if mode == "never":
                receiver.released.wait(20)
            if mode in ("500", "401"):
                said = f"who is {self.headers.get('Authorization')}?".encode()
                self.send_response(int(mode))
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)
                return
            receiver.events.append(json.loads(raw))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            with contextlib.suppress(OSError):  # the client may have gone
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
