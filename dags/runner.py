"""How a task runs kar: one factory, so that no DAG file changes with the place where `python -m kar` runs.

`stage_task` and `mapped_stage_task` make the operator that `KAR_RUNNER` names: a process beside the task (`KarOperator`),
a container (DockerOperator) or a pod (KubernetesPodOperator; containers.py holds what those two need). In all of them:

    exit code   0   done; the last line of its standard output, one JSON object, is the task's XCom (paths and counts only)
                1   a named error: the task fails and is retried after its delay
                2   wrong usage: fails, never retried
                3   a gate held something back: fails with the gate's words, never retried
    the API key     goes to tasks that ask, in their environment alone: never in arguments, XCom or logs
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from airflow.sdk import BaseHook, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.log import mask_secret
from deployment import Deployment

KEY_VARIABLE = "KAR_LLM_API_KEY"
USAGE, HELD_BACK = 2, 3
_GRACE_S = 5.0
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Place:
    """An operator class that runs kar somewhere, and how it is told what to run.

    Args:
        operator: the class.
        parameter: the name of its parameter that takes the command line.
        before: what stands in that parameter before kar's arguments.
        fixed: its other parameters, the same for every task.
    """

    operator: type[Any]
    parameter: str
    before: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)


def stage_task(
    task_id: str,
    arguments: Sequence[str],
    *,
    deployment: Deployment,
    pool: str = "kar",
    timeout: timedelta = _HOUR,
    asks: bool = False,
    **rest: Any,
) -> BaseOperator:
    """A task that runs `python -m kar <arguments>`.

    Args:
        arguments: templated by Airflow; the deployment's `--set` values are added.
        asks: it speaks to the language model's server, so it gets the API key.
        rest: what any operator takes: trigger_rule, outlets, retries, doc_md …
    """
    place = _place(deployment, asks)
    line = command_line(place, arguments, deployment)
    task: BaseOperator = place.operator(task_id=task_id, pool=pool, execution_timeout=timeout, **{**place.fixed, place.parameter: line, **rest})
    return task


def mapped_stage_task(
    task_id: str,
    argument_lists: Any,
    *,
    deployment: Deployment,
    pool: str = "kar",
    timeout: timedelta = _HOUR,
    asks: bool = False,
    **rest: Any,
) -> Any:
    """A mapped task: one `python -m kar` for each list of arguments.

    Args:
        argument_lists: XComArg of a task that returned whole lines, each made by `command_lines` of the same deployment.
    """
    place = _place(deployment, asks)
    partial = place.operator.partial(task_id=task_id, pool=pool, execution_timeout=timeout, **{**place.fixed, **rest})
    return partial.expand(**{place.parameter: argument_lists})


def command_lines(argument_lists: Sequence[Sequence[str]], deployment: Deployment, asks: bool = False) -> list[list[str]]:
    """What a task returns for `mapped_stage_task` to expand over: each list as the runner's parameter wants it."""
    place = _place(deployment, asks)
    return [command_line(place, arguments, deployment) for arguments in argument_lists]


def command_line(place: Place, arguments: Sequence[str], deployment: Deployment) -> list[str]:
    """kar's arguments with the deployment's `--set` values, after what the place wants before them."""
    overrides = [part for value in deployment.overrides for part in ("--set", value)]
    return [*place.before, *arguments, *overrides]


def summary(result: Any) -> dict[str, Any]:
    """A task's JSON line as a dict: an XCom is one already, or its text (DockerOperator), or missing (None: {})."""
    if isinstance(result, str):
        return summary_of_line(result)
    return dict(result or {})


def summary_of_line(line: str) -> dict[str, Any]:
    """The JSON object that the line is; {} if it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _place(deployment: Deployment, asks: bool) -> Place:
    if deployment.runner == "subprocess":
        fixed = {"python": deployment.python, "variables": variables(deployment), "connection": deployment.llm_connection if asks else "", "asks": asks}
        return Place(KarOperator, "arguments", fixed=fixed)
    from containers import docker_place, kubernetes_place

    return docker_place(deployment, asks) if deployment.runner == "docker" else kubernetes_place(deployment, asks)


def variables(deployment: Deployment) -> dict[str, str]:
    """The environment of every kar command, none of it secret. `params.settings` of the DAG, where it has one, wins."""
    said = "{{ params.get('settings') or '" + deployment.settings + "' }}"
    return {"KAR_SETTINGS": said, **({"KAR_HOME": deployment.home} if deployment.home else {})}


class KarOperator(BaseOperator):
    """Runs `python -m kar` in a process group of its own, streams what it says to the task's log, and dies with it.

    Args:
        arguments: after `python -m kar`; templated.
        python: the interpreter.
        variables: added to its environment; templated, never secret.
        connection: Airflow connection whose password is the API key; empty: the environment's, if it has one.
        asks: whether it gets the key at all.
    """

    template_fields = ("arguments", "variables")
    ui_color = "#dfe9f3"

    def __init__(
        self,
        *,
        arguments: list[str],
        python: str = sys.executable,
        variables: dict[str, str] | None = None,
        connection: str = "",
        asks: bool = False,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.arguments = arguments
        self.python = python
        self.variables = variables or {}
        self.connection = connection
        self.asks = asks
        self._leash: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> dict[str, Any] | None:
        """Run it to its end.

        Returns: the JSON object of its last line, None if that is none.

        Raises:
            AirflowFailException: exit code 2 or 3, which a retry cannot mend.
            AirflowException: any other exit code but 0.
        """
        self.log.info("kar %s", " ".join(self.arguments))
        said, complained = self._run()
        code = self._leash.returncode if self._leash else 0
        if code == HELD_BACK:
            raise AirflowFailException(f"held back by a gate: {complained or 'see above'}")
        if code == USAGE:
            raise AirflowFailException(f"wrong usage of kar, which no retry mends: {complained}")
        if code != 0:
            raise AirflowException(f"kar ended with exit code {code}: {complained}")
        return summary_of_line(said) or None

    def on_kill(self) -> None:
        """End the process group. Airflow calls it when the task is cleared, marked or out of time."""
        leash = self._leash
        if leash is not None and leash.poll() is None:
            leash.send_signal(signal.SIGTERM)

    def _run(self) -> tuple[str, str]:
        """Its last line on standard output, and its last lines on standard error as one text."""
        leash = Path(__file__).with_name("leash.py")
        command = [sys.executable, "-I", "-S", str(leash), str(os.getpid()), str(_GRACE_S), self.python, "-m", "kar", *self.arguments]
        self._leash = subprocess.Popen(
            command, env=self._environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
        )
        try:
            return self._stream(self._leash)
        finally:
            self._end(self._leash)

    def _stream(self, leash: subprocess.Popen[str]) -> tuple[str, str]:
        raise NotImplementedError("written next")

    def _end(self, leash: subprocess.Popen[str]) -> None:
        raise NotImplementedError("written next")

    def _environment(self) -> dict[str, str]:
        raise NotImplementedError("written next")
