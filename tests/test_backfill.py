"""Backfills over a small world whose events spread over days: the bill before, the nights, and what they may not do."""

from __future__ import annotations

import datetime as dt
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import kar.release
from kar import backfill as filling
from kar import run as runner
from kar.backfill import dates_between, foresee
from kar.cli import app
from kar.errors import BackfillError
from kar.flow import NIGHTLY
from kar.settings import Settings
from kar.store import Home
from tests import world
from tests.llm.loopback import Server, loopback
from tests.test_cli import SETTINGS

LATER = dt.datetime(2031, 1, 1, tzinfo=dt.UTC)
DATES = [world.LAST_DAY - dt.timedelta(days=n) for n in (20, 10, 0)]
"""Ten days apart: some users have met an item or two in between, others have not."""


class Place:
    """A home and the settings of a server."""

    def __init__(self, folder: Path, server: Server, users: int = 12, events: int = 4) -> None:
        self.home, data = Home.of("world", folder / "home"), world.write(folder / "data", users, 2 * events, events)
        prompts = Path(shutil.copytree(Path(__file__).parents[1] / "prompts", folder / "prompts"))
        self.server = server
        self.settings: Settings = world.settings(
            data,
            histories={"mode": "time"},
            examples={"window_days": 10},
            prompts={"folder": str(prompts), "min_new_events": 1},
            llm={"base_url": server.base_url, "max_attempts": 1},
        )

    def foresee(self) -> list[filling.Foreseen]:
        return foresee(self.settings, self.home, DATES, lambda: LATER)

    def fill(self) -> list[str]:
        return filling.backfill(self.settings, self.home, DATES, lambda: LATER)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with loopback(lambda call: "ok") as server:
        yield Place(tmp_path, server)


def test_both_ends_are_in_the_range() -> None:
    day = dt.timedelta(days=1)
    assert dates_between(DATES[0], DATES[0] + 2 * day) == [DATES[0], DATES[0] + day, DATES[0] + 2 * day]
    assert dates_between(DATES[1], DATES[1]) == [DATES[1]]
    with pytest.raises(BackfillError, match="has no date in it"):
        dates_between(DATES[2], DATES[0])


def test_what_is_foreseen_is_what_is_asked_where_every_answer_is_accepted(place: Place) -> None:
    foreseen = place.foresee()
    assert place.server.calls == 0, "foreseeing asks nothing"
    assert not list(place.home.path.glob("knowledge/date=*"))
    assert not list(place.home.root.glob(".backfill-*"))
    place.fill()
    asked = [pq.read_metadata(place.home.partition("prompts", date).table("request")).num_rows for date in DATES]
    assert [night.whole.requests for night in foreseen] == asked
    assert place.server.calls == sum(night.paid.requests for night in foreseen)
    assert asked[0] > asked[1] > 0, "the dates must differ, or the plan of the second is not put to the test"


def test_a_second_run_asks_nothing_and_says_so(place: Place) -> None:
    first = place.fill()
    calls = place.server.calls
    assert place.fill() == first
    assert place.server.calls == calls
    assert [night.paid.requests for night in place.foresee()] == [0, 0, 0]


def test_no_prompt_of_a_date_holds_anything_of_the_next(place: Place) -> None:
    """An item that is met for the first time on the last date stands in no earlier prompt of a user."""
    place.fill()
    newest = {date: seen_until(place.home, date) for date in DATES}
    for date in DATES:
        end = dt.datetime.combine(date + dt.timedelta(days=1), dt.time(), dt.UTC)
        assert newest[date] < end
    assert newest[DATES[0]] < newest[DATES[2]]


def test_a_film_that_is_first_met_on_day_four_stands_in_no_users_prompt_of_day_three(place: Place) -> None:
    """Four days in a row; on each everybody meets films that nobody met before. The words sent are looked at, not what is noted of them."""
    days = [world.LAST_DAY - dt.timedelta(days=n) for n in (3, 2, 1, 0)]
    lines = ["user,item,stars,at"]
    for number, day in enumerate(days):
        for user in range(1, 13):
            at = dt.datetime.combine(day, dt.time(23, 59, user), dt.UTC)
            lines.append(f"{user},{5 * number + user % 5 + 1},5,{int(at.timestamp())}")
    interactions = Path(place.settings.sources.folder) / "interactions.csv"
    interactions.write_text("\n".join(lines) + "\n")
    items = ["item,name,genre", *(f"{item},Film {item} (19{60 + item}),Comedy" for item in range(1, 21))]
    interactions.with_name("items.csv").write_text("\n".join(items) + "\n")
    filling.backfill(place.settings, place.home, days, lambda: LATER)
    for number, day in enumerate(days):
        requests = pq.read_table(place.home.partition("prompts", day).table("request")).to_pylist()
        sent = [request["body"] for request in requests if request["view"].startswith("user.")]
        assert len(sent) == 12
        met = {int(film) for body in sent for film in re.findall(r"Film (\d+) ", body)}
        assert met == set(range(1, 5 * (number + 1) + 1)), f"day {number + 1}"


def seen_until(home: Home, date: dt.date) -> dt.datetime:
    plan = pq.read_table(home.partition("prompts", date).table("plan"))
    return max(at for at in plan["evidence_newest_at"].to_pylist() if at is not None)


def test_a_date_never_falls_back_on_what_a_newer_one_knows(place: Place) -> None:
    """The newest date is made first; an older one whose answers are refused then has nothing of a user, whose newer history was another question."""
    filling.backfill(place.settings, place.home, DATES[2:], lambda: LATER)
    known = pq.read_table(place.home.partition("knowledge", DATES[2]).table("knowledge"))
    assert known.num_rows
    with loopback(lambda call: "refusal") as server:
        settings = place.settings.model_copy(update={"llm": place.settings.llm.model_copy(update={"base_url": server.base_url})})
        filling.backfill(settings, place.home, DATES[:1], lambda: LATER)
    older = pq.read_table(place.home.partition("knowledge", DATES[0]).table("knowledge"))
    assert set(older["view"].to_pylist()) == {"item.facts"}, "an item's prompt is the same on both dates, and so its answer"


def test_without_a_training_there_is_knowledge_and_no_release(place: Place) -> None:
    said = place.fill()
    assert all("no release: no training at or before this date" in line for line in said)
    assert not place.home.published.exists()
    assert all(place.home.partition(stage, DATES[2]).exists() for stage in NIGHTLY)


def test_a_date_that_fails_is_named_and_those_before_it_stay(place: Place) -> None:
    filling.backfill(place.settings, place.home, DATES[:1], lambda: LATER)
    away = place.settings.model_copy(update={"llm": place.settings.llm.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})})
    with pytest.raises(BackfillError, match=f"the backfill stopped at {DATES[1]}; the dates before it are made"):
        filling.backfill(away, place.home, DATES, lambda: LATER)
    assert place.home.partition("knowledge", DATES[0]).exists()
    assert not place.home.partition("knowledge", DATES[1]).exists()


@pytest.mark.slow
def test_releases_are_marked_reconstructed_and_leave_current_alone(tmp_path: Path) -> None:
    with loopback(lambda call: "ok") as server:
        check_releases(Place(tmp_path, server, users=40, events=12))


def check_releases(place: Place) -> None:
    first = dt.datetime.combine(DATES[0] + dt.timedelta(days=1), dt.time(1), dt.UTC)
    runner.run_all(place.settings, place.home, DATES[0], lambda: first)
    current = kar.release.open(place.home.published)
    assert not current.manifest["is_reconstructed"]
    said = filling.backfill(place.settings, place.home, DATES[1:], lambda: LATER)
    assert all(line.endswith("(reconstructed)") for line in said)
    assert kar.release.open(place.home.published).id == current.id
    assert len(kar.release.list_releases(place.home.published)) == 3
    said = filling.backfill(place.settings, place.home, DATES[1:], lambda: LATER, promote=True)
    assert said[-1].endswith("(reconstructed, CURRENT)")
    assert kar.release.open(place.home.published).manifest["date"] == DATES[2].isoformat()


def test_the_command_says_the_bill_first_and_stops_there_when_dry(place: Place, tmp_path: Path) -> None:
    settings = tmp_path / "world.toml"
    settings.write_text(SETTINGS.format(folder=place.settings.sources.folder, prompts=place.settings.prompts.folder))
    command = ["backfill", "--settings", str(settings), "--home", str(place.home.root), "--from", "2026-11-18", "--to", "2026-11-19"]
    command[1:1] = ["--set", f"llm.base_url={place.server.base_url}"]
    dry = CliRunner().invoke(app, [*command, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert dry.stdout.startswith("backfill of 2 dates, 2026-11-18 to 2026-11-19, model tiny (openai)")
    assert "none: no training at or before this date" in dry.stdout
    assert place.server.calls == 0
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(dry.stdout.strip())
    assert "2026-11-19  asked" in done.stdout
    assert place.server.calls > 0
    assert isinstance(CliRunner().invoke(app, [*command[:-1], "2026-11-01"]).exception, BackfillError)
    assert "no date; write YYYY-MM-DD" in CliRunner().invoke(app, [*command[:-1], "tomorrow"]).output
