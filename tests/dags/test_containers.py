"""Tasks in containers and pods, made by the real providers: what an engine on loopback is asked for, and the pod's description.

Neither a container engine nor a cluster is here: what they would do with it is not tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KEY = "sk-planted-5cc1d"
_BEFORE = """
import datetime as dt, json, sys
sys.path[:0] = ["dags", "tests/dags"]
from deployment import Deployment, DeploymentError
from runner import HeldBack, mapped_stage_task, stage_task
from airflow.sdk import DAG, task
HERE = Deployment.from_environment()

def refused(environ):
    try:
        return parameters(Deployment.from_environment(environ), {}, True, "kar_llm", environ) and ""
    except DeploymentError as error:
        return str(error)

def dag(**more):
    with DAG("d", start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as made:
        shards = task(lambda: [["ask", "--shard", "0/2"]], task_id="shards")()
        mapped_stage_task("ask", shards, deployment=HERE, pool="kar_llm", asks=True)
        for name, pool, asks in (("asks", "kar_llm", True), ("encodes", "kar_gpu", False)):
            stage_task(name, ["run", name, "--date", "{{ ds }}"], deployment=HERE, pool=pool, asks=asks, timeout=dt.timedelta(minutes=9))
    return made

def serialised(made):
    from airflow.serialization.serialized_objects import DagSerialization
    return DagSerialization.to_json(made)
"""
_DOCKER = (
    _BEFORE
    + """
from docker_engine import engine
from runner_docker import parameters

def ended(task_id, said, code):
    with engine(said, code) as (address, asked):
        task = dag().get_task(task_id)
        task.docker_url = address
        try:
            result = {"returned": task.execute({})}
        except Exception as error:
            result = {"raised": type(error).__name__, "says": str(error)}
    created = next((call["body"] for call in asked if "/containers/create" in call["call"]), result)
    return {**result, "created": created, "calls": [call["call"] for call in asked]}

log = ("stderr", "10:00 stage=x\\\\n")
found = {
    "done": ended("asks", [log, ("stdout", 'done\\\\n{"stage": "prompts", "rows": {"plan": 3}}\\\\n'), ("stderr", "bye\\\\n")], 0),
    "gpu": ended("encodes", [log], 0),
    "held": ended("asks", [log, ("stderr", "kar: coverage fell\\\\n  do: look\\\\n")], 3),
    "usage": ended("asks", [("stderr", "kar: no such option\\\\n")], 2),
    "error": ended("asks", [("stderr", "kar: not made\\\\n")], 1),
    "serialised": serialised(dag()),
    "refused": [
        refused({"KAR_RUNNER": "docker", "KAR_IMAGE": "kar"}), refused({"KAR_RUNNER": "docker", "KAR_IMAGE": "kar", "KAR_DOCKER_MOUNTS": "/a"}),
    ],
    "mounts": parameters(HERE, {}, True, "kar", {"KAR_DOCKER_MOUNTS": "/srv/kar:/data\\\\nprompts:/prompts:ro"})["mounts"],
}
print("PROBE" + json.dumps(found))
"""
)
_KUBERNETES = (
    _BEFORE
    + """
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import os

class Cluster(BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        text = b'{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "kar"}, "spec": {"containers": [{"name": "base"}]}}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    do_GET = do_PATCH = do_DELETE = do_POST = answer
    def log_message(self, *of): pass

cluster = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
threading.Thread(target=cluster.serve_forever, daemon=True).start()
Path(os.environ["KUBECONFIG"]).write_text(json.dumps({
    "apiVersion": "v1", "kind": "Config", "current-context": "here", "users": [{"name": "me", "user": {}}],
    "clusters": [{"name": "loopback", "cluster": {"server": f"http://127.0.0.1:{cluster.server_address[1]}"}}],
    "contexts": [{"name": "here", "context": {"cluster": "loopback", "user": "me"}}],
}))
from kubernetes import client
from kubernetes.client import models as k8s
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from runner_kubernetes import parameters

made = dag()
pods = {}
for name in ("asks", "encodes"):
    pod = made.get_task(name).build_pod_request_obj(dry_run=True)
    pods[name] = client.ApiClient().sanitize_for_serialization(pod)
    assert client.ApiClient().sanitize_for_serialization(PodGenerator.deserialize_model_dict(pods[name])) == pods[name]

def ended(code, message):
    state = k8s.V1ContainerState(terminated=k8s.V1ContainerStateTerminated(exit_code=code, message=message, reason="Error"))
    status = k8s.V1ContainerStatus(name="base", image="kar", image_id="1", ready=False, restart_count=0, state=state)
    remote = k8s.V1Pod(metadata=k8s.V1ObjectMeta(name="p", namespace="kar", annotations={}), spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base")]),
                       status=k8s.V1PodStatus(phase="Failed" if code else "Succeeded", container_statuses=[status]))
    try:
        made.get_task("asks").cleanup(remote, remote)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []

found = {
    "pods": pods,
    "ended": {str(code): ended(code, message) for code, message in ((0, ""), (1, "a log\\\\nkar: not made\\\\n"), (2, "kar: no option"), (3, "kar: coverage fell\\\\n  do: look"))},
    "serialised": serialised(made),
    "refused": [
        refused({"KAR_RUNNER": "kubernetes", "KAR_IMAGE": "kar", "KAR_LLM_CONNECTION": "llm"}),
        refused({"KAR_RUNNER": "kubernetes", "KAR_IMAGE": "kar", "KAR_KUBERNETES_SECRET": "llm"}),
        refused({"KAR_RUNNER": "kubernetes", "KAR_IMAGE": "kar", "KAR_KUBERNETES_CLAIM": "kar"}),
    ],
}
print("PROBE" + json.dumps(found))
"""
)


def probed(script: str, folder: Path, **variables: str) -> dict[str, Any]:
    """One fresh interpreter, because Airflow configures itself at import from the environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAR_")}
    environment |= {"AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "KAR_LLM_API_KEY": KEY, "KAR_IMAGE": "kar:1"}
    environment |= {"AIRFLOW_CONN_KUBERNETES_DEFAULT": "kubernetes://", "KUBECONFIG": str(folder / "kube.json")}
    code = script.replace("\\\\n", "\\n")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**environment, **variables}, capture_output=True, text=True, timeout=300
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("PROBE")]
    assert lines, done.stderr[-3000:] + done.stdout[-2000:]
    found: dict[str, Any] = json.loads(lines[0].removeprefix("PROBE"))
    return found


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("docker")
    where = {"KAR_HOME": "/data", "KAR_SETTINGS": "/etc/kar/shop.toml", "KAR_DOCKER_NETWORK": "llm"}
    return probed(_DOCKER, folder, KAR_RUNNER="docker", **where)


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("kubernetes")
    template = folder / "pod.yaml"
    lines = ["apiVersion: v1", "kind: Pod", "metadata: {labels: {team: ranking}}"]
    lines += ["spec:", "  nodeSelector: {zone: a}", "  containers: [{name: base, image: any}]"]
    template.write_text("\n".join(lines))
    where = {"KAR_HOME": "/data", "KAR_KUBERNETES_CLAIM": "kar-data", "KAR_KUBERNETES_SECRET": "llm/key", "KAR_KUBERNETES_NAMESPACE": "kar"}
    return probed(_KUBERNETES, folder, KAR_RUNNER="kubernetes", KAR_KUBERNETES_TEMPLATE=str(template), **where)


def test_the_engine_is_asked_for_kars_image_with_the_key_in_the_containers_environment_alone(docker: dict[str, Any]) -> None:
    created = docker["done"]["created"]
    assert (created["Image"], created["Entrypoint"]) == ("kar:1", ["python", "-m", "kar"])
    assert created["Cmd"] == ["run", "asks", "--date", "{{ ds }}"], "Airflow renders it before it runs"
    assert {"KAR_HOME=/data", f"KAR_LLM_API_KEY={KEY}"} <= set(created["Env"])
    mounts = [(mount["Source"], mount["Target"], mount["Type"], mount["ReadOnly"]) for mount in created["HostConfig"]["Mounts"]]
    assert mounts == [("/data", "/data", "bind", False), ("/etc/kar", "/etc/kar", "bind", True)]
    assert created["HostConfig"]["NetworkMode"] == "llm"
    assert not created["HostConfig"].get("Privileged")
    assert "DELETE /v1.44/containers/c1?v=False&link=False&force=True" in docker["done"]["calls"], "no container is left"


def test_a_container_on_the_gpus_pool_gets_one_and_no_key(docker: dict[str, Any]) -> None:
    created = docker["gpu"]["created"]
    assert created["HostConfig"]["DeviceRequests"] == [
        {"Driver": "", "Count": 1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    ]
    assert not docker["done"]["created"]["HostConfig"].get("DeviceRequests")
    assert KEY not in json.dumps(created)


def test_a_containers_last_line_of_json_is_its_result_and_its_exit_code_what_it_is_everywhere(docker: dict[str, Any]) -> None:
    assert docker["done"]["returned"] == {"stage": "prompts", "rows": {"plan": 3}}
    assert (docker["held"]["raised"], docker["held"]["says"]) == ("HeldBack", "kar: coverage fell\n  do: look")
    assert docker["usage"]["raised"] == "AirflowFailException"
    assert (docker["error"]["raised"], docker["error"]["says"]) == ("AirflowException", "kar ended with exit code 1: kar: not made")


def test_mounts_are_as_docker_writes_them_and_wrong_ones_are_named(docker: dict[str, Any]) -> None:
    assert [(mount["source"], mount["target"], mount["type"], mount["read_only"]) for mount in docker["mounts"]] == [
        ("/srv/kar", "/data", "bind", False),
        ("prompts", "/prompts", "volume", True),
    ]
    assert "no folder to keep data in" in docker["refused"][0]
    assert "KAR_DOCKER_MOUNTS holds '/a'" in docker["refused"][1]


@pytest.mark.parametrize("place", ["docker", "kubernetes"])
def test_no_key_stands_in_what_airflow_keeps_of_a_dag(place: str, request: pytest.FixtureRequest) -> None:
    serialised = request.getfixturevalue(place)["serialised"]
    assert KEY not in serialised
    assert '"ask"' in serialised


def test_a_pod_refers_to_the_key_and_never_holds_it(kubernetes: dict[str, Any]) -> None:
    asks, encodes = (kubernetes["pods"][name]["spec"]["containers"][0] for name in ("asks", "encodes"))
    assert {"name": "KAR_LLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "llm", "key": "key"}}} in asks["env"]
    assert all(variable["name"] != "KAR_LLM_API_KEY" for variable in encodes["env"])
    assert KEY not in json.dumps(kubernetes["pods"])


def test_a_pod_on_the_gpus_pool_requests_one(kubernetes: dict[str, Any]) -> None:
    asks, encodes = (kubernetes["pods"][name]["spec"]["containers"][0] for name in ("asks", "encodes"))
    assert encodes["resources"] == {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}}
    assert not asks.get("resources")


def test_a_pod_is_unprivileged_has_the_data_and_does_not_outlive_its_task(kubernetes: dict[str, Any]) -> None:
    pod = kubernetes["pods"]["asks"]
    container, spec = pod["spec"]["containers"][0], pod["spec"]
    assert (container["image"], container["name"]) == ("kar:1", "base")
    assert container["args"] == ["run", "asks", "--date", "{{ ds }}"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    assert {"mountPath": "/data", "name": "kar-home"} in container["volumeMounts"]
    assert {"name": "kar-home", "persistentVolumeClaim": {"claimName": "kar-data"}} in spec["volumes"]
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False
    assert 9 * 60 < spec["activeDeadlineSeconds"] <= 10 * 60
    assert (pod["metadata"]["namespace"], pod["metadata"]["labels"]["team"], spec["nodeSelector"]) == ("kar", "ranking", {"zone": "a"})


def test_a_pods_exit_code_is_what_it_is_everywhere(kubernetes: dict[str, Any]) -> None:
    assert kubernetes["ended"] == {
        "0": [],
        "1": ["AirflowException", "kar ended with exit code 1: kar: not made"],
        "2": ["AirflowFailException", "wrong usage of kar, which no retry mends: kar: no option"],
        "3": ["HeldBack", "kar: coverage fell\n  do: look"],
    }


def test_a_deployment_that_pods_cannot_be_made_of_is_named(kubernetes: dict[str, Any]) -> None:
    connection, secret, claim = kubernetes["refused"]
    assert "set KAR_HOME" in claim
    assert "name/key" in secret
    assert "does not read KAR_LLM_CONNECTION" in connection


@pytest.mark.parametrize(
    ("program", "code", "kept"),
    [
        ('print("done"); print(\'{"a": 1}\')', 0, {"a": 1}),
        ('print("no json")', 0, None),
        ("print('{\"half\": 1}'); raise SystemExit(3)", 3, {"half": 1}),
        ("import os, signal; os.kill(os.getppid(), signal.SIGTERM); signal.pause()", 143, None),
    ],
)
def test_a_pods_shell_keeps_the_last_line_hands_on_the_exit_code_and_sigterm(
    kubernetes: dict[str, Any], tmp_path: Path, program: str, code: int, kept: Any
) -> None:
    command = kubernetes["pods"]["asks"]["spec"]["containers"][0]["command"]
    assert command[:2] == ["sh", "-c"]
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -c "$PROGRAM" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PROGRAM": program, "KAR_XCOM": str(tmp_path)}
    done = subprocess.run([*command, "run", "x"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert json.loads((tmp_path / "return.json").read_text()) == kept
