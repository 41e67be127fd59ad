"""A real object store on loopback: moto's server in a thread of this process, counting what is asked of it."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from werkzeug.serving import WSGIRequestHandler, make_server

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEYID",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class _Silent(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        pass


@dataclass
class Asked:
    """One request."""

    method: str
    key: str
    copied_from: str
    sent: int


@dataclass
class Store:
    """Where it listens, and what was asked of it since `asked` was last cleared.

    Args:
        before: called before each request is served; what it raises is answered by a refusal that no client tries again.
    """

    endpoint: str
    bucket: str = ""
    asked: list[Asked] = field(default_factory=list)
    before: Callable[[Asked], None] | None = None

    def sent_bytes(self) -> int:
        return sum(one.sent for one in self.asked if one.method == "PUT")

    def puts(self) -> list[str]:
        """Keys that were sent, not copied, in order."""
        return [one.key for one in self.asked if one.method == "PUT" and not one.copied_from]

    def copies(self) -> list[str]:
        return [one.key for one in self.asked if one.copied_from]

    def gets(self) -> list[str]:
        return [one.key for one in self.asked if one.method == "GET" and one.key]

    def require_credentials(self, *, on: bool) -> None:
        """moto checks no signatures until it is told to."""
        body = b"0" if on else b"inf"
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset-auth", body, {"Content-Type": "text/plain"}, method="POST")
        with urllib.request.urlopen(request) as answer:
            answer.read()


@contextmanager
def serving() -> Iterator[Store]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    app = DomainDispatcherApplication(create_backend_app)
    store = Store("")

    def counted(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        _, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
        sent = environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH") or 0
        asked = Asked(environ["REQUEST_METHOD"], key, environ.get("HTTP_X_AMZ_COPY_SOURCE", ""), int(sent))
        store.asked.append(asked)
        if store.before is not None:
            try:
                store.before(asked)
            except ConnectionError:
                start("400 Bad Request", [("Content-Length", "0")])
                return []
        return app(environ, start)  # type: ignore[no-any-return]

    server = make_server("127.0.0.1", 0, counted, threaded=True, request_handler=_Silent)
    store.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
