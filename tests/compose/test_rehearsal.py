"""What the containers run, run here without containers: the real Airflow, started by the images' own scripts, on SQLite."""

from __future__ import annotations

import contextlib
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
from typing import Any

import pytest

from tests.compose.rendered import COMPOSE, EXAMPLE, REASON, ROOT, rendered, script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("airflow") is None, reason="Airflow is not installed here"),
    pytest.mark.skipif(COMPOSE is None, reason=REASON),
]

make_env, refuse_defaults = script(ROOT / "docker/make_env.py"), script(ROOT / "docker/refuse_defaults.py")
SERVICES = ("api-server", "scheduler", "dag-processor", "triggerer")
HEALTHY_S = 300.0
DAGS = {"kar_nightly", "kar_train", "kar_maintenance", "kar_downstream_example"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/airflow as the image has it."""
    folder = tmp_path_factory.mktemp("airflow")
    (folder / "docker").mkdir()
    for name in ("entrypoint.sh", "init.sh", "probe.py", "refuse_defaults.py"):
        shutil.copy(ROOT / "docker" / name, folder / "docker" / name)
    shutil.copy(EXAMPLE, folder / "docker/env.example")
    shutil.copytree(ROOT / "dags", folder / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "home").mkdir()
    return folder


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    """A free port for each that the containers have for themselves: 8080, the scheduler's health, two servers of logs."""
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        return dict(zip(("8080", "8974", "8793", "8794"), (one.getsockname()[1] for one in free), strict=True))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as Compose renders them, with fresh secrets."""
    return dict(rendered(**{ours: make_env.fresh(ours) for ours in make_env.SECRETS})["services"])


@pytest.fixture(scope="module")
def environments(services: dict[str, Any], image: Path, ports: dict[str, int]) -> dict[str, dict[str, str]]:
    """Each service's environment: the compose file's, but for what a container has and this machine has not."""
    here = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(image),
        "AIRFLOW_HOME": str(image / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(image / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{ports['8080']}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(ports["8080"]),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{image}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(image / "logs"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(image / "logs/dag_processor"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports["8793"]),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["8794"]),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(ports["8974"]),
    }
    return {name: {**services[name]["environment"], **here} for name in ("init", *SERVICES)}


@pytest.fixture(scope="module")
def initialised(image: Path, environments: dict[str, dict[str, str]]) -> None:
    """What the service `init` does, twice: it runs at every `up`."""
    for _ in range(2):
        command = [str(image / "docker/entrypoint.sh"), str(image / "docker/init.sh")]
        done = subprocess.run(command, env=environments["init"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def unhealthy(service: dict[str, Any], image: Path, ports: dict[str, int]) -> str:
    """What the service's own health check says, asked of this machine; empty: it is well."""
    assert service["healthcheck"]["test"][0] == "CMD"
    command = [
        part.replace("/opt/airflow", str(image)).replace("//api-server:", "//127.0.0.1:") for part in service["healthcheck"]["test"][1:]
    ]
    for inside, outside in ports.items():
        command = [part.replace(f":{inside}/", f":{outside}/") for part in command]
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module")
def running(
    initialised: None, image: Path, services: dict[str, Any], environments: dict[str, dict[str, str]], ports: dict[str, int]
) -> Iterator[str]:
    """All of Airflow's services, each started by its own command in its own environment, one after the other as they wait for each other."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name in SERVICES:
            with (image / f"{name}.log").open("wb") as log:
                command = [str(image / "docker/entrypoint.sh"), *services[name]["command"]]
                started.append(subprocess.Popen(command, env=environments[name], stdout=log, stderr=log, start_new_session=True))
            end = time.monotonic() + HEALTHY_S
            while wrong := unhealthy(services[name], image, ports):
                said = (image / f"{name}.log").read_text()[-3000:]
                assert started[-1].poll() is None, f"{name} ended: {said}"
                assert time.monotonic() < end, f"{name} is not well: {wrong} {said}"
                time.sleep(1)
        yield f"http://127.0.0.1:{ports['8080']}"
    finally:
        for process in reversed(started):
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """As the engine does: SIGTERM, and after a while SIGKILL to all that is left of it."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_every_service_of_airflow_becomes_well_by_its_own_health_check_and_stays_so(
    running: str, services: dict[str, Any], image: Path, ports: dict[str, int]
) -> None:
    assert {name: unhealthy(services[name], image, ports) for name in SERVICES} == dict.fromkeys(SERVICES, "")


def test_the_page_lets_in_whoever_has_the_password_of_env_and_shows_the_dags_without_an_error(
    running: str, image: Path, environments: dict[str, dict[str, str]]
) -> None:
    password = environments["api-server"]["ADMIN_PASSWORD"]

    def asked(path: str, body: dict[str, str] | None = None, token: str = "") -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(running + path, json.dumps(body).encode() if body else None, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, None

    assert asked("/auth/token", {"username": "admin", "password": "another"})[0] == 401
    status, made = asked("/auth/token", {"username": "admin", "password": password})
    assert status == 201
    token = made["access_token"]
    end = time.monotonic() + HEALTHY_S
    while not {dag["dag_id"] for dag in asked("/api/v2/dags", token=token)[1]["dags"]} >= DAGS:
        assert time.monotonic() < end, asked("/api/v2/importErrors", token=token)
        time.sleep(1)
    assert asked("/api/v2/importErrors", token=token)[1]["import_errors"] == []
    pools = {pool["name"]: pool["slots"] for pool in asked("/api/v2/pools", token=token)[1]["pools"]}
    wanted = {name: pool["slots"] for name, pool in json.loads((ROOT / "dags/pools.json").read_text()).items()}
    assert wanted.items() <= pools.items()
    logs = "".join((image / f"{name}.log").read_text() for name in SERVICES)
    assert [
        name for name in refuse_defaults.SECRETS if environments["api-server"].get(name, "-") in logs and name in environments["api-server"]
    ] == []


def test_a_service_that_never_ran_is_not_taken_for_a_healthy_one(services: dict[str, Any], image: Path, ports: dict[str, int]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = dict.fromkeys(ports, nobody.getsockname()[1])
        assert [name for name in SERVICES if not unhealthy(services[name], ROOT, gone)] == []
