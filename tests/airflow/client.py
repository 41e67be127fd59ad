"""What the tests ask of a running Airflow, over its public REST API."""

from __future__ import annotations

import datetime as dt
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

Found = dict[str, Any]
OVER = ("success", "failed")


class Client:
    """One signed-in person.

    Args:
        url: of the API server.
        password: of the user admin.
    """

    def __init__(self, url: str, password: str) -> None:
        self._url = url
        self._token = ""
        self._token = self._ask("POST", "/auth/token", {"username": "admin", "password": password})["access_token"]

    def _ask(self, method: str, path: str, body: Found | None = None) -> Found:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url + path, json.dumps(body).encode() if body is not None else None, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                found: Found = json.load(response)
                return found
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()[:500]}") from error

    def get(self, path: str) -> Found:
        """GET below /api/v2."""
        return self._ask("GET", f"/api/v2{path}")

    def unpause(self, dag_id: str) -> None:
        self._ask("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: Found) -> str:
        """Start a run by hand, without a logical date; its id."""
        made = self._ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        return str(made["dag_run_id"])

    def runs(self, dag_id: str) -> list[Found]:
        """All runs of a DAG, the oldest first."""
        return list(self.get(f"/dags/{dag_id}/dagRuns?limit=100&order_by=id")["dag_runs"])

    def run(self, dag_id: str, run_id: str) -> Found:
        return self.get(f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}")

    def tasks(self, dag_id: str, run_id: str) -> list[Found]:
        """The run's task instances, each shard one."""
        quoted = urllib.parse.quote(run_id, safe="")
        return list(self.get(f"/dags/{dag_id}/dagRuns/{quoted}/taskInstances?limit=200")["task_instances"])

    def result(self, task: Found) -> Any:
        """What a task instance returned; None: nothing."""
        quoted = urllib.parse.quote(task["dag_run_id"], safe="")
        where = f"/dags/{task['dag_id']}/dagRuns/{quoted}/taskInstances/{task['task_id']}/xcomEntries"
        entries = self.get(f"{where}?map_index={task['map_index']}")["xcom_entries"]
        if not any(entry["key"] == "return_value" for entry in entries):
            return None
        return self.get(f"{where}/return_value?map_index={task['map_index']}&deserialize=false")["value"]

    def events(self) -> list[Found]:
        """All asset events, the oldest first."""
        return list(self.get("/assets/events?limit=100&order_by=timestamp")["asset_events"])

    def explain(self, dag_id: str, run_id: str) -> str:
        """The states of a run's tasks, and the end of the log of each one that failed."""
        said = []
        for task in self.tasks(dag_id, run_id):
            said.append(f"{task['task_id']}[{task['map_index']}] {task['state']} try {task['try_number']}")
            if task["state"] in ("failed", "up_for_retry"):
                quoted = urllib.parse.quote(run_id, safe="")
                where = f"/dags/{dag_id}/dagRuns/{quoted}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
                lines = self.get(f"{where}?map_index={task['map_index']}&full_content=true")["content"]
                said += [f"    {line.get('event') if isinstance(line, dict) else line}" for line in lines[-25:]]
        return "\n".join(said)


def wait_for(what: str, look: Callable[[], Any], timeout_s: float, otherwise: Callable[[], str] = lambda: "") -> Any:
    """The first thing that `look` finds.

    Raises:
        AssertionError: nothing in time; with what `otherwise` says.
    """
    until = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < until, f"not within {timeout_s:.0f} s: {what}\n{otherwise()}"
        time.sleep(0.3)
    return found


def seconds(begin: str, end: str) -> float:
    """Between two times of the API."""
    return (dt.datetime.fromisoformat(end) - dt.datetime.fromisoformat(begin)).total_seconds()
