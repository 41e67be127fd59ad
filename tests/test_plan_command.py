"""`kar plan` and `kar plan --why`: what a person reads before anything is spent."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kar.bill import bill
from kar.cli import app
from kar.errors import KarError, NotMade, SourceError
from kar.show import Side
from kar.why import why
from tests.stages.nights import NIGHTLY, PLANNING, Nights

PRICES = {"usd_per_million_prompt_tokens": 1000.0, "usd_per_million_completion_tokens": 10_000.0}


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def told(nights: Nights, side: Side, subject: str) -> str:
    return why(nights.settings, nights.home, side, subject, nights.date)


def printed(nights: Nights) -> str:
    return bill(nights.settings, nights.home, nights.date)


def row(text: str, *starts: str) -> list[str]:
    """The columns, but for the form, of the only line of the table that holds all these words."""
    (line,) = [line for line in text.splitlines() if all(start in line for start in starts)]
    view, _, *others = re.split(r"\s{2,}", line.strip())
    return [view, *others]


# ---- the bill


def test_the_bill_counts_every_view_and_reason_and_sums_what_is_asked(nights: Nights) -> None:
    nights(stages=PLANNING, llm=PRICES)
    text, figures = printed(nights), nights.figures()
    users, items = row(text, "user.preference", "ask"), row(text, "item.facts", "ask")
    assert (users[2:5], items[2:5]) == (["ask", "new", "12"], ["ask", "new", "8"])
    assert users[1].startswith("movies.user.preference@1:")
    assert sum(int(r[5].replace(",", "")) for r in (users, items)) == figures["planned_prompt_tokens"]
    assert [int(r[6].replace(",", "")) for r in (users, items)] == [12 * 180, 8 * 180]
    assert sum(float(r[7]) for r in (users, items)) == pytest.approx(figures["planned_usd"], abs=0.02)
    tokens = figures["planned_prompt_tokens"] + figures["planned_answer_tokens"]
    assert f"to ask   20 requests, at most {tokens:,} tokens (all that are due want {tokens:,}; budget no limit)" in text
    assert f"money    {figures['planned_usd']:,.2f} USD at most" in text
    assert "time     unknown until one night has been asked" in text
    assert "free" not in text


def test_the_bill_says_what_the_budget_leaves_out(nights: Nights) -> None:
    nights(stages=PLANNING, llm={"token_budget": 3000})
    text, figures = printed(nights), nights.figures()
    assert f"all that are due want {figures['wanted_tokens']:,}; budget 3,000" in text
    left = sum(int(row(text, view, "over budget")[4]) for view in ("user.preference", "item.facts"))
    assert left == 20 - figures["asked"] > 0


def test_what_the_ledger_holds_is_free(nights: Nights) -> None:
    nights(llm=PRICES)
    nights.home.partition("knowledge", nights.date).manifest_path.unlink()  # the texts are lost, the paid answers are not
    assert nights.again(stages=PLANNING, llm=PRICES) == 0
    text = printed(nights)
    assert "to ask   20 requests" in text
    assert "free     20 of them are in the ledger already" in text
    assert "money    0.00 USD at most" in text
    assert "time     none: nothing is sent" in text


def test_a_changed_word_is_on_the_bill_before_it_is_paid(nights: Nights) -> None:
    nights(llm=PRICES)
    nights.reword("item.facts", "Cover these points", "Speak of these points")
    assert nights(stages=PLANNING, llm=PRICES) == 0
    text = printed(nights)
    assert row(text, "item.facts", "ask")[2:5] == ["ask", "template", "8"]
    assert row(text, "user.preference")[2:5] == ["fresh", "–", "12"]
    assert re.search(r"time     about \d+ s at the [\d,]+ tokens/s of ", text)


def test_two_templates_of_a_view_are_two_lines(nights: Nights) -> None:
    nights.variant()
    nights(stages=PLANNING, prompts={"variants": {"item.facts": {"template": "item.facts.b", "share": 0.5, "salt": "x"}}})
    counts = [int(row(printed(nights), name)[4]) for name in ("movies.item.facts@", "movies.item.facts.b@")]
    assert sum(counts) == 8
    assert min(counts) > 0


# ---- why


def test_somebody_new_is_told_with_place_and_value(nights: Nights) -> None:
    nights(stages=PLANNING)
    text = told(nights, "user", "7")
    assert "user.preference: ask, because new" in text
    assert "last       no knowledge of an earlier night" in text
    assert re.search(r"value +[\d.e-]+ = \(1 \+ \d+ events\) × staleness 1 / \(\d+ prompt \+ 180 answer tokens\)", text)
    place = nights.rows("prompts", "plan")["user.preference", "7"]["rank"] + 1
    assert f"asked as number {place} of tonight's 20 requests" in text


def test_a_fresh_subject_is_told_with_what_was_seen_and_the_measures(nights: Nights) -> None:
    nights(card={"revision": "r1"})
    nights(card={"revision": "r1"}, prompts={"drift_attribute": "genre"})
    text = told(nights, "user", "7")
    assert "user.preference: fresh" in text
    assert re.search(
        r"last +asked 2026-11-20 01:00 of tiny r1 by movies.user.preference@1:\w{12}; saw \d events up to 2026-\d\d-\d\d", text
    )
    assert re.search(r"new events +0 since then; due from 5", text)
    assert re.search(r"drift +0.000 in genre; due from 0.3", text)
    assert re.search(r"age +1.0 days at the cutoff; due after 180", text)
    assert "reasons    none holds: it is fresh" in text
    assert "decision   not asked: its knowledge stays" in text


def test_every_reason_that_holds_is_told_and_which_one_decides(nights: Nights) -> None:
    nights(card={"revision": "r1"})
    nights.reword("item.facts", "Cover these points", "Speak of these points")
    nights(stages=PLANNING, card={"revision": "r2"}, llm={"token_budget": 1500})
    waiting = next(key[1] for key in nights.decided("over_budget") if key[0] == "item.facts")
    text = told(nights, "item", waiting)
    assert "item.facts: over budget, because template" in text
    assert (
        "template (the template or its factors changed); also model (another model, or another revision of it), but the first decides"
        in text
    )
    assert "others are worth more for their tokens; the least valuable that is asked is worth" in text
    assert "saw no events, only its own text" in text


def test_a_refused_subject_is_told_with_the_reason_and_what_would_ask_it_again(nights: Nights) -> None:
    nights(lambda call: "refusal" if "Film 3 (" in call.prompt and "<entry>" in call.prompt else "ok")
    nights(stages=PLANNING)
    text = told(nights, "item", "3")
    assert "item.facts: refused, because new" in text
    assert re.search(r"the answer to this very request \(key \w{16}\) was refused as refusal \(.+\)", text)
    assert "kar deadletters replay" in text


def test_an_imported_view_is_told_as_such(nights: Nights) -> None:
    (nights.folder / "facts.jsonl").write_text('{"item_id": 1, "text": "x"}\n')
    imports = {"imports": {"item.facts": "facts.jsonl"}, "imports_folder": str(nights.folder)}
    nights(stages=PLANNING, knowledge=imports)
    assert "item.facts: imported, so it is not asked" in told(nights, "item", "1")


def test_an_item_with_nothing_to_show_is_told_as_such(nights: Nights) -> None:
    path = nights.own_data() / "items.csv"
    path.write_text(path.read_text().replace("Film 2 (1962),Horror", ","))
    nights(stages=PLANNING)
    assert "not asked: it has neither title nor text" in told(nights, "item", "2")


@pytest.mark.parametrize(("side", "subject"), [("user", "999"), ("item", "x"), ("user", "7 ")])
def test_an_unknown_id_is_a_named_error(nights: Nights, side: Side, subject: str) -> None:
    nights(stages=PLANNING)
    with pytest.raises(SourceError, match=f"{side} '{subject}' is not in the histories of"):
        told(nights, side, subject)
    with pytest.raises(NotMade):
        why(nights.settings, nights.home, "user", "7", nights.date + dt.timedelta(days=1))


# ---- the command


def test_the_command_prints_the_bill_or_the_reasons(nights: Nights) -> None:
    nights(stages=NIGHTLY)
    source = nights.data
    text = f"""
[scenario]
name = "world"
domain = "movies"
[sources]
folder = "{source}"
rating_range = [1, 5]
[sources.items]
path = "items.csv"
format = "csv"
columns = {{ item_id = "item", title = "name" }}
[sources.interactions]
path = "interactions.csv"
format = "csv"
columns = {{ user_id = "user", item_id = "item", event_at = "at", rating = "stars" }}
[prompts]
folder = "{nights.folder / "prompts"}"
[llm]
provider = "openai"
model = "tiny"
base_url = "http://127.0.0.1:9/v1"
"""
    (nights.folder / "s.toml").write_text(text)
    common = ["--settings", str(nights.folder / "s.toml"), "--home", str(nights.folder / "home2"), "--date", nights.date.isoformat()]
    run = CliRunner().invoke
    assert "to ask   20 requests" in run(app, ["plan", *common], catch_exceptions=False).output
    assert "user.preference: ask, because new" in run(app, ["plan", *common, "--why", "user", "7"], catch_exceptions=False).output
    assert run(app, ["plan", *common, "--why", "shop", "7"]).exit_code == 2
    assert isinstance(run(app, ["plan", *common, "--why", "user", "77"]).exception, KarError)
