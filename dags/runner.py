"""How a task runs kar: one factory, so that no DAG file changes with the place where `python -m kar` runs.

`stage_task` and `mapped_stage_task` make the operator that `KAR_RUNNER` names: a process beside the task (`KarOperator`),
a container (runner_docker.py) or a pod (runner_kubernetes.py). In all of them:

    exit code   0   done; the last line of its standard output, one JSON object, is the task's XCom (paths and counts only)
                1   a named error: the task fails and is retried after its delay
                2   wrong usage: fails, never retried
                3   a gate held something back: fails with the gate's words, never retried
    the API key     goes to tasks that ask, in their environment alone: never in arguments, XCom or logs
"""

from __future__ import annotations

import datetime as dt
import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, cast

from airflow.sdk import BaseHook, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.log import mask_secret
from deployment import Deployment

KEY_VARIABLE = "KAR_LLM_API_KEY"
USAGE, HELD_BACK = 2, 3
UNTIL = "until "
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
        arguments: templated by Airflow.
        asks: it speaks to the language model's server, so it gets the API key.
        rest: what any operator takes: trigger_rule, outlets, retries, doc_md …
    """
    place = _place(deployment, asks, pool)
    line = [*place.before, *arguments]
    task: BaseOperator = place.operator(
        task_id=task_id, pool=pool, execution_timeout=timeout, **{**place.fixed, place.parameter: line, **rest}
    )
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

    Airflow renders no template in what is mapped. An argument "until <ISO time>" is the exception made here: each task gets
    the whole seconds left until then, at the moment when it starts, and 0 when the time is over.

    Args:
        argument_lists: the output (XComArg) of a task that returned a list of lists of arguments.
    """
    place = _place(deployment, asks, pool)

    def line(arguments: list[str]) -> list[str]:
        return [*place.before, *(seconds_left(argument) for argument in arguments)]

    partial = place.operator.partial(task_id=task_id, pool=pool, execution_timeout=timeout, **{**place.fixed, **rest})
    return partial.expand(**{place.parameter: argument_lists.map(line)})


def seconds_left(argument: str, now: dt.datetime | None = None) -> str:
    """The argument, or, if it is "until <ISO time>", the whole seconds from now to then, never below 0."""
    if not argument.startswith(UNTIL):
        return argument
    left = dt.datetime.fromisoformat(argument.removeprefix(UNTIL)) - (now or dt.datetime.now(dt.UTC))
    return str(max(int(left.total_seconds()), 0))


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


def _place(deployment: Deployment, asks: bool, pool: str) -> Place:
    if deployment.runner == "subprocess":
        fixed = {"python": deployment.python, "variables": variables(deployment), "asks": asks, "connection": deployment.llm_connection}
        return Place(KarOperator, "arguments", fixed=fixed)
    if deployment.runner == "docker":
        import runner_docker

        return Place(
            runner_docker.KarDockerOperator, "command", fixed=runner_docker.parameters(deployment, variables(deployment), asks, pool)
        )
    import runner_kubernetes

    return Place(
        runner_kubernetes.KarPodOperator, "arguments", fixed=runner_kubernetes.parameters(deployment, variables(deployment), asks, pool)
    )


def variables(deployment: Deployment) -> dict[str, str]:
    """The environment of every kar command, templated and none of it secret.

    A run's own `settings` and `set` (its params or conf) go before the deployment's. Lineage events of kar's get the task and the DAG run as
    parents where Airflow's OpenLineage provider is installed, whose macros name them.
    """
    own = "{{ params.get('settings') or '' }}"
    said = {
        "KAR_SETTINGS": own if not deployment.settings else "{{ params.get('settings') or " + json.dumps(deployment.settings) + " }}",
        "KAR_HOME": deployment.home,
        "KAR_SET": "\n".join([*deployment.overrides, "{{ (params.get('set') or []) | join('\n') }}"]),
    }
    if deployment.lineage:
        said |= {
            **dict(deployment.lineage),
            "OPENLINEAGE_PARENT_ID": _parent("parent"),
            "OPENLINEAGE_ROOT_PARENT_ID": _parent("root_parent"),
        }
    return {name: value for name, value in said.items() if value}


def _parent(which: str) -> str:
    """Empty where the provider is not installed."""
    return (
        "{% if macros.OpenLineageProviderPlugin is defined %}"
        f"{{{{ macros.OpenLineageProviderPlugin.lineage_{which}_id(task_instance) }}}}{{% endif %}}"
    )


class KarOperator(BaseOperator):
    """Runs `python -m kar` in a process group of its own, streams what it says to the task's log, and dies with it.

    Args:
        arguments: after `python -m kar`; templated.
        python: the interpreter.
        variables: added to its environment; templated, never secret.
        asks: whether it gets the API key at all.
        connection: Airflow connection whose password is the API key; empty: the environment's, if it has one.
    """

    template_fields: Sequence[str] = ("arguments", "variables")
    ui_color = "#dfe9f3"
    program: tuple[str, ...] = ("-m", "kar")
    """What the interpreter runs; another job may be run in the same way."""

    def __init__(
        self,
        *,
        arguments: list[str],
        python: str = sys.executable,
        variables: dict[str, str] | None = None,
        asks: bool = False,
        connection: str = "",
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.arguments = arguments
        self.python = python
        self.variables = variables or {}
        self.asks = asks
        self.connection = connection
        self._leash: subprocess.Popen[bytes] | None = None

    def execute(self, context: Any) -> dict[str, Any] | None:
        """Run it to its end.

        Returns:
            The JSON object of its last line on standard output; None if that is none.

        Raises:
            HeldBack: exit code 3.
            AirflowFailException: exit code 2, which no retry mends.
            AirflowException: any other exit code but 0.
        """
        key = api_key(self.connection) if self.asks else ""
        self.log.info("%s", shlex.join([self.python, *self.program, *self.arguments]))
        code, said, complaint = self._run(key)
        if code != 0:
            raise failure(code, complaint)
        return summary_of_line(said) or None

    def on_kill(self) -> None:
        """End the process group. Airflow calls it when the task is cleared, marked or out of time."""
        if self._leash is not None and self._leash.poll() is None:
            self._leash.send_signal(signal.SIGTERM)

    def _run(self, key: str) -> tuple[int, str, str]:
        """Its exit code, its last line on standard output, and what it complained of on standard error."""
        keeper = Path(__file__).with_name("leash.py")
        command = [sys.executable, "-I", "-S", str(keeper), str(os.getpid()), str(_GRACE_S), self.python, *self.program, *self.arguments]
        self._leash = leash = subprocess.Popen(
            command, env=self._environment(key), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        said, complaint = "", Complaint()
        try:
            for name, line in _lines(leash, parent=os.getppid()):
                shown = line.replace(key, "***") if key else line
                self.log.info("%s", shown)
                if name == "stdout":
                    said = shown if shown.strip() else said
                else:
                    complaint.hear(shown)
            return leash.wait(), said, complaint.text
        finally:
            self._end(leash)

    def _end(self, leash: subprocess.Popen[bytes]) -> None:
        """After whatever ended the reading (done, out of time, an error): nothing of the group is left."""
        if leash.poll() is None:
            leash.send_signal(signal.SIGTERM)
            try:
                leash.wait(_GRACE_S * 2)
            except subprocess.TimeoutExpired:
                os.killpg(leash.pid, signal.SIGKILL)
                leash.wait()
        for pipe in (leash.stdout, leash.stderr):
            if pipe is not None:
                pipe.close()

    def _environment(self, key: str) -> dict[str, str]:
        """This process's environment without secrets, the key only where it is given."""
        kept = environment_without_secrets()
        said = {name: value for name, value in self.variables.items() if value.strip()}
        return {**kept, **said, **({KEY_VARIABLE: key} if key else {})}


def environment_without_secrets() -> dict[str, str]:
    """This process's environment for a child: without Airflow's settings, connections and variables, and without the API key.

    What tells a child which task it belongs to (AIRFLOW_CTX_…) stays.
    """
    own = {name for name in os.environ if name.startswith(("AIRFLOW_", "_AIRFLOW")) and not name.startswith("AIRFLOW_CTX_")}
    return {name: value for name, value in os.environ.items() if name not in own | {KEY_VARIABLE}}


class HeldBack(AirflowFailException):
    """A gate held something back (exit code 3): all work is done, and a retry would say the same."""


def failure(code: int, complaint: str) -> AirflowException:
    """What a task raises whose kar ended with this exit code, whichever operator ran it."""
    if code == HELD_BACK:
        return HeldBack(complaint or "a gate held it back: see above")
    if code == USAGE:
        return AirflowFailException(f"wrong usage of kar, which no retry mends: {complaint}")
    ended = f"was stopped by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return AirflowException(f"kar {ended}: {complaint}")


class Complaint:
    """The error among the lines of standard error: from the last line that begins with `kar: ` to the end."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=12)

    def hear(self, line: str) -> None:
        if line.startswith("kar: "):
            self._lines.clear()
        self._lines.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self._lines).strip()


def api_key(connection: str) -> str:
    """The language model's API key: the connection's password, else the environment's; masked in every log from here on."""
    key = (BaseHook.get_connection(connection).password or "") if connection else os.environ.get(KEY_VARIABLE, "")
    if key:
        mask_secret(key)
    return key


def _lines(process: subprocess.Popen[bytes], parent: int) -> Iterator[tuple[str, str]]:
    """Each line of its two outputs as it comes: ("stdout" or "stderr", the line without its end).

    Raises:
        AirflowException: the process that watches over this task (`parent`) is gone, so nobody would hear the end.
    """
    pending = {"stdout": b"", "stderr": b""}
    with selectors.DefaultSelector() as selector:
        for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            selector.register(cast(IO[bytes], pipe), selectors.EVENT_READ, name)
        while selector.get_map():
            for ready, _ in selector.select(timeout=1.0):
                chunk = os.read(ready.fd, 65536)
                *whole, pending[ready.data] = (pending[ready.data] + chunk).split(b"\n")
                if not chunk:
                    selector.unregister(ready.fileobj)
                    whole = [pending[ready.data]] if pending[ready.data] else []
                for line in whole:
                    yield ready.data, line.decode(errors="replace").rstrip("\r")
            if os.getppid() != parent:
                raise AirflowException("the supervisor of this task is gone: kar is stopped, so that a retry does not run beside it")
