"""What a night decides: into how many shards its questions go, until when they may be asked, whether its release is served.

Pure functions of the standard library; kar_nightly.py asks them with what Airflow knows of a run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any


def shard_arguments(requests: int, date: str, *, most: int, per_shard: int, until: dt.datetime | None = None) -> list[list[str]]:
    """kar's arguments for each shard of a night's questions.

    Args:
        requests: how many requests the prompts stage wrote.
        most: no more shards than that; at least there is one, which also says that there was nothing to ask.
        per_shard: requests that make one shard.
        until: each shard is told the seconds left until then, when it starts; None: no deadline.
    """
    count = min(max(-(-requests // per_shard), 1), most)
    limit = ["--stop-in", f"until {until.isoformat()}"] if until else []
    return [["ask", "--date", date, "--shard", f"{index}/{count}", *limit, "--json"] for index in range(count)]


def due_at(run: Any, publish_by: dt.time | None, now: dt.datetime) -> dt.datetime | None:
    """When this run's release is due: the first `publish_by` (UTC) after the run's time.

    None: there is no deadline. Only the scheduled run of a current night has one; one that is run again on a later day, a
    backfill and a run that a person started have not, for nobody waits for them at six.
    """
    if publish_by is None or run_type(run) != "scheduled":
        return None
    after = run.run_after.astimezone(dt.UTC)
    due = dt.datetime.combine(after.date(), publish_by, tzinfo=dt.UTC)
    due = due if due > after else due + dt.timedelta(days=1)
    return due if now.astimezone(dt.UTC).date() <= due.date() else None


def is_served(run: Any, params: Mapping[str, Any]) -> bool:
    """Whether the run may move CURRENT: as `params.promote` says; without a word, every run but a backfill's."""
    said = params.get("promote")
    return run_type(run) != "backfill" if said is None else bool(said)


def trainings(run: Any, due: Mapping[str, Any]) -> list[str]:
    """The tasks that follow the question whether a training is due (`kar training due --json`).

    The first night of all trains by itself, for without a checkpoint there is no release. Later a training is a run of its
    own, which no night waits for. A backfill trains nothing: a date before the first training gets knowledge and no release.
    """
    is_first = bool(due.get("due")) and not due.get("training")
    if run_type(run) == "backfill":
        return [] if is_first else ["features"]
    if is_first:
        return ["examples"]
    return ["train", "features"] if due.get("due") else ["features"]


def run_type(run: Any) -> str:
    """scheduled, manual, backfill or asset_triggered."""
    kind = getattr(run, "run_type", "")
    return str(getattr(kind, "value", kind))
