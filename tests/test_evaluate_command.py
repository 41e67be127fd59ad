"""`kar evaluate`: a finished training judged in a terminal, over a home whose numbers are known."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kar.cli import app
from kar.errors import NotMade
from kar.evaluation import evaluation, text
from kar.store import Home
from tests.page import fake_home
from tests.page.fake_home import DATE, Plan

ABLATIONS = ("item_only", "masked", "without:mood")


def told(root: Path, plan: Plan | None = None) -> dict[str, Any]:
    settings, home = fake_home.build(root, plan)
    return evaluation(settings, home, None)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return told(tmp_path_factory.mktemp("home"), Plan(ablations=ABLATIONS))


def lines(printed: str, *words: str) -> list[str]:
    return [" ".join(line.split()) for line in printed.splitlines() if all(word in line for word in words)]


def test_every_base_and_backbone_has_its_arms_with_mean_and_spread_over_seeds(full: dict[str, Any]) -> None:
    printed = text(full)
    assert len(lines(printed, "over the same evidence")) >= 2
    assert len(lines(printed, "fibinet over the same evidence, published")) == 1
    assert "knowledge 0.7921 ± 0.0006 0.7611 ± 0.0006 0.5279 ± 0.0006 +4.28 % 0.0079 ± 0.0006 0.3100 ± 0.0000" in lines(
        printed, "knowledge"
    )
    assert len(lines(printed, "without:mood", "±")) == 2


def test_the_difference_s_line_has_interval_p_and_what_could_be_found(full: dict[str, Any]) -> None:
    found = lines(text(full), "knowledge − text", "+0.0034")
    assert found[0] == "knowledge − text +0.0034 +0.0012 … +0.0056 0.002 – 0.0031 +0.0027 −0.0017"


def test_an_ablation_s_p_is_shown_as_found_and_as_corrected(full: dict[str, Any]) -> None:
    row = next(r for r in full["runs"][0]["differences"] if r["arm_b"] == "item_only")
    assert (row["family"], row["family_count"]) == ("ablations", 3)
    line = lines(text(full), "knowledge − item_only")[0]
    assert f"{row['p']:.3f} {row['p_holm']:.3f}" in line
    assert row["p_holm"] == pytest.approx(3 * row["p"])


def test_the_curve_runs_from_the_never_trained_to_the_often_trained(full: dict[str, Any]) -> None:
    named = [line.split()[0] for line in lines(text(full), "item:")[1:]]
    assert named[:5] == ["item:0", "item:1-5", "item:6-20", "item:21-100", "item:101+"]
    assert "*" in lines(text(full), "item:0")[0]


def test_the_published_run_the_verdict_the_power_and_the_cost_stand_last(full: dict[str, Any]) -> None:
    *_, verdict, power, cost = text(full).splitlines()
    assert verdict.startswith(
        "verdict  Over the same evidence, knowledge beats raw text by +0.0034 AUC (95 % +0.0012 … +0.0056); beats shuffled"
    )
    assert verdict.endswith(f"it cost {full['cost']['tokens'] / 1000:.0f} k tokens.")
    assert "0.0031 AUC" in power
    assert cost.startswith("cost     ")


def test_the_cost_is_of_the_texts_in_use_beside_what_the_night_took(full: dict[str, Any]) -> None:
    cost = full["cost"]
    assert cost["texts"] == 12 + 9  # half of 24 users and 18 items, see the fates of fake_home
    assert cost["tokens"] == cost["texts"] * (412 + 118)
    assert cost["asked_tokens"] == 86_120 + 33_410
    assert (cost["imported"], cost["usd"]) == (0, 0.0)


def test_money_is_counted_at_the_settings_prices(tmp_path: Path) -> None:
    prices = {"usd_per_million_prompt_tokens": 1000.0, "usd_per_million_completion_tokens": 10_000.0}
    cost = told(tmp_path, Plan(settings={"llm": prices}))["cost"]
    assert cost["usd"] == pytest.approx(cost["texts"] * (412 * 0.001 + 118 * 0.01))


def test_imported_texts_have_no_known_cost_and_the_sentence_claims_none(tmp_path: Path) -> None:
    imported = {"knowledge": lambda rows: [row | {"origin": "import", "prompt_tokens": 0, "completion_tokens": 0} for row in rows]}
    printed = text(told(tmp_path, Plan(edit=imported)))
    assert "21 texts imported, whose cost is not known" in printed
    assert "it cost" not in printed


def test_how_often_test_was_touched_is_said(full: dict[str, Any]) -> None:
    assert "each arm met the test examples 3 ×, once a seed" in text(full)


def test_a_refused_verdict_is_an_answer(tmp_path: Path) -> None:
    printed = text(told(tmp_path, Plan(kind="too_few")))
    assert lines(printed, "verdict")[0].startswith("verdict Too few test users to tell: over the same evidence")


def test_an_uplift_over_a_thin_base_is_said_to_be_one_from_data(tmp_path: Path) -> None:
    found = told(tmp_path, Plan(base="thin"))
    assert found["runs"][0]["verdict"]["kind"] == "from_data"
    assert "an uplift over it is one from data, not from knowledge" in text(found)


def test_a_difference_that_is_not_defined_is_a_dash_and_null(tmp_path: Path) -> None:
    undefined = {
        "comparison": lambda rows: [
            r | dict.fromkeys(("difference", "low", "high", "se", "p", "p_holm", "detectable"), math.nan) for r in rows
        ]
    }
    found = told(tmp_path, Plan(edit=undefined))
    assert {row["difference"] for row in found["runs"][0]["differences"]} == {None}
    assert "nan" not in text(found).lower()


def test_a_training_whose_knowledge_is_gone_is_judged_without_its_cost(tmp_path: Path) -> None:
    settings, home = fake_home.build(tmp_path)
    shutil.rmtree(home.path / "knowledge")
    printed = text(evaluation(settings, home, None))
    assert "knowledge beats raw text" in printed
    assert printed.endswith("cost     not known: the knowledge that this training met is not here any more")


def test_a_training_without_any_comparison_is_printed_all_the_same(tmp_path: Path) -> None:
    printed = text(told(tmp_path, Plan(arms=("base",), kind="nothing")))
    assert "Whether knowledge helps over the same evidence was not measured" in printed


def test_nothing_trained_says_what_to_run(tmp_path: Path) -> None:
    settings, home = fake_home.build(tmp_path)
    with pytest.raises(NotMade, match="adaptor has not been made for 2026-11-01"):
        evaluation(settings, home, dt.date(2026, 11, 1))
    shutil.rmtree(home.path / "adaptor")
    with pytest.raises(NotMade, match=r"nothing is trained yet[\s\S]*do: run: kar run all"):
        evaluation(settings, home, None)


def _command(tmp_path: Path, *more: str) -> Any:
    fake_home.build(tmp_path)
    (tmp_path / "films.toml").write_text(
        '[scenario]\nname = "fake-films"\ndomain = "movies"\n[sources.interactions]\npath = "x.csv"\nformat = "csv"\n'
        '[sources.interactions.columns]\nuser_id = "user"\nitem_id = "item"\nevent_at = "time"\nrating = "rating"\n'
    )
    arguments = ["evaluate", "--settings", str(tmp_path / "films.toml"), "--home", str(tmp_path), *more]
    return CliRunner().invoke(app, arguments)


def test_the_command_prints_the_page_and_as_json_the_figures(tmp_path: Path) -> None:
    printed = _command(tmp_path / "one")
    assert printed.exit_code == 0, printed.output
    assert printed.output.splitlines()[0].startswith("fake-films, training of 2026-11-19")
    as_json = _command(tmp_path / "two", "--json", "--date", DATE.isoformat())
    assert as_json.exit_code == 0, as_json.output
    found = json.loads(as_json.output)
    assert [(run["backbone"], run["is_published"]) for run in found["runs"]] == [("fibinet", True), ("din", False)]
    assert found["runs"][0]["calibration"][0]["decile"] == 0


def test_the_home_s_scenario_is_the_settings_one(tmp_path: Path) -> None:
    settings, _ = fake_home.build(tmp_path)
    with pytest.raises(NotMade):
        evaluation(settings, Home.of("others", tmp_path), None)
