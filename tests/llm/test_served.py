from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kar.llm.served import Served, served_model
from kar.settings import LLMSettings
from kar.store import Home
from tests.llm.loopback import loopback

NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.of("one", tmp_path)


def of(base_url: str, **changes: str) -> LLMSettings:
    return LLMSettings.model_validate({"provider": "openai", "model": "tiny", "base_url": base_url, **changes})


def test_what_a_server_says_is_kept_and_stands_in_while_it_is_away(home: Home) -> None:
    assert served_model(of(NOBODY), home) == Served()
    with loopback(card={"root": "org/tiny-7b", "revision": "abc"}) as server:
        assert served_model(of(server.base_url), home).revision == "org/tiny-7b@abc"
        assert server.calls == 0, "no prompt is sent"
    assert served_model(of(NOBODY), home).revision == "org/tiny-7b@abc"
    assert served_model(of(NOBODY, model="other"), home) == Served(), "another model is another memory"
    assert [p.name for p in home.ledger.iterdir()] == ["server.json"]


def test_an_answer_that_says_nothing_does_not_unsay_what_is_known(home: Home) -> None:
    with loopback(card={"revision": "abc"}) as server:
        served_model(of(server.base_url), home)
    for status in (200, 500, 401):
        with loopback(status_of_models=status) as server:
            assert served_model(of(server.base_url), home).revision == "abc"


def test_a_server_that_never_answers_is_waited_for_no_longer_than_told(home: Home) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        assert served_model(of(f"http://127.0.0.1:{silent.getsockname()[1]}/v1"), home, timeout_s=0.3) == Served()
        assert time.monotonic() - started < 8.0  # one attempt alone may otherwise take ten seconds


def test_the_setting_goes_first_and_asks_nobody(home: Home) -> None:
    with loopback(card={"revision": "abc"}) as server:
        assert served_model(of(server.base_url, revision="mine"), home) == Served("mine")
        assert server.probes == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tiny": 3}', '{"tiny": {"odd": 1}}'])
def test_a_memory_that_cannot_be_read_is_none(home: Home, text: str) -> None:
    home.ledger.mkdir(parents=True)
    (home.ledger / "server.json").write_text(text)
    assert served_model(of(NOBODY), home) == Served()
    with loopback(card={"revision": "abc"}) as server:
        served_model(of(server.base_url), home)
    assert json.loads((home.ledger / "server.json").read_text()) == {"tiny": {"revision": "abc", "server_version": ""}}


def test_a_batch_is_planned_for_the_model_last_seen_and_asks_nobody(home: Home) -> None:
    with loopback(card={"revision": "abc"}) as server:
        assert served_model(of(server.base_url, provider="batch"), home) == Served()
        assert server.probes == 0
        served_model(of(server.base_url), home)
        probes = server.probes
        assert served_model(of(server.base_url, provider="batch"), home).revision == "abc"
        assert server.probes == probes
