"""The language model's server around the questions: one that stands, or one that a night starts and stops.

    standing   `server_up` waits until `KAR_LLM_URL/models` answers: the model is loaded, which /health does not say
    command    `server_up` is the setup: it runs KAR_LLM_START unless something answers there already, and waits in the same way;
               `server_down` is the teardown, which runs whatever became of the questions
    none       neither: kar starts its own server, or the settings name one that needs no waiting for

Waiting costs no worker: the task defers to Airflow's own time trigger and looks again, so the triggerer imports nothing of
ours. A night with nothing to ask needs no server, and none is started for it.

A started server's process group, log and exit code are kept in KAR_HOME/_llm, so that a retry, or the teardown in another
process, finds them. On several workers let KAR_LLM_START and KAR_LLM_STOP name a service instead.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, ObjectStoragePath
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSensorTimeout
from deployment import Deployment
from runner import KEY_VARIABLE, api_key, environment_without_secrets, summary

_ANSWER_S = 5
_STOP_S = 30.0


class Wait(BaseOperator):
    """Waits for something without holding a worker: looks, defers for a while, looks again.

    Args:
        every: between two looks.
        at_most: fails after that, without a retry.
    """

    def __init__(
        self, *, every: dt.timedelta = dt.timedelta(seconds=30), at_most: dt.timedelta = dt.timedelta(hours=6), **rest: Any
    ) -> None:
        super().__init__(**rest)
        self.every = every
        self.at_most = at_most

    def execute(self, context: Any) -> Any:
        return self.look(context, dt.datetime.now(dt.UTC))

    def again(self, context: Any, event: Any = None, since: str = "") -> Any:
        """Where the trigger resumes."""
        return self.look(context, dt.datetime.fromisoformat(since))

    def look(self, context: Any, since: dt.datetime) -> Any:
        """Done if it is there; else defer.

        Raises:
            AirflowSensorTimeout: it has been waited for long enough.
        """
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        missing = self.missing(context)
        if not missing:
            return None
        now = dt.datetime.now(dt.UTC)
        if now - since >= self.at_most:
            raise AirflowSensorTimeout(f"waited {self.at_most}: {missing}")
        self.log.info("not yet: %s", missing)
        self.defer(trigger=DateTimeTrigger(moment=now + self.every), method_name="again", kwargs={"since": since.isoformat()})

    def missing(self, context: Any) -> str:
        """What is not there yet, as a sentence; empty: nothing."""
        raise NotImplementedError


class FileThere(Wait):
    """Waits for a file or an object (`s3://…`, where its Airflow provider is installed). `path` is templated."""

    template_fields = ("path",)

    def __init__(self, *, path: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.path = path

    def missing(self, context: Any) -> str:
        there = ObjectStoragePath(self.path).exists() if "://" in self.path else Path(self.path).exists()
        return "" if there else f"there is no {self.path}"


class ServerUp(Wait):
    """Waits until the server lists its models; starts it first, where a command is given and nothing answers.

    Args:
        url: base URL of the API.
        planned_by: the task whose XCom says how many requests there are; with none of them nothing is started or waited for.
        start: shell command; empty: the server stands.
        folder: where a started server's process group, log and exit code are kept.
        connection: Airflow connection that holds the API key; empty: the environment's.
    """

    def __init__(self, *, url: str, planned_by: str, start: str = "", folder: str = "", connection: str = "", **rest: Any) -> None:
        super().__init__(**rest)
        self.url = url
        self.planned_by = planned_by
        self.start = start
        self.folder = folder
        self.connection = connection

    def execute(self, context: Any) -> Any:
        if requests_planned(context, self.planned_by) == 0:
            self.log.info("nothing to ask tonight: no server is needed")
            return None
        if self.start and self.missing(context):
            started = Started(Path(self.folder))
            if not started.is_running():
                self.log.info("starting: %s (log: %s)", self.start, started.log_path)
                started.start(self.start)
        return super().execute(context)

    def missing(self, context: Any) -> str:
        """Why it does not answer yet.

        Raises:
            AirflowFailException: it refuses the key (401, 403).
            AirflowException: the command that was to start it ended with an error.
        """
        request = urllib.request.Request(f"{self.url}/models")
        if key := api_key(self.connection):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
                return "" if answer.status == 200 else f"{self.url}/models answers {answer.status}"
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise AirflowFailException(f"{self.url} refuses the key: {error.code}; set KAR_LLM_CONNECTION or KAR_LLM_API_KEY") from None
            why = f"{self.url}/models answers {error.code}"
        except OSError as error:
            why = f"{self.url} does not answer: {getattr(error, 'reason', error)}"
        if self.start and (code := Started(Path(self.folder)).failed_with()):
            raise AirflowException(f"KAR_LLM_START ended with exit code {code}: {Started(Path(self.folder)).tail()}")
        return why


class ServerDown(BaseOperator):
    """Stops what ServerUp started, and nothing else: a server that was there before stays."""

    def __init__(self, *, stop: str, folder: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.stop = stop
        self.folder = folder

    def execute(self, context: Any) -> None:
        started = Started(Path(self.folder))
        if not started.is_ours():
            self.log.info("no server was started here")
            return
        if self.stop:
            self.log.info("stopping: %s", self.stop)
            subprocess.run(["/bin/sh", "-c", self.stop], check=True, timeout=_STOP_S * 2)
        started.end()


class Started:
    """A server that a task started and left running: its process group, log and exit code in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_path = folder / "server.log"
        self._process = folder / "process.json"
        self._exit_code = folder / "exit_code"

    def start(self, command: str) -> None:
        """Run a shell command in a session of its own, which outlives the task."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._exit_code.unlink(missing_ok=True)
        key = os.environ.get(KEY_VARIABLE)
        kept = {**environment_without_secrets(), **({KEY_VARIABLE: key} if key else {})}  # a server may ask for the key itself
        line = ["/bin/sh", "-c", 'sh -c "$1"; echo $? >"$2"', "kar-llm-server", command, str(self._exit_code)]
        pid = os.posix_spawn(line[0], line, kept, setsid=True, file_actions=_outputs(self.log_path))
        self._process.write_text(json.dumps({"process_group": pid, "began": _began(pid)}), encoding="utf-8")

    def is_ours(self) -> bool:
        return self._process.exists()

    def is_running(self) -> bool:
        """Whether the process that was started lives; a number that another process got since does not count."""
        said = self._said()
        return bool(said) and _began(int(said["process_group"])) == said["began"] and said["began"] != ""

    def failed_with(self) -> int:
        """The command's exit code; 0 while it runs, or if it ended well (it only had to start a service)."""
        try:
            return int(self._exit_code.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return 0

    def tail(self) -> str:
        """The end of its log."""
        return self.log_path.read_bytes()[-1500:].decode(errors="replace").strip() if self.log_path.exists() else ""

    def end(self) -> None:
        """End its process group and forget it."""
        if self.is_running():
            group = int(self._said()["process_group"])
            os.killpg(group, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_S
            while self.is_running() and time.monotonic() < deadline:
                time.sleep(0.1)
            if self.is_running():
                os.killpg(group, signal.SIGKILL)
        self._process.unlink(missing_ok=True)

    def _said(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._process.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found


def _outputs(log: Path) -> list[tuple[Any, ...]]:
    """Nothing on standard input, both outputs into the log."""
    return [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]


def requests_planned(context: Any, task_id: str) -> int:
    """How many requests the prompts task reported; 1 if it said nothing."""
    figures = summary(context["ti"].xcom_pull(task_ids=task_id)).get("figures") or {}
    return int(figures.get("requests", 1))


def llm_server(deployment: Deployment, planned_by: str) -> tuple[BaseOperator | None, BaseOperator | None]:
    """What goes before and after the questions, made in the task group that is open: (server_up, server_down), each may be None."""
    if deployment.llm_server == "none":
        return None, None
    folder = str(Path(deployment.home or ".kar") / "_llm")
    start = deployment.llm_start if deployment.llm_server == "command" else ""
    up = ServerUp(
        task_id="server_up",
        url=deployment.llm_url,
        planned_by=planned_by,
        start=start,
        folder=folder,
        connection=deployment.llm_connection,
        every=dt.timedelta(seconds=5),
        at_most=dt.timedelta(minutes=30),
        pool="kar",
        execution_timeout=dt.timedelta(minutes=5),
        doc_md="Waits until the language model's server lists its models." + (f" Started by `{start}`." if start else ""),
    )
    if not start:
        return up, None
    down = ServerDown(task_id="server_down", stop=deployment.llm_stop, folder=folder, pool="kar", execution_timeout=dt.timedelta(minutes=5))
    down.as_teardown(setups=up)
    return up, down


def _began(pid: int) -> str:
    """When a process began, in ticks since boot: with its number, who it is. Empty: there is none, or it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
