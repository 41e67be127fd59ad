"""The features stage behind the promotion gate: what it tells the gate, and how a night ends whose release is held back."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

import kar.release
from kar.errors import GateFailed
from kar.stages.features import held_back
from kar.store import Manifest, Output
from tests import world
from tests.cli.in_process import kar as command
from tests.stages.test_features import DATE, KNOWLEDGE, NOW, VECTORS, Scene, _comparison, _settings
from tests.test_cli import ROOT, SETTINGS

LATER = NOW + dt.timedelta(hours=3)


def scene_of(folder: Path, **gate: Any) -> Scene:
    return Scene(folder, _settings(features={"gate": {"min_sample": 2, **gate}}))


def lose_half(scene: Scene) -> None:
    """The next night loses user 2's knowledge, half of what is known of users, and sees a newer event."""
    newer = {**KNOWLEDGE[0], "evidence_newest_at": NOW - dt.timedelta(hours=2, seconds=1)}
    scene.write("knowledge", knowledge=[newer, KNOWLEDGE[2]])
    scene.write("vectors", knowledge_vector=[VECTORS[0], VECTORS[2]])


def manifest_of(out: Output) -> Manifest:
    return Manifest("features", DATE.isoformat(), "recipe", {}, figures=out.figures, warnings=out.warnings)


def test_a_release_that_loses_coverage_is_published_and_the_last_one_is_still_served(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    first, out = scene.publish()
    assert (first["is_promoted"], out.figures["gate_failed"], held_back(scene.home, manifest_of(out))) == (True, [], None)
    lose_half(scene)
    second, out = scene.publish(as_of=LATER)
    assert (second["is_promoted"], scene.release().id) == (False, first["release_id"])
    assert [entry.id for entry in kar.release.list_releases(scene.home.published)] == [second["release_id"], first["release_id"]]
    assert out.figures["gate_failed"] == ["coverage user.preference"]
    assert out.warnings == [
        "published but not promoted: coverage user.preference: share of 4 users with knowledge, 0.5 in the last release: "
        "0.25, at least 0.45 is wanted"
    ]


def test_a_held_back_release_ends_in_an_error_until_it_or_a_newer_one_is_served(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    scene.publish()
    lose_half(scene)
    row, out = scene.publish(as_of=LATER)
    for _ in range(2):  # a second run, which does nothing, ends as the first
        failed = held_back(scene.home, manifest_of(out))
        assert isinstance(failed, GateFailed)
        assert failed.exit_code == 3
        assert "coverage user.preference: share of 4 users" in failed.what
        assert failed.do.endswith(f"kar release promote --despite-gate {row['release_id']}")
    kar.release.promote(scene.home.published, row["release_id"], LATER, despite_gate=True)
    assert held_back(scene.home, manifest_of(out)) is None


def test_looser_limits_let_the_same_release_pass(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    scene.publish()
    lose_half(scene)
    held, _ = scene.publish(as_of=LATER)
    scene.settings = _settings(features={"gate": {"min_sample": 2, "max_coverage_drop": 0.25}})
    row, out = scene.publish(as_of=LATER + dt.timedelta(hours=1))
    assert (row["release_id"], row["is_promoted"], out.figures["gate_failed"]) == (held["release_id"], True, [])


def test_a_release_that_nobody_wants_promoted_is_judged_and_no_failure(tmp_path: Path) -> None:
    scene = Scene(tmp_path, _settings(features={"promote": False, "gate": {"min_coverage": 0.9}}))
    _, out = scene.publish()
    assert [v["check"] for v in out.figures["gate"] if not v["is_passed"]][:1] == ["coverage user.preference"]
    assert (out.figures["gate_failed"], out.warnings) == ([], [])


def test_a_backfill_is_not_held_against_the_newer_release(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    scene.publish()
    older = [{**row, "evidence_newest_at": None} for row in (KNOWLEDGE[0], KNOWLEDGE[2])]
    scene.write("knowledge", knowledge=older)
    scene.write("vectors", knowledge_vector=[VECTORS[0], VECTORS[2]])
    row, out = scene.publish(as_of=LATER)
    assert (row["is_promoted"], out.figures["gate_failed"], held_back(scene.home, manifest_of(out))) == (False, [], None)
    assert "CURRENT serves a newer one" in out.warnings[0]
    assert {v["measured"] for v in out.figures["gate"] if v["check"].startswith("rows")} == {None}


@pytest.mark.parametrize(("share", "failed"), [(0.3, []), (0.4, ["reasons item.facts"])])
def test_the_gate_hears_of_tonight_s_and_last_night_s_refusals(tmp_path: Path, share: float, failed: list[str]) -> None:
    scene = scene_of(tmp_path)
    _figures(scene, DATE - dt.timedelta(days=1), last_judged={"item.facts": {"judged": 50, "refused_share": {"echo": 0.1}}})
    _figures(scene, DATE, quality={"item.facts": {"judged": 40, "refused_share": {"echo": share}}})
    _, out = scene.publish()
    assert out.figures["gate_failed"] == failed
    assert {v["check"]: v["measured"] for v in out.figures["gate"]}["rejected item.facts"] == share


def _figures(scene: Scene, date: dt.date, **figures: Any) -> None:
    """The knowledge partition of a date with these figures; that of DATE keeps its tables."""
    partition = scene.home.partition("knowledge", date)
    if not partition.exists():
        scene.write("knowledge", date, knowledge=KNOWLEDGE, refused=[])
    made = Manifest.read(partition.manifest_path)
    made.figures = figures
    made.write(partition.path)


def test_an_uplift_that_is_asked_for_is_a_check_like_any_other(tmp_path: Path) -> None:
    scene = Scene(tmp_path, _settings(features={"require_uplift": True}))
    scene.write("adaptor", comparison=_comparison(low=-0.01))
    _, out = scene.publish()
    assert out.figures["gate_failed"] == ["uplift"]
    (uplift,) = [v for v in out.figures["gate"] if v["check"] == "uplift"]
    assert (uplift["measured"], uplift["limit"]) == (-0.01, 0.0)


@pytest.mark.slow  # trains
def test_the_command_publishes_reports_and_ends_with_3(tmp_path: Path) -> None:
    world.write(tmp_path / "data", users=40)
    imports = world.facts(tmp_path / "data")
    text = SETTINGS.format(folder=tmp_path / "data", prompts=ROOT / "prompts")
    text += f"""
[knowledge]
imports = {{ "item.facts" = "{imports}" }}
[examples]
valid_share = 0.2
test_share = 0.3
[adaptor]
backbones = ["fibinet"]
user_views = []
epochs = 1
resamples = 100
threads = 1
embedding_dim = 8
[features.gate]
max_mean_cosine = 0.01
min_sample = 2
"""
    text = text.replace('folder = "' + str(ROOT / "prompts"), 'views = ["item.facts"]\nfolder = "' + str(ROOT / "prompts"))
    (tmp_path / "world.toml").write_text(text)
    arguments = ("-s", "world.toml", "--date", world.LAST_DAY.isoformat())
    done = command(tmp_path, "run", "all", *arguments)
    assert done.returncode == 3, done.stderr[-2000:]
    assert "(not promoted, failed: collapse" in done.stdout
    assert "is published, but not promoted" in done.stderr
    assert list((tmp_path / "home/world/report").glob("date=*/index.html"))
    assert command(tmp_path, "run", "features", *arguments).returncode == 3
    assert command(tmp_path, "run", "report", *arguments).returncode == 0
