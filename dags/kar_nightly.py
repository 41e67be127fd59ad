"""kar, every night: ask the language model about what changed, judge the answers, publish a release.

    sources_ready → sources → histories → prompts → [llm: server_up → ask (shards) → server_down] → knowledge → vectors
    → training_due → (train, or on the very first night examples → adaptor) → features → verify → promote → report

Each task is `python -m kar …` for one partition date; this file says when, never how. A night's partition key is the day that
ended. Done work is never done twice, so **clearing a task is always safe**.

* **By hand**, for a date: `airflow dags trigger kar_nightly --conf '{"date": "2026-11-19"}'`; without a date: yesterday.
* **Deadline** (`KAR_PUBLISH_BY`): the scheduled run of a current night stops asking in time, and publishes what it has.
* **Gates**: a release that its gate holds back fails `promote` without a retry; the one before is still served and the report
  is made. `kar release list` shows the verdict.
* **Backfills** publish and do not serve (`promote` is skipped, so no asset event), unless `{"promote": true}` says so.
* **Training**: the first night trains; later ones start `kar_train` when one is due, and take what it made the next time.

The deployment's variables are listed in `deployment.py`.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import (
    CronPartitionTimetable,
    Param,
    TaskGroup,
    TriggerRule,
    dag,
    get_current_context,
    task,
)
from airflow.sdk.exceptions import AirflowSkipException

# The folder of the DAG files is on the path of Airflow's processes, but not of everything that parses a DAG file.
sys.path.insert(0, str(Path(__file__).parent))
from assets import RELEASE
from defaults import SETTINGS_PARAMS, date_param, task_defaults
from deployment import Deployment
from night import due_at, is_served, shard_arguments, trainings
from notices import after_questions, lateness, send
from partition import DATE, MACROS, partition_date
from runner import mapped_stage_task, stage_task, summary
from server import FileThere, llm_server, requests_planned

HERE = Deployment.from_environment()
HOURS = {hours: dt.timedelta(hours=hours) for hours in (2, 6)}


def run_stage(stage: str, *more: str, **rest: Any) -> Any:
    """The task of one stage, named like it."""
    return stage_task(stage, ["run", stage, "--date", DATE, *more, "--json"], deployment=HERE, **rest)


def skip_unless_served(context: Any) -> None:
    """`pre_execute` of promote."""
    if not is_served(context["dag_run"], context["params"]):
        raise AirflowSkipException("this run publishes without serving: CURRENT stays where it is")


def skip_without_release(context: Any) -> None:
    """`pre_execute` of report, which runs whatever became of promotion, but has nothing to say before there is a release."""
    if context["ti"].xcom_pull(task_ids="features") is None:
        raise AirflowSkipException("no release was made for this date, so there is nothing to report on")


def announce(context: Any, result: Any = None) -> None:
    """`post_execute` of promote: say which release the asset event is about, in the partition of its date also in a manual run."""
    said = summary(result)
    if not said.get("is_promoted") and said.get("served") != said.get("release_id"):
        raise AirflowSkipException(f"{said.get('release_id')} is published, and {said.get('served')} is served: its data is newer")
    event = context["outlet_events"][RELEASE]
    event.add_partitions(partition_date(context))
    event.extra = {name: said.get(name) for name in ("release_id", "path", "date")}
    late = lateness(context, HERE, dt.datetime.now(dt.UTC))
    if late:
        send(late, HERE)


@dag(
    dag_id="kar_nightly",
    schedule=CronPartitionTimetable(HERE.schedule, timezone=HERE.timezone, run_offset=-1, key_format="%Y-%m-%d"),
    start_date=HERE.first_night,
    catchup=HERE.catch_up_from is not None,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["kar"],
    user_defined_macros=MACROS,
    params={
        "date": date_param("partition date; empty: the run's own"),
        **SETTINGS_PARAMS,
        "promote": Param(None, type=["null", "boolean"], description="serve the release; empty: yes, but not in a backfill"),
    },
    default_args=task_defaults(HERE),
)
def kar_nightly() -> None:
    sources = run_stage("sources")
    histories = run_stage("histories")
    prompts = run_stage("prompts", asks=True)
    if HERE.sources_marker:
        (
            FileThere(task_id="sources_ready", path=HERE.sources_marker.replace("{date}", DATE), doc_md="Waits for the date's tables.")
            >> sources
        )

    with TaskGroup("llm", tooltip="the language model's server, and the questions to it") as llm:
        ask_shards()

    knowledge = run_stage("knowledge", "--answers", "held", timeout=HOURS[2], post_execute=after_questions(HERE))
    vectors = run_stage("vectors", pool="kar_gpu", timeout=HOURS[2])
    due = stage_task("training_due", ["training", "due", "--date", DATE, "--json"], deployment=HERE)
    chosen = choose_training()
    train = TriggerDagRunOperator(
        task_id="train",
        trigger_dag_id="kar_train",
        trigger_run_id=f"due__{DATE}",
        conf={"date": DATE, "settings": "{{ params.settings }}"},
        skip_when_already_exists=True,
        doc_md="Starts kar_train, which no night waits for.",
    )
    examples = run_stage("examples", asks=True)  # in time mode it may make an earlier night first
    adaptor = run_stage("adaptor", pool="kar_gpu", timeout=HOURS[6])
    features = run_stage(
        "features", "--set", "features.promote=false", pool="kar_publish", trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
    )
    verify = stage_task("verify", ["release", "verify", "--date", DATE], deployment=HERE, pool="kar_publish")
    promote = stage_task(
        "promote",
        ["release", "promote", "--date", DATE, "--json"],
        deployment=HERE,
        pool="kar_publish",
        outlets=[RELEASE],
        pre_execute=skip_unless_served,
        post_execute=announce,
    )
    report = run_stage("report", trigger_rule=TriggerRule.ALL_DONE, pre_execute=skip_without_release)
    # the report is made also when promotion was held back, and would make the run a success: this says what the run came to
    over = EmptyOperator(task_id="over", trigger_rule=TriggerRule.NONE_FAILED)

    sources >> histories >> prompts >> llm >> knowledge >> vectors >> due >> chosen
    chosen >> [train, examples, features]
    examples >> adaptor >> features >> verify >> promote
    [features, promote] >> report
    [promote, report, train] >> over


def ask_shards() -> None:
    """The tasks of the group `llm`."""
    up, down = llm_server(HERE, planned_by="prompts")
    shards = plan_shards()
    ask = mapped_stage_task("ask", shards, deployment=HERE, pool="kar_llm", timeout=HOURS[6], asks=True, retries=4)
    if up is not None:
        up >> ask
    if down is not None:
        ask >> down


@task(task_id="shards")
def plan_shards() -> list[list[str]]:
    """Into how many shards tonight's questions go, and until when they may be asked."""
    context: Any = get_current_context()
    due = due_at(context["dag_run"], HERE.publish_by, dt.datetime.now(dt.UTC))
    return shard_arguments(
        requests_planned(context, "prompts"),
        partition_date(context),
        most=HERE.shards,
        per_shard=HERE.shard_requests,
        until=due - HERE.publish_reserve if due else None,
    )


@task.branch(task_id="training")
def choose_training() -> list[str]:
    """Whether to train: now (the first night), in a run of its own, or not."""
    context: Any = get_current_context()
    return trainings(context["dag_run"], summary(context["ti"].xcom_pull(task_ids="training_due")))


kar_nightly()
