"""A night at a provider, driven by the real openai package against a real server: sent once, looked after, taken in."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from kar.errors import AlreadyRunning, ServerRefused, ServerUnreachable, SettingsError, StageError
from kar.llm import arrivals
from kar.llm.batch import sending
from kar.llm.batch.export import MOST_BYTES
from kar.llm.batch.nights import Nights
from kar.llm.batch.remote import BatchServer
from kar.llm.ledger import Ledger, look_up
from kar.settings import LLMSettings
from kar.store import Home
from tests.forget.homes import everything
from tests.llm.batch.conftest import write_requests
from tests.llm.batch_server import Calls, batch_server
from tests.llm.loopback import answer_to

DATE = dt.date(2026, 11, 20)
KEY = "sk-very-secret"


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Shop:
    """A home with eight planned requests, and a provider's settings."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder, "world")
        partition = self.home.partition("prompts", DATE)
        partition.path.mkdir(parents=True)
        self.rows = write_requests(partition.table("request"), [f"Film {n}" for n in range(8)])
        partition.manifest_path.write_text("{}")
        self.keys = [row["request_key"] for row in self.rows]

    def submit(self, server: Calls, most_requests: int = 50_000, **settings: Any) -> sending.Submitted:
        chosen = self.settings(server, **settings)
        return sending.submit(
            self.home, DATE, chosen, lambda: BatchServer(chosen, 0.01), now(), most_requests=most_requests, most_bytes=MOST_BYTES
        )

    def fetch(self, server: Calls) -> sending.Fetched:
        chosen = self.settings(server)
        return sending.fetch(self.home, chosen, lambda: BatchServer(chosen, 0.01), now())

    def fetch_when_over(self, server: Calls) -> sending.Fetched:
        for _ in range(10):
            made = self.fetch(server)
            if made.imported:
                return made
        raise AssertionError("no batch came to its end")

    def settings(self, server: Calls, **settings: Any) -> LLMSettings:
        return LLMSettings(**{"provider": "batch", "base_url": server.base_url, "api_key_env": "KAR_TEST_KEY", **settings})


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("KAR_TEST_KEY", KEY)
    return Shop(tmp_path)


def test_a_night_is_sent_waited_for_and_its_answers_end_in_the_ledger(shop: Shop) -> None:
    with batch_server() as server:
        made = shop.submit(server)
        assert [(n.status, n.batch_id, n.requests) for n in made.started] == [("validating", "batch_1", 8)]
        assert server.purposes == ["batch"]
        sent = [json.loads(line) for line in server.files["file-1"].splitlines()]
        assert [(line["custom_id"], line["url"]) for line in sent] == [(key, "/v1/chat/completions") for key in shop.keys]
        asked = server.batches["batch_1"]
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        assert all(h["authorization"] == f"Bearer {KEY}" for h in server.headers)
        assert [shop.fetch(server).waiting[0].status for _ in range(2)] == ["in_progress", "finalizing"]
        assert arrivals.arrivals_path(shop.home, DATE).exists() is False
        ((night, imported),) = shop.fetch(server).imported
        assert (night.status, night.completed, night.is_open) == ("completed", 8, False)
        assert (imported.answered, imported.unanswered, imported.unknown.count) == (8, 0, 0)
        held = look_up(shop.home.ledger, shop.keys)
        assert [held[key].text for key in shop.keys] == [answer_to(f"Film {n}") for n in range(8)]
        assert {a.model for a in held.values()} == {"tiny-2026"}
        assert arrivals.arrivals_path(shop.home, DATE).exists()
        assert shop.fetch(server).imported == []
        again = shop.submit(server)
        assert again.started == []
        assert again.left_out == {"answered": 8}
        assert server.count("POST /batches") == 1


def test_a_provider_that_looks_at_a_file_first_is_waited_for(shop: Shop) -> None:
    with batch_server(checks=3) as server:
        made = shop.submit(server)
        assert [n.batch_id for n in made.started] == ["batch_1"]
        assert server.count("GET /files/file-1") == 3


def test_a_second_submit_sends_nothing_that_an_open_batch_holds(shop: Shop) -> None:
    with batch_server() as server:
        shop.submit(server, most_requests=3)
        assert server.count("POST /batches") == 3
        again = shop.submit(server)
        assert again.started == []
        assert again.left_out == {"open": 8}
        assert server.count("POST") == 6
        sending.forget(shop.home, Nights(shop.home).open()[1].id)
        assert [n.requests for n in shop.submit(server).started] == [3]


def test_an_expired_batch_gives_what_it_did_and_the_rest_goes_out_again(shop: Shop) -> None:
    with batch_server("expired", answers=lambda place: place < 5, refuses=lambda place: place == 6) as server:
        shop.submit(server)
        ((night, imported),) = shop.fetch_when_over(server).imported
        assert night.status == "expired"
        assert (imported.answered, imported.refused, imported.exhausted) == (5, 1, 2)
        with Ledger.open(shop.home.ledger) as ledger:
            rows = ledger.find(shop.keys)
        assert [rows[key][0].status for key in shop.keys] == ["ok"] * 5 + ["exhausted", "bad_request", "exhausted"]
        assert "the prompt is too long" in rows[shop.keys[6]][0].detail
        assert rows[shop.keys[5]][0].detail.startswith("batch_expired")
        assert [n.requests for n in shop.submit(server).started] == [3]


def test_a_cancelled_batch_gives_what_it_did(shop: Shop) -> None:
    with batch_server("cancelled", answers=lambda place: place == 0) as server:
        shop.submit(server)
        ((night, imported),) = shop.fetch_when_over(server).imported
    assert (night.status, imported.answered, imported.exhausted) == ("cancelled", 1, 7)


def test_a_batch_that_fails_validation_says_why_and_frees_its_requests(shop: Shop) -> None:
    with batch_server("failed") as server:
        shop.submit(server)
        ((night, imported),) = shop.fetch_when_over(server).imported
        assert night.detail == "line 2: this line is no request"
        assert (imported.answered, imported.unanswered) == (0, 8)
        assert [n.requests for n in shop.submit(server).started] == [8]


@pytest.mark.parametrize("mode", ["429", "500", "503", "reset"])
def test_a_fault_that_passes_costs_another_try_and_nothing_else(shop: Shop, mode: str) -> None:
    with batch_server(fault=lambda call, times: mode if times == 1 else "ok") as server:
        shop.submit(server)
        assert server.count("POST /files") == 2
        assert server.count("POST /batches") == 2
        assert len(server.batches) == 1
        ((_, imported),) = shop.fetch_when_over(server).imported
        assert imported.answered == 8


@pytest.mark.parametrize("mode", ["reset_after", "500_after"])
def test_a_batch_that_was_started_without_a_reply_is_found_and_not_started_twice(shop: Shop, mode: str) -> None:
    def fault(call: str, times: int) -> str:
        return mode if call == "POST /batches" and times == 1 else "ok"

    with batch_server(fault=fault) as server:
        made = shop.submit(server)
        assert [n.batch_id for n in made.started] == ["batch_1"]
        assert len(server.batches) == 1


def test_a_submit_that_died_while_it_started_a_batch_is_gone_on_with(shop: Shop) -> None:
    def fault(call: str, times: int) -> str:
        return "reset_after" if call == "POST /batches" and times == 1 else "503" if call == "GET /batches" and times <= 2 else "ok"

    with batch_server(fault=fault) as server:
        with pytest.raises(ServerUnreachable, match="GET /batches"):
            shop.submit(server, most_requests=5, max_attempts=2)
        (left,) = Nights(shop.home).open()
        assert (left.file_id, left.batch_id, left.status) == ("file-1", "", "uploaded")
        made = shop.submit(server, most_requests=5)
        assert [(n.batch_id, n.requests) for n in made.started] == [("batch_1", 5), ("batch_2", 3)]
        assert [n.id for n in made.resumed] == [left.id]
        assert len(server.batches) == 2
        assert sum(imported.answered for _ in range(4) for _, imported in shop.fetch(server).imported) == 8


def test_a_batch_is_found_on_a_later_page_of_the_provider_s_list(shop: Shop) -> None:
    with batch_server() as server, BatchServer(shop.settings(server), 0.01) as opened:
        file_id = opened.upload(Path(__file__))
        started = [opened.create(file_id, f"own-{n}", now()) for n in range(5)]
        assert [opened.find(f"own-{n}", now()) for n in range(5)] == started
        assert opened.find("own-9", now()) is None
        server.seen.clear()
        assert opened.find("own-0", now() + dt.timedelta(days=2)) is None
        assert server.count("GET /batches") == 1


@pytest.mark.parametrize("ends", ["completed", "failed"])
def test_a_provider_that_quotes_the_key_is_kept_without_it(shop: Shop, ends: str) -> None:
    with batch_server(ends, refuses=lambda place: place == 0, quotes=f"for {KEY}") as server:
        shop.submit(server)
        if ends == "completed":
            shop.fetch_when_over(server)
        else:
            for _ in range(3):
                shop.fetch(server)
    kept = everything(shop.home.root)
    assert any(b"for ***" in content for content in kept.values())
    assert [name for name, content in kept.items() if KEY.encode() in content] == []


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_refused_key_names_the_variable_and_never_the_key(shop: Shop, status: str) -> None:
    with batch_server(fault=lambda call, times: status) as server, pytest.raises(ServerRefused) as refused:
        shop.submit(server)
    assert "KAR_TEST_KEY" in str(refused.value)
    assert KEY not in str(refused.value)
    assert Nights(shop.home).all() == []
    assert list(Nights(shop.home).folder.glob("2026*")) == []


def test_a_server_without_a_batch_api_is_named_with_the_way_that_remains(shop: Shop) -> None:
    with batch_server(fault=lambda call, times: "404") as server, pytest.raises(ServerRefused) as refused:
        shop.submit(server)
    assert "has no Batch API" in str(refused.value)
    assert "kar batch export" in str(refused.value)
    assert "vllm run-batch" in str(refused.value)


def test_a_page_that_is_no_batch_api_is_a_named_error(shop: Shop) -> None:
    with batch_server(fault=lambda call, times: "html") as server, pytest.raises(ServerRefused, match="no OpenAI object"):
        shop.submit(server)


def test_without_a_key_a_hosted_provider_is_not_even_called(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAR_TEST_KEY")
    with pytest.raises(SettingsError, match="the environment variable KAR_TEST_KEY is empty"):
        BatchServer(LLMSettings(base_url="https://api.openai.com/v1", api_key_env="KAR_TEST_KEY"))


def test_a_server_that_does_not_answer_is_named_and_nothing_is_lost(shop: Shop) -> None:
    gone = Calls(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"):
        shop.submit(gone, max_attempts=2)
    assert [n.status for n in Nights(shop.home).open()] == ["written"]


def test_a_broken_download_is_tried_again_and_leaves_no_half_file(shop: Shop) -> None:
    def fault(call: str, times: int) -> str:
        return "reset" if call.endswith("/content") and times == 1 else "ok"

    with batch_server(fault=fault) as server:
        shop.submit(server)
        ((_, imported),) = shop.fetch_when_over(server).imported
    assert imported.answered == 8
    assert list(Nights(shop.home).folder.glob(".*.partial")) == []


def test_answers_stay_usable_when_the_date_was_planned_anew_meanwhile(shop: Shop) -> None:
    with batch_server() as server:
        shop.submit(server)
        write_requests(shop.home.partition("prompts", DATE).table("request"), ["another film"])
        ((_, imported),) = shop.fetch_when_over(server).imported
    assert (imported.answered, imported.unknown.count) == (8, 0)


def test_a_batch_that_the_provider_does_not_know_stays_open_until_it_is_forgotten(shop: Shop) -> None:
    with batch_server() as server:
        shop.submit(server)
        server.batches.clear()
        made = shop.fetch(server)
        assert [n.batch_id for n in made.unknown] == ["batch_1"]
        assert [n.status for n in sending.refresh(shop.home, shop.settings(server), lambda: BatchServer(shop.settings(server), 0.01))] == [
            "not known there"
        ]
        assert shop.submit(server).left_out == {"open": 8}
        sending.forget(shop.home, "batch_1")
        assert shop.submit(server).left_out == {}
    with pytest.raises(StageError, match="no open batch is called batch_7"):
        sending.forget(shop.home, "batch_7")


def test_batches_of_another_address_are_shown_and_left_alone(shop: Shop) -> None:
    with batch_server() as first, batch_server() as second:
        shop.submit(first)
        settings = shop.settings(second)
        seen = sending.refresh(shop.home, settings, lambda: BatchServer(settings, 0.01))
        assert [(n.base_url, n.status) for n in seen] == [(first.base_url, "validating")]
        assert shop.fetch(second).imported == []
        assert second.seen == []
        assert shop.submit(second).left_out == {"open": 8}


def test_a_damaged_state_and_a_second_command_are_named_errors(shop: Shop) -> None:
    nights = Nights(shop.home)
    with batch_server() as server:
        with nights.locked(), pytest.raises(AlreadyRunning, match="another kar batch command"):
            shop.submit(server)
        (nights.folder / "2026-11-20-x.json").write_text('{"id": 1')
        with pytest.raises(StageError, match="cannot be read as the state of a batch"):
            shop.submit(server)
