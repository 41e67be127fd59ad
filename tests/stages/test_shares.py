"""A night asked in shares by several processes, then judged: the same as one run, paid once, within one budget."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar import flow
from kar import run as runner
from kar.errors import AlreadyRunning, LedgerError, NotMade, ServerUnreachable
from kar.llm.ask import Asked
from kar.llm.ledger import Ledger
from kar.llm.ledger.stats import stats
from kar.settings import Settings
from kar.stages.knowledge.attempts import Attempt, Attempts, shares_folder, summed
from kar.stages.knowledge.share import Share
from kar.stages.knowledge.shares import Took, ask_share
from kar.store import Inputs, Manifest
from tests import begun, world
from tests.llm import stand_in
from tests.llm.loopback import Behaviour, loopback

DAY = world.LAST_DAY
NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
AWAY = "http://127.0.0.1:9/v1"
SUMMED = ("calls", "answered", "from_ledger", "pushed_back", "prompt_tokens", "completion_tokens", "lost_tokens", "usd")
SAME = (*SUMMED, "stopped_by", "retried_truncated", "coverage", "origins", "refused", "over_budget", "model_revision", "quality")
PRICES = {"usd_per_million_prompt_tokens": 100.0, "usd_per_million_completion_tokens": 900.0}


class Night:
    """Six users, eight items, planned: 14 requests. Every step is a minute later than the one before."""

    def __init__(self, folder: Path, **llm: Any) -> None:
        self.home, self.data = begun.begin(folder, (DAY,), users=6, items=8, events=6)
        self.llm = {"base_url": AWAY, "timeout_s": 5.0, "max_attempts": 1, "concurrency": 2, **llm}
        self.minute = 0
        runner.run_all(self.settings(), self.home, DAY, self.clock, list(flow.PLANNING))

    def clock(self) -> dt.datetime:
        self.minute += 1
        return NOW + dt.timedelta(minutes=self.minute)

    def settings(self, knowledge: dict[str, Any] | None = None, **llm: Any) -> Settings:
        return world.settings(self.data, llm={**self.llm, **llm}, knowledge=knowledge or {})

    def inputs(self, settings: Settings) -> Inputs:
        return runner.inputs_of(flow.KNOWLEDGE, settings, self.home, DAY, self.clock())

    def ask(self, share: str, stop_in_s: float | None = None, **llm: Any) -> Took:
        settings = self.settings(**llm)
        return ask_share(self.inputs(settings), settings, Share.read(share), stop_in_s)

    def judge(self, knowledge: dict[str, Any] | None = None, *, held: bool = True, **llm: Any) -> Manifest:
        settings = self.settings(knowledge, ask=not held, **llm)
        return runner.run_stage("knowledge", settings, self.home, DAY, self.clock())

    def table(self, name: str, stage: str = "knowledge") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = pq.read_table(self.home.partition(stage, DAY).table(name)).to_pylist()
        return found

    def keys(self, share: str) -> set[str]:
        return {row["request_key"] for row in self.table("request", "prompts") if Share.read(share).holds(row["request_key"])}


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def but_for_clocks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "asked_at"} for row in rows]


def some_fail(call: Any) -> str:
    """Of the items, 3 is refused by the server, 4 declines, and 5 is cut until it may take more tokens."""
    for title, mode in (("Film 3 (", "400"), ("Film 4 (", "refusal"), ("Film 5 (", "length")):
        if title in call.prompt and "<entry>" in call.prompt:
            return mode if mode != "length" or call.body["max_tokens"] <= 180 else "ok"
    return "ok"


# ---- which requests


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=200, unique=True), st.integers(1, 40))
def test_every_request_is_in_exactly_one_share_of_any_number_of_shares(digests: list[bytes], of: int) -> None:
    for key in (digest.hex() for digest in digests):
        assert sum(Share(place, of).holds(key) for place in range(of)) == 1


def test_shares_are_about_alike() -> None:
    keys = [f"{n * 2654435761 % 2**64:016x}" + "0" * 48 for n in range(10_000)]
    sizes = [sum(Share(place, 10).holds(key) for key in keys) for place in range(10)]
    assert sum(sizes) == 10_000
    assert min(sizes) > 800


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "2/2", "-1/2", "0/0", "a/b", "1/2/3", "0.5/2", "1 / 2", "0x1/2", "²/3"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="I/N"):
        Share.read(text)


# ---- shares and one run


@pytest.mark.parametrize("of", [1, 3])
def test_a_night_asked_in_shares_is_the_night_that_one_run_makes(tmp_path: Path, of: int) -> None:
    plain, shared = Night(tmp_path / "plain", **PRICES), Night(tmp_path / "shared", **PRICES)
    with loopback(some_fail) as server:
        whole = plain.judge(held=False, base_url=server.base_url)
        asked = set(server.bodies)
        assert server.calls == 15
    with loopback(some_fail) as server:
        took = [shared.ask(f"{place}/{of}", base_url=server.base_url) for place in range(of)]
        assert server.calls == 15
        assert set(server.bodies) == asked
    held = shared.judge()  # nobody answers at its address
    for table in ("knowledge", "factor_knowledge", "refused"):
        assert but_for_clocks(shared.table(table)) == but_for_clocks(plain.table(table))
    assert (
        shared.home.partition("knowledge", DAY).table("refused").read_bytes()
        == plain.home.partition("knowledge", DAY).table("refused").read_bytes()
    )
    assert {name: held.figures[name] for name in SAME} == {name: whole.figures[name] for name in SAME}
    assert held.rejected == whole.rejected == {"bad_request": 1, "refusal": 1}
    assert held.recipe_sha == whole.recipe_sha
    assert [t.planned for t in took] == [len(shared.keys(f"{place}/{of}")) for place in range(of)]
    for name in SUMMED:
        assert sum(getattr(t.asked, name) for t in took) == pytest.approx(held.figures[name], abs=1e-6)
    assert held.figures["seconds_asking"] > 0
    assert held.figures["tokens_per_s"] > 0


def test_only_the_share_is_asked_and_in_the_order_of_the_plan(night: Night) -> None:
    with loopback() as server:
        night.ask("1/3", base_url=server.base_url, concurrency=1)
        sent = [body.decode() for body in server.bodies]
    mine = night.keys("1/3")
    assert 0 < len(mine) < 14
    assert sent == [row["body"] for row in night.table("request", "prompts") if row["request_key"] in mine]


def test_the_course_of_the_asking_is_one_over_all_shares(night: Night) -> None:
    with loopback() as server:
        for place in range(3):
            night.ask(f"{place}/3", base_url=server.base_url)
    night.judge()
    looks = night.table("pace")
    assert looks[-1]["answered"] == 14
    assert [look["second"] for look in looks] == sorted(look["second"] for look in looks)
    assert looks[-1]["second"] > 120, "the clock of this test makes each share begin a minute later"


def test_answers_that_were_there_before_are_counted_once(night: Night) -> None:
    with loopback() as server:
        night.ask("0/1", base_url=server.base_url)
    other = Share(1, 2)
    night.judge()
    took = [night.ask(f"{place}/2") for place in range(2)]  # nobody answers there, and nobody has to
    assert [(t.asked.calls, t.asked.from_ledger) for t in took] == [(0, len(night.keys("0/2"))), (0, len(night.keys(str(other))))]


def test_what_the_shares_left_is_asked_by_a_run_that_asks(night: Night) -> None:
    with loopback() as server:
        night.ask("0/2", base_url=server.base_url)
        manifest = night.judge(held=False, base_url=server.base_url)
        assert server.calls == 14
    assert (manifest.figures["calls"], manifest.figures["answered"], manifest.figures["from_ledger"]) == (14, 14, 0)
    assert len(night.table("knowledge")) == 14


# ---- not all of it


def test_a_share_that_nobody_asked_is_said_and_asked_later(night: Night) -> None:
    with loopback() as server:
        night.ask("0/2", base_url=server.base_url)
        first = night.judge()
        left = len(night.keys("1/2"))
        assert first.rejected == {"not_asked": left}
        assert sum(first.figures["not_asked"].values()) == left
        assert first.figures["over_budget"] == {}
        assert any("--shard I/N" in warning for warning in first.warnings)
        assert night.judge() == first
        night.ask("1/2", base_url=server.base_url)
        second = night.judge()
        assert server.calls == 14
    assert second.rejected == {}
    assert (second.figures["calls"], second.figures["from_ledger"]) == (14, 0)
    assert len(night.table("knowledge")) == 14
    assert night.judge() == second


def test_a_share_that_was_asked_to_its_end_is_not_asked_again_even_if_the_server_refused_some(night: Night) -> None:
    with loopback(lambda call: "400" if call.number == 1 else "ok") as server:
        first = night.ask("0/2", base_url=server.base_url)
        calls = server.calls
        again = night.ask("0/2", base_url=server.base_url)
        assert server.calls == calls
    assert first.figures() == again.figures()
    assert first.asked.failed == 1


def test_with_nothing_asked_and_nothing_held_all_is_carried_and_counted(night: Night) -> None:
    manifest = night.judge()
    assert manifest.rejected == {"not_asked": 14}
    assert (manifest.figures["calls"], manifest.figures["stopped_by"]) == (0, "none")


def test_a_share_of_a_date_that_is_not_planned_is_not_made(night: Night) -> None:
    settings = night.settings()
    with pytest.raises(NotMade, match="run: kar run prompts --date 2026-11-20"):
        runner.inputs_of(flow.KNOWLEDGE, settings, night.home, DAY + dt.timedelta(days=1), NOW)


def test_a_share_without_a_request_needs_no_server(night: Night) -> None:
    empty = next(place for place in range(200) if not night.keys(f"{place}/200"))
    took = night.ask(f"{empty}/200")
    assert (took.planned, took.asked.calls, took.asked.stopped_by) == (0, 0, "none")


# ---- deadline and budget


@pytest.mark.parametrize("stop_in_s", [0.0, -3.0])
def test_a_deadline_that_is_over_asks_nothing_and_needs_no_server(night: Night, stop_in_s: float) -> None:
    took = night.ask("0/1", stop_in_s)
    assert (took.asked.stopped_by, took.asked.calls) == ("deadline", 0)
    manifest = night.judge()
    assert manifest.figures["stopped_by"] == "deadline"
    assert manifest.rejected == {"over_budget": 14}


def test_a_deadline_stops_a_share_and_another_attempt_goes_on(night: Night) -> None:
    with loopback(delay_s=0.2) as server:
        first = night.ask("0/1", 0.3, base_url=server.base_url)
        answered = server.calls
        assert first.asked.stopped_by == "deadline"
        assert 2 <= answered < 14
        second = night.ask("0/1", base_url=server.base_url)
        assert server.calls == 14
    assert (second.attempts, second.asked.answered, second.asked.from_ledger, second.asked.stopped_by) == (2, 14, 0, "none")
    assert night.judge().figures["calls"] == 14


def test_the_stage_itself_asks_nothing_when_its_time_is_over(night: Night) -> None:
    settings = night.settings()
    late = settings.model_copy(update={"llm": settings.llm.model_copy(update={"deadline_s": -1.0})})
    manifest = runner.run_stage("knowledge", late, night.home, DAY, night.clock())
    assert (manifest.figures["stopped_by"], manifest.rejected) == ("deadline", {"over_budget": 14})


@pytest.mark.parametrize("of", [1, 2, 5])
def test_the_shares_together_spend_no_more_than_the_nights_budget(tmp_path: Path, of: int) -> None:
    priced, night = Night(tmp_path / "priced"), Night(tmp_path / "night")
    with loopback() as server:
        whole = priced.ask("0/1", base_url=server.base_url).asked
        budget = (whole.prompt_tokens + whole.completion_tokens) * 3 // 4
        took = [night.ask(f"{place}/{of}", base_url=server.base_url, token_budget=budget) for place in range(of)]
        assert 14 < server.calls < 28
        calls = server.calls
        again = [night.ask(f"{place}/{of}", base_url=server.base_url, token_budget=budget) for place in range(of)]
        assert server.calls == calls, "an attempt more has no budget more"
    assert "token_budget" in {t.asked.stopped_by for t in took}
    spent = sum(t.asked.prompt_tokens + t.asked.completion_tokens for t in again)
    assert 0 < spent <= budget
    manifest = night.judge(token_budget=budget)
    assert manifest.figures["stopped_by"] == "token_budget"
    assert manifest.figures["prompt_tokens"] + manifest.figures["completion_tokens"] == spent
    assert manifest.rejected["over_budget"] > 0


def test_another_cut_of_the_night_has_what_the_first_left_of_the_budget(night: Night) -> None:
    with loopback() as server:
        first = night.ask("0/2", base_url=server.base_url)
        spent = first.asked.prompt_tokens + first.asked.completion_tokens
        second = night.ask("0/1", base_url=server.base_url, token_budget=spent)
    assert (second.asked.calls, second.asked.stopped_by) == (0, "token_budget")


def test_money_is_shared_by_what_the_requests_cost_as_planned(tmp_path: Path) -> None:
    night = Night(tmp_path, **PRICES)
    budget = Manifest.read(night.home.partition("prompts", DAY).manifest_path).figures["planned_usd"] / 2
    with loopback() as server:
        took = [night.ask(f"{place}/3", base_url=server.base_url, usd_budget=budget) for place in range(3)]
    assert "usd_budget" in {t.asked.stopped_by for t in took}
    assert 0 < sum(t.asked.usd for t in took) <= budget


# ---- one at a time


@contextlib.contextmanager
def being_asked(night: Night, share: str) -> Iterator[None]:
    """While the block runs that share has a question out."""
    import threading

    free = threading.Event()
    out = threading.Event()

    def wait(call: Any) -> str:
        out.set()
        return "ok" if free.wait(10) else "500"

    with loopback(wait) as server:
        asker = threading.Thread(target=night.ask, args=(share,), kwargs={"base_url": server.base_url})
        asker.start()
        try:
            assert out.wait(10)
            yield
        finally:
            free.set()
            asker.join(20)


def test_a_share_is_asked_by_one_process_and_the_night_in_one_cut_and_the_stage_waits(night: Night) -> None:
    with being_asked(night, "0/2"):
        with pytest.raises(AlreadyRunning, match="share 0/2 of 2026-11-19"):
            night.ask("0/2")
        with pytest.raises(AlreadyRunning, match=r"in other shares \(0 of 2\)"):
            night.ask("1/3")
        with pytest.raises(AlreadyRunning, match="running knowledge for 2026-11-19"):
            night.judge()
        with loopback() as server:
            assert night.ask("1/2", base_url=server.base_url).asked.answered == len(night.keys("1/2")), "beside the other"
    assert night.judge().figures["answered"] == 14


# ---- the local model


def test_shares_of_the_local_model_start_no_server_each_but_use_one_that_is_served(tmp_path: Path) -> None:
    night = Night(tmp_path, model="stand-in", revision="gguf-sha256:cafe")  # planned as for the local model, which has no tokenizer here
    night.llm |= {"provider": "local", "revision": ""}
    stand_in.model(night.home)
    with pytest.raises(ServerUnreachable, match="starts no server of its own") as raised:
        night.ask("0/2")
    assert "kar serve" in raised.value.do
    assert "--shard 0/1" in raised.value.do
    with loopback(card={"id": "stand-in"}) as server:
        for place in range(2):
            night.ask(f"{place}/2", base_url=server.base_url)
        assert server.calls == 14
    assert {row["model_revision"] for row in (night.judge(), night.table("knowledge"))[1]} == {"gguf-sha256:cafe"}


# ---- what is kept


def test_a_record_holds_no_text_and_no_id(night: Night) -> None:
    with loopback() as server:
        night.ask("0/1", base_url=server.base_url)
    (path,) = shares_folder(night.home, DAY).glob("*/*.json")
    said = json.loads(path.read_text())
    assert set(said) == {f.name for f in dataclasses.fields(Attempt)}
    assert "Film" not in path.read_text()
    (kept,) = Attempts(path.parent).all()
    assert kept.asked.answered == 14
    assert (path.parent / "0-of-1.0.json") == path


def test_a_damaged_record_is_a_named_error(night: Night) -> None:
    with loopback() as server:
        night.ask("0/1", base_url=server.base_url)
    (path,) = shares_folder(night.home, DAY).glob("*/*.json")
    path.write_text("{broken")
    with pytest.raises(LedgerError, match="cannot be read"):
        night.judge()


def test_a_killed_attempt_is_counted_from_its_rows_in_the_ledger(night: Night) -> None:
    behaviour: Behaviour = lambda call: "ok" if call.number <= 5 else "401"  # noqa: E731
    with loopback(behaviour) as server, pytest.raises(Exception, match="401"):
        night.ask("0/1", base_url=server.base_url, concurrency=1)  # ends like a kill: without a word in its record
    paid = stats(night.home.ledger)
    assert paid.rows == 5
    first = night.judge()
    tokens = sum(g.prompt_tokens for g in paid.groups), sum(g.completion_tokens for g in paid.groups)
    assert (first.figures["prompt_tokens"], first.figures["completion_tokens"]) == tokens
    assert first.rejected == {"not_asked": 9}
    with loopback() as server:
        took = night.ask("0/1", base_url=server.base_url)
        assert server.calls == 9
    assert (took.attempts, took.asked.answered, took.asked.calls, took.asked.from_ledger) == (2, 14, 14, 0)


def test_a_share_writes_a_shard_of_the_ledger_that_nobody_writes_and_leaves_a_part(night: Night) -> None:
    with Ledger.open(night.home.ledger, shard="ask-0"), loopback() as server:  # somebody writes it
        night.ask("0/2", base_url=server.base_url)
    names = {path.name for path in night.home.ledger.glob("answers*.sqlite")}
    assert names == {"answers.ask-0.sqlite", "answers.ask-1.sqlite"}
    assert len(list((night.home.ledger / "parts").glob("*.parquet"))) == 1


def attempt(
    place: int, number: int, minute: int, seconds: float, from_ledger: int, answered: int, stopped_by: Any = "none", of: int = 2
) -> Attempt:
    asked = Asked(stopped_by=stopped_by, from_ledger=from_ledger, answered=answered, calls=answered, seconds=seconds)
    return Attempt(place, of, number, NOW + dt.timedelta(minutes=minute), 10, is_over=True, asked=asked)


def test_seconds_are_those_in_which_somebody_asked_and_a_later_attempt_ends_an_earlier_stop() -> None:
    both = summed([attempt(0, 0, 0, 90.0, 0, 5), attempt(1, 0, 1, 60.0, 0, 5)])
    assert (both.seconds, both.answered, both.stopped_by) == (120.0, 10, "none")
    apart = summed([attempt(0, 0, 0, 10.0, 3, 2, "deadline"), attempt(0, 1, 5, 10.0, 5, 5)])
    assert (apart.seconds, apart.answered, apart.from_ledger, apart.stopped_by) == (20.0, 7, 3, "none")
    still = summed([attempt(0, 0, 0, 1.0, 0, 2, "deadline"), attempt(1, 0, 0, 1.0, 0, 2, "token_budget")])
    assert still.stopped_by == "token_budget"
    recut = summed([attempt(0, 0, 0, 1.0, 0, 2, "deadline"), attempt(0, 0, 5, 1.0, 2, 8, of=1)])
    assert recut.stopped_by == "none"
