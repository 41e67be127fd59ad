"""All of Airflow on this machine in one command: scheduler, DAG processor, triggerer and API server, on 127.0.0.1.

    python dags/tools/standalone.py [--home FOLDER] [--port 8080] [--database URL]

`make airflow` calls it. Airflow's own `standalone` leaves children behind when it is told to end, and shares no secret between its parts
but by the file that each of them writes; this one ends all that it began. Everything it writes lies below AIRFLOW_HOME, by default
`$KAR_HOME/_airflow`: database, logs, passwords, secrets. For one person's machine; docker-compose.yml is for a deployment.

Tests use `Standalone` for a scheduler that can be killed and started again. Imports nothing of Airflow: each part is a process of its own.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime as dt
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import psutil

DAGS = Path(__file__).resolve().parents[1]
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
FIRST_PORT = 8080
PASSWORDS = "simple_auth_manager_passwords.json.generated"  # the name Airflow gives it
_HEALTH = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}
_MARK = "KAR_STANDALONE"


class StandaloneError(RuntimeError):
    """Airflow could not be started here; the message says why and what to do."""


class Standalone:
    """Airflow's four parts, each the leader of a process group of its own.

    Args:
        home: AIRFLOW_HOME; made if missing, readable by its owner alone.
        database: SQLAlchemy address of the metadata database; empty: SQLite below home.
        port: of the API server; 0: any free one. One that is taken is replaced by the next free one.
        dags: folder of DAG files; `pools.json` in it is imported.
        environ: what the parts start from.
        settings: further AIRFLOW__… variables, over those chosen here.
    """

    def __init__(
        self,
        home: Path,
        *,
        database: str = "",
        port: int = FIRST_PORT,
        dags: Path = DAGS,
        environ: Mapping[str, str] = os.environ,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home.resolve()
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        self.port = free_port(port)
        self.url = f"http://127.0.0.1:{self.port}"
        self.password, self.is_new_password = _password(self.home / PASSWORDS)
        self._dags = dags
        self._mark = secrets.token_hex(8)
        self.environ = {**environ, **self._chosen(database, dags), **(settings or {}), _MARK: self._mark}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()  # of every part ever started: a killed part's forks still belong to it
        self._lock: TextIO | None = None

    def _chosen(self, database: str, dags: Path) -> dict[str, str]:
        kept = _kept_secrets(self.home / "secrets.json")
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__FERNET_KEY": kept["fernet"],
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": kept["api"],
            "AIRFLOW__API_AUTH__JWT_SECRET": kept["jwt"],
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database or f"sqlite:///{self.home / 'airflow.db'}",
        }

    def start(self, timeout_s: float = 120.0, told: threading.Event | None = None) -> float:
        """Make the database, import the pools, start all parts and wait until all of them are healthy; how long it took, in s.

        Args:
            told: once it is set nothing is waited for any more.

        Raises:
            StandaloneError: another one runs in this home; a part ended or was not healthy in time: the end of its log is quoted.
        """
        began = time.monotonic()
        lock = (self.home / "standalone.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StandaloneError(f"Airflow runs already in {self.home}\n  do: stop it, or name another folder with --home") from None
        self._lock = lock
        try:
            self.airflow("db", "migrate")
            for name in COMPONENTS:
                self._begin(name)
            if (pools := self._dags / "pools.json").is_file():  # while the parts come up
                self.airflow("pools", "import", str(pools))
            self.wait_healthy(timeout_s, told=told)
        except BaseException:
            self.stop(0)
            raise
        return time.monotonic() - began

    def airflow(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """What one `airflow` command printed.

        Raises:
            StandaloneError: it ended with anything but 0.
        """
        command = [sys.executable, "-m", "airflow", *arguments]
        done = subprocess.run(
            command, env=self.environ, cwd=self.home, capture_output=True, text=True, check=False, timeout=timeout_s, start_new_session=True
        )
        if done.returncode:
            raise StandaloneError(f"airflow {' '.join(arguments)} ended with {done.returncode}:\n{_tail(done.stdout + done.stderr)}")
        return done.stdout

    def _begin(self, name: str) -> None:
        logs = self.home / "logs" / "components"
        logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "airflow", name]
        if name in ("scheduler", "triggerer"):
            command.append("--skip-serve-logs")  # the API server reads the same folder; a port less that may be taken
        with (logs / f"{name}.log").open("ab") as sink:
            part = subprocess.Popen(
                command, env=self.environ, cwd=self.home, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )
        self._running[name] = part
        self._sessions.add(part.pid)

    def log_of(self, name: str) -> str:
        """The end of what a part said."""
        return _tail((self.home / "logs" / "components" / f"{name}.log").read_text(errors="replace"))

    def healthy(self, since: dt.datetime | None = None) -> bool:
        """Whether database, scheduler, DAG processor and triggerer are well by the API server's word, with a heartbeat after `since`."""
        said = self._health()
        if said.get("metadatabase", {}).get("status") != "healthy":
            return False
        for key in _HEALTH.values():
            part = said.get(key) or {}
            beat = part.get(f"latest_{key}_heartbeat")
            if part.get("status") != "healthy" or (since is not None and (not beat or dt.datetime.fromisoformat(beat) < since)):
                return False
        return True

    def _health(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(f"{self.url}/api/v2/monitor/health", timeout=5) as response:
            found: dict[str, Any] = json.load(response)
            return found
        return {}

    def wait_healthy(self, timeout_s: float = 120.0, since: dt.datetime | None = None, told: threading.Event | None = None) -> None:
        """Wait for `healthy`.

        Raises:
            StandaloneError: a part ended, or the time was up.
        """
        until = time.monotonic() + timeout_s
        while not self.healthy(since) and not (told and told.is_set()):
            if gone := self.ended():
                raise StandaloneError(f"the {gone} ended:\n{self.log_of(gone)}")
            if time.monotonic() > until:
                raise StandaloneError(f"not healthy after {timeout_s:.0f} s; it says {self._health()}; logs: {self.home / 'logs'}")
            time.sleep(0.25)

    def ended(self) -> str:
        """A part that ended by itself; empty: all run."""
        return next((name for name, process in self._running.items() if process.poll() is not None), "")

    def kill(self, name: str, sig: int = signal.SIGKILL) -> int:
        """Send a signal to a part's own process, as the system's out-of-memory killer would, and wait for its end; its pid."""
        process = self._running.pop(name)
        process.send_signal(sig)
        process.wait(60)
        return process.pid

    def restart(self, name: str, timeout_s: float = 120.0) -> None:
        """Start a part again (killing it if it runs) and wait until it is healthy."""
        if name in self._running:
            self.kill(name)
        began_at = dt.datetime.now(dt.UTC)
        self._begin(name)
        self.wait_healthy(timeout_s, began_at)

    def processes(self) -> list[psutil.Process]:
        """Every living process that came of this Airflow, orphans and commands of tasks too.

        A child of a part; or of a part's session, which a fork keeps when its parent dies; or one that carries our mark, which a command in
        a session of its own keeps.
        """
        found = []
        parts = {process.pid for process in self._running.values()}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                    continue
                if (
                    os.getsid(process.pid) in self._sessions
                    or process.environ().get(_MARK) == self._mark
                    or parts & {parent.pid for parent in process.parents()}
                ):
                    found.append(process)
        return found

    def stop(self, grace_s: float = 10.0) -> list[str]:
        """End every part and all that they began; the command lines of those that had to be killed.

        First the scheduler, so that nothing new begins: it waits for its tasks. After `grace_s` the tasks are told to end too, which each
        passes on to its command; the API server goes last, since tasks report to it.
        """
        served = self._running.pop("api-server", None)
        for process in self._running.values():
            process.terminate()
        if not _all_end(self._running.values(), grace_s):
            spared = {served.pid, *(child.pid for child in psutil.Process(served.pid).children(recursive=True))} if served else set()
            _tell([process for process in self.processes() if process.pid not in spared], signal.SIGTERM)
            _all_end(self._running.values(), grace_s)
        if served:
            served.terminate()
            _all_end([served], 15.0)
        left = self.processes()
        lines = [_line(process) for process in left]
        _tell(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=5)
        _all_end([*self._running.values(), *([served] if served else [])], 5.0)
        self._running.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        return lines


def _tell(processes: Iterable[psutil.Process], sig: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(sig)


def _line(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _all_end(processes: Iterable[subprocess.Popen[bytes]], timeout_s: float) -> bool:
    """Whether all of them end in time."""
    until = time.monotonic() + timeout_s
    waiting = list(processes)
    while waiting := [process for process in waiting if process.poll() is None]:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def free_port(wanted: int = 0) -> int:
    """The wanted port of 127.0.0.1, or the next one up to a hundred further that is free; 0: any."""
    for port in range(wanted, wanted + 100) if wanted else (0,):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will: one closed a moment ago is free
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise StandaloneError(f"no port between {wanted} and {wanted + 99} is free\n  do: name another with --port")


def _write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as sink:
        sink.write(text)
    path.chmod(0o600)  # one that was there before keeps its mode otherwise


def _kept_secrets(path: Path) -> dict[str, str]:
    """What all parts must share, made once: without one JWT secret no task may report to the API server."""
    if not path.is_file():
        made = {
            "jwt": secrets.token_urlsafe(32),
            "api": secrets.token_urlsafe(32),
            "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
        _write_private(path, json.dumps(made))
    found: dict[str, str] = json.loads(path.read_text())
    return found


def _password(path: Path) -> tuple[str, bool]:
    """The admin's password, and whether it was made just now. Made here, because Airflow would print it into a log."""
    if is_new := not path.is_file():
        _write_private(path, json.dumps({"admin": secrets.token_urlsafe(12)}) + "\n")
    return str(json.loads(path.read_text())["admin"]), is_new


def _tail(text: str, lines: int = 20) -> str:
    return "\n".join(text.rstrip().splitlines()[-lines:])


def main(arguments: list[str] | None = None) -> int:
    """Run until a signal comes or a part ends."""
    parser = argparse.ArgumentParser(description="All of Airflow on this machine, on 127.0.0.1.")
    kar_home = Path(os.environ.get("KAR_HOME") or ".kar")
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("AIRFLOW_HOME") or kar_home / "_airflow"), help="AIRFLOW_HOME")
    parser.add_argument("--port", type=int, default=FIRST_PORT, help="of the web page; the next free one if it is taken")
    parser.add_argument("--database", default="", help="SQLAlchemy address of the metadata database; SQLite below home if not given")
    given = parser.parse_args(arguments)
    told = threading.Event()
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: told.set())
    print("starting Airflow …", flush=True)
    try:
        here = Standalone(given.home, database=given.database, port=given.port)
        took_s = here.start(told=told)
    except StandaloneError as error:
        print(error, file=sys.stderr)
        return 1
    if told.is_set():
        here.stop()
        return 0
    _greet(here, given.port, took_s)
    while not told.wait(1.0) and not here.ended():
        pass
    gone = here.ended()
    if gone:
        print(f"the {gone} ended by itself:\n{here.log_of(gone)}", file=sys.stderr)
    print("stopping; tasks that run get ten seconds", flush=True)
    killed = here.stop()
    print("stopped" + "".join(f"\n  had to be killed: {line}" for line in killed), flush=True)
    return 1 if gone else 0


def _greet(here: Standalone, wanted: int, took_s: float) -> None:
    if here.port != wanted:
        print(f"port {wanted} is taken")
    print(f"healthy after {took_s:.0f} s: {here.url}")
    password = f"password {here.password}" if here.is_new_password else "password as printed the first time"
    print(f"user admin, {password} (kept in {here.home / PASSWORDS})")
    print(f"logs {here.home / 'logs'}; Ctrl-C stops all of it", flush=True)


if __name__ == "__main__":
    sys.exit(main())
