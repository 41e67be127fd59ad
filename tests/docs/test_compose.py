"""docker-compose.yml says what it must; where docker-compose is installed, it validates there too."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SECRETS = {"POSTGRES_PASSWORD": "p", "FERNET_KEY": "f", "JWT_SECRET": "j"}


def test_the_services_of_a_one_machine_deployment_are_there() -> None:
    assert {"postgres", "api-server", "scheduler", "dag-processor", "triggerer", "vllm"} <= set(COMPOSE["services"])


def test_all_airflow_services_share_one_jwt_secret() -> None:
    airflow = [s for name, s in COMPOSE["services"].items() if name in ("api-server", "scheduler", "dag-processor", "triggerer", "migrate")]
    secrets = {service["environment"]["AIRFLOW__API_AUTH__JWT_SECRET"] for service in airflow}
    assert len(airflow) == 5
    assert len(secrets) == 1


def test_vllm_reserves_a_gpu_and_is_healthy_only_when_its_model_is() -> None:
    vllm = COMPOSE["services"]["vllm"]
    (device,) = vllm["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "/v1/models" in vllm["healthcheck"]["test"][-1]


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in SECRETS:
        assert f"${{{name}:?" in text
        assert f"\n{name}=\n" in "\n" + (ROOT / ".env.example").read_text()


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed here")
def test_docker_compose_accepts_the_file_with_secrets_and_refuses_it_without(tmp_path: Path) -> None:
    command = ["docker-compose", "-f", str(ROOT / "docker-compose.yml"), "config"]
    clean = {key: value for key, value in os.environ.items() if key not in SECRETS}
    accepted = subprocess.run(command, cwd=tmp_path, env={**clean, **SECRETS}, capture_output=True, text=True)
    assert accepted.returncode == 0, accepted.stderr
    assert subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True).returncode != 0
