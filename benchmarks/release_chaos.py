"""Readers, a publisher and a collector at one folder, as processes of their own; then the same with the publisher killed at random instants.

    python -m benchmarks.release_chaos [SECONDS] [--users N] [--out FILE] [--folder FOLDER]

Four readers open the release that is served, with a lease, and look that every vector of both tables is of that release's night (each night's
vectors say which one it is); the collector keeps one release besides what is leased. What must be 0: reads that failed, reads that mixed two
nights, files that were missing under a lease, and, after every kill, a CURRENT that does not open and verify.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

import kar.release
from benchmarks.table import Row, rounded, text, write
from kar.errors import ReleaseError, ReleaseNotFound
from kar.release.layout import TIME, Side
from kar.release.publish import publish
from kar.release.rows import Facts, SideRows, ViewRows

READERS, USERS, WIDTH = 4, 5_000, 16
MUST_BE_ZERO = (
    "reads that failed", "reads of two nights at once", "files missing under a lease", "kills after which CURRENT did not open and verify",
    "collections that failed",
)  # fmt: skip
LEASE_S = 30.0
_FIRST = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_LONGEST_LIFE = 12.0  # of a publisher that is killed, in nights as long as those of the first run; its own first is several of these


def publish_night(published: Path, number: int, users: int) -> None:
    """Every vector of night `number` begins with `number`; of a tenth of the users nothing is known. A quarter as many items."""
    at = _FIRST + dt.timedelta(days=number)
    facts = Facts(
        "chaos",
        at.date(),
        at + dt.timedelta(hours=1),
        is_reconstructed=False,
        encoder_id="none",
        adaptor={"sha": "0" * 64},
        normalisation="none",
    )
    user_rows = _side("user", "user.preference", number, at, np.arange(users) % 10 == 0)
    item_rows = _side("item", "item.facts", number, at, np.zeros(users // 4, bool))
    publish(published, (user_rows, item_rows), facts)


def _side(side: Side, view: str, number: int, at: dt.datetime, is_missing: np.ndarray) -> SideRows:
    vectors = np.random.default_rng(number).normal(size=(len(is_missing), WIDTH)).astype(np.float32)
    vectors[:, 0] = number
    knowledge = vectors.copy()
    vectors[is_missing], knowledge[is_missing] = number, 0.0

    def told(value: object, kind: pa.DataType) -> pa.Array:
        return pa.array([None if missing else value for missing in is_missing], kind)

    default = np.full(WIDTH, number, np.float32)
    times = told(at, TIME)
    rows = ViewRows(view, is_missing, vectors, knowledge, default, times, times, told("asked", pa.string()), told("none", pa.string()))
    return SideRows(side, pa.array(np.arange(len(is_missing))), (rows,))


def read(published: Path, until: float, seed: int) -> dict[str, int]:
    """A reader: opens what is served again and again; returns what came of it."""
    generator = np.random.default_rng(seed)
    told: Counter[str] = Counter(reads=0, failed=0, mixed=0, missing=0)
    seen: set[str] = set()
    while time.time() < until:
        try:
            release = kar.release.open(published, lease_s=LEASE_S)
        except ReleaseError as error:
            told["failed"] += 1
            _say(f"open: {error}")
            continue
        try:
            found = nights(release, generator)
            told["mixed"] += len(found) != 1
            seen.add(release.id)
            told["reads"] += 1
        except (ReleaseNotFound, FileNotFoundError) as error:
            told["missing"] += 1
            _say(f"missing under a lease: {error}")
        except ReleaseError as error:
            told["failed"] += 1
            _say(f"read: {error}")
    return {**told, "releases": len(seen)}


def nights(release: kar.release.Release, generator: np.random.Generator) -> set[int]:
    """The nights that the vectors of both sides, opened one after another with a pause between, are of."""
    found = {(dt.date.fromisoformat(release.manifest["date"]) - _FIRST.date()).days}
    views: tuple[tuple[Side, str], ...] = (("item", "item.facts"), ("user", "user.preference"))
    for side, view in views:
        vectors, _ = release.vectors(side, view, generator.integers(0, len(release.ids(side)), 1000))
        found |= {int(night) for night in np.unique(vectors[:, 0])}
        time.sleep(generator.uniform(0, 0.05))
    return found


def publish_until(published: Path, until: float, users: int) -> dict[str, int]:
    number = first = _next_night(published)
    while time.time() < until:
        publish_night(published, number, users)
        number += 1
    return {"published": number - first}


def collect_until(published: Path, until: float) -> dict[str, int]:
    """Keeps one release; a publisher that is busy is waited for, as `kar release collect` does."""
    told: Counter[str] = Counter(removed=0, failed=0)
    while time.time() < until:
        try:
            told["removed"] += len(kar.release.collect(published, keep=1).removed)
        except ReleaseError as error:
            told["failed"] += 1
            _say(f"collect: {error}")
        time.sleep(0.02)
    return dict(told)


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def rows(seconds: float, folder: Path, users: int = USERS, seed: int = 1) -> Iterator[Row]:
    """Both runs, `seconds` each."""
    for name in ("whole", "killed"):
        publish_night(folder / name, 0, users)
    yield from _run(folder / "whole", seconds, users)
    night_s = seconds / _next_night(folder / "whole")
    yield from _run(folder / "killed", seconds, users, random.Random(seed), _LONGEST_LIFE * night_s)


def _run(published: Path, seconds: float, users: int, killed: random.Random | None = None, longest_life_s: float = 0.0) -> Iterator[Row]:
    """One run; `killed` draws how long each publisher lives, None: one lives through it all."""
    watching = [_started("read", published, seed) for seed in range(READERS)] + [_started("collect", published)]
    publishers = [_started("publish", published, users)]
    for process in [*watching, *publishers]:
        _await(process)
    until = time.time() + seconds
    for process in watching:
        _go(process, until)
    kills = bad = 0
    if killed:
        while time.time() < until:
            publisher = publishers.pop()
            if kills:
                _await(publisher)
            _go(publisher, until + 60)
            publishers.append(_started("publish", published, users))  # the next one imports while this one publishes
            time.sleep(killed.uniform(0, longest_life_s))
            _kill(publisher)
            kills += 1
            bad += not _opens_and_verifies(published)
        _kill(publishers.pop())
    else:
        _go(publishers[0], until)
    told = [_ended(process) for process in [*watching, *publishers]]
    readers, collector = told[:READERS], told[READERS]
    what = f"four readers, a publisher{' that is killed at random' if killed else ''} and a collector, {seconds:g} s"
    for name, label in (
        ("failed", "reads that failed"),
        ("mixed", "reads of two nights at once"),
        ("missing", "files missing under a lease"),
    ):
        yield Row(f"{label}: {what}", "kar", float(sum(one[name] for one in readers)), "count")
    yield Row(f"collections that failed: {what}", "kar", float(collector["failed"]), "count")
    if killed:
        yield Row(f"kills after which CURRENT did not open and verify: {what}", "kar", float(bad), "count")
        yield Row(f"kills: {what}", "kar", float(kills), "count")
    yield Row(f"releases published: {what}", "kar", float(_next_night(published) - 1), "count")
    yield Row(f"releases removed: {what}", "kar", float(collector["removed"]), "count")
    yield Row(f"releases that the busiest reader met: {what}", "kar", float(max(one["releases"] for one in readers)), "count")
    reads = sum(one["reads"] for one in readers)
    yield Row(f"reads: {what}", "kar", float(reads), "count")
    yield Row(f"reads a second: {what}", "kar", rounded(reads / seconds), "1/s")


def _next_night(published: Path) -> int:
    """One after the night that is served."""
    return (dt.date.fromisoformat(kar.release.open(published).manifest["date"]) - _FIRST.date()).days + 1


def _opens_and_verifies(published: Path) -> bool:
    """The lease keeps the collector away while all is recomputed."""
    try:
        kar.release.open(published, verify=True, lease_s=LEASE_S)
    except ReleaseError as error:
        _say(f"after a kill: {error}")
        return False
    return True


def _started(role: str, published: Path, number: int = 0) -> subprocess.Popen[str]:
    """A process that imports what it needs, says so, and waits to be told until when to work; `number`: a reader's seed, a publisher's users."""
    task = json.dumps({"role": role, "published": str(published), "number": number})
    command = [sys.executable, "-m", "benchmarks.release_chaos", "--task", task]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _await(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("a process of the chaos did not start")


def _go(process: subprocess.Popen[str], until: float) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{until}\n")
    process.stdin.flush()


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _ended(process: subprocess.Popen[str]) -> dict[str, int]:
    said, _ = process.communicate()
    if process.returncode or not said.strip():
        raise RuntimeError(f"a process of the chaos ended with code {process.returncode}")
    told: dict[str, int] = json.loads(said.splitlines()[-1])
    return told


def _work(task: dict[str, object]) -> dict[str, int]:
    published, number = Path(str(task["published"])), int(str(task["number"]))
    print("ready", flush=True)
    until = float(sys.stdin.readline())
    if task["role"] == "read":
        return read(published, until, number)
    return collect_until(published, until) if task["role"] == "collect" else publish_until(published, until, number)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.release_chaos", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("seconds", type=float, nargs="?", default=60.0, help="of each of the two runs (60)")
    parser.add_argument("--users", type=int, default=USERS, help=f"so many, and a quarter as many items ({USERS:,})")
    parser.add_argument("--out", type=Path, help="also write the rows there, as JSON")
    parser.add_argument("--folder", type=Path, help="publish below it (a temporary folder)")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.task:
        print(json.dumps(_work(asked.task)))
        return
    with tempfile.TemporaryDirectory(prefix="kar-chaos-", dir=asked.folder) as folder:
        found = list(rows(asked.seconds, Path(folder), asked.users))
    print(text(found))
    if asked.out:
        write(found, asked.out)
    bad = [row for row in found if row.figure and row.name.split(":")[0] in MUST_BE_ZERO]
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
