"""The bucket job against real stores on the loopback: one that writes on a condition, one that does not look, one that is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.compose.rendered import ROOT, script
from tests.release.store import ENVIRONMENT

bucket = script(ROOT / "docker/bucket.py")


class _Silent(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002
        pass


def careful(environ: WSGIEnvironment) -> None:
    """Leaves the conditions as they came."""


def careless(environ: WSGIEnvironment) -> None:
    """Forgets every condition, as an old store does that does not know them."""
    for name in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"):
        environ.pop(name, None)


@contextmanager
def serving(manner: Callable[[WSGIEnvironment], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """moto's server, which looks and writes in two steps: one request at a time makes one of them."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    app, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def in_turn(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        manner(environ)
        with turn:
            return list(app(environ, start))

    server = make_server("127.0.0.1", 0, in_turn, threaded=True, request_handler=_Silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}.items():
        monkeypatch.setenv(name, value)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_bucket_is_made_once_and_nothing_is_left_in_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(careful, monkeypatch):
        for said in ("was made", "is there"):
            assert bucket.main(["s3://kar-once/shop"]) == 0
            assert capsys.readouterr().out == f"s3://kar-once {said}, and writes on a condition\n"
        assert bucket.S3Place("s3://kar-once").names() == {}


def test_a_store_that_forgets_conditions_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(careless, monkeypatch):
        assert bucket.main(["s3://kar-careless/shop"]) == 1
        said = capsys.readouterr().err
        assert "8 of 8 writers at once created the same object, and one may" in said
        assert "do: name a store that writes on a condition" in said
        assert bucket.S3Place("s3://kar-careless").names() == {}


def test_a_store_that_is_gone_is_said_and_no_secret_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(careful, monkeypatch):
        pass
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert bucket.main(["s3://kar-gone"]) == 1
    said = capsys.readouterr().err
    assert "the bucket was not made" in said
    assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in said
