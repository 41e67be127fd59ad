"""A real vLLM server on the CPU, for tests and measurements: started, watched, counted, killed, started again.

It runs in a virtual environment of its own (`make test-vllm` makes it), serves the folder that `kar fetch model`
unpacks under a plain name, listens on a free loopback port, and cannot outlive the process that started it: it runs
under `kar/llm/guard.py`, which kills the whole group of processes when our end of a pipe closes. What it was asked is
read from its own /metrics, never from the client under test.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from kar.llm import guard

MODEL = "smollm2"
START_TIMEOUT_S = 480.0
_ENGINE = [
    *("--dtype", "bfloat16", "--max-model-len", "2048", "--enforce-eager", "--block-size", "32", "--max-num-seqs", "32"),
    *("--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}'),
]
# nothing is looked up, nobody is told, and nothing is compiled; one gigabyte of key-value cache
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def command(python: Path, module: str, folder: Path, *arguments: str) -> list[str]:
    """One of vLLM's programs over the model, with what both the server and the batch runner want to be told."""
    return [str(python), "-m", module, "--model", str(folder), "--served-model-name", MODEL, *_ENGINE, *arguments]


def environment() -> dict[str, str]:
    """Of vLLM's programs. The project's own virtual environment must not reach into theirs."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")} | _ENVIRONMENT


@dataclass
class VllmServer:
    """One server on one port, for as long as a `with` block lasts. `kill` and `start` may be repeated meanwhile.

    Args:
        python: of the virtual environment that holds vLLM.
        folder: the unpacked model.
        log_path: takes the server's output.
        arguments: more flags, e.g. ("--max-num-queued-reqs", "48").
        variables: more environment variables.
    """

    python: Path
    folder: Path
    log_path: Path
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    started_s: float = 0.0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def base_url(self) -> str:
        """For llm.base_url."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start it, on the port it had before if it had one, and wait until it is healthy.

        Raises:
            RuntimeError: it ended, or did not answer /health in time; with the end of its log.
        """
        self.port = self.port or _free_port()
        served = command(
            self.python, "vllm.entrypoints.openai.api_server", self.folder, "--host", "127.0.0.1", "--port", str(self.port), *self.arguments
        )
        started = time.monotonic()
        with self.log_path.open("ab") as sink:
            self._process = subprocess.Popen(
                [str(self.python), "-I", str(guard.__file__), *served],
                env={**environment(), **self.variables},
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own: `kill` reaches all its processes and no other
            )
        if not until(lambda: self._process is None or self._process.poll() is not None or self.is_healthy(), START_TIMEOUT_S, 0.25):
            self._fail(f"was not healthy within {START_TIMEOUT_S:.0f} s")
        if self._process.poll() is not None:
            self._fail(f"ended with code {self._process.returncode}")
        self.started_s = time.monotonic() - started

    def kill(self) -> None:
        """SIGKILL to every process of the server at once, as a power cut or the out-of-memory killer would."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._closed(self._process)

    def stop(self) -> None:
        """Let the guard end it; nothing to do if it is gone."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=15.0)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._closed(self._process)

    def _closed(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._process = None

    def _fail(self, how: str) -> None:
        end = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-30:])
        self.stop()
        raise RuntimeError(f"the vLLM server {how}; the end of its log:\n{end}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- asking it

    def is_healthy(self) -> bool:
        try:
            return self.get("/health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> tuple[int, str]:
        return self.send("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and JSON. The model's name is put in."""
        status, text = self.send("POST", path, json.dumps({"model": MODEL, **body}))
        return status, json.loads(text)

    def chat(self, prompt: str, **body: Any) -> dict[str, Any]:
        """A good answer's JSON, greedy unless `body` says otherwise."""
        messages = [{"role": "user", "content": prompt}]
        status, answer = self.post("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 16, **body})
        assert status == 200, answer
        return answer

    def send(self, method: str, path: str, body: str | None) -> tuple[int, str]:
        """Status and text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120.0)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    # ---- what it counted

    def metric(self, name: str, **labels: str) -> float:
        """A metric's sum over all its rows that carry these labels. Raises KeyError if there is no such metric."""
        rows = [(row, float(value)) for found, row, value in _SAMPLE.findall(self.get("/metrics")[1]) if found == name]
        if not rows:
            raise KeyError(name)
        return sum(value for row, value in rows if all(f'{key}="{wanted}"' in row for key, wanted in labels.items()))

    def running(self) -> int:
        """Requests that it works on or keeps waiting, at this moment."""
        return int(self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting"))

    def answered(self) -> int:
        """Chat requests that it answered whole since it started, for whomever: what a client pays for."""
        return self.calls() - int(self.metric("vllm:request_success_total", finished_reason="abort"))

    def calls(self) -> int:
        """Chat requests that it began to work on and ended since it started, those that a client gave up too.

        Call it when nothing runs. Requests refused with 400 or 503 never reach the engine and are not among them.
        """
        return int(self.metric("vllm:request_success_total"))

    def refusals(self) -> int:
        """Requests that it turned away because its queue was full."""
        return int(self.metric("vllm:admission_rejections_total"))

    def wait_until_idle(self, seconds: float = 60.0) -> None:
        assert until(lambda: self.running() == 0, seconds, 0.1), f"{self.running()} requests still run after {seconds:.0f} s"


def until(is_so: Callable[[], bool], seconds: float, look_every_s: float = 0.05) -> bool:
    """Wait for something. Returns whether it came in time."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(look_every_s)
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
