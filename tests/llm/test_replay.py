"""Dead letters: what a night refused, what it cost, and asking it again so that something can come of it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from kar import run as runner
from kar.errors import NotMade, SettingsError, StageError
from kar.llm import arrivals
from kar.llm.deadletters import Choice, DeadLetter, counts, letters, refused_partition
from kar.llm.replay import Change, Replay, check, replay
from kar.settings import Settings
from kar.store import Home, Manifest
from tests import world
from tests.llm.loopback import REFUSAL, Behaviour, Call, loopback

DAY = world.LAST_DAY
NIGHT = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
MORNING = dt.datetime(2026, 11, 20, 9, tzinfo=dt.UTC)
STAGES = ["sources", "histories", "prompts", "knowledge"]
NOWHERE = "http://127.0.0.1:9/v1"


class Shop:
    """A small world with its home: 6 users, 8 items, 14 requests a night."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Home.of("world", folder / "home")
        world.write(folder / "data", users=6, items=8, events=6)

    def settings(self, base_url: str = NOWHERE, **llm: Any) -> Settings:
        """Cut answers are refused, not shortened."""
        sections = {"llm": {"base_url": base_url, "timeout_s": 5.0, "max_attempts": 1, "context_tokens": 16_384, **llm}}
        return world.settings(self.folder / "data", **sections, knowledge={"accept_truncated_sentences": False})

    def night(self, behaviour: Behaviour) -> Manifest:
        with loopback(behaviour) as server:
            return self.make(self.settings(server.base_url))

    def make(self, settings: Settings) -> Manifest:
        return runner.run_all(settings, self.home, DAY, lambda: NIGHT, STAGES)[-1]

    def again(self, reason: str, behaviour: Behaviour = lambda call: "ok", change: Change = Change(), **options: Any) -> Replay:  # noqa: B008
        with loopback(behaviour) as server:
            chosen = self.settings(server.base_url)
            check([reason], change, chosen.llm, is_dry=False)
            made = replay(self.letters(reason), change, chosen.llm, self.home, DAY, options.pop("as_of", MORNING), **options)
            assert made.calls == server.calls
            return made

    def letters(self, *reasons: str) -> list[DeadLetter]:
        return list(letters(self.home, refused_partition(self.home, DAY), Choice(reasons=reasons)))

    def knowledge(self) -> dict[str, dict[str, Any]]:
        rows = pq.read_table(self.home.partition("knowledge", DAY).table("knowledge")).to_pylist()
        return {f"{row['view']} {row['subject_id']}": row for row in rows}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def of_item(mode: str) -> Behaviour:
    """A behaviour that fails for the prompts about items and answers those about users."""
    return lambda call: mode if "<entry>" in call.prompt else "ok"


def tokens(call: Call) -> int:
    return int(call.body["max_tokens"])


def test_a_dead_letter_counts_all_that_was_paid_for_it(shop: Shop) -> None:
    shop.night(of_item("length"))
    assert [(r["view"], r["reason"], r["count_all"]) for r in counts(refused_partition(shop.home, None), Choice())] == [
        ("item.facts", "truncated", 8)
    ]
    for letter in shop.letters("truncated"):
        first, second = letter.rows
        assert (second.retry_of, letter.planned_key, letter.first) == (first.key, first.key, first)
        assert (letter.attempts, letter.at) == (2, second.ended_at)
        assert letter.tokens == sum(r.prompt_tokens + r.completion_tokens for r in (first, second)) > 0
    assert shop.letters("refusal") == []


def test_cut_answers_are_replayed_with_twice_the_tokens_and_the_stage_takes_them_without_asking(shop: Shop) -> None:
    shop.night(of_item("length"))
    before = {letter.subject_id: orjson.loads(letter.rows[-1].body)["max_tokens"] for letter in shop.letters()}
    seen: list[int] = []

    def longer(call: Call) -> str:
        seen.append(tokens(call))
        return "ok"

    made = shop.again("truncated", longer)
    assert (made.requests, made.answered, made.failed) == (8, 8, 0)
    assert set(seen) == {2 * n for n in before.values()}
    planned = {letter.subject_id: letter.planned_key for letter in shop.letters()}
    for letter in shop.letters():
        assert letter.rows[-1].retry_of == planned[letter.subject_id]
    manifest = shop.make(shop.settings())
    assert manifest.rejected.get("truncated", 0) == 0
    assert len(shop.knowledge()) == 14
    assert manifest.figures["calls"] == 0
    assert shop.letters() == []


def test_a_replay_that_is_cut_again_can_be_replayed_with_more_until_the_context_is_full(shop: Shop) -> None:
    shop.night(of_item("length"))
    shop.again("truncated", lambda call: "length")
    shop.make(shop.settings())
    assert len(shop.letters("truncated")) == 8
    most = {orjson.loads(row.body)["max_tokens"] for letter in shop.letters() for row in letter.rows}
    made = shop.again("truncated", lambda call: "length" if tokens(call) <= max(most) else "ok", as_of=MORNING + dt.timedelta(hours=1))
    assert made.answered == 8
    shop.make(shop.settings())
    assert shop.letters() == []
    assert all(len(row["request_key"]) == 64 for row in shop.knowledge().values())


def test_a_context_without_room_leaves_the_letter_out_and_says_so(shop: Shop) -> None:
    shop.night(of_item("length"))
    settings = shop.settings().llm
    had = orjson.loads(shop.letters()[0].rows[-1].body)["max_tokens"]
    tight = settings.model_copy(update={"context_tokens": had + 1})
    made = replay(shop.letters(), Change(), tight, shop.home, DAY, MORNING, is_dry=True)
    assert made.requests == 0
    assert sum(made.left_out.values()) == 8
    assert "no more tokens than it had" in next(iter(made.left_out))


@pytest.mark.parametrize(("mode", "reason"), [("400", "bad_request"), ("500", "exhausted")])
def test_what_got_no_answer_is_asked_as_it_was(shop: Shop, mode: str, reason: str) -> None:
    shop.night(lambda call: mode if "Film 3 (" in call.prompt and "<entry>" in call.prompt else "ok")
    (letter,) = shop.letters(reason)
    made = shop.again(reason)
    assert (made.requests, made.answered) == (1, 1)
    (after,) = shop.letters(reason)
    assert [(row.key, row.retry_of, row.status) for row in after.rows] == [
        (letter.request_key, "", reason),
        (letter.request_key, "", "ok"),
    ]
    shop.make(shop.settings())
    assert shop.letters() == []


def test_a_refusal_is_replayed_only_with_something_changed(shop: Shop) -> None:
    shop.night(of_item("refusal"))
    llm = shop.settings().llm
    with pytest.raises(StageError, match="would get the same answer from the ledger"):
        check(["refusal"], Change(), llm, is_dry=True)
    at_zero = replay(shop.letters(), Change(seed=3), llm, shop.home, DAY, MORNING, is_dry=True)
    same = replay(shop.letters(), Change(temperature=0.0), llm, shop.home, DAY, MORNING, is_dry=True)
    body = orjson.loads(shop.letters()[0].rows[0].body)
    assert body["temperature"] == 0
    assert (at_zero.requests, same.requests) == (0, 0)
    assert "at temperature 0 a seed changes nothing" in next(iter(at_zero.left_out))
    assert "what its body says already" in next(iter(same.left_out))
    made = shop.again("refusal", change=Change(temperature=0.7, seed=3))
    assert made.answered == 8
    rows = [letter.rows for letter in shop.letters()]
    assert all([row.text == REFUSAL for row in pair] == [True, False] for pair in rows)
    changed = orjson.loads(rows[0][1].body)
    assert {name: changed[name] for name in ("temperature", "seed")} == {"temperature": 0.7, "seed": 3}
    assert changed | {"temperature": 0, "seed": None} == body | {"temperature": 0, "seed": None}
    shop.make(shop.settings())
    assert shop.letters() == []


def test_a_second_replay_of_the_same_change_asks_nothing(shop: Shop) -> None:
    shop.night(of_item("refusal"))
    shop.again("refusal", lambda call: "refusal", change=Change(temperature=0.7))
    noted = arrivals.arrivals_path(shop.home, DAY).read_bytes()
    made = shop.again("refusal", change=Change(temperature=0.7), as_of=MORNING + dt.timedelta(hours=1))
    assert (made.requests, made.calls, made.from_ledger, made.answered) == (8, 0, 8, 0)
    assert arrivals.arrivals_path(shop.home, DAY).read_bytes() == noted


def test_a_dry_run_and_a_limit_ask_no_more_than_they_say(shop: Shop) -> None:
    shop.night(of_item("refusal"))
    with loopback() as server:
        llm = shop.settings(server.base_url).llm
        made = replay(shop.letters(), Change(temperature=0.7), llm, shop.home, DAY, MORNING, is_dry=True)
        assert (made.requests, server.calls) == (8, 0)
        assert made.answer_tokens > 0
    assert shop.again("refusal", change=Change(temperature=0.7), limit=3).calls == 3


def test_a_replay_keeps_to_the_budget_and_goes_on_where_it_stopped(shop: Shop) -> None:
    shop.night(of_item("refusal"))
    letter = shop.letters()[0]
    with loopback() as server:
        one = letter.rows[0].prompt_tokens + orjson.loads(letter.rows[0].body)["max_tokens"]
        llm = shop.settings(server.base_url, token_budget=3 * one, concurrency=1).llm
        made = replay(shop.letters(), Change(temperature=0.7), llm, shop.home, DAY, MORNING)
        assert made.stopped_by == "token_budget"
        assert 0 < server.calls < 8
        assert made.answered == server.calls
    rest = shop.again("refusal", change=Change(temperature=0.7))
    assert rest.calls == 8 - made.answered


def test_another_model_or_revision_is_not_asked_in_the_old_one_s_name(shop: Shop) -> None:
    shop.night(of_item("refusal"))
    for llm in (shop.settings(model="other").llm, shop.settings(revision="r9").llm):
        made = replay(shop.letters(), Change(temperature=0.7), llm, shop.home, DAY, MORNING, is_dry=True)
        assert made.requests == 0
        assert "asked of another model" in next(iter(made.left_out))


def test_without_a_server_or_a_night_a_replay_says_what_is_missing(shop: Shop) -> None:
    with pytest.raises(SettingsError, match="there is no server to ask now"):
        check(["truncated"], Change(), shop.settings(provider="batch").llm, is_dry=False)
    check(["truncated"], Change(), shop.settings(provider="batch").llm, is_dry=True)
    with pytest.raises(NotMade, match="knowledge has not been made for any date"):
        refused_partition(shop.home, None)
