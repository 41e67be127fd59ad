"""The client against a real loopback server: every fault of the table, calls counted where they arrive."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from kar.errors import ServerRefused, ServerUnreachable
from kar.llm.budget import Budget
from kar.llm.ledger import Ledger, look_up
from kar.llm.transport import AioTransport, OpenAITransport
from tests.llm.conftest import NOW, Asker, request_of
from tests.llm.loopback import REFUSAL, answer_to, loopback

TRANSPORTS = [AioTransport, lambda url: OpenAITransport(url, "key")]


@pytest.mark.parametrize("transport", TRANSPORTS, ids=["aiohttp", "openai"])
async def test_the_planned_bytes_are_sent_and_the_answer_is_kept_with_its_counts(ask: Asker, transport: type[AioTransport]) -> None:
    request = request_of("What of “Amélie” 🎬?")
    with loopback() as server:
        assert await ask(server.base_url, [request], transport=transport) == "none"
        assert server.bodies == [request.body]
        assert server.headers[0]["x-request-id"] == request.key[:16]
        assert server.headers[0]["content-type"] == "application/json"
    kept = look_up(ask.folder, [request.key])[request.key]
    assert kept == ask.ends[0]
    prompt = "What of “Amélie” 🎬?"
    assert (kept.text, kept.body, kept.status, kept.finish_reason) == (answer_to(prompt), request.body.decode(), "ok", "stop")
    assert (kept.prompt_tokens, kept.cached_tokens, kept.completion_tokens, kept.reasoning_tokens) == (4, 2, 30, 3)
    assert (kept.model, kept.revision, kept.template_version, kept.attempts) == ("tiny", "r1", "t@1:abc", 1)
    assert kept.asked_at == NOW
    assert kept.started_at <= kept.ended_at


async def test_no_more_than_the_window_are_in_flight_and_all_are_answered(ask: Asker) -> None:
    with loopback(delay_s=0.02) as server:
        await ask(server.base_url, [request_of(f"p{n}") for n in range(60)])
        assert server.calls == 60
        assert server.most_in_flight == 8
    assert {a.text for a in ask.ends} == {answer_to(f"p{n}") for n in range(60)}


@pytest.mark.parametrize("transport", TRANSPORTS, ids=["aiohttp", "openai"])
@pytest.mark.parametrize("fault", ["500", "502", "504", "408", "reset", "truncated_json", "wrong_type", "no_choices", "never"])
async def test_a_passing_fault_is_tried_again_and_counted(ask: Asker, fault: str, transport: type[AioTransport]) -> None:
    with loopback(lambda call: fault if call.times == 1 else "ok") as server:
        await ask(server.base_url, [request_of("p")], timeout_s=0.5 if fault == "never" else 5.0, transport=transport)
        assert server.calls == 2
    assert [(a.status, a.attempts, a.text) for a in ask.ends] == [("ok", 2, answer_to("p"))]
    paid_for_nothing = {"never": 50, "reset": 50, "no_choices": 30}  # at worst, at worst, as reported
    assert ask.ends[0].lost_tokens == paid_for_nothing.get(fault, 0)


@pytest.mark.parametrize("fault", ["500", "reset", "truncated_json", "wrong_type", "no_choices", "huge", "gzip_bomb", "never"])
async def test_one_bad_row_costs_one_row_after_the_last_attempt(ask: Asker, fault: str) -> None:
    with loopback(lambda call: fault if call.prompt == "bad" else "ok") as server:
        await ask(server.base_url, [request_of(p) for p in ("a", "bad", "b")], timeout_s=0.2 if fault == "never" else 5.0)
        assert server.calls == 5
    ends = {a.status: a for a in ask.ends}
    assert sorted(a.status for a in ask.ends) == ["exhausted", "ok", "ok"]
    assert ends["exhausted"].attempts == 3
    assert ends["exhausted"].detail
    assert ends["exhausted"].text == ""


@pytest.mark.parametrize("status", ["400", "404", "413", "422"])
async def test_a_permanent_refusal_is_not_tried_again(ask: Asker, status: str) -> None:
    with loopback(lambda call: status if call.prompt == "bad" else "ok") as server:
        await ask(server.base_url, [request_of(p) for p in ("a", "bad", "b")])
        assert server.calls == 3
    lost = [a for a in ask.ends if a.status == "bad_request"]
    assert [(a.attempts, a.detail) for a in lost] == [(1, f"{status} status {status} as asked")]


@pytest.mark.parametrize("transport", TRANSPORTS, ids=["aiohttp", "openai"])
@pytest.mark.parametrize("status", ["429", "503"])
async def test_back_pressure_is_no_attempt_and_shrinks_the_window(ask: Asker, status: str, transport: type[AioTransport]) -> None:
    with loopback(lambda call: status if call.times <= 4 else "ok") as server:
        await ask(server.base_url, [request_of(f"p{n}") for n in range(4)], max_attempts=1, transport=transport)
        assert server.calls == 20
    assert [(a.status, a.attempts) for a in ask.ends] == [("ok", 1)] * 4
    assert ask.gate.window < 8
    assert ask.tally.pushed_back == 16


async def test_retry_after_holds_everybody_back(ask: Asker) -> None:
    started = time.monotonic()
    with loopback(lambda call: "429_after" if call.number == 1 else "ok") as server:
        await ask(server.base_url, [request_of("p")])
        assert server.calls == 2
    assert time.monotonic() - started >= 0.2


async def test_a_server_that_only_pushes_back_ends_the_run_by_name(ask: Asker) -> None:
    with loopback(lambda call: "503") as server:
        with pytest.raises(ServerUnreachable, match="nothing but 429 and 503"):
            await ask(server.base_url, [request_of("p")], patience_s=0.3)
        assert server.calls > 1


@pytest.mark.parametrize("mode", ["slow", "empty", "refusal", "reasoned_out"])
async def test_what_the_quality_gate_judges_is_an_answer_here(ask: Asker, mode: str) -> None:
    with loopback(lambda call: mode) as server:
        await ask(server.base_url, [request_of("p")])
        assert server.calls == 1
    end = ask.ends[0]
    assert (end.status, end.attempts) == ("ok", 1)
    texts = {"slow": answer_to("p"), "empty": "", "refusal": REFUSAL, "reasoned_out": ""}
    assert (end.text, end.finish_reason) == (texts[mode], "length" if mode == "reasoned_out" else "stop")
    assert end.reasoning_tokens == 3


async def test_a_lone_server_that_goes_down_and_comes_back_costs_no_answer_and_no_attempt(ask: Asker) -> None:
    with loopback(delay_s=0.02) as first:
        port = int(first.base_url.rsplit(":", 1)[1].split("/")[0])
        asking = asyncio.create_task(ask(first.base_url, [request_of(f"p{n}") for n in range(60)], max_attempts=1, gone_patience_s=10))
        while first.calls < 20:
            await asyncio.sleep(0.005)
        first.kill()
        await asyncio.sleep(0.3)
    with loopback(port=port) as second:
        assert await asking == "none"
        assert second.calls >= 40 - 8
    assert [(a.status, a.attempts) for a in ask.ends] == [("ok", 1)] * 60


async def test_a_server_that_stays_away_ends_the_run_by_name(ask: Asker) -> None:
    with loopback(delay_s=0.02) as server:
        asking = asyncio.create_task(ask(server.base_url, [request_of(f"p{n}") for n in range(60)], gone_patience_s=0.3))
        while server.calls < 20:
            await asyncio.sleep(0.005)
        server.kill()
        with pytest.raises(ServerUnreachable, match=r"no server has answered at .* for 0 s"):
            await asking


async def test_a_server_that_is_not_there_is_named_with_what_to_do(ask: Asker) -> None:
    with loopback() as server:
        gone = server.base_url
    with pytest.raises(ServerUnreachable, match=gone) as caught:
        await ask(gone, [request_of("p")])
    assert "llm.base_url" in caught.value.do
    assert ask.tally.calls == 0


async def test_a_server_that_goes_silent_stops_the_run_and_what_was_answered_is_kept(ask: Asker) -> None:
    with loopback(lambda call: "ok" if call.number <= 20 else "reset") as server:
        with pytest.raises(ServerUnreachable, match="stopped answering"):
            await ask(server.base_url, [request_of(f"p{n}") for n in range(200)], max_attempts=2)
        assert server.calls < 80
    with Ledger.open(ask.folder) as ledger:
        assert len(ledger.get_many(request_of(f"p{n}").key for n in range(200))) == 20


@pytest.mark.parametrize("status", ["401", "403"])
@pytest.mark.parametrize("where", ["probe", "chat"])
async def test_a_refused_key_stops_the_run_at_once(ask: Asker, status: str, where: str) -> None:
    chat = status if where == "chat" else "ok"
    with loopback(lambda call: chat, status_of_models=int(status) if where == "probe" else 200) as server:
        with pytest.raises(ServerRefused, match=status):
            await ask(server.base_url, [request_of(f"p{n}") for n in range(100)])
        assert server.calls <= 8
    with Ledger.open(ask.folder) as ledger:
        assert ledger.count() == 0  # nothing is marked as lost


async def test_too_many_permanent_refusals_stop_the_run_and_keep_the_answers(ask: Asker) -> None:
    with loopback(lambda call: "400" if call.number % 3 == 0 else "ok") as server:
        with pytest.raises(ServerRefused, match=r"\d+% of the last \d+ requests"):
            await ask(server.base_url, [request_of(f"p{n}") for n in range(500)])
        assert 50 <= server.calls <= 60
    with Ledger.open(ask.folder) as ledger:
        assert len(ledger.get_many(request_of(f"p{n}").key for n in range(500))) >= 30


async def test_a_tenth_of_permanent_refusals_does_not_stop_the_run(ask: Asker) -> None:
    with loopback(lambda call: "400" if call.number % 10 == 0 else "ok") as server:
        assert await ask(server.base_url, [request_of(f"p{n}") for n in range(200)]) == "none"
        assert server.calls == 200
    assert sum(a.status == "bad_request" for a in ask.ends) == 20


async def test_the_token_budget_stops_before_the_call_that_would_pass_it(ask: Asker) -> None:
    budget = Budget(token_limit=400)
    with loopback(delay_s=0.01) as server:
        stop = await ask(server.base_url, [request_of(f"prompt {n:04}") for n in range(100)], budget=budget)
        calls = server.calls
    assert stop == "token_budget"
    spent = budget.prompt_tokens + budget.completion_tokens
    # a call costs 2 + 30, and may cost 2 + 50: asked as long as 52 are left, also after what was reserved is settled
    assert spent == calls * 32
    assert 400 - 52 < spent <= 400


async def test_the_deadline_stops_the_asking(ask: Asker) -> None:
    started = time.monotonic()
    with loopback(delay_s=0.05) as server:
        stop = await ask(server.base_url, [request_of(f"p{n}") for n in range(10_000)], budget=Budget(deadline_s=0.3))
        assert 8 <= server.calls < 200
        assert len(ask.ends) == server.calls
    assert stop == "deadline"
    assert time.monotonic() - started < 30  # all of them would take a minute


async def test_the_deadline_also_ends_waiting_for_a_busy_server(ask: Asker) -> None:
    started = time.monotonic()
    with loopback(lambda call: "503") as server:
        stop = await ask(server.base_url, [request_of(f"p{n}") for n in range(20)], budget=Budget(deadline_s=0.4), patience_s=60)
    assert stop == "deadline"
    assert ask.ends == []
    assert time.monotonic() - started < 30  # its patience is a minute


async def test_failed_attempts_are_charged_to_the_budget(ask: Asker) -> None:
    budget = Budget(token_limit=120)
    with loopback(lambda call: "no_choices") as server:
        stop = await ask(server.base_url, [request_of(f"p{n}") for n in range(10)], budget=budget, max_attempts=2)
        assert server.calls == 4  # each reports 30 lost tokens: after 2 rows of 2 attempts no 50 are left
    assert stop == "token_budget"
    assert budget.prompt_tokens == ask.tally.lost_tokens == 120


async def test_an_answer_without_usage_is_estimated(ask: Asker) -> None:
    with loopback(lambda call: "no_usage") as server:
        await ask(server.base_url, [request_of("prompt of 24 characters.")])
    assert ask.ends[0].prompt_tokens == 6
    assert ask.ends[0].completion_tokens == -(-len(answer_to("prompt of 24 characters.")) // 4)


async def test_the_key_is_sent_and_never_stored_or_shown(ask: Asker, tmp_path: Path) -> None:
    secret = "sk-very-secret-000"
    with loopback(lambda call: "ok" if call.number == 1 else "400") as server:
        await ask(server.base_url, [request_of("p"), request_of(secret)], transport=lambda url: AioTransport(url, secret), secret=secret)
        assert server.headers[0]["authorization"] == f"Bearer {secret}"
    stored = b"".join(p.read_bytes() for p in ask.folder.iterdir())
    assert stored.count(secret.encode()) == 1  # the second prompt holds it; nothing else does


async def test_a_detail_that_repeats_the_key_is_stored_without_it(ask: Asker) -> None:
    with loopback(lambda call: "400") as server:
        await ask(server.base_url, [request_of("p")], secret="status 400")
    assert ask.ends[0].detail == "400 *** as asked"
