"""What the containers run, run here without containers: the real Airflow, started by the images' own scripts, on SQLite."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.rendered import EXAMPLE, ROOT, script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("airflow") is None, reason="Airflow is not installed here"),
]

make_env, probe, refuse_defaults = (
    script(ROOT / "docker/make_env.py"),
    script(ROOT / "docker/probe.py"),
    script(ROOT / "docker/refuse_defaults.py"),
)
HEALTHY_S = 180.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/airflow as the image has it."""
    folder = tmp_path_factory.mktemp("airflow")
    (folder / "docker").mkdir()
    for name in ("entrypoint.sh", "init.sh", "probe.py", "refuse_defaults.py"):
        shutil.copy(ROOT / "docker" / name, folder / "docker" / name)
    shutil.copy(EXAMPLE, folder / "docker/env.example")
    (folder / "home").mkdir()
    (folder / "dags").mkdir()
    pools = {"kar_llm": {"slots": 4, "description": "", "include_deferred": False}}
    real = ROOT / "dags/pools.json"
    (folder / "dags/pools.json").write_text(real.read_text() if real.is_file() else json.dumps(pools))
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def environment(image: Path, port: int) -> dict[str, str]:
    """A container's environment, with fresh secrets."""
    secrets = {theirs: make_env.fresh(ours) for theirs, ours in refuse_defaults.SECRETS.items()}
    beside = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {
        **secrets,
        "PATH": beside,
        "HOME": str(image),
        "KAR_ENVIRONMENT": "production",
        "AIRFLOW_HOME": str(image / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(image / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{image}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(image / "logs"),
    }


@pytest.fixture(scope="module")
def initialised(image: Path, environment: dict[str, str]) -> None:
    """What the service `init` does, twice: it runs at every `up`."""
    for _ in range(2):
        command = [str(image / "docker/entrypoint.sh"), str(image / "docker/init.sh")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def address(initialised: None, image: Path, environment: dict[str, str], port: int) -> Iterator[str]:
    """The API server, started as its container starts it."""
    base = f"http://127.0.0.1:{port}"
    with (image / "api-server.log").open("w") as log:
        command = [str(image / "docker/entrypoint.sh"), "airflow", "api-server"]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + HEALTHY_S
            while probe.fault(f"{base}/api/v2/monitor/health", "metadatabase"):
                assert server.poll() is None, (image / "api-server.log").read_text()[-3000:]
                assert time.monotonic() < end, (image / "api-server.log").read_text()[-3000:]
                time.sleep(1)
            yield base
        finally:
            os.killpg(server.pid, signal.SIGINT)
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def test_init_makes_the_pools(initialised: None, image: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(["airflow", "pools", "list", "--output", "json"], env=environment, capture_output=True, text=True, check=True)
    wanted = set(json.loads((image / "dags/pools.json").read_text()))
    assert wanted <= {pool["pool"] for pool in json.loads(done.stdout[done.stdout.index("[{") :])}


def test_the_page_lets_in_whoever_has_the_password_of_env_and_nobody_else(address: str, image: Path, environment: dict[str, str]) -> None:
    def token(password: str) -> int:
        body = json.dumps({"username": "admin", "password": password}).encode()
        request = urllib.request.Request(f"{address}/auth/token", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert token(environment["ADMIN_PASSWORD"]) == 201
    assert token("another password") == 401
    assert environment["ADMIN_PASSWORD"] not in (image / "api-server.log").read_text()


def test_the_probe_does_not_take_a_component_that_never_ran_for_a_healthy_one(address: str) -> None:
    for part in ("scheduler", "dag_processor", "triggerer"):
        assert probe.fault(f"{address}/api/v2/monitor/health", part) != ""
