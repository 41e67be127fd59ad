"""What people are told: three messages that ask for different things, and a fourth for all else that fails.

    gate failed      all work is done; somebody decides
    budget stop      the release appears, with less new knowledge than planned
    deadline missed  questions were stopped by the clock, or the release came late or not yet
    task failed      no retry is left

Each names the command that looks closer. It goes to the task's log and to the deployment's KAR_NOTIFY on standard input.

The deadline is watched three times: a shard stops in time, which the knowledge task tells; promotion tells when it came late;
and at the time itself kar_deadline.py tells that a night's release is not there, whatever became of the night. Airflow's own
DeadlineAlert is not used: in 3.3.2 its references are empty or per queue in partitioned runs, it would hold backfills to the
clock too, and `airflow dags test` of a DAG that carries one ends in a traceback (DagRun.update_state looks its id up wrongly).
"""

from __future__ import annotations

import datetime as dt
import logging
import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deployment import Deployment
from night import due_at
from partition import partition_date
from runner import HeldBack, environment_without_secrets, summary

Kind = Literal["gate failed", "budget stop", "deadline missed", "task failed"]
_NOTIFY_S = 30
log = logging.getLogger("kar.notices")


@dataclass(frozen=True)
class Notice:
    """One message. `look` is the command that looks closer."""

    kind: Kind
    date: str
    what: str
    look: str

    @property
    def text(self) -> str:
        return f"kar: {self.kind}: {self.date}: {self.what}\nlook closer: {self.look}"


def send(notice: Notice, deployment: Deployment) -> None:
    """To the log, and to KAR_NOTIFY. A messenger that fails is logged: it must not fail the task that it tells about."""
    log.warning("%s", notice.text)
    if not deployment.notify:
        return
    try:
        subprocess.run(
            shlex.split(deployment.notify),
            input=notice.text,
            text=True,
            timeout=_NOTIFY_S,
            check=True,
            env={**environment_without_secrets(), "KAR_NOTICE": notice.kind},
            stdout=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.error("KAR_NOTIFY did not take the message: %s", error)  # noqa: TRY400 (a person reads it; the stack says nothing more)


def of_failure(deployment: Deployment) -> Callable[[Any], None]:
    """`on_failure_callback` of every task: a gate held something back, or the last try failed."""

    def told(context: Mapping[str, Any]) -> None:
        send(failure(context, deployment), deployment)

    return told


def failure(context: Mapping[str, Any], deployment: Deployment) -> Notice:
    """The notice for a task that failed for good."""
    date, error = partition_date(context), context.get("exception")
    task_id = context["ti"].task_id
    if isinstance(error, HeldBack):
        look = f"training list{_settings(deployment)}" if task_id == "adaptor" else f"release list{_settings(deployment)}"
        return Notice("gate failed", date, f"{task_id}: {error}", f"kar {look}")
    what = f"{task_id} failed: {error or 'its process was killed'}"
    return Notice("task failed", date, what, f"kar status{_settings(deployment)}")


def after_questions(deployment: Deployment) -> Callable[[Any, Any], None]:
    """`post_execute` of the knowledge task: what ended the questions, if it was not their end."""

    def told(context: Mapping[str, Any], result: Any = None) -> None:
        notice = stop(partition_date(context), summary(result), deployment)
        if notice:
            send(notice, deployment)

    return told


def stop(date: str, said: Mapping[str, Any], deployment: Deployment) -> Notice | None:
    """The notice for what `kar run knowledge --json` says of the night's end; None if every question was asked."""
    stopped_by = str((said.get("figures") or {}).get("stopped_by") or "")
    left = (said.get("rejected") or {}).get("over_budget", 0)
    look = f"kar plan --date {date}{_settings(deployment)}"
    if stopped_by.endswith("_budget"):
        return Notice("budget stop", date, f"the {stopped_by.replace('_', ' ')} was reached, {left} planned subjects were not asked", look)
    if stopped_by == "deadline":
        what = f"questions were stopped in time to publish, {left} planned subjects were not asked; the release tells its coverage"
        return Notice("deadline missed", date, what, look)
    return None


def lateness(context: Mapping[str, Any], deployment: Deployment, now: dt.datetime) -> Notice | None:
    """The notice for a release that was promoted after it was due; None if it was not late or nobody waits."""
    due = due_at(context["dag_run"], deployment.publish_by, now)
    if due is None or now <= due:
        return None
    what = f"served at {now:%H:%M} UTC, due at {due:%H:%M}"
    return Notice("deadline missed", partition_date(context), what, f"kar release show{_settings(deployment)}")


def absence(date: str, deployment: Deployment) -> Notice:
    """The notice for a night whose release is not served when it is due; kar_deadline.py found out."""
    what = f"no release of that night is served at {deployment.publish_by:%H:%M} UTC, when it is due"
    return Notice("deadline missed", date, what, f"kar status{_settings(deployment)}")


def _settings(deployment: Deployment) -> str:
    return f" --settings {shlex.quote(deployment.settings)}" if deployment.settings else ""
