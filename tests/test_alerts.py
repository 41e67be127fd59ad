"""The alert rules and the dashboard against the gauges that exist, by Prometheus' own grammar; and, where promtool is, by its own evaluation."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import typer
import yaml
from promql_parser import Expr, VectorSelector

from kar import flow
from kar.cli import app
from kar.observed import GAUGES

FOLDER = Path(__file__).parents[1] / "observability"
ALERTS = FOLDER / "kar-alerts.yml"
RULES: list[dict[str, Any]] = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
PROMTOOL = shutil.which("promtool")


def selectors(expression: str) -> list[VectorSelector]:
    """Every metric that an expression asks for, with its matchers. Raises ValueError for what Prometheus would not read."""
    found: list[VectorSelector] = []

    def look(expr: Expr) -> bool:
        if isinstance(expr, VectorSelector):
            found.append(expr)
        return True

    promql_parser.walk(promql_parser.parse(expression), look)
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_a_rule_asks_for_gauges_and_labels_that_exist_and_says_where_to_look(rule: dict[str, Any]) -> None:
    asked = selectors(rule["expr"])
    assert asked
    for one in asked:
        assert one.name in GAUGES
        assert {matcher.name for matcher in one.matchers.matchers} <= {"scenario", *GAUGES[one.name][1]}
    told = rule["annotations"]["summary"] + rule["annotations"]["description"]
    known = {label for one in asked for label in GAUGES[one.name][1]} | {"scenario"}
    assert set(re.findall(r"\$labels\.(\w+)", told)) <= known
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert "Look: " in rule["annotations"]["description"]


def test_there_is_a_rule_for_what_the_night_shift_must_know() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) == 11
    asked = {one.name for rule in RULES for one in selectors(rule["expr"])}
    assert {
        *("kar_release_published_timestamp_seconds", "kar_gate_passed", "kar_coverage_share", "kar_stopped_by", "kar_cost_usd"),
        *("kar_training_held_back", "kar_stage_made_timestamp_seconds"),
    } <= asked


def test_the_reasons_stages_and_commands_that_rules_name_exist() -> None:
    said = ALERTS.read_text()
    wanted = [matcher for rule in RULES for one in selectors(rule["expr"]) for matcher in one.matchers.matchers]
    stages = {matcher.value for matcher in wanted if matcher.name == "stage"}
    assert stages == {"features", "knowledge"}
    assert stages <= set(flow.NAMES)
    reasons = {value for matcher in wanted if matcher.name == "reason" for value in matcher.value.split("|")}
    assert {"token_budget", "usd_budget", "deadline"} <= reasons
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"\bkar ([a-z]+)", said)) - {"rules"}
    assert len(named) >= 5
    assert named <= commands


def test_every_expression_of_the_dashboard_can_be_read() -> None:
    panels = json.loads((FOLDER / "kar-dashboard.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) >= 24
    for expression in expressions:
        for one in selectors(expression):
            assert {matcher.name for matcher in one.matchers.matchers} <= {"scenario", *GAUGES[one.name][1]}, expression
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels)


HEALTHY = {
    'kar_stage_made_timestamp_seconds{scenario="shop",stage="features"}': "0x400",
    'kar_release_info{scenario="shop",release="r",space_id="s"}': "1x400",
    'kar_release_published_timestamp_seconds{scenario="shop"}': "60000x400",
    'kar_gate_passed{scenario="shop",gate="release",check="rows user"}': "1x400",
    'kar_release_held_back{scenario="shop"}': "0x400",
    'kar_training_held_back{scenario="shop"}': "0x400",
    'kar_stopped_by{scenario="shop",reason="none"}': "1x400",
    'kar_stopped_by{scenario="shop",reason="deadline"}': "0x400",
    'kar_stopped_by{scenario="shop",reason="usd_budget"}': "0x400",
    'kar_coverage_share{scenario="shop",view="item.facts"}': "0.8x400",
    'kar_cost_usd{scenario="shop"}': "2x400",
    'kar_budget_usd{scenario="shop"}': "10x400",
    'kar_rejected_rows{scenario="shop",stage="knowledge",reason="echo"}': "10x400",
    'kar_requests{scenario="shop",from="server"}': "100x400",
    'kar_uplift_auc{scenario="shop",backbone="din",base="thin",arm="base",bound="high"}': "0.01x400",
}
ILL = {
    "KarNoRelease": {"kar_release_published_timestamp_seconds": "0x400"},
    "KarNothingServed": {"kar_release_info": None},
    "KarNotObserved": {"kar_stage_made_timestamp_seconds": None},
    "KarGateFailed": {"kar_gate_passed": "1x200 0x200", "kar_release_held_back": "0x200 1x200"},
    "KarTrainingHeldBack": {"kar_training_held_back": "1x400"},
    "KarBudgetStop": {'kar_stopped_by{scenario="shop",reason="usd_budget"}': "1x400"},
    "KarDeadlineStop": {'kar_stopped_by{scenario="shop",reason="deadline"}': "1x400"},
    "KarCoverageFell": {"kar_coverage_share": "0.8x200 0.7x200"},
    "KarCostAbove": {"kar_cost_usd": "9.5x400"},
    "KarAnswersRefused": {"kar_rejected_rows": "40x400"},
    "KarKnowledgeHarms": {"kar_uplift_auc": "-0.001x400"},
}
"""What each rule is for, over what a healthy scenario says; None: it is not said."""


@pytest.mark.skipif(PROMTOOL is None, reason="promtool, which comes with Prometheus, is not here: the rules are read, not evaluated")
def test_every_rule_wakes_for_what_it_is_for_and_sleeps_over_a_healthy_scenario(tmp_path: Path) -> None:
    assert set(ILL) == {rule["alert"] for rule in RULES}
    tests = [_case(None, {})] + [_case(name, changed) for name, changed in ILL.items()]
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "5m", "tests": tests}))
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "test", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _case(name: str | None, changed: dict[str, str | None]) -> dict[str, Any]:
    """A day and a bit of samples, five minutes apart; at its end that one rule fires and no other."""
    series = []
    for selector, values in HEALTHY.items():
        ill = [value for metric, value in changed.items() if selector == metric or selector.startswith(metric + "{")]
        if ill != [None]:
            series.append({"series": selector, "values": ill[0] if ill else values})
    fired = [] if name is None else [{"labels": f'{{alertname="{name}"}}', "value": 1}]
    asked = {"eval_time": "1600m", "expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "exp_samples": fired}
    return {"interval": "5m", "input_series": series, "promql_expr_test": [asked]}
