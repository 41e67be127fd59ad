"""Three tables in, a release and a report out: the real stages, a loopback server, a hash encoder."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import kar.release
from kar import flow, show
from kar import run as runner
from kar.settings import Settings
from kar.store import Home, Manifest
from tests import world
from tests.llm.loopback import loopback

DAY = world.LAST_DAY
NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)


def digest(folder: Path) -> dict[str, str]:
    """Every data file below a folder → digest; manifests left out, for they hold seconds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".parquet", ".npy", ".safetensors")
    }


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    world.write(tmp_path / "data", users=40, items=20)
    return world.settings(tmp_path / "data")


def at(settings: Settings, base_url: str) -> Settings:
    return settings.model_copy(update={"llm": settings.llm.model_copy(update={"base_url": base_url})})


def test_three_tables_in_a_release_and_a_report_out(settings: Settings, tmp_path: Path) -> None:
    home = Home.of("world", tmp_path / "home")
    with loopback() as server:
        manifests = runner.run_all(at(settings, server.base_url), home, DAY, lambda: NOW)
        assert server.calls == 60  # 40 users and 20 items, once each
        again = runner.run_all(at(settings, server.base_url), home, DAY, lambda: NOW + dt.timedelta(hours=1))
        assert server.calls == 60
    assert [m.stage for m in manifests] == list(flow.NAMES)
    assert again == manifests

    release = kar.release.open(home.published, verify=True)
    vectors, is_missing = release.vectors("user", "user.preference", [1, 2, 99])
    assert vectors.shape == (3, 8)
    assert is_missing.tolist() == [False, False, True]
    page = (home.partition("report", DAY).path / "index.html").read_text()
    assert release.id in page
    assert "Film 1 (1961)" in page


@pytest.mark.slow
def test_a_night_without_new_events_asks_nothing_and_publishes_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    home = Home.of("world", tmp_path / "home")
    tomorrow = DAY + dt.timedelta(days=1)
    with loopback() as server:
        runner.run_all(at(settings, server.base_url), home, DAY, lambda: NOW)
        asked = server.calls
        nightly = [name for name in flow.NAMES if name not in flow.TRAINING]
        runner.run_all(at(settings, server.base_url), home, tomorrow, lambda: NOW + dt.timedelta(days=1), nightly)
        assert server.calls == asked
    page = (home.partition("report", tomorrow).path / "index.html").read_text()
    assert "checks were passed" in page
    assert "40 users are in both, 0 came, 0 went; 20 items are in both, 0 came, 0 went." in page
    first, second = (pq.read_table(home.partition("features", day).table("release")).to_pylist()[0] for day in (DAY, tomorrow))
    folder = home.published / "releases"
    one, two = digest(folder / first["release_id"]), digest(folder / second["release_id"])
    assert len(one) >= 4
    assert one == two


@pytest.mark.slow
def test_two_homes_make_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        home = Home.of("world", tmp_path / name)
        with loopback() as server:
            runner.run_all(at(settings, server.base_url), home, DAY, lambda: NOW)
        tables = digest(home.path)
        # the ledger and the pace of the asking tell what time it was
        found.append({path: sha for path, sha in tables.items() if not path.startswith("ledger") and not path.endswith("pace.parquet")})
    assert len(found[0]) > 15
    assert found[0] == found[1]


def test_a_budget_asks_the_most_valuable_and_publishes_the_rest_as_missing(settings: Settings, tmp_path: Path) -> None:
    home = Home.of("world", tmp_path / "home")
    with loopback() as server:
        poor = at(settings, server.base_url)
        poor = poor.model_copy(update={"llm": poor.llm.model_copy(update={"token_budget": 4000})})
        runner.run_all(poor, home, DAY, lambda: NOW)
        assert 0 < server.calls < 60
    prompts = Manifest.read(home.partition("prompts", DAY).manifest_path)
    assert prompts.rejected["over_budget"] > 0
    release = kar.release.open(home.published)
    missing = sum(
        int(release.vectors(side, view, release.ids(side))[1].sum()) for side, view in (("user", "user.preference"), ("item", "item.facts"))
    )
    known = pq.read_table(home.partition("knowledge", DAY).table("knowledge")).num_rows
    assert missing == 60 - known
    assert 0 < known < 60


def test_time_mode_trains_on_examples_that_are_newer_than_the_knowledge_they_meet(settings: Settings, tmp_path: Path) -> None:
    home = Home.of("world", tmp_path / "home")
    timed = world.settings(tmp_path / "data", histories={"mode": "time"}, examples={"window_days": 20, "split": "by_user"})
    with loopback() as server:
        runner.run_all(at(timed, server.base_url), home, DAY, lambda: NOW)
    snapshot = DAY - dt.timedelta(days=20)
    knowledge = pq.read_table(home.partition("knowledge", snapshot).table("knowledge"))
    examples = pq.read_table(home.partition("examples", DAY).table("example"))
    assert examples.num_rows > 0
    newest = max(t for t in knowledge.column("evidence_newest_at").to_pylist() if t is not None)
    assert newest < min(examples.column("event_at").to_pylist())
    # the release of the date carries newer knowledge than the training met
    released = kar.release.open(home.published)
    assert released.data_cutoff > newest


def test_imported_texts_need_no_server(settings: Settings, tmp_path: Path) -> None:
    home = Home.of("world", tmp_path / "home")
    world.facts(tmp_path, items=20, left_out=3)
    imported = world.settings(
        tmp_path / "data",
        prompts={"views": ["item.facts"]},
        knowledge={"imports": {"item.facts": "facts.jsonl"}, "imports_folder": str(tmp_path), "imports_written_by": "a careful friend"},
        adaptor={"user_views": []},
        llm={"base_url": "http://127.0.0.1:9/v1"},
    )
    runner.run_all(imported, home, DAY, lambda: NOW)
    knowledge = pq.read_table(home.partition("knowledge", DAY).table("knowledge")).to_pylist()
    assert len(knowledge) == 17
    assert {row["model"] for row in knowledge} == {"a careful friend"}
    _, is_missing = kar.release.open(home.published).vectors("item", "item.facts", [1, 3, 4, 20])
    assert is_missing.tolist() == [True, True, False, False]


def test_a_night_in_factors_ends_in_the_same_tables_with_vectors_and_a_release_of_single_factors(
    settings: Settings, tmp_path: Path
) -> None:
    home = Home.of("world", tmp_path / "home")
    by_factor = world.settings(
        tmp_path / "data",
        prompts={"form": {"item.facts": "factors", "user.preference": "factors"}},
        vectors={"per_factor": ["item.facts", "user.preference"]},
        adaptor={"item_views": ["item.facts", "item.facts:mood"], "user_views": ["user.preference:mood"]},
    )
    with loopback() as server:
        runner.run_all(at(by_factor, server.base_url), home, DAY, lambda: NOW)
        assert server.calls == 60
        runner.run_all(at(by_factor, server.base_url), home, DAY, lambda: NOW + dt.timedelta(hours=1))
        assert server.calls == 60
    factors = pq.read_table(home.partition("knowledge", DAY).table("factor_knowledge"))
    assert factors.num_rows == 60 * 9
    assert pq.read_table(home.partition("knowledge", DAY).table("knowledge")).num_rows == 60
    vectors = pq.read_table(home.partition("vectors", DAY).table("knowledge_vector"), columns=["view"]).column("view").to_pylist()
    assert vectors.count("item.facts:mood") == 20
    assert vectors.count("user.preference:director_and_cast") == 40
    release = kar.release.open(home.published, verify=True)
    found, is_missing = release.vectors("item", "item.facts:mood", [1, 20, 99])
    assert found.shape == (3, 8)
    assert is_missing.tolist() == [False, False, True]
    assert "Where preference and facts meet" in (home.partition("report", DAY).path / "index.html").read_text()
    shown = show.subject(by_factor, home, "item", "3", DAY)
    assert shown.count("in 9 factors:") == 1
    assert "director and cast" in shown
