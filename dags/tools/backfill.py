"""`make backfill`: past dates, both ends included, on the scheduler if one is at work here, else without Airflow.

    python dags/tools/backfill.py --from 2026-11-01 --to 2026-11-07 [--settings FILE] [--provider NAME] [--budget TOKENS] [--promote] [--dry-run]

First it says what each date will ask and cost (`kar backfill --dry-run`: nothing is asked). Then

    a scheduler is at work   `airflow backfill create` on kar_nightly, one date at a time, oldest first; waits, and reports each date
    none is                  `kar backfill`: the same dates in the same order

A scheduler is looked for where AIRFLOW_HOME (or Airflow's database) is named, or where `make airflow` keeps its own. In both ways releases
are marked reconstructed, CURRENT stays unless --promote, dates that are made do nothing and what was answered is not asked again: after a
stop, run the same command again. Standard library only; Airflow is spoken to by its own command.

Exit codes: 0 done · 1 a date failed, or a named error · 2 wrong usage · 130 stopped while a backfill goes on in the scheduler.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DAG = "kar_nightly"
_KEY = re.compile(r"^backfill__.+?__(\d{4}-\d{2}-\d{2})__")
_ROWS = re.compile(r"^\[(?=\s*[{\]])", re.MULTILINE)
_OVER = ("success", "failed")


class BackfillError(RuntimeError):
    """What stands in the way, and what to do."""


@dataclass(frozen=True)
class Range:
    """What is to be made.

    Args:
        first, last: both included.
        sets: section.field=value, for this backfill alone.
        promote: let CURRENT move.
    """

    first: dt.date
    last: dt.date
    settings: str = ""
    sets: tuple[str, ...] = ()
    promote: bool = False

    @property
    def dates(self) -> list[str]:
        return [str(self.first + dt.timedelta(days=n)) for n in range((self.last - self.first).days + 1)]

    def kar(self) -> list[str]:
        """The arguments of `kar backfill`."""
        settings = ["--settings", self.settings] if self.settings else []
        sets = [word for value in self.sets for word in ("--set", value)]
        return ["backfill", "--from", str(self.first), "--to", str(self.last), *settings, *sets, *(["--promote"] if self.promote else [])]

    def airflow(self) -> list[str]:
        """The arguments of `airflow backfill create`.

        Its ends are instants on the axis of the partitions' own times (a night's partition of 2026-11-03 lies at its cron time, such as
        01:00, of that day), read in the schedule's time zone: so the range goes from the first second of one day to the last of the other.
        Dates that have a run are run again, as without Airflow: what is made does nothing.
        """
        conf: dict[str, Any] = {"promote": self.promote}
        if self.sets:
            conf["set"] = list(self.sets)
        if self.settings:
            conf["settings"] = str(Path(self.settings).resolve())
        ends = ["--from-date", f"{self.first}T00:00:00+00:00", "--to-date", f"{self.last}T23:59:59+00:00"]
        order = ["--max-active-runs", "1", "--reprocess-behavior", "completed"]
        return ["backfill", "create", "--dag-id", DAG, *ends, *order, "--dag-run-conf", json.dumps(conf)]


@dataclass
class Scheduler:
    """Airflow's command, and what it answers.

    Args:
        command: the `airflow` program.
        environ: with AIRFLOW_HOME.
        poll_s: between two looks at the runs.
    """

    command: str
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    poll_s: float = 10.0

    @property
    def where(self) -> str:
        return self.environ.get("AIRFLOW_HOME") or "Airflow's database"

    def is_at_work(self) -> bool:
        return self._run("jobs", "check", "--job-type", "SchedulerJob", "--allow-multiple", "--limit", "0").returncode == 0

    def ready(self) -> None:
        """Raises BackfillError: the scheduler does not know kar_nightly, or holds it back."""
        known = {
            row["dag_id"]: str(row["is_paused"]) for row in self._rows("dags", "list", "--columns", "dag_id,is_paused", "--output", "json")
        }
        if DAG not in known:
            raise BackfillError(f"the scheduler of {self.where} has no {DAG}\n  do: look at: airflow dags list-import-errors")
        if known[DAG] == "True":
            raise BackfillError(f"{DAG} is paused, and a paused DAG's backfill waits for good\n  do: airflow dags unpause {DAG}")

    def runs(self) -> dict[str, str]:
        """The backfill runs of kar_nightly: run id → state."""
        rows = self._rows("dags", "list-runs", DAG, "--output", "json")
        return {row["run_id"]: row["state"] for row in rows if _KEY.match(row["run_id"])}

    def create(self, wanted: Range) -> dict[str, str]:
        """Begin the backfill; its runs by date. Dates that another run is making have none.

        Raises:
            BackfillError: Airflow refuses.
        """
        before = set(self.runs())
        done = self._run(*wanted.airflow())
        if done.returncode:
            raise BackfillError(f"airflow backfill create ended with {done.returncode}: {_last_words(done)}")
        return {date_of(run_id): run_id for run_id in self.runs() if run_id not in before}

    def wait(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """Say each date's end as it comes; the states by date."""
        told: dict[str, str] = {}
        while len(told) < len(wanted):
            states = self.runs()
            for date in sorted(set(wanted) - set(told)):
                state = states.get(wanted[date], "removed")
                if state in (*_OVER, "removed"):
                    told[date] = state
                    look = "" if state == "success" else f"; look closer: airflow tasks states-for-dag-run {DAG} '{wanted[date]}'"
                    say(f"{date}  {state}{look}")
            if len(told) < len(wanted):
                time.sleep(self.poll_s)
        return told

    def _rows(self, *arguments: str) -> list[dict[str, Any]]:
        done = self._run(*arguments)
        start = _ROWS.search(done.stdout)  # a warning of Airflow's may stand before them
        if done.returncode or (start is None and "No data found" not in done.stdout):
            raise BackfillError(f"airflow {' '.join(arguments)} ended with {done.returncode}: {_last_words(done)}")
        found: list[dict[str, Any]] = json.loads(done.stdout[start.start() :]) if start else []
        return found

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.command, *arguments], env=dict(self.environ), capture_output=True, text=True, check=False)


def find_scheduler(environ: Mapping[str, str], poll_s: float = 10.0) -> Scheduler | None:
    """The scheduler that is at work where the environment points; None: none is. Leaves a machine without Airflow as it is."""
    own = Path(environ.get("KAR_HOME") or ".kar") / "_airflow"
    places = dict(environ)
    if not environ.get("AIRFLOW_HOME") and not environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"):
        if not (own / "airflow.db").exists():
            return None
        places["AIRFLOW_HOME"] = str(own.resolve())
    beside = str(Path(sys.executable).parent)
    command = shutil.which("airflow", path=os.pathsep.join([environ.get("PATH", os.defpath), beside]))
    scheduler = Scheduler(command, places, poll_s) if command else None
    return scheduler if scheduler and scheduler.is_at_work() else None


def on_scheduler(wanted: Range, scheduler: Scheduler) -> int:
    """Run the dates there; the exit code."""
    scheduler.ready()
    waiting = {date_of(run_id): run_id for run_id, state in scheduler.runs().items() if state not in _OVER}
    if waiting:
        say(f"a backfill is at work already ({', '.join(sorted(waiting))}): waiting for it")
        scheduler.wait(waiting)
    made = scheduler.create(wanted)
    say(f"{len(made)} dates of {DAG} on the scheduler of {scheduler.where}, one at a time; Ctrl-C leaves them running")
    states = scheduler.wait(made)
    for date in wanted.dates:
        if date not in made:
            say(f"{date}  not begun: a run of {DAG} for it is at work; run the same command again after that")
    failed = [date for date in wanted.dates if states.get(date) != "success"]
    say(
        f"{len(wanted.dates) - len(failed)} of {len(wanted.dates)} dates done"
        + ("; again for the others: the same command" if failed else "")
    )
    return 1 if failed else 0


def date_of(run_id: str) -> str:
    """The partition date that a backfill's run id names."""
    found = _KEY.match(run_id)
    return found[1] if found else ""


def kar(arguments: list[str], environ: Mapping[str, str]) -> int:
    """`python -m kar …` on this terminal; its exit code."""
    return subprocess.run([environ.get("KAR_PYTHON") or sys.executable, "-m", "kar", *arguments], env=dict(environ), check=False).returncode


def main(argv: list[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    args = arguments(argv)
    sets = [*(args.set or []), *([f"llm.provider={args.provider}"] if args.provider else [])]
    sets += [f"llm.token_budget={args.budget}"] if args.budget else []
    wanted = Range(args.first, args.last, args.settings, tuple(sets), args.promote)
    try:
        scheduler = None if args.via == "kar" else find_scheduler(environ, args.poll_s)
        if args.via == "airflow" and scheduler is None:
            raise BackfillError("no scheduler is at work here\n  do: start one (make airflow), name it by AIRFLOW_HOME, or leave --via out")
        if scheduler is None:
            say("without Airflow: no scheduler is at work here" if args.via == "auto" else "without Airflow")
            return kar([*wanted.kar(), *(["--dry-run"] if args.dry_run else [])], environ)
        code = kar([*wanted.kar(), "--dry-run"], environ)
        if code or args.dry_run:
            if not code:
                say(f"\nwould run on the scheduler of {scheduler.where}: airflow {' '.join(wanted.airflow())}")
            return code
        say("")
        return on_scheduler(wanted, scheduler)
    except BackfillError as error:
        print(f"backfill: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("backfill: stopped; what a scheduler has begun goes on there, and the same command goes on from here", file=sys.stderr)
        return 130


def arguments(argv: list[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="first", type=dt.date.fromisoformat, required=True, help="the first date, YYYY-MM-DD")
    parser.add_argument("--to", dest="last", type=dt.date.fromisoformat, required=True, help="the last date, included")
    parser.add_argument("--settings", default="", help="the scenario's settings file; KAR_SETTINGS, if left out")
    parser.add_argument("--provider", default="", help="llm.provider for these dates")
    parser.add_argument("--budget", type=int, help="tokens a date, at most")
    parser.add_argument("--set", action="append", help="further section.field=value; may be given several times")
    parser.add_argument("--promote", action="store_true", help="let CURRENT move to what is newer than what it serves")
    parser.add_argument("--dry-run", action="store_true", help="say what it would ask and cost, and stop")
    parser.add_argument("--via", choices=("auto", "airflow", "kar"), default="auto", help="auto: the scheduler, if one is at work")
    parser.add_argument("--poll-s", type=float, default=10.0, help="seconds between two looks at the scheduler's runs")
    args = parser.parse_args(argv)
    if args.last < args.first:
        parser.error(f"a backfill from {args.first} to {args.last} has no date in it: give the older date first")
    return args


def say(line: str) -> None:
    print(line, flush=True)


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    return " | ".join(lines[-3:])


if __name__ == "__main__":
    sys.exit(main())
