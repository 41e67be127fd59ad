"""A Docker engine on loopback, as far as DockerOperator speaks to one: notes the containers it is asked for, and answers as told.

with engine(said=[("stderr", "log\\n"), ("stdout", "{}\\n")], exit_code=3) as (address, asked): …
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_STREAMS = {"stdout": 1, "stderr": 2}


@contextmanager
def engine(said: list[tuple[str, str]], exit_code: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address as docker writes it, and what it was asked: {"call": method and path, "body": …}."""
    asked: list[dict[str, Any]] = []
    started = threading.Event()

    class Engine(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._note()
            if self.path.endswith("/_ping"):
                self._write(b"OK", "text/plain")
            else:
                inspected = {"Id": "c1", "Config": {"Tty": False}}
                self._answer([{"Id": "sha256:1"}] if "/images/json" in self.path else {"ApiVersion": "1.44", **inspected})

        def do_DELETE(self) -> None:
            self._note()
            self._answer({})

        def do_POST(self) -> None:
            self._note()
            if "/attach" in self.path:
                self._attach()
            elif "/wait" in self.path:
                self._answer({"StatusCode": exit_code})
            else:
                if "/start" in self.path:
                    started.set()
                self._answer({"Id": "c1", "Warnings": []})

        def _attach(self) -> None:
            self.send_response(101, "UPGRADED")
            for name, value in (("Content-Type", "application/vnd.docker.raw-stream"), ("Connection", "Upgrade"), ("Upgrade", "tcp")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.flush()
            started.wait(30)  # a container says nothing before it starts
            for stream, text in said:
                self.wfile.write(struct.pack(">BxxxL", _STREAMS[stream], len(text.encode())) + text.encode())
            self.close_connection = True

        def _note(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"null") if length else None
            asked.append({"call": f"{self.command} {self.path}", "body": body})

        def _answer(self, what: Any) -> None:
            self._write(json.dumps(what).encode(), "application/json")

        def _write(self, text: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *of: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
