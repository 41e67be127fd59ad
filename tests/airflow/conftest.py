"""One Airflow on PostgreSQL for all tests of this folder: real scheduler, DAG processor, triggerer, API server; a shop; an LLM server."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dags.tools.standalone import Standalone, free_port
from kar.store import Home
from tests.airflow.client import Client
from tests.airflow.llm_server import LlmServer
from tests.airflow.postgres import folder_of_programs, postgres
from tests.airflow.shop import open_shop

ROOT = Path(__file__).parents[2]
CONCURRENCY = 2
SHARD_REQUESTS = 8
PARALLELISM = 4
# A scheduler looks for dead tasks every ten seconds here, not every five minutes; nothing else of its timing is touched.
_PATIENCE = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
}


@dataclass
class Deployment:
    """What the tests of one story share."""

    airflow: Standalone
    client: Client
    llm: LlmServer
    settings_path: Path
    home: Home
    yesterday: dt.date
    healthy_s: float
    kills: int = 0  # how often something that was asking was killed
    overhead: dict[str, dict[str, float]] = field(default_factory=dict)

    def day(self, ago: int) -> str:
        """A date; 0 is yesterday, the last that is over."""
        return (self.yesterday - dt.timedelta(days=ago)).isoformat()


@pytest.fixture(scope="session")
def programs() -> Path:
    found = folder_of_programs()
    assert found is not None, "PostgreSQL is not installed; .ci/run does it by: apt-get install postgresql"
    return found


@pytest.fixture(scope="session")
def database(programs: Path) -> Iterator[str]:
    with postgres(programs) as url:
        yield url


@pytest.fixture(scope="session")
def deployment(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    llm = LlmServer(folder, free_port())
    settings_path = open_shop(folder, yesterday, llm.base_url, CONCURRENCY)
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KAR_PYTHON": sys.executable,
        "KAR_HOME": str(folder / "home"),
        "KAR_SETTINGS": str(settings_path),
        "KAR_SHARD_REQUESTS": str(SHARD_REQUESTS),
        "KAR_CATCH_UP_FROM": (yesterday - dt.timedelta(days=4)).isoformat(),
        "KAR_PUBLISH_BY": "",
        "KAR_RETRY_DELAY": "2",
        "KAR_LLM_SERVER": "standing",
        "KAR_LLM_URL": llm.base_url,
        "KAR_NOTIFY": f"sh -c 'cat >> {folder}/notices.txt; echo >> {folder}/notices.txt'",
    }
    airflow = Standalone(folder / "airflow", database=database, port=free_port(), environ=environ, settings=_PATIENCE)
    llm.start()
    try:
        healthy_s = round(airflow.start(), 1)
        print(f"\nhealthy after {healthy_s} s, load {os.getloadavg()[0]:.1f}")
        client = Client(airflow.url, airflow.password)
        yield Deployment(airflow, client, llm, settings_path, Home(folder / "home", "shop"), yesterday, healthy_s)
    finally:
        killed = airflow.stop()
        llm.stop()
        print("\nstopped; had to be killed:", killed)


def command(deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A kar command of the shop's, run to its end."""
    where = {"KAR_SETTINGS": str(deployment.settings_path), "KAR_HOME": str(deployment.home.root), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "kar", *arguments]
    return subprocess.run(line, env={**os.environ, **where}, capture_output=True, text=True, check=False, timeout=300)


def served(deployment: Deployment) -> str:
    """The release that CURRENT names."""
    pointer = json.loads((deployment.home.published / "CURRENT").read_text())
    return str(pointer["release"])
