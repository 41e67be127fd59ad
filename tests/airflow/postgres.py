"""Debian's PostgreSQL for as long as a test lasts: a cluster of its own, on a Unix socket and no port, run by an unprivileged user.

`initdb` refuses root, so under root the server belongs to `nobody`. Nothing is synced to disk: the cluster is thrown away.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_OPTIONS = ("listen_addresses=", "fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60", "shared_buffers=32MB")


def folder_of_programs() -> Path | None:
    """Where initdb lies: on the PATH, or where Debian puts it; the newest version."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """Run a cluster with one empty database; its SQLAlchemy address for psycopg2."""
    # A socket's path may hold about 100 characters, and pytest's folders are longer than that.
    folder = Path(tempfile.mkdtemp(prefix="kar-pg-", dir="/tmp"))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody", "nogroup")
        user = {"user": "nobody", "group": "nogroup", "extra_groups": []}

    def run(command: Sequence[str | Path]) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60, **user)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        run([programs / "initdb", "--pgdata", folder / "data", "--username=airflow", "--auth=trust", "--encoding=UTF8", "--no-sync"])
        options = [part for option in _OPTIONS for part in ("-c", option)]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", "-k", folder, *options], cwd=folder, stdout=log, stderr=log, **user
            )
        try:
            _wait_for(programs, folder, server)
            run([programs / "createdb", "--host", folder, "--username=airflow", "airflow"])
            yield f"postgresql+psycopg2://airflow@/airflow?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # "fast": whoever is connected is cut off
            server.wait(30)
    finally:
        shutil.rmtree(folder)


def _wait_for(programs: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while subprocess.run([programs / "pg_isready", "--host", folder, "--quiet"], check=False).returncode:
        assert server.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < until, (folder / "log").read_text()
        time.sleep(0.1)
