"""Nights, faults and backfills of one deployment, in the order in which they happen; each test goes on where the one before ended.

The scheduler makes up for five missed nights by itself, the oldest first (KAR_CATCH_UP_FROM). The first three are left alone but for the
language model's server, which is away at the third; then things are killed, and a gate fails.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

import kar.release
from kar.store import Manifest
from tests.airflow.client import OVER, Found, seconds, wait_for
from tests.airflow.conftest import CONCURRENCY, Deployment, command, served

pytestmark = pytest.mark.airflow
NIGHTLY, DOWNSTREAM = "kar_nightly", "kar_downstream_example"
NIGHT_S = 420  # longest wait for a night; on two quiet cores it takes less than a minute


def night(deployment: Deployment, ago: int) -> Found | None:
    """The scheduled run of a date, once there is one."""
    runs = deployment.client.runs(NIGHTLY)
    return next((run for run in runs if run["partition_key"] == deployment.day(ago) and run["run_type"] == "scheduled"), None)


def begun(deployment: Deployment, ago: int) -> str:
    """Wait until a date's night runs; its run id."""
    run: Found = wait_for(f"the night of {deployment.day(ago)}", lambda: night(deployment, ago), NIGHT_S, lambda: told(deployment))
    return str(run["dag_run_id"])


def ended(deployment: Deployment, run_id: str, dag_id: str = NIGHTLY, timeout_s: float = NIGHT_S) -> Found:
    """Wait until a run is over; it, with its state."""

    def look() -> Found | None:
        run = deployment.client.run(dag_id, run_id)
        return run if run["state"] in OVER else None

    found: Found = wait_for(f"the end of {run_id}", look, timeout_s, lambda: deployment.client.explain(dag_id, run_id) + told(deployment))
    return found


def told(deployment: Deployment) -> str:
    """What the parts said last."""
    return "\n".join(f"--- {name}\n{deployment.airflow.log_of(name)}" for name in ("scheduler", "dag-processor"))


def states(deployment: Deployment, run_id: str, dag_id: str = NIGHTLY) -> dict[str, set[str]]:
    """The states of each task of a run; a mapped one has several."""
    found: dict[str, set[str]] = {}
    for task in deployment.client.tasks(dag_id, run_id):
        found.setdefault(task["task_id"], set()).add(str(task["state"]))
    return found


def is_good(deployment: Deployment, run: Found) -> None:
    """The run is a success and CURRENT is a whole release of its date."""
    assert run["state"] == "success", deployment.client.explain(run["dag_id"], run["dag_run_id"])
    date = run["partition_key"] or run["conf"]["date"]
    release = kar.release.open(deployment.home.published, verify=True)
    assert release.id.startswith(date), (release.id, date)


def twice(deployment: Deployment) -> int:
    """How many answers were given that had been given before."""
    return sum(times - 1 for times in deployment.llm.times().values())


def asking(deployment: Deployment) -> list[psutil.Process]:
    """The processes that ask a shard now."""
    found = []
    for process in deployment.airflow.processes():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if line[1:4] == ["-m", "kar", "ask"]:
            found.append(process)
    return found


def note_overhead(deployment: Deployment, run: Found) -> dict[str, float]:
    """Where a run's wall time went, in s: kar's own seconds, the tasks' time beside them, and when no task ran at all."""
    tasks = [t for t in deployment.client.tasks(run["dag_id"], run["dag_run_id"]) if t["start_date"] and t["end_date"]]
    print("\n" + " ".join(f"{t['task_id']}={seconds(t['start_date'], t['end_date']):.1f}" for t in tasks))
    wall = seconds(run["start_date"], run["end_date"])
    own = 0.0
    for task in tasks:
        result = deployment.client.result(task)
        own += float(result.get("seconds") or 0) if isinstance(result, dict) else 0
    busy, until = 0.0, min(task["start_date"] for task in tasks)
    for task in sorted(tasks, key=lambda task: str(task["start_date"])):
        if task["end_date"] > until:
            busy += seconds(max(until, task["start_date"]), task["end_date"])
            until = task["end_date"]
    figures = {"wall_s": wall, "kar_s": own, "overhead_s": wall - own, "tasks_s": busy, "between_tasks_s": wall - busy, "tasks": len(tasks)}
    figures = {name: round(value, 1) for name, value in figures.items()}
    deployment.overhead[str(run["partition_key"])] = figures
    return figures


def test_the_dags_are_parsed_and_the_pools_are_there(deployment: Deployment) -> None:
    errors = deployment.client.get("/importErrors")
    assert errors["total_entries"] == 0, errors
    dags = {dag["dag_id"] for dag in wait_for("all DAGs", lambda: deployment.client.get("/dags")["dags"], 60)}
    assert {NIGHTLY, DOWNSTREAM, "kar_train", "kar_maintenance"} <= dags
    pools = {pool["name"]: pool["slots"] for pool in deployment.client.get("/pools")["pools"]}
    assert {"kar", "kar_llm", "kar_gpu", "kar_publish"} <= set(pools)


def test_missed_nights_run_by_the_schedule_the_oldest_first_and_each_is_served(deployment: Deployment) -> None:
    deployment.client.unpause(DOWNSTREAM)
    deployment.client.unpause(NIGHTLY)
    for ago in (4, 3):
        run = ended(deployment, begun(deployment, ago))
        is_good(deployment, run)
        print(f"\nnight of {deployment.day(ago)}: {note_overhead(deployment, run)} load {os.getloadavg()[0]:.1f}")
    asked = [task for task in deployment.client.tasks(NIGHTLY, begun(deployment, 3)) if task["task_id"] == "llm.ask"]
    assert len(asked) >= 2, "the night's questions were to be split into shards"
    assert twice(deployment) == 0


def test_a_night_waits_for_a_server_that_is_away_in_the_triggerer_and_asks_when_it_is_back(deployment: Deployment) -> None:
    run_id = begun(deployment, 2)
    deployment.llm.stop()
    wait_for(
        "the deferred wait", lambda: "deferred" in states(deployment, run_id).get("llm.server_up", ()), NIGHT_S, lambda: told(deployment)
    )
    deployment.llm.start(delay_s=1.0)
    is_good(deployment, ended(deployment, run_id))
    assert twice(deployment) == 0


def test_a_task_killed_in_mid_shard_goes_on_where_it_was_and_pays_for_nothing_twice_beyond_what_was_in_flight(
    deployment: Deployment,
) -> None:
    run_id = begun(deployment, 1)
    before = deployment.llm.calls()
    shards = wait_for("questions", lambda: deployment.llm.calls() >= before + 4 and asking(deployment), NIGHT_S, lambda: told(deployment))
    shards[0].kill()  # kar itself
    tasks = [t for t in deployment.client.tasks(NIGHTLY, run_id) if t["task_id"] == "llm.ask" and t["state"] == "running" and t["pid"]]
    os.kill(tasks[-1]["pid"], signal.SIGKILL)  # Airflow's process of a task; kar's must end with it
    deployment.kills += 2
    wait_for("the killed tasks' retry", lambda: any(t["try_number"] > 1 for t in deployment.client.tasks(NIGHTLY, run_id)), 120)
    is_good(deployment, ended(deployment, run_id))
    assert twice(deployment) <= deployment.kills * 2 * CONCURRENCY


def test_a_killed_scheduler_is_started_again_and_the_night_ends_well(deployment: Deployment) -> None:
    strict_gate(deployment)  # for the test after this one: the gate is the last thing that the night looks at
    run_id = begun(deployment, 0)
    before = deployment.llm.calls()
    wait_for("questions", lambda: deployment.llm.calls() >= before + 4, NIGHT_S, lambda: deployment.client.explain(NIGHTLY, run_id))
    deployment.kills += len(asking(deployment))
    deployment.airflow.kill("scheduler", signal.SIGKILL)
    time.sleep(3)
    assert deployment.client.run(NIGHTLY, run_id)["state"] == "running"
    deployment.airflow.restart("scheduler")
    run = ended(deployment, run_id)
    assert states(deployment, run_id)["knowledge"] == {"success"}, deployment.client.explain(NIGHTLY, run_id)
    assert twice(deployment) <= deployment.kills * 2 * CONCURRENCY
    assert run["state"] == "failed"  # by its gate: see the next test


def test_a_failed_gate_fails_the_run_without_a_retry_and_leaves_current_where_it_was(deployment: Deployment) -> None:
    run_id = begun(deployment, 0)
    tasks = {task["task_id"]: task for task in deployment.client.tasks(NIGHTLY, run_id)}
    assert tasks["promote"]["state"] == "failed"
    assert tasks["promote"]["try_number"] == 1
    assert tasks["report"]["state"] == "success"
    assert served(deployment).startswith(deployment.day(1))
    kar.release.open(deployment.home.published, verify=True)
    notices = (deployment.settings_path.parent / "notices.txt").read_text()
    assert f"gate failed: {deployment.day(0)}" in notices
    assert "effective rank" in notices.replace("_", " ")


def strict_gate(deployment: Deployment, *, is_strict: bool = True) -> None:
    """Ask more of a release than any can show, or take that back: the person who keeps the settings file does so."""
    text = deployment.settings_path.read_text().partition("[features.gate]")[0]
    strict = "[features.gate]\nmin_effective_rank = 1000.0\n" if is_strict else ""
    deployment.settings_path.write_text(text + strict)


def test_a_manual_run_of_that_date_serves_it_once_the_threshold_is_mended_and_asks_nothing(deployment: Deployment) -> None:
    strict_gate(deployment, is_strict=False)
    before = deployment.llm.calls()
    run_id = deployment.client.trigger(NIGHTLY, {"date": deployment.day(0)})
    is_good(deployment, ended(deployment, run_id))
    assert deployment.llm.calls() == before


def test_each_promoted_release_has_been_trained_on_by_a_run_of_its_own(deployment: Deployment) -> None:
    events = [event for event in deployment.client.events() if event["name"] == "kar_release"]
    assert [event["partition_key"] for event in events] == [deployment.day(ago) for ago in (4, 3, 2, 1, 0)]
    assert events[-1]["extra"]["release_id"] == served(deployment)

    def over() -> list[Found] | None:
        runs = [run for run in deployment.client.runs(DOWNSTREAM) if run["state"] in OVER]
        return runs if len(runs) == len(events) else None

    def why() -> str:
        return "\n".join(deployment.client.explain(DOWNSTREAM, run["dag_run_id"]) for run in deployment.client.runs(DOWNSTREAM))

    runs = wait_for("a downstream run for each", over, NIGHT_S, why)
    assert {run["state"] for run in runs} == {"success"}, why()
    read = {run["partition_key"]: releases_read(deployment, run) for run in runs}
    assert read == {event["partition_key"]: [event["extra"]["release_id"]] for event in events}


def releases_read(deployment: Deployment, run: Found) -> list[str]:
    """The releases that a downstream run trained on."""
    tasks = deployment.client.tasks(DOWNSTREAM, run["dag_run_id"])
    return [str(deployment.client.result(task)["release_id"]) for task in tasks if task["task_id"] == "train_ctr"]


def test_a_backfill_over_three_nights_and_two_before_asks_only_for_the_two_and_does_not_move_current(deployment: Deployment) -> None:
    known = deployment.llm.times()
    was_served, events = served(deployment), len(deployment.client.events())
    dates = [deployment.day(ago) for ago in (6, 5, 4, 3, 2)]
    span = ["--from-date", f"{dates[0]}T00:00:00+00:00", "--to-date", f"{dates[-1]}T23:59:59+00:00"]
    deployment.airflow.airflow("backfill", "create", "--dag-id", NIGHTLY, *span, "--reprocess-behavior", "completed")

    def over() -> list[Found] | None:
        runs = [run for run in deployment.client.runs(NIGHTLY) if run["run_type"] == "backfill"]
        return runs if len(runs) == len(dates) and all(run["state"] in OVER for run in runs) else None

    def why() -> str:
        runs = [run for run in deployment.client.runs(NIGHTLY) if run["run_type"] == "backfill"]
        return "\n".join(f"{run['partition_key']} {run['state']}\n{deployment.client.explain(NIGHTLY, run['dag_run_id'])}" for run in runs)

    runs = wait_for("the backfill's end", over, NIGHT_S, why)
    assert sorted(run["partition_key"] for run in runs) == dates
    assert {run["state"] for run in runs} == {"success"}, why()
    for run in runs:
        assert states(deployment, run["dag_run_id"])["promote"] == {"skipped"}
    assert not [body for body, times in deployment.llm.times().items() if times > known[body] and known[body]]
    for date in dates:
        manifest = Manifest.read(deployment.home.partition("knowledge", dt.date.fromisoformat(date)).manifest_path)
        assert manifest.tables["knowledge"]["rows"] > 0
    assert served(deployment) == was_served
    assert len(deployment.client.events()) == events
    kar.release.open(deployment.home.published, verify=True)


def test_the_ledger_and_every_release_are_whole_at_the_end(deployment: Deployment) -> None:
    assert command(deployment, "ledger", "verify").returncode == 0
    for published in kar.release.list_releases(deployment.home.published):
        kar.release.open(deployment.home.published / "releases" / published.id, verify=True)
    figures = {"healthy_s": deployment.healthy_s, "load": os.getloadavg()[2], "processors": os.cpu_count(), "nights": deployment.overhead}
    print("\n" + json.dumps(figures, indent=1))
    if path := os.environ.get("KAR_AIRFLOW_FIGURES"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(figures, indent=1) + "\n")
