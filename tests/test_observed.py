"""`kar metrics` over a small night: what is said must be what the partitions hold, and the dashboard must ask for nothing else."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import threading
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from kar import flow
from kar import run as runner
from kar.cli import app
from kar.errors import SettingsError
from kar.observed import GAUGES, registry
from kar.release import promote
from kar.settings import Settings, parse
from kar.store import Home, Manifest, trainings
from tests import world
from tests.llm.loopback import loopback
from tests.test_cli import SETTINGS

DASHBOARD = Path(__file__).parents[1] / "observability" / "kar-dashboard.json"
CLOCK = dt.datetime.combine(world.LAST_DAY + dt.timedelta(days=1), dt.time(1), dt.UTC)
Said = dict[str, dict[tuple[str, ...], float]]


def said(made: CollectorRegistry) -> Said:
    """Metric → values of its labels but the scenario, labels in the order of their names → value."""
    found: Said = {}
    for family in text_string_to_metric_families(generate_latest(made).decode()):
        for sample in family.samples:
            assert sample.labels.pop("scenario") == "world"
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Home]:
    """A whole flow, one answer in four refused."""
    folder = tmp_path_factory.mktemp("observed")
    data = world.write(folder / "data", users=40)
    home = Home.of("world", folder / "home")
    with loopback(lambda call: "refusal" if call.number % 4 == 0 else "ok") as server:
        prices = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 2.0}
        limits = {"deadline_s": 900.0, "token_budget": 10_000_000, "usd_budget": 50.0}
        settings = world.settings(data, llm={"base_url": server.base_url, **prices, **limits})
        runner.run_all(settings, home, world.LAST_DAY, lambda: CLOCK)
    return settings, home


def test_the_gauges_are_what_the_manifests_say(night: tuple[Settings, Home]) -> None:
    settings, home = night
    found = said(registry(settings, home))
    figures = Manifest.read(home.partition("knowledge", world.LAST_DAY).manifest_path)
    assert {view: share for (view,), share in found["kar_coverage_share"].items()} == figures.figures["coverage"]
    assert 0 < found["kar_coverage_share"][("item.facts",)] < 1
    assert found["kar_requests"] == {("server",): figures.figures["calls"], ("ledger",): 0}
    assert found["kar_tokens"][("prompt",)] == figures.figures["prompt_tokens"] > 0
    assert found["kar_cost_usd"][()] == pytest.approx(figures.figures["usd"]) != 0
    assert found["kar_rejected_rows"][("refusal", "knowledge")] == figures.rejected["refusal"] > 0
    assert found["kar_table_rows"][("sources", "user")] == 40
    assert found["kar_stage_made_timestamp_seconds"][("features",)] == CLOCK.timestamp()
    assert found["kar_stage_partition_timestamp_seconds"][("features",)] == CLOCK.timestamp() - 3600
    assert found["kar_release_published_timestamp_seconds"][()] == CLOCK.timestamp()
    assert found["kar_releases"][()] == 1
    assert set(found["kar_uplift_auc"]) >= {
        (arm, "fibinet", "same_evidence", bound) for arm in ("base", "text") for bound in ("low", "high")
    }


def test_every_gauge_that_is_declared_is_said_of_a_whole_night(night: tuple[Settings, Home]) -> None:
    assert set(said(registry(*night))) == set(GAUGES) - {"kar_backfill_published_timestamp_seconds"}, "nothing was made after its date"


def test_the_end_of_the_asking_its_limits_and_the_ledger_are_said(night: tuple[Settings, Home]) -> None:
    settings, home = night
    found = said(registry(settings, home))
    figures = Manifest.read(home.partition("knowledge", world.LAST_DAY).manifest_path).figures
    assert found["kar_stopped_by"] == {("none",): 1, ("token_budget",): 0, ("usd_budget",): 0, ("deadline",): 0}
    assert found["kar_asking_seconds"] == {(): figures["seconds_asking"]}
    assert (found["kar_deadline_seconds"][()], found["kar_budget_tokens"][()], found["kar_budget_usd"][()]) == (900, 10_000_000, 50)
    assert found["kar_ledger_rows"] == {("shards",): 0, ("parts",): figures["calls"]}
    parts = [path for path in home.ledger.rglob("*.parquet") if path.is_file()]
    assert found["kar_ledger_bytes"][("parts",)] == sum(path.stat().st_size for path in parts) > 0
    unlimited = settings.model_copy(update={"llm": settings.llm.model_copy(update={"deadline_s": None, "usd_budget": None})})
    assert not {"kar_deadline_seconds", "kar_budget_usd"} & set(said(registry(unlimited, home)))


def test_a_night_that_a_budget_ended_says_which(night: tuple[Settings, Home], tmp_path: Path) -> None:
    settings, made = night
    home = Home.of("world", tmp_path)
    for name in ("sources", "histories"):
        shutil.copytree(made.path / name, home.path / name)
    with loopback() as server:
        short = {"base_url": server.base_url, "token_budget": 10_000}
        later = settings.model_copy(update={"llm": settings.llm.model_copy(update=short)})
        runner.run_all(later, home, world.LAST_DAY, lambda: CLOCK, ["prompts"])
        cut = later.model_copy(update={"llm": later.llm.model_copy(update={"token_budget": 3_000})})
        runner.run_all(cut, home, world.LAST_DAY, lambda: CLOCK, ["knowledge"])
    found = said(registry(cut, home))
    assert found["kar_stopped_by"] == {("none",): 0, ("token_budget",): 1, ("usd_budget",): 0, ("deadline",): 0}
    assert found["kar_rejected_rows"][("over_budget", "knowledge")] > 0


def test_a_release_that_its_gate_holds_back_is_said_until_one_as_new_is_served(night: tuple[Settings, Home], tmp_path: Path) -> None:
    """Four days on: made after its date, so it stands for a backfill too."""
    settings, made = night
    home = Home.of("world", tmp_path)
    shutil.copytree(made.path, home.path, symlinks=True)
    assert said(registry(settings, home))["kar_release_held_back"] == {(): 0}
    assert set(said(registry(settings, home))["kar_gate_passed"].values()) == {1}
    strict = parse(settings.model_dump() | {"features": {"gate": {"min_coverage": 0.99}}})
    day, late = world.LAST_DAY + dt.timedelta(days=1), CLOCK + dt.timedelta(days=4)
    runner.run_all(strict, home, day, lambda: late, [*flow.NIGHTLY, "features"])
    found = said(registry(strict, home))
    assert found["kar_release_held_back"] == {(): 1}
    failed = {check for (check, _), value in found["kar_gate_passed"].items() if value == 0}
    assert {"coverage item.facts", "coverage user.preference"} <= failed
    assert {check.split()[0] for check in failed} == {"coverage"}
    assert found["kar_backfill_published_timestamp_seconds"] == {(): late.timestamp()}
    release = Manifest.read(home.partition("features", day).manifest_path).figures["release_id"]
    promote(home.published, release, late, despite_gate=True)
    assert said(registry(strict, home))["kar_release_held_back"] == {(): 0}


def test_a_training_that_is_held_back_is_said(night: tuple[Settings, Home], tmp_path: Path) -> None:
    settings, made = night
    home = Home.of("world", tmp_path)
    shutil.copytree(made.path, home.path, symlinks=True)
    found = said(registry(settings, home))
    partition = home.partition("adaptor", world.LAST_DAY)
    assert (
        {check for check, gate in found["kar_gate_passed"] if gate == "training"}
        == {one["check"] for one in Manifest.read(partition.manifest_path).gate}
        != set()
    )
    assert found["kar_training_held_back"] == {(): 0}
    trainings.decide(partition, False, CLOCK, "looked odd")
    assert said(registry(settings, home))["kar_training_held_back"] == {(): 1}


def test_a_home_without_anything_says_no_release_and_does_not_fail(night: tuple[Settings, Home], tmp_path: Path) -> None:
    found = said(registry(night[0], Home.of("world", tmp_path)))
    assert "kar_release_info" not in found
    assert found.get("kar_releases", {}).get((), 0) == 0


def test_knowledge_that_gets_older_is_said_to_be_older(night: tuple[Settings, Home], tmp_path: Path) -> None:
    """Three days on, nobody is due: last night's answers, written an hour into the first of these days, are what there is."""
    settings, made = night
    now = said(registry(settings, made))["kar_knowledge_age_days"]
    assert set(now) == {(q, view) for q in ("0.5", "0.95", "1.0") for view in ("item.facts", "user.preference")}
    assert set(now.values()) == {0.0}, "an answer that came after the end of its date is not older than nothing"
    home = Home.of("world", Path(shutil.copytree(made.root, tmp_path / "home")))
    with loopback(lambda call: "refusal") as server:
        later = settings.model_copy(update={"llm": settings.llm.model_copy(update={"base_url": server.base_url})})
        on = world.LAST_DAY + dt.timedelta(days=3)
        runner.run_all(later, home, on, lambda: CLOCK + dt.timedelta(days=3), ["sources", "histories", "prompts", "knowledge"])
    ages = said(registry(settings, home))["kar_knowledge_age_days"]
    assert list(ages.values()) == [pytest.approx(3 - 1 / 24)] * 6


def test_the_dashboard_asks_for_every_gauge_and_for_nothing_else() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for target in panel["targets"] for name in re.findall(r"kar_[a-z_]+", target["expr"])}
    assert asked == set(GAUGES)
    for panel in panels:
        for target in panel["targets"]:
            [name] = re.findall(r"kar_[a-z_]+", target["expr"])
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert labels <= set(GAUGES[name][1]), panel["title"]


def test_a_scrape_is_served(night: tuple[Settings, Home]) -> None:
    server, thread = start_http_server(0, "127.0.0.1", registry(*night))
    assert isinstance(thread, threading.Thread)
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
        assert b'kar_table_rows{scenario="world",stage="sources",table="user"} 40.0' in answer.read()
    server.shutdown()
    server.server_close()


def test_the_command_prints_or_writes_a_whole_file(night: tuple[Settings, Home], tmp_path: Path) -> None:
    settings, home = night
    path = tmp_path / "world.toml"
    path.write_text(SETTINGS.format(folder=settings.sources.folder, prompts=settings.prompts.folder))
    command = ["metrics", "--settings", str(path), "--home", str(home.root)]
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    assert "# HELP kar_coverage_share share of the subjects of a view that have knowledge, newest night" in printed.stdout
    CliRunner().invoke(app, [*command, "--out", str(tmp_path / "kar.prom")])
    assert (tmp_path / "kar.prom").read_text().strip() == printed.stdout.strip()
    assert isinstance(CliRunner().invoke(app, [*command, "--out", str(tmp_path / "nowhere" / "kar.prom")]).exception, SettingsError)
    assert "not both" in CliRunner().invoke(app, [*command, "--out", "x", "--port", "1"]).output
