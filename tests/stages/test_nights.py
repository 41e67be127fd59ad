"""Night after night by the real runner against a loopback server, calls counted: who is asked, who is not, and why."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kar.errors import ModelChanged
from kar.llm.key import request_key
from kar.llm.ledger import Ledger
from kar.llm.ledger.stats import stats
from kar.text.variants import point
from tests import world
from tests.stages.nights import PLANNING, Nights


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def about(number: int) -> Callable[[str], bool]:
    """Whether a prompt is the one about that item."""
    return lambda prompt: f"<entry>\nFilm {number} (" in prompt


# ---- nothing new


def test_a_night_without_new_events_asks_nobody(nights: Nights) -> None:
    assert nights() == 20
    assert nights() == 0
    assert len(nights.decided("fresh")) == 20


# ---- templates


def test_a_changed_word_asks_exactly_that_templates_subjects_and_is_priced_before(nights: Nights) -> None:
    nights()
    nights.reword("item.facts", "Cover these points", "Speak of these points")
    assert nights(stages=PLANNING, llm={"usd_per_million_completion_tokens": 1_000_000.0}) == 0, "planning sends nothing"
    priced = nights.figures()
    assert priced["asked"] == 8
    assert priced["planned_usd"] == priced["planned_answer_tokens"] == 8 * 180
    assert nights.again(llm={"usd_per_million_completion_tokens": 1_000_000.0}) == 8
    assert set(nights.decided("ask").items()) == {(("item.facts", str(item)), "template") for item in range(1, 9)}
    assert nights.figures("knowledge")["completion_tokens"] <= priced["planned_answer_tokens"]
    assert nights() == 0


def test_the_split_does_not_depend_on_the_order_of_the_table_or_who_else_is_there() -> None:
    assert [round(point("s", str(n)), 6) for n in range(3)] == [round(point("s", str(n)), 6) for n in (0, 1, 2)]
    points = [point("salt", str(n)) for n in range(4000)]
    assert all(0.0 <= p < 1.0 for p in points)
    assert [sum(p < share for p in points) / 4000 for share in (0.1, 0.5, 0.9)] == pytest.approx([0.1, 0.5, 0.9], abs=0.03)
    assert point("salt", "7") == point("salt", "7") != point("other", "7")


def test_two_templates_of_a_view_share_its_subjects_and_another_share_asks_only_those_who_change_sides(nights: Nights) -> None:
    nights.variant()

    def split(share: float) -> dict[str, Any]:
        return {"prompts": {"variants": {"item.facts": {"template": "item.facts.b", "share": share, "salt": "x"}}}}

    def in_b() -> set[str]:
        plan = nights.rows("prompts", "plan")
        return {subject for (view, subject), row in plan.items() if row["template_id"] == "movies.item.facts.b"}

    points = {str(item): point("x", str(item)) for item in range(1, 9)}
    few, many = 0.4, 0.8
    assert nights(**split(few)) == 20
    assert in_b() == {item for item, at in points.items() if at < few}
    assert 0 < len(in_b()) < 8
    bodies = {row["subject_id"]: row["body"] for row in nights.rows("prompts", "request").values() if row["view"] == "item.facts"}
    assert {item for item, body in bodies.items() if "lively" in body} == in_b()
    assert nights(**split(few)) == 0
    movers = {item for item, at in points.items() if few <= at < many}
    assert nights(**split(many)) == len(movers) > 0
    assert set(nights.decided("ask").items()) == {(("item.facts", item), "template") for item in movers}


# ---- the model


def test_another_revision_at_the_server_asks_everybody_and_a_server_that_is_away_is_taken_for_the_one_last_seen(nights: Nights) -> None:
    assert nights(card={"revision": "r1"}) == 20
    assert {row["model_revision"] for row in nights.rows("knowledge", "knowledge").values()} == {"r1"}
    assert nights(card={"revision": "r1"}) == 0
    assert nights(is_away=True) == 0
    assert nights.figures()["model_revision"] == "r1"
    assert nights(card={"revision": "r2"}) == 20
    assert set(nights.decided("ask").values()) == {"model"}
    assert nights.again(card={"revision": "r2"}) == 0
    assert nights.again(card={"revision": "r3"}) == 20, "the plan of the same night is made again"


def test_a_server_that_was_swapped_after_the_plan_is_asked_nothing_until_the_plan_is_made_again(nights: Nights) -> None:
    nights(stages=PLANNING, card={"revision": "r1"})
    with pytest.raises(ModelChanged) as raised:
        nights.again(stages=["knowledge"], card={"revision": "r2"})
    assert raised.value.what == "the plan was made for revision r1, the server now serves r2"
    assert raised.value.do == f"run: kar run prompts --date {nights.date}"
    assert stats(nights.home.ledger).rows == 0
    assert nights.again(stages=PLANNING, card={"revision": "r2"}) == 0
    assert nights.again(stages=["knowledge"], card={"revision": "r2"}) == 20
    assert {row["model_revision"] for row in nights.rows("knowledge", "knowledge").values()} == {"r2"}


# ---- answers that were refused


@pytest.mark.parametrize("mode", ["refusal", "echo", "length"])
def test_a_request_whose_answer_was_refused_is_not_asked_again_and_takes_no_budget(nights: Nights, mode: str) -> None:
    calls = nights(lambda call: mode if about(3)(call.prompt) else "ok", knowledge={"accept_truncated_sentences": False})
    assert calls == 20 + (mode == "length")  # a cut answer is asked once more with more tokens
    (refusal,) = nights.rows("knowledge", "refused").values()
    for _ in range(2):
        assert nights(knowledge={"accept_truncated_sentences": False}) == 0
        assert nights.decided("refused") == {("item.facts", "3"): "new"}
        assert nights.figures()["wanted_tokens"] == nights.figures()["asked"] == 0
        (carried,) = nights.rows("knowledge", "refused").values()
        assert (carried["reason"], carried["request_key"]) == (refusal["reason"], refusal["request_key"])
        assert nights.rows("prompts", "plan")["item.facts", "3"]["request_key"] == refusal["request_key"]


def test_a_refused_request_is_asked_again_when_its_template_changed(nights: Nights) -> None:
    nights(lambda call: "refusal" if about(3)(call.prompt) else "ok")
    nights.reword("item.facts", "Cover these points", "Speak of these points")
    assert nights() == 8
    assert nights.decided("refused") == {}
    assert nights.rows("knowledge", "knowledge")["item.facts", "3"]["origin"] == "tonight"


def test_a_refused_request_is_judged_again_when_the_gate_changed_and_costs_nothing(nights: Nights) -> None:
    nights(lambda call: "short" if about(3)(call.prompt) else "ok", knowledge={"min_words": 12})
    nights.reword("item.facts", "min_words = 25", "min_words = 25 ")  # the same version
    assert nights(knowledge={"min_words": 13}) == 0
    assert nights.decided("ask") == {("item.facts", "3"): "new"}
    assert nights.figures("knowledge")["from_ledger"] == 1


def test_a_refused_request_that_was_asked_again_by_hand_is_judged_the_next_night(nights: Nights) -> None:
    nights(lambda call: "refusal" if about(3)(call.prompt) else "ok")
    first = nights.rows("knowledge", "knowledge")
    (refusal,) = nights.rows("knowledge", "refused").values()
    assert nights() == 0
    with Ledger.open(nights.home.ledger) as ledger:
        (refused,) = ledger.find([refusal["request_key"]])[refusal["request_key"]]
        later = refused.ended_at.replace(year=2030)
        text = first["item.facts", "4"]["text"].replace("Film 4", "Film 3")
        body = refused.body.replace('"temperature":0.0', '"temperature":0.5')
        key = request_key(body.encode(), refused.revision)
        ledger.put(dataclasses.replace(refused, key=key, body=body, retry_of=refused.key, text=text, asked_at=later, ended_at=later))
    assert nights() == 0
    assert nights.decided("ask") == {("item.facts", "3"): "new"}
    assert nights.rows("knowledge", "knowledge")["item.facts", "3"]["text"] == text
    assert nights.rows("knowledge", "refused") == {}


@pytest.mark.parametrize("mode", ["400", "500"])
def test_a_request_that_got_no_answer_is_asked_again(nights: Nights, mode: str) -> None:
    nights(lambda call: mode if about(3)(call.prompt) else "ok")
    assert {row["reason"] for row in nights.rows("knowledge", "refused").values()} <= {"bad_request", "exhausted"}
    assert nights() == 1
    assert nights.decided("ask") == {("item.facts", "3"): "new"}
    assert nights.rows("knowledge", "refused") == {}


# ---- ageing


def test_what_a_budget_leaves_out_keeps_its_last_text_with_its_age(nights: Nights) -> None:
    nights()
    first = nights.rows("knowledge", "knowledge")
    nights.reword("item.facts", "Cover these points", "Speak of these points")
    budget = {"token_budget": 700}
    assert 0 < nights(llm=budget) < 8
    second, waiting = nights.rows("knowledge", "knowledge"), nights.decided("over_budget")
    assert waiting
    for key in waiting:
        assert second[key]["origin"] == "last_good"
        assert [second[key][c] for c in ("asked_at", "template_version", "text")] == [
            first[key][c] for c in ("asked_at", "template_version", "text")
        ]


# ---- drift


def test_a_user_whose_genres_moved_is_asked_before_k_events_are_new(nights: Nights) -> None:
    path = nights.own_data() / "interactions.csv"
    nights(histories={"mode": "time", "cap": 30})
    header, *lines = path.read_text().rstrip().splitlines()
    assert header == "user,item,stars,at"
    met = {user: [int(line.split(",")[1]) for line in lines if line.startswith(f"{user},")] for user in range(1, 13)}
    comedies = {user: sum(item % 2 for item in items) / len(items) for user, items in met.items()}
    moves = {user: (comedies[user] * len(items) + 2) / (len(items) + 2) - comedies[user] for user, items in met.items()}
    stayer, mover = min(moves, key=lambda u: moves[u]), max(moves, key=lambda u: moves[u])
    assert moves[mover] > moves[stayer] + 0.05
    at = int(dt.datetime.combine(world.LAST_DAY + dt.timedelta(days=1), dt.time(3), dt.UTC).timestamp())
    more = [f"{user},{item},5,{at + item}" for user in (mover, stayer) for item in (1, 3)]  # two comedies each, fewer than k
    path.write_text("\n".join([header, *lines, *more]) + "\n")
    drift = {"drift_attribute": "genre", "max_drift": (moves[stayer] + moves[mover]) / 2}
    assert nights(stages=PLANNING, histories={"mode": "time", "cap": 30}, prompts=drift) == 0
    assert {key: reason for key, reason in nights.decided("ask").items() if key[0] == "user.preference"} == {
        ("user.preference", str(mover)): "drift"
    }
