"""The gate of a training: each limit is failed by one training and passed by the next to it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from kar.release.verdicts import GateVerdict
from kar.settings.schema import TrainingGateSettings
from kar.training_gate import Measured, judge, told, valid_auc

GOOD = Measured(
    date="2026-11-19",
    protocol="rules",
    base="same_evidence",
    backbone="fibinet",
    auc=0.75,
    base_auc=0.74,
    seed_count=2,
    users=40,
    examples=2_000,
    test_users=50,
    covered_share=0.6,
    not_finite=0,
)
LAST = replace(GOOD, date="2026-11-12", auc=0.76)


def verdicts(now: Measured, last: Measured | None = LAST, **limits: Any) -> dict[str, GateVerdict]:
    return {verdict.check: verdict for verdict in judge(now, last, TrainingGateSettings(**limits))}


def failed(now: Measured, last: Measured | None = LAST, **limits: Any) -> list[str]:
    return [check for check, verdict in verdicts(now, last, **limits).items() if not verdict.is_passed]


def test_a_good_training_passes_every_check_with_a_measurement() -> None:
    found = verdicts(GOOD)
    assert list(found) == ["finite", "auc", "over base", "since last", "covered", "test users"]
    assert all(verdict.is_passed and verdict.measured is not None for verdict in found.values())


@pytest.mark.parametrize(
    ("check", "bad", "just"),
    [
        ("finite", {"not_finite": 1}, {"not_finite": 0}),
        ("auc", {"auc": 0.4999, "base_auc": 0.5}, {"auc": 0.5, "base_auc": 0.5}),
        ("over base", {"base_auc": 0.7701}, {"base_auc": 0.7699}),
        ("since last", {"auc": 0.7099, "base_auc": 0.7}, {"auc": 0.7101, "base_auc": 0.7}),
        ("test users", {"test_users": 0}, {"test_users": 1}),
    ],
)
def test_each_default_limit_is_failed_beyond_it_and_passed_at_it(check: str, bad: dict[str, Any], just: dict[str, Any]) -> None:
    is_low = check == "auc"  # there the last training is as low, so that it alone decides
    last = replace(LAST, auc=0.5) if is_low else LAST
    assert failed(replace(GOOD, **bad), last) == [check]
    assert failed(replace(GOOD, **just), last) == []


@pytest.mark.parametrize(
    ("limit", "check", "value"),
    [
        ("min_auc", "auc", (0.76, 0.75)),
        ("max_loss_to_base", "over base", (0.009, 0.011)),
        ("max_drop", "since last", (0.009, 0.011)),
        ("min_covered_share", "covered", (0.61, 0.6)),
        ("min_test_users", "test users", (51, 50)),
    ],
)
def test_each_setting_moves_its_limit(limit: str, check: str, value: tuple[float, float]) -> None:
    now = replace(GOOD, base_auc=0.76) if check == "over base" else GOOD
    assert failed(now, **{limit: value[0]}) == [check]
    assert failed(now, **{limit: value[1]}) == []
    assert verdicts(now, **{limit: value[1]})[check].limit == pytest.approx(-value[1] if limit.startswith("max") else value[1])


def test_of_fewer_users_than_the_limit_no_auc_is_held_against_anything() -> None:
    bad = replace(GOOD, auc=0.1, users=29)
    assert failed(bad) == []
    assert {check for check, verdict in verdicts(bad).items() if verdict.measured is None} == {"auc", "over base", "since last"}
    assert failed(replace(bad, users=30)) == ["auc", "over base", "since last"]
    assert failed(bad, min_valid_users=29) == ["auc", "over base", "since last"]


def test_nor_of_fewer_examples_than_the_limit() -> None:
    bad = replace(GOOD, auc=0.1, examples=999)
    assert failed(bad) == []
    assert verdicts(bad)["auc"].why == "valid has 999 examples, fewer than 1000"
    assert failed(replace(bad, examples=1000)) == ["auc", "over base", "since last"]
    assert failed(bad, min_valid_examples=999) == ["auc", "over base", "since last"]


def test_an_auc_that_is_not_defined_fails_where_there_are_users_enough_and_is_not_measured_elsewhere() -> None:
    one_label = replace(GOOD, auc=math.nan, base_auc=math.nan)
    assert failed(one_label) == ["auc"]
    assert "all 2000 examples have one label" in verdicts(one_label)["auc"].why
    assert failed(replace(one_label, users=3)) == []


def test_what_was_not_trained_or_not_measured_is_passed() -> None:
    assert failed(replace(GOOD, auc=None)) == []
    assert verdicts(replace(GOOD, base_auc=None))["over base"].measured is None
    assert verdicts(GOOD, None)["since last"].measured is None
    assert verdicts(replace(GOOD, covered_share=None))["covered"].measured is None


@pytest.mark.parametrize("changed", [{"protocol": "others"}, {"base": "rich"}, {"users": 5}, {"examples": 5}, {"auc": None}])
def test_a_last_training_that_cannot_be_compared_with_is_not(changed: dict[str, Any]) -> None:
    high = replace(LAST, auc=0.99)
    assert failed(GOOD, high) == ["since last"]
    assert failed(GOOD, replace(high, **changed)) == []


def test_a_last_training_of_another_backbone_is_compared_with() -> None:
    assert failed(GOOD, replace(LAST, auc=0.99, backbone="din")) == ["since last"]


def test_what_a_manifest_holds_is_what_was_measured_and_an_older_manifest_holds_nothing() -> None:
    assert told({"valid": GOOD.figures()}) == GOOD
    assert told({"valid": replace(GOOD, auc=math.nan).figures()}) == replace(GOOD, auc=None)
    assert told({}) is None
    assert told({"valid": {"auc": 0.7}}) is None


def test_the_valid_auc_is_the_mean_over_seeds_of_one_arm_on_valid_over_all() -> None:
    def row(value: float, **changed: str) -> dict[str, Any]:
        key = {"base": "thin", "backbone": "din", "arm": "knowledge", "split": "valid", "slice": "all", "metric": "auc"}
        return {**key, **changed, "value": value}

    others = [row(0.0, **{name: "other"}) for name in ("base", "backbone", "arm", "split", "slice", "metric")]
    assert valid_auc([row(0.6), *others, row(0.8)], "thin", "din", "knowledge") == (pytest.approx(0.7), 2)
    assert valid_auc(others, "thin", "din", "knowledge") == (None, 0)
