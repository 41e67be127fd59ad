"""What a deployment decides about the DAGs, read from its KAR_* variables when a DAG file is parsed. Standard library only.

KAR_PYTHON          interpreter that kar is installed in; unset: Airflow's own
KAR_SETTINGS        settings file of the scenario
KAR_HOME            data folder
KAR_SET             further --set values, one a line
KAR_RUNNER          subprocess (default), docker or kubernetes: where `python -m kar` runs
KAR_IMAGE           image of the latter two
KAR_SHARDS          most shards that a night's questions are split into (10)
KAR_SHARD_REQUESTS  requests that make one shard (500)
KAR_SCHEDULE        cron expression of the nights ("0 1 * * *")
KAR_CATCH_UP_FROM   oldest date whose night is made up for when the scheduler finds it missing, as after days without one; empty: only
                    the newest
KAR_TIMEZONE        time zone of the cron expression (UTC); partition dates are UTC days whatever it says
KAR_PUBLISH_BY      HH:MM in UTC by which a night's release is due ("06:00"); empty: no deadline
KAR_PUBLISH_RESERVE minutes kept of that for what follows the questions: judging, encoding, publishing (45)
KAR_RETRY_DELAY     seconds before a failed task is tried again (300)
KAR_LLM_SERVER      standing (a service that is there), command (started and stopped around the questions) or none (default)
KAR_LLM_URL         base URL of its OpenAI-compatible API, e.g. http://vllm:8000/v1
KAR_LLM_START       with command: a shell command that runs it, or starts a container that does
KAR_LLM_STOP        with command: a shell command that stops it; empty: the process group of the former is ended
KAR_LLM_CONNECTION  Airflow connection whose password is the API key; empty: KAR_LLM_API_KEY, if the environment has it
KAR_SOURCES_MARKER  file that says a date's source tables are complete, with {date} in its path; empty: nothing is waited for
KAR_NOTIFY          command that gets each message on its standard input; empty: the task's log alone
KAR_FORGET_REQUESTS folder whose user.txt and item.txt name whom to forget, one id a line
KAR_LINEAGE         1: kar's stages tell OpenLineage of themselves, as part of their task's run; where to: OPENLINEAGE_URL, OPENLINEAGE_CONFIG
"""

from __future__ import annotations

import datetime as dt
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

Runner = Literal["subprocess", "docker", "kubernetes"]
Server = Literal["standing", "command", "none"]

POOLS = ("kar", "kar_llm", "kar_gpu", "kar_publish")
"""The pools that pools.json makes: any work, questions to the language model, encoding and training, what moves CURRENT."""


_LINEAGE = ("KAR_LINEAGE", "OPENLINEAGE_URL", "OPENLINEAGE_ENDPOINT", "OPENLINEAGE_CONFIG")
"""None of them secret: a key belongs into the file that the last one names."""


class DeploymentError(ValueError):
    """A KAR_* variable that the DAGs cannot work with. Airflow shows it as the DAG file's import error."""

    def __init__(self, what: str, do: str) -> None:
        super().__init__(f"{what}\n  do: {do}")
        self.what = what
        self.do = do


@dataclass(frozen=True)
class Deployment:
    """One deployment's decisions; see the module's list of variables.

    Args:
        python: interpreter for `python -m kar`; within `image` where the runner is not subprocess.
        catch_up_from: missing nights from this date on are run, the oldest first; None: only the newest one is.
        publish_by: time of day in UTC; None: no deadline.
        overrides: values of --set that every kar command gets.
        lineage: variables that switch kar's own lineage on; empty: it is off.
    """

    python: str = sys.executable
    settings: str = ""
    home: str = ""
    overrides: tuple[str, ...] = ()
    runner: Runner = "subprocess"
    image: str = ""
    shards: int = 10
    shard_requests: int = 500
    schedule: str = "0 1 * * *"
    catch_up_from: dt.date | None = None
    timezone: str = "UTC"
    publish_by: dt.time | None = dt.time(6)
    publish_reserve: dt.timedelta = dt.timedelta(minutes=45)
    retry_delay: dt.timedelta = dt.timedelta(minutes=5)
    llm_server: Server = "none"
    llm_url: str = ""
    llm_start: str = ""
    llm_stop: str = ""
    llm_connection: str = ""
    sources_marker: str = ""
    notify: str = ""
    forget_requests: str = ""
    lineage: tuple[tuple[str, str], ...] = ()

    @property
    def first_night(self) -> dt.datetime:
        """The schedule's start: the first night that runs is for the first day that ends after it."""
        if self.catch_up_from is None:
            return dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        return dt.datetime.combine(self.catch_up_from + dt.timedelta(days=1), dt.time(), dt.UTC)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Deployment:
        """The deployment that the variables describe.

        Raises:
            DeploymentError: a value that is none of those allowed, or a variable without the one that it needs.
        """
        runner = _one_of(environ, "KAR_RUNNER", get_args(Runner), "subprocess")
        server = _one_of(environ, "KAR_LLM_SERVER", get_args(Server), "none")
        found = cls(
            python=environ.get("KAR_PYTHON") or (sys.executable if runner == "subprocess" else "python"),
            settings=environ.get("KAR_SETTINGS", ""),
            home=environ.get("KAR_HOME", ""),
            overrides=tuple(line.strip() for line in environ.get("KAR_SET", "").splitlines() if line.strip()),
            runner=cast(Runner, runner),
            image=environ.get("KAR_IMAGE", ""),
            shards=_whole(environ, "KAR_SHARDS", 10),
            shard_requests=_whole(environ, "KAR_SHARD_REQUESTS", 500),
            schedule=environ.get("KAR_SCHEDULE") or "0 1 * * *",
            catch_up_from=_date(environ, "KAR_CATCH_UP_FROM"),
            timezone=environ.get("KAR_TIMEZONE") or "UTC",
            publish_by=_time_of_day(environ, "KAR_PUBLISH_BY", "06:00"),
            publish_reserve=dt.timedelta(minutes=_whole(environ, "KAR_PUBLISH_RESERVE", 45, least=0)),
            retry_delay=dt.timedelta(seconds=_whole(environ, "KAR_RETRY_DELAY", 300, least=0)),
            llm_server=cast(Server, server),
            llm_url=environ.get("KAR_LLM_URL", "").rstrip("/"),
            llm_start=_command(environ, "KAR_LLM_START"),
            llm_stop=_command(environ, "KAR_LLM_STOP"),
            llm_connection=environ.get("KAR_LLM_CONNECTION", ""),
            sources_marker=environ.get("KAR_SOURCES_MARKER", ""),
            notify=_command(environ, "KAR_NOTIFY"),
            forget_requests=environ.get("KAR_FORGET_REQUESTS", ""),
            lineage=tuple((name, environ[name]) for name in _LINEAGE if environ.get("KAR_LINEAGE") and environ.get(name)),
        )
        _hold_together(found)
        return found


def _hold_together(found: Deployment) -> None:
    if found.runner != "subprocess" and not found.image:
        raise DeploymentError(f"KAR_RUNNER={found.runner} needs an image", "set KAR_IMAGE to an image that kar is installed in")
    if found.llm_server != "none" and not found.llm_url.startswith(("http://", "https://")):
        raise DeploymentError(
            f"KAR_LLM_SERVER={found.llm_server} needs an address to look at, and KAR_LLM_URL is {found.llm_url!r}",
            "set KAR_LLM_URL, for example http://vllm:8000/v1",
        )
    if found.llm_server == "command" and not found.llm_start:
        raise DeploymentError("KAR_LLM_SERVER=command names no command", "set KAR_LLM_START to what runs the server")
    if found.sources_marker and "{date}" not in found.sources_marker:
        raise DeploymentError(
            f"KAR_SOURCES_MARKER={found.sources_marker} is the same file for every date",
            "put {date} where the date belongs, for example /data/{date}/_SUCCESS",
        )
    wrong = [value for value in found.overrides if "=" not in value]
    if wrong:
        raise DeploymentError(f"KAR_SET holds {wrong[0]!r}", "write one section.field=value a line")


def _one_of(environ: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = environ.get(name) or default
    if value not in allowed:
        raise DeploymentError(f"{name}={value}", f"set {name} to one of {', '.join(allowed)}")
    return value


def _whole(environ: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise DeploymentError(f"{name}={text}", f"set {name} to a whole number, {least} or more")
    return int(text)


def _time_of_day(environ: Mapping[str, str], name: str, default: str) -> dt.time | None:
    text = environ.get(name, default).strip()
    if not text:
        return None
    try:
        return dt.time.fromisoformat(text)
    except ValueError:
        raise DeploymentError(f"{name}={text}", f"set {name} to a time of day in UTC, HH:MM, or to nothing") from None


def _date(environ: Mapping[str, str], name: str) -> dt.date | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise DeploymentError(f"{name}={text}", f"set {name} to a date, YYYY-MM-DD, or to nothing") from None


def _command(environ: Mapping[str, str], name: str) -> str:
    text = environ.get(name, "").strip()
    try:
        shlex.split(text)
    except ValueError as error:
        raise DeploymentError(f"{name} is no command line: {error}", f"quote {name} as for a shell") from None
    return text
