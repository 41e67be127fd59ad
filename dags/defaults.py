"""What several of kar's DAGs give a run and its tasks: params with their JSON schema, default arguments."""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.sdk import Param
from deployment import Deployment
from notices import of_failure

SETTINGS_PARAMS = {
    "settings": Param("", type="string", description="settings file; empty: the deployment's"),
    "set": Param(
        [],
        type="array",
        items={"type": "string", "pattern": "^[a-z_]+\\..+=.*$"},
        description="further section.field=value, such as llm.token_budget=100000",
    ),
}


def date_param(description: str) -> Param:
    """The param `date` of a DAG that runs for a partition date."""
    return Param(None, type=["null", "string"], format="date", description=description)


def task_defaults(deployment: Deployment, **changes: Any) -> dict[str, Any]:
    """`default_args` of a DAG: an owner, retries, a pool, a time-out, and somebody told of a task that fails for good."""
    return {
        "owner": "kar",
        "retries": 2,
        "retry_delay": deployment.retry_delay,
        "pool": "kar",
        "execution_timeout": dt.timedelta(hours=1),
        "on_failure_callback": of_failure(deployment),
        **changes,
    }
