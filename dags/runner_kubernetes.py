"""KAR_RUNNER=kubernetes: a task's kar in a pod of KAR_IMAGE, by the Kubernetes provider.

    KAR_KUBERNETES_NAMESPACE  where pods are made; empty: the Airflow connection's
    KAR_KUBERNETES_CLAIM      persistent volume claim that is mounted at KAR_HOME
    KAR_KUBERNETES_SECRET     name/key of the secret that holds the API key: the pod gets a reference, Airflow never sees the key
    KAR_KUBERNETES_TEMPLATE   pod template file for all else: node selectors, tolerations, further volumes such as the settings'

Tasks of pool kar_gpu request one nvidia.com/gpu. Parsed only where the runner is kubernetes: it needs apache-airflow-providers-cncf-kubernetes.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.secret import Secret
from airflow.sdk.exceptions import AirflowException
from deployment import Deployment, DeploymentError
from kubernetes.client import models as k8s
from runner import KEY_VARIABLE, Complaint, failure

_HOME_VOLUME = "kar-home"
_GRACE_S = 30
_SCRIPT = """\
{python} -m kar "$@" > "$KAR_XCOM/said" & child=$!
trap 'kill -TERM "$child"' TERM INT
wait "$child"; code=$?
while kill -0 "$child" 2> /dev/null; do wait "$child"; code=$?; done
cat "$KAR_XCOM/said"
case "$(tail -n 1 "$KAR_XCOM/said")" in
  "{{"*) tail -n 1 "$KAR_XCOM/said" > "$KAR_XCOM/return.json" ;;
  *) echo null > "$KAR_XCOM/return.json" ;;
esac
exit "$code"
"""
"""Hands kar's last line to the sidecar that keeps it for XCom, kar's exit code to the pod, and a pod's SIGTERM to kar."""


class KarPodOperator(KubernetesPodOperator):
    """KubernetesPodOperator that knows kar's exit codes. Takes plain values only, so that mapped tasks serialise.

    Args:
        secret: name/key of the API key's secret; empty: none.
        claim: persistent volume claim to mount at `home`; empty: none.
        gpus: how many nvidia.com/gpu it requests.
    """

    def __init__(self, *, secret: str = "", claim: str = "", home: str = "", gpus: int = 0, **rest: Any) -> None:
        name, _, key = secret.partition("/")
        count = {"nvidia.com/gpu": str(gpus)}
        super().__init__(
            secrets=[Secret("env", KEY_VARIABLE, name, key)] if secret else None,  # type: ignore[no-untyped-call]  # the provider has none
            volumes=[_volume(claim)] if claim else None,
            volume_mounts=[k8s.V1VolumeMount(name=_HOME_VOLUME, mount_path=home)] if claim else None,
            container_resources=k8s.V1ResourceRequirements(requests=count, limits=count) if gpus else None,
            container_security_context=k8s.V1SecurityContext(
                allow_privilege_escalation=False, capabilities=k8s.V1Capabilities(drop=["ALL"]), run_as_non_root=True
            ),
            **rest,
        )
        if self.execution_timeout is not None:  # a pod must not outlive its task where Airflow is gone too
            self.active_deadline_seconds = int(self.execution_timeout.total_seconds()) + _GRACE_S

    def cleanup(self, pod: Any, remote_pod: Any, xcom_result: Any = None, context: Any = None) -> None:
        """As the provider's, but exit codes 2 and 3 are never retried, and the words are kar's, not the pod's whole description."""
        try:
            super().cleanup(pod, remote_pod, xcom_result, context)
        except AirflowException:
            ended = _ended(remote_pod, self.base_container_name)
            if ended is None or ended.exit_code == 0:
                raise
            raise failure(ended.exit_code, _complaint(ended)) from None


def parameters(
    deployment: Deployment, variables: dict[str, str], asks: bool, pool: str, environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Of KarPodOperator, all but the task's own: its arguments are kar's. Plain values.

    Args:
        variables: environment of every kar command, templated.

    Raises:
        DeploymentError: a key that only Airflow could look up, a secret without its key, or a claim without a folder.
    """
    secret, claim = environ.get("KAR_KUBERNETES_SECRET", ""), environ.get("KAR_KUBERNETES_CLAIM", "")
    if secret and not all(secret.partition("/")):
        raise DeploymentError(f"KAR_KUBERNETES_SECRET={secret}", "write the secret's name and the key in it: name/key")
    if deployment.llm_connection and not secret:
        raise DeploymentError(
            "KAR_RUNNER=kubernetes does not read KAR_LLM_CONNECTION: a pod's description would hold the key",
            "put the key into a secret and name it: KAR_KUBERNETES_SECRET=name/key",
        )
    if claim and not deployment.home:
        raise DeploymentError("KAR_KUBERNETES_CLAIM has no folder to be mounted at", "set KAR_HOME")
    return {
        "image": deployment.image,
        "cmds": ["sh", "-c", _SCRIPT.format(python=shlex.quote(deployment.python)), "kar"],
        "env_vars": {**variables, "KAR_XCOM": "/airflow/xcom"},
        "namespace": environ.get("KAR_KUBERNETES_NAMESPACE") or None,
        "pod_template_file": environ.get("KAR_KUBERNETES_TEMPLATE") or None,
        "claim": claim,
        "home": deployment.home,
        "secret": secret if asks else "",
        "gpus": 1 if pool == "kar_gpu" else 0,
        "do_xcom_push": True,
        "deferrable": False,  # the trigger that the provider would defer to cannot tell a gate's exit code
        "automount_service_account_token": False,
        "termination_grace_period": _GRACE_S,
        "termination_message_policy": "FallbackToLogsOnError",
        "log_pod_spec_on_failure": False,
    }


def _volume(claim: str) -> k8s.V1Volume:
    source = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim)
    return k8s.V1Volume(name=_HOME_VOLUME, persistent_volume_claim=source)


def _ended(pod: Any, container: str) -> Any | None:
    """How the container ended: exit_code, message, reason; None if it did not."""
    statuses = (pod.status.container_statuses if pod is not None and pod.status else None) or []
    state = next((status.state for status in statuses if status.name == container), None)
    return state.terminated if state else None


def _complaint(ended: Any) -> str:
    """What kar said last on standard error: Kubernetes keeps the end of a failed container's log."""
    complaint = Complaint()
    for line in (ended.message or ended.reason or "").splitlines():
        complaint.hear(line)
    return complaint.text
