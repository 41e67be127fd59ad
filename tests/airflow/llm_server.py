"""A language model's server in a process of its own: stopped and started at will, it keeps what it answered in a file.

`python -m tests.airflow.llm_server PORT FILE DELAY_S` writes a line for each request, the digest of its body, just before it answers; one whose
client goes away meanwhile is aborted, as vLLM does, and not counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

from tests.llm.loopback import Call, loopback

ROOT = Path(__file__).parents[2]


class LlmServer:
    """The server, on a port of its own for as long as the object lives, running or not.

    Args:
        folder: for the file of what it was sent and for its log.
        port: free.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._port, self._sent, self._log = port, folder / "sent.txt", folder / "llm.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._sent.touch()

    def start(self, delay_s: float = 0.02) -> None:
        """Begin to answer, each request after `delay_s`."""
        command = [sys.executable, "-m", "tests.airflow.llm_server", str(self._port), str(self._sent), str(delay_s)]
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=sink, stderr=sink)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.base_url}/models", timeout=2):
                return
            time.sleep(0.1)
        raise AssertionError(f"the server did not start: {self._log.read_text()}")

    def stop(self) -> None:
        """Break every connection at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def times(self) -> Counter[str]:
        """How often each body was answered, since the beginning."""
        return Counter(self._sent.read_text().split())

    def calls(self) -> int:
        """How many requests were answered, since the beginning."""
        return self.times().total()


def _serve(port: int, sent: Path, delay_s: float) -> None:
    with sent.open("a", buffering=1) as sink:

        def noted(call: Call) -> str:
            sink.write(hashlib.sha256(json.dumps(call.body, sort_keys=True).encode()).hexdigest() + "\n")
            return "ok"

        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        with loopback(noted, port=port, delay_s=delay_s):
            ended.wait()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
