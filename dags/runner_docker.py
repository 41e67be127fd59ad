"""KAR_RUNNER=docker: a task's kar in a container of KAR_IMAGE, by the Docker provider.

    KAR_DOCKER_MOUNTS   one a line, source:target[:ro], source a path of the engine's host or a volume's name.
                        Unset: KAR_HOME and the settings file's folder (read-only), at the same paths
    KAR_DOCKER_NETWORK  the network that the language model's server is in; empty: the engine's default
    DOCKER_HOST         the engine, as for docker itself

Tasks of pool kar_gpu get one GPU. The API key is looked up when the task runs and goes to the container's private environment.
Parsed only where the runner is docker: it needs apache-airflow-providers-docker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from airflow.providers.docker.exceptions import DockerContainerFailedException
from airflow.providers.docker.operators.docker import DockerOperator
from deployment import Deployment, DeploymentError
from docker.types import DeviceRequest
from runner import KEY_VARIABLE, Complaint, api_key, failure, summary_of_line


class KarDockerOperator(DockerOperator):
    """DockerOperator that knows kar's exit codes and its last line, and looks the API key up when it runs.

    Args:
        connection: Airflow connection whose password is the API key; empty: the environment's, if it has one.
        asks: whether the container gets the key at all.
        gpus: how many GPUs it gets.
    """

    def __init__(self, *, connection: str = "", asks: bool = False, gpus: int = 0, **rest: Any) -> None:
        wanted = [DeviceRequest(count=gpus, capabilities=[["gpu"]])] if gpus else None
        super().__init__(device_requests=wanted, **rest)
        self.connection = connection
        self.asks = asks

    def execute(self, context: Any) -> Any:
        """Run the container to its end.

        Returns:
            The last line that is a JSON object, None if there is none. Log and result come in one stream, and which of the last
            lines comes first is the engine's.

        Raises:
            HeldBack: exit code 3.
            AirflowFailException: exit code 2, which no retry mends.
            AirflowException: any other exit code but 0.
        """
        if self.asks and (key := api_key(self.connection)):
            self._private_environment = {**self._private_environment, KEY_VARIABLE: key}
        try:
            lines = super().execute(context)
        except DockerContainerFailedException as error:
            found = re.search(r"'StatusCode': (\d+)", str(error))
            complaint = Complaint()
            for line in error.logs or []:
                complaint.hear(str(line))
            raise failure(int(found[1]) if found else 1, complaint.text) from None
        return next((made for line in reversed(lines or []) if (made := summary_of_line(str(line)))), None)


def parameters(
    deployment: Deployment, variables: dict[str, str], asks: bool, pool: str, environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Of KarDockerOperator, all but the task's own: its command is kar's arguments. Plain values, so that mapped tasks serialise.

    Args:
        variables: environment of every kar command, templated.

    Raises:
        DeploymentError: a mount that is none, or no folder for KAR_HOME.
    """
    return {
        "image": deployment.image,
        "entrypoint": [deployment.python, "-m", "kar"],
        "environment": variables,
        "mounts": _mounts(deployment, environ),
        "network_mode": environ.get("KAR_DOCKER_NETWORK") or None,
        "mount_tmp_dir": False,
        "auto_remove": "force",
        "xcom_all": True,  # all lines come to `execute`, which hands on one of them
        "connection": deployment.llm_connection,
        "asks": asks,
        "gpus": 1 if pool == "kar_gpu" else 0,
    }


def _mounts(deployment: Deployment, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    said = [line.strip() for line in environ.get("KAR_DOCKER_MOUNTS", "").splitlines() if line.strip()]
    if said:
        return [_mount(line) for line in said]
    if not deployment.home:
        raise DeploymentError("KAR_RUNNER=docker has no folder to keep data in", "set KAR_HOME, or KAR_DOCKER_MOUNTS")
    settings = PurePosixPath(deployment.settings)
    folders = [_mount(f"{deployment.home}:{deployment.home}")]
    if settings.is_absolute():
        folders.append(_mount(f"{settings.parent}:{settings.parent}:ro"))
    return folders


def _mount(line: str) -> dict[str, Any]:
    source, _, rest = line.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise DeploymentError(f"KAR_DOCKER_MOUNTS holds {line!r}", "write source:target or source:target:ro, one a line")
    kind = "bind" if source.startswith("/") else "volume"
    return {"source": source, "target": target, "type": kind, "read_only": mode == "ro"}
