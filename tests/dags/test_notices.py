"""dags/notices.py: three messages that ask for different things, and where they go."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException
from deployment import Deployment
from notices import Notice, absence, after_questions, failure, lateness, of_failure, send, stop
from runner import HeldBack

SHOP = Deployment(settings="shop.toml")
NIGHT = SimpleNamespace(
    conf=None,
    partition_key="2026-11-19",
    run_type="scheduled",
    run_after=dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC),
    run_id="scheduled__1",
)
LATE = dt.datetime(2026, 11, 20, 6, 12, tzinfo=dt.UTC)


def context(task_id: str = "promote", error: BaseException | None = None) -> dict[str, Any]:
    return {"dag_run": NIGHT, "ti": SimpleNamespace(task_id=task_id), "exception": error}


def test_a_failed_gate_a_budget_stop_and_a_missed_deadline_are_three_messages_with_a_command_each() -> None:
    gate = failure(context(error=HeldBack("coverage fell from 0.9 to 0.4")), SHOP)
    budget = stop("2026-11-19", {"figures": {"stopped_by": "token_budget"}, "rejected": {"over_budget": 41}}, SHOP)
    deadline = lateness(context(), SHOP, LATE)
    assert budget is not None
    assert deadline is not None
    assert [notice.kind for notice in (gate, budget, deadline)] == ["gate failed", "budget stop", "deadline missed"]
    assert "coverage fell" in gate.text
    assert gate.look == "kar release list --settings shop.toml"
    assert "the token budget was reached, 41 planned subjects were not asked" in budget.text
    assert budget.look == "kar plan --date 2026-11-19 --settings shop.toml"
    assert "served at 06:12 UTC, due at 06:00" in deadline.text
    assert deadline.look == "kar release show --settings shop.toml"


def test_a_training_that_its_gate_holds_back_points_at_the_trainings() -> None:
    assert failure(context("adaptor", HeldBack("no gain")), SHOP).look == "kar training list --settings shop.toml"


def test_any_other_failure_is_told_as_one() -> None:
    assert failure(context("vectors", AirflowException("kar ended with exit code 1: kar: no table")), SHOP).kind == "task failed"
    assert "its process was killed" in failure(context("vectors"), SHOP).what


@pytest.mark.parametrize(
    ("stopped_by", "kind"),
    [("usd_budget", "budget stop"), ("token_budget", "budget stop"), ("deadline", "deadline missed"), ("", None), (None, None)],
)
def test_what_stopped_the_questions_decides_the_message(stopped_by: str | None, kind: str | None) -> None:
    notice = stop("2026-11-19", {"figures": {"stopped_by": stopped_by}}, SHOP)
    assert (notice.kind if notice else None) == kind


def test_a_release_in_time_and_one_that_nobody_waits_for_are_not_late() -> None:
    assert lateness(context(), SHOP, LATE.replace(hour=5)) is None
    assert lateness({"dag_run": SimpleNamespace(**{**vars(NIGHT), "run_type": "backfill"})}, SHOP, LATE) is None


def test_a_night_without_a_release_is_told_at_the_due_time() -> None:
    notice = absence("2026-11-19", SHOP)
    assert notice.kind == "deadline missed"
    assert "no release of that night is served at 06:00 UTC" in notice.text


def _messenger(folder: Path) -> Deployment:
    script = folder / "tell.py"
    script.write_text("import os, sys, pathlib\npathlib.Path(sys.argv[1]).write_text(os.environ['KAR_NOTICE'] + '|' + sys.stdin.read())\n")
    return Deployment(notify=f"{sys.executable} {script} '{folder / 'told it.txt'}'")


def test_a_message_goes_to_the_log_and_to_the_messenger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    of_failure(_messenger(tmp_path))(context(error=HeldBack("the gate said no")))
    told = (tmp_path / "told it.txt").read_text()
    assert told == "gate failed|kar: gate failed: 2026-11-19: promote: the gate said no\nlook closer: kar release list"
    assert told.partition("|")[2] in caplog.text


def test_nothing_is_told_of_questions_that_were_all_asked(tmp_path: Path) -> None:
    after_questions(_messenger(tmp_path))(context(), {"figures": {"stopped_by": ""}})
    assert not (tmp_path / "told it.txt").exists()


@pytest.mark.parametrize("command", ["/no/such/messenger", "false"])
def test_a_messenger_that_fails_fails_nothing_else(command: str, caplog: pytest.LogCaptureFixture) -> None:
    send(Notice("budget stop", "2026-11-19", "what", "kar plan"), Deployment(notify=command))
    assert "KAR_NOTIFY did not take the message" in caplog.text
