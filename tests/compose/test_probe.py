"""The health checks' probe against a real server on the loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.compose.rendered import ROOT, script

probe = script(ROOT / "docker/probe.py")
MONITOR = {"metadatabase": {"status": "healthy"}, "triggerer": {"status": None}, "scheduler": {"status": "unhealthy"}}


class _Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {"/health": (200, MONITOR), "/503": (503, {}), "/text": (200, "no object")}
        status, body = answers.get(self.path, (404, {}))
        if self.path == "/models":
            status, body = (200 if self.headers.get("Authorization") == "Bearer s3cret" else 401, {})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("path", "part", "key", "fault"),
    [
        ("/health", "", "", ""),
        ("/health", "metadatabase", "", ""),
        ("/health", "scheduler", "", "scheduler is unhealthy"),
        ("/health", "triggerer", "", "triggerer is None"),
        ("/health", "dag_processor", "", "{url} says nothing of dag_processor"),
        ("/text", "metadatabase", "", "{url} says nothing of metadatabase"),
        ("/503", "", "", "{url} answers 503"),
        ("/models", "", "s3cret", ""),
        ("/models", "", "", "{url} answers 401"),
    ],
)
def test_the_probe_says_what_is_wrong(path: str, part: str, key: str, fault: str) -> None:
    with serving() as base:
        assert probe.fault(base + path, part, key) == fault.format(url=base + path)


def test_a_service_that_is_gone_is_not_well() -> None:
    with serving() as base:
        pass
    assert probe.fault(f"{base}/health").startswith(f"{base}/health does not answer: ")
