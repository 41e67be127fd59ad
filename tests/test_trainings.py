"""Trainings through the runner and the command: what is held back is kept, told and passed over; a person's word goes before the gate."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kar.release
from kar import flow, released, show, trained
from kar import run as runner
from kar.errors import GateFailed, NotMade
from kar.evaluation import evaluation, text
from kar.observed import registry
from kar.settings import Settings
from kar.store import Home, Manifest, trainings
from kar.text.variants import load_splits
from tests import world
from tests.test_observed import said

DAY = world.LAST_DAY
NEXT = DAY + dt.timedelta(days=1)
NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(days=1)
NIGHT = [*flow.NIGHTLY]


def settings_of(folder: Path, gate: dict[str, object] | None = None, **adaptor: object) -> Settings:
    """The small world with imported facts, so that no server is needed."""
    return world.settings(
        folder,
        prompts={"views": ["item.facts"]},
        knowledge={"imports": {"item.facts": "facts.jsonl"}, "imports_folder": str(folder)},
        adaptor={"user_views": [], "arms": ["base", "knowledge"], "epochs": 1, "gate": gate or {}, **adaptor},
    )


BAD = {"min_valid_users": 1, "min_valid_examples": 1, "min_auc": 1.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night with a training that passes, and one whose training its gate fails."""
    folder = tmp_path_factory.mktemp("trained")
    world.write(folder / "data", users=40)
    world.facts(folder / "data")
    home = Home.of("world", folder / "home")
    runner.run_all(settings_of(folder / "data"), home, DAY, lambda: NOW)
    runner.run_all(settings_of(folder / "data", BAD), home, NEXT, lambda: LATER, [*NIGHT, "examples", "adaptor"])
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Home:
    shutil.copytree(made / "home", tmp_path / "home", symlinks=True)
    return Home.of("world", tmp_path / "home")


@pytest.fixture
def settings(made: Path) -> Settings:
    return settings_of(made / "data", BAD)


def test_a_training_that_fails_its_gate_is_made_and_held_back_with_the_gate_s_words(home: Home) -> None:
    manifest = Manifest.read(home.partition("adaptor", NEXT).manifest_path)
    assert (manifest.figures["held_back"], manifest.figures["gate_failed"]) == (True, ["auc"])
    assert manifest.figures["valid"]["users"] == 10
    assert (home.partition("adaptor", NEXT).path / "checkpoints/fibinet/checkpoint.json").is_file()
    failed = runner.held_back(home, [manifest])
    assert isinstance(failed, GateFailed)
    assert failed.exit_code == 3
    assert f"that of {DAY} stays in use: auc: AUC on valid of 10 users" in failed.what
    good = Manifest.read(home.partition("adaptor", DAY).manifest_path)
    assert (good.figures["held_back"], runner.held_back(home, [good])) == (False, None)


def test_the_lenient_defaults_pass_a_tiny_training_whatever_its_auc(home: Home) -> None:
    gate = {one["check"]: one for one in Manifest.read(home.partition("adaptor", DAY).manifest_path).figures["gate"]}
    assert {check: one["measured"] for check, one in gate.items() if check in ("auc", "over base", "since last")} == {
        "auc": None,
        "over base": None,
        "since last": None,
    }


def test_the_gate_holds_a_training_against_the_one_in_use(home: Home) -> None:
    gate = {one["check"]: one for one in Manifest.read(home.partition("adaptor", NEXT).manifest_path).figures["gate"]}
    now, last = (Manifest.read(home.partition("adaptor", day).manifest_path).figures["valid"]["auc"] for day in (NEXT, DAY))
    assert gate["since last"]["measured"] == pytest.approx(now - last, abs=1e-5)
    assert f"of the training of {DAY}" in gate["since last"]["why"]


def test_another_gate_trains_nothing_again(home: Home, settings: Settings) -> None:
    before = Manifest.read(home.partition("adaptor", NEXT).manifest_path)
    loose = settings.model_copy(update={"adaptor": settings.adaptor.model_copy(update={"gate": type(settings.adaptor.gate)()})})
    assert runner.run_stage("adaptor", loose, home, NEXT, LATER) == before


def test_features_and_report_read_the_training_before_the_held_back_one_with_its_examples(home: Home, settings: Settings) -> None:
    runner.run_all(settings, home, NEXT, lambda: LATER, ["features", "report"])
    assert kar.release.open(home.published).manifest["inputs"]["adaptor"]["date"] == DAY.isoformat()
    read = runner.resolve(flow.REPORT, settings, home, NEXT)
    assert {stage: part.date for (stage, _), part in read.items() if part is not None and stage in ("adaptor", "examples")} == {
        "adaptor": DAY,
        "examples": DAY,
    }
    page = (home.partition("report", NEXT).path / "index.html").read_text()
    assert f"the training of {NEXT} is held back, and that of {DAY} is used: auc" in page


def test_where_every_training_is_held_back_the_reader_says_so(home: Home, settings: Settings) -> None:
    shutil.rmtree(home.partition("adaptor", DAY).path)
    with pytest.raises(NotMade, match=rf"every one at or before {NEXT} is held back[\s\S]*kar training promote --date {NEXT}"):
        runner.run_stage("features", settings, home, NEXT, LATER)
    failed = runner.held_back(home, [Manifest.read(home.partition("adaptor", NEXT).manifest_path)])
    assert failed is not None
    assert "there is no other to use" in failed.what


def test_a_word_lets_readers_use_a_held_back_training_and_the_night_is_made_anew_with_it(home: Home, settings: Settings) -> None:
    runner.run_all(settings, home, NEXT, lambda: LATER, ["features", "report"])
    said = trained.decide(home, NEXT, True, LATER, "looked at it")
    assert said == f"the training of {NEXT} is promoted; the one in use is that of {NEXT}"
    assert trained.decide(home, NEXT, True, LATER) == f"the training of {NEXT} is promoted already"
    assert runner.held_back(home, [Manifest.read(home.partition("adaptor", NEXT).manifest_path)]) is None
    runner.run_all(settings, home, NEXT, lambda: LATER + dt.timedelta(hours=1), ["features", "report"])
    assert kar.release.open(home.published).manifest["inputs"]["adaptor"]["date"] == NEXT.isoformat()
    page = (home.partition("report", NEXT).path / "index.html").read_text()
    assert "is used although its gate said no to auc: so it was decided (looked at it)" in page


def test_a_word_alone_makes_a_new_page(home: Home, settings: Settings) -> None:
    runner.run_all(settings, home, NEXT, lambda: LATER, ["features", "report"])
    before = Manifest.read(home.partition("report", NEXT).manifest_path).recipe_sha
    trainings.decide(home.partition("adaptor", NEXT), False, LATER, "no")
    runner.run_stage("report", settings, home, NEXT, LATER)
    assert Manifest.read(home.partition("report", NEXT).manifest_path).recipe_sha != before
    assert "somebody held it back at" in (home.partition("report", NEXT).path / "index.html").read_text()


def test_a_training_that_passed_can_be_held_back_by_a_word(home: Home) -> None:
    trainings.decide(home.partition("adaptor", NEXT), True, LATER)
    assert (
        trained.decide(home, NEXT, False, LATER, "odd vectors") == f"the training of {NEXT} is held back; the one in use is that of {DAY}"
    )
    assert trainings.latest_promoted(home, NEXT) == home.partition("adaptor", DAY)
    assert "odd vectors" in trainings.why_held_back(home.partition("adaptor", NEXT))


def test_an_older_date_never_reads_a_newer_training(home: Home) -> None:
    trainings.decide(home.partition("adaptor", NEXT), True, LATER)
    assert trainings.latest_promoted(home, DAY) == home.partition("adaptor", DAY)
    assert trainings.latest_promoted(home, DAY - dt.timedelta(days=1)) is None


def test_show_status_and_evaluate_say_that_a_training_is_held_back(home: Home, settings: Settings) -> None:
    line = f"not used: the training of {NEXT} is held back"
    assert line in show.subject(settings, home, "item", "3", DAY)
    assert line in show.overview(settings, home)
    assert "held back, so neither releases nor reports use this training: auc" in text(evaluation(settings, home, NEXT))
    assert "held back" not in text(evaluation(settings, home, DAY))


def test_the_list_marks_the_training_in_use(home: Home) -> None:
    found = trained.listed(home)
    assert [(one.date, one.state, one.failed) for one in found] == [
        (NEXT.isoformat(), "held back", ["auc"]),
        (DAY.isoformat(), "in use", []),
    ]
    lines = trained.listing(home).splitlines()
    assert [line[0] for line in lines[1:3]] == [" ", "→"]
    assert any(line.startswith(f"{NEXT}: auc: AUC on valid") for line in lines)


# ---- due


def only_good(home: Home) -> Home:
    shutil.rmtree(home.partition("adaptor", NEXT).path)
    return home


def test_no_training_yet_is_due(home: Home, settings: Settings) -> None:
    for day in (DAY, NEXT):
        shutil.rmtree(home.partition("adaptor", day).path)
    assert trained.due(settings, home, NEXT) == trained.Due(True, "no training yet")


def test_a_young_training_of_the_same_encoder_and_templates_is_not_due(home: Home, settings: Settings) -> None:
    found = trained.due(settings, only_good(home), NEXT)
    assert (found.due, found.training) == (False, DAY.isoformat())


@pytest.mark.parametrize(("days", "is_due"), [(14, False), (15, True)])
def test_a_training_is_due_when_it_is_older_than_the_settings_allow(home: Home, settings: Settings, days: int, is_due: bool) -> None:
    found = trained.due(settings, only_good(home), DAY + dt.timedelta(days=days))
    assert (found.due, found.why.startswith("older than 14 days")) == (is_due, is_due)
    ageless = settings.model_copy(update={"adaptor": settings.adaptor.model_copy(update={"retrain_after_days": None})})
    assert not trained.due(ageless, home, DAY + dt.timedelta(days=days)).due


def test_vectors_of_another_encoder_make_a_training_due(home: Home, settings: Settings) -> None:
    path = only_good(home).partition("vectors", NEXT).table("knowledge_vector")
    table = pq.read_table(path)
    column = table.column_names.index("encoder_id")
    pq.write_table(table.set_column(column, "encoder_id", pa.array(["hash-65"] * table.num_rows)), path)
    assert trained.due(settings, home, NEXT) == trained.Due(True, "another encoder", DAY.isoformat())
    assert not trained.due(settings, home, DAY).due


def test_texts_of_a_template_that_the_training_never_met_make_it_due(home: Home, settings: Settings) -> None:
    path = only_good(home).partition("knowledge", NEXT).table("knowledge")
    rows = pq.read_table(path).to_pylist()
    rows[0]["template_version"] = "item.facts@2:new"
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    assert trained.due(settings, home, NEXT).why == "another template of item.facts"


@pytest.mark.parametrize(("is_in_use", "is_due"), [(True, True), (False, False)])
def test_leftovers_of_a_template_that_is_no_longer_in_use_make_nothing_due(made: Path, home: Home, is_in_use: bool, is_due: bool) -> None:
    asking = world.settings(made / "data", adaptor={"user_views": []})
    version = {split.view: split.templates[0].version for split in load_splits(asking)}["item.facts"] if is_in_use else "item.facts@0:old"
    path = only_good(home).partition("knowledge", NEXT).table("knowledge")
    rows = [{**row, "template_version": version} for row in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    assert trained.due(asking, home, NEXT).due is is_due


def test_another_view_or_backbone_makes_a_training_due(made: Path, home: Home) -> None:
    only_good(home)
    assert trained.due(settings_of(made / "data", item_views=["item.facts", "item.tags"]), home, NEXT).why == "another view: item.tags"
    assert trained.due(settings_of(made / "data", backbones=["din"], published_backbone="din"), home, NEXT).why == "no checkpoint of din"


def test_a_held_back_training_that_is_good_for_the_night_is_not_trained_again_every_night(home: Home, settings: Settings) -> None:
    found = trained.due(settings, home, DAY + dt.timedelta(days=15))
    assert (found.due, found.training) == (False, DAY.isoformat())
    assert f"older than 14 days, but that of {NEXT} is held back: auc" in found.why
    assert trained.due(settings, home, NEXT + dt.timedelta(days=15)).due


# ---- what is served is said from CURRENT


def page_of(home: Home, day: dt.date) -> str:
    return (home.partition("report", day).path / "index.html").read_text()


def test_after_a_promotion_by_date_every_reader_tells_what_is_served(home: Home, settings: Settings) -> None:
    quiet = settings.model_copy(update={"features": settings.features.model_copy(update={"promote": False})})
    first = kar.release.open(home.published).id
    runner.run_all(quiet, home, NEXT, lambda: LATER, ["features", "report"])
    second = released.of_date(home, NEXT)
    assert kar.release.open(home.published).id == first != second
    assert f"{second}  (not promoted)" in show.finished(home, NEXT)
    assert "It is published, but CURRENT points elsewhere." in page_of(home, NEXT)

    done = released.promote_date(home, NEXT, LATER)
    assert (done.is_promoted, done.served) == (True, second)
    assert not pq.read_table(home.partition("features", NEXT).table("release")).to_pylist()[0]["is_promoted"], "as it was at publication"
    assert f"{second}  (CURRENT)" in show.finished(home, NEXT)
    assert f"{first}  (not promoted)" in show.finished(home, DAY)
    assert said(registry(settings, home))["kar_release_info"] == {(second, kar.release.open(home.published).space_id): 1}
    assert [one.id for one in kar.release.list_releases(home.published) if one.is_current] == [second]

    runner.run_stage("report", quiet, home, NEXT, LATER)
    assert f"CURRENT points at it, since {LATER:%Y-%m-%d %H:%M:%S} UTC." in page_of(home, NEXT)
    made_at = Manifest.read(home.partition("report", NEXT).manifest_path).made_at
    runner.run_stage("report", quiet, home, NEXT, LATER + dt.timedelta(hours=3))
    assert Manifest.read(home.partition("report", NEXT).manifest_path).made_at == made_at


def test_a_later_promotion_makes_no_page_of_a_past_night_again(home: Home, settings: Settings) -> None:
    before = Manifest.read(home.partition("report", DAY).manifest_path)
    assert "CURRENT points at it, since" in page_of(home, DAY)
    runner.run_all(settings, home, NEXT, lambda: LATER, ["features", "report"])
    assert kar.release.open(home.published).id == released.of_date(home, NEXT)
    good = settings.model_copy(update={"adaptor": settings.adaptor})
    assert runner.run_stage("report", good, home, DAY, LATER) == before


def test_a_release_that_its_gate_held_back_is_said_to_be_until_it_is_served(home: Home, settings: Settings) -> None:
    strict = settings.features.gate.model_copy(update={"min_sample": 2, "max_mean_cosine": 0.01})
    held = settings.model_copy(update={"features": settings.features.model_copy(update={"promote": False, "gate": strict})})
    runner.run_all(held, home, NEXT, lambda: LATER, ["features", "report"])
    checks = list(Manifest.read(home.partition("features", NEXT).manifest_path).failed_checks)
    assert checks[0].startswith("collapse ")
    line = f"not served: release {released.of_date(home, NEXT)}, failed: {', '.join(checks)}"
    assert line in show.subject(settings, home, "item", "3", DAY)
    assert "(not promoted, failed: collapse" in show.finished(home, NEXT)
    assert "so the release is published and the last one is still served" in page_of(home, NEXT)
    with pytest.raises(GateFailed, match="checks failed: collapse"):
        released.promote_date(home, NEXT, LATER)
    released.promote_date(home, NEXT, LATER, despite_gate=True)
    assert line not in show.subject(settings, home, "item", "3", DAY)
    assert "(CURRENT)" in show.finished(home, NEXT)
    runner.run_stage("report", held, home, NEXT, LATER)
    assert "is still served" not in page_of(home, NEXT)


# ---- the command


def test_the_commands_answer_programs_and_decide(made: Path, home: Home) -> None:
    from tests.cli.in_process import kar as command
    from tests.test_cli import ROOT, SETTINGS

    folder = home.root.parent
    more = f"""
[knowledge]
imports = {{ "item.facts" = "{made / "data" / "facts.jsonl"}" }}
[adaptor]
backbones = ["fibinet"]
user_views = []
arms = ["base", "knowledge"]
epochs = 1
resamples = 100
embedding_dim = 8
expert_hidden = 8
mlp = [8]
threads = 1
gate = {{ min_valid_users = 1, min_valid_examples = 1, min_auc = 1.0 }}
"""
    (folder / "world.toml").write_text(SETTINGS.format(folder=made / "data", prompts=ROOT / "prompts") + more)
    on = ("-s", "world.toml")

    def told(*arguments: str) -> str:
        done = command(folder, "training", *arguments, *on)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        return done.stdout

    due = json.loads(told("due", "--date", NEXT.isoformat(), "--json").splitlines()[-1])
    assert (due["due"], due["training"]) == (False, DAY.isoformat())
    assert [one["state"] for one in json.loads(told("list", "--json"))] == ["held back", "in use"]
    assert "is promoted; the one in use" in told("promote", "--date", NEXT.isoformat(), "--why", "a look")
    assert "is held back; the one in use" in told("hold", "--date", NEXT.isoformat())
    assert "held back" in told("list")
    ended = command(folder, "run", "adaptor", "--date", NEXT.isoformat(), "--json", *on)
    assert ended.returncode == 3, ended.stderr
    outcome = json.loads(ended.stdout.splitlines()[-1])
    assert (outcome["stage"], outcome["figures"]["held_back"]) == ("adaptor", True)
    assert f"the training of {NEXT} is made and held back, and that of {DAY} stays in use: auc" in ended.stderr
    assert command(folder, "run", "adaptor", "--date", NEXT.isoformat(), *on).returncode == 3, "a second time, without training"
    missing = command(folder, "training", "promote", "--date", "2026-01-01", *on)
    assert missing.returncode == 1
    assert "adaptor has not been made for 2026-01-01" in missing.stderr
