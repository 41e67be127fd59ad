"""`make backfill`: on a scheduler where one is at work, without Airflow where none is; the bill first, both ends included."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "dags" / "tools" / "backfill.py"
DATES = ["2026-11-01", "2026-11-02", "2026-11-03"]
ENDS = ["--from", DATES[0], "--to", DATES[-1]]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kar_backfill_tool", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Machine:
    """A folder with stand-ins for `airflow` and `python -m kar`, which note what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state: dict[str, Any] = {
            "alive": True,
            "dags": {"kar_nightly": False},
            "runs": {},
            "new": {date: ["success"] for date in DATES},
        }
        (folder / "bin").mkdir()
        self._program(
            "bin/airflow", f'exec {shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).parent / "airflow_stand_in.py"))} "$@"'
        )
        self._program("kar-python", f'echo "the bill"; printf "%s\\n" "$*" >> {shlex.quote(str(folder / "kar"))}; exit ${{KAR_EXIT:-0}}')
        self.environ = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "KAR_PYTHON": str(folder / "kar-python"),
            "KAR_HOME": str(folder / "home"),
        }
        self.environ |= {"AIRFLOW_STAND_IN": str(folder), "AIRFLOW_HOME": str(folder / "airflow")}

    def _program(self, name: str, line: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "state.json").write_text(json.dumps(self.state))
        command = [sys.executable, str(TOOL), *ENDS, "--poll-s", "0.01", *arguments]
        environment = {**self.environ, **environ}
        return subprocess.run(
            command, env={k: v for k, v in environment.items() if v}, cwd=self.folder, capture_output=True, text=True, timeout=60
        )

    def asked_of_airflow(self, *begin: str) -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        calls = [json.loads(line)[1:] for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in calls if call[: len(begin)] == list(begin)]

    def asked_of_kar(self) -> list[str]:
        path = self.folder / "kar"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_on_a_scheduler_the_bill_comes_first_and_both_ends_are_whole_days(machine: Machine) -> None:
    machine.state["new"] = {
        DATES[0]: ["queued", "running", "success"],
        DATES[1]: ["queued", "queued", "running", "success"],
        DATES[2]: ["success"],
    }
    done = machine.run("--provider", "openai", "--budget", "5000", "--settings", "shop.toml")
    assert done.returncode == 0, done.stderr
    sets = "--set llm.provider=openai --set llm.token_budget=5000"
    assert machine.asked_of_kar() == [f"-m kar backfill --from 2026-11-01 --to 2026-11-03 --settings shop.toml {sets} --dry-run"]
    (created,) = machine.asked_of_airflow("backfill", "create")
    said = dict(zip(created[2::2], created[3::2], strict=True))
    conf = {"promote": False, "set": ["llm.provider=openai", "llm.token_budget=5000"], "settings": str(machine.folder / "shop.toml")}
    assert json.loads(said.pop("--dag-run-conf")) == conf
    assert said == {
        "--dag-id": "kar_nightly",
        "--from-date": "2026-11-01T00:00:00+00:00",
        "--to-date": "2026-11-03T23:59:59+00:00",
        "--max-active-runs": "1",
        "--reprocess-behavior": "completed",
    }
    assert done.stdout.startswith("the bill\n")
    assert [line for line in done.stdout.splitlines() if line.endswith("success")] == [
        f"{DATES[2]}  success",
        f"{DATES[0]}  success",
        f"{DATES[1]}  success",
    ]
    assert "3 of 3 dates done" in done.stdout


@pytest.mark.parametrize("why", ["no scheduler", "nothing configured", "asked to"])
def test_without_a_scheduler_the_same_dates_run_without_airflow(machine: Machine, why: str) -> None:
    machine.state["alive"] = why != "no scheduler"
    done = machine.run(
        *(["--via", "kar"] if why == "asked to" else []), "--promote", AIRFLOW_HOME="" if why == "nothing configured" else "/a"
    )
    assert done.returncode == 0, done.stderr
    assert machine.asked_of_kar() == ["-m kar backfill --from 2026-11-01 --to 2026-11-03 --promote"]
    assert machine.asked_of_airflow("backfill") == []
    assert len(machine.asked_of_airflow()) == (why == "no scheduler"), "a machine without Airflow is left as it is"


def test_the_scheduler_of_make_airflow_is_found_by_its_folder(machine: Machine) -> None:
    own = machine.folder / "home" / "_airflow"
    own.mkdir(parents=True)
    (own / "airflow.db").touch()
    done = machine.run(AIRFLOW_HOME="")
    assert done.returncode == 0, done.stderr
    assert f"on the scheduler of {own}" in done.stdout


def test_dry_creates_nothing_and_says_what_it_would(machine: Machine) -> None:
    done = machine.run("--dry-run", "--promote")
    assert done.returncode == 0, done.stderr
    assert machine.asked_of_airflow("backfill") == []
    assert '"promote": true' in done.stdout
    assert machine.asked_of_kar() == ["-m kar backfill --from 2026-11-01 --to 2026-11-03 --promote --dry-run"]


def test_a_bill_that_cannot_be_made_stops_it(machine: Machine) -> None:
    assert machine.run(KAR_EXIT="1").returncode == 1
    assert machine.asked_of_airflow("backfill") == []


def test_a_date_that_fails_is_named_with_the_command_that_looks_closer(machine: Machine) -> None:
    machine.state["new"][DATES[1]] = ["running", "failed"]
    done = machine.run()
    assert done.returncode == 1
    assert f"{DATES[1]}  failed; look closer: airflow tasks states-for-dag-run kar_nightly 'backfill__{DATES[1]}T01" in done.stdout
    assert "2 of 3 dates done; again for the others: the same command" in done.stdout


def test_a_date_that_another_run_is_making_is_told_and_not_called_done(machine: Machine) -> None:
    del machine.state["new"][DATES[2]]
    done = machine.run()
    assert done.returncode == 1
    assert f"{DATES[2]}  not begun: a run of kar_nightly for it is at work" in done.stdout


def test_a_backfill_that_was_left_running_is_waited_for_before_the_next_begins(machine: Machine) -> None:
    machine.state["runs"] = {
        f"backfill__2026-11-02T01:00:00+00:00__{DATES[1]}__0": ["running", "running", "success"],
        "scheduled__2026": ["running"],
    }
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert "a backfill is at work already (2026-11-02): waiting for it" in done.stdout
    looks = [call[:2] for call in machine.asked_of_airflow()]
    assert looks.index(["backfill", "create"]) > 4


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"dags": {"kar_nightly": True}}, "kar_nightly is paused"),
        ({"dags": {"kar_train": False}}, "has no kar_nightly"),
        ({"refuses": "AlreadyRunningBackfill: only one"}, "airflow backfill create ended with 1: [2026"),
    ],
)
def test_what_stands_in_the_way_is_named(machine: Machine, state: dict[str, Any], words: str) -> None:
    machine.state |= state
    done = machine.run()
    assert done.returncode == 1
    assert done.stderr.startswith("backfill: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("ends", [["--from", "2026-11-03", "--to", "2026-11-01"], ["--from", "yesterday", "--to", "2026-11-01"]])
def test_a_range_without_a_date_is_wrong_usage(tool: ModuleType, ends: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.arguments(ends)
    assert ended.value.code == 2


def test_the_makefile_hands_everything_on(tool: ModuleType) -> None:
    words = ["FROM=2026-11-01", "TO=2026-11-07", "PROVIDER=openai", "BUDGET=9", "DRY=1", "PROMOTE=1", "SETTINGS=a b.toml", "VIA=kar"]
    done = subprocess.run(["make", "-n", "backfill", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    (line,) = [line for line in done.stdout.replace("\\\n", " ").splitlines() if "dags/tools/backfill.py" in line]
    args = tool.arguments(shlex.split(line)[2:])
    assert (str(args.first), str(args.last), args.provider, args.budget) == ("2026-11-01", "2026-11-07", "openai", 9)
    assert (args.dry_run, args.promote, args.settings, args.via) == (True, True, "a b.toml", "kar")


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "timezone"), [("0 1 * * *", "UTC"), ("30 23 * * *", "America/New_York")])
def test_airflow_itself_lists_each_date_of_the_range_once(tool: ModuleType, tmp_path: Path, schedule: str, timezone: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KAR_", "AIRFLOW"))}
    environment |= {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
    }
    environment |= {"KAR_SCHEDULE": schedule, "KAR_TIMEZONE": timezone, "KAR_PUBLISH_BY": ""}

    def airflow(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "airflow", *words], env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    airflow("db", "migrate")
    airflow("dags", "reserialize")
    wanted = tool.Range(*(tool.dt.date.fromisoformat(date) for date in (DATES[0], DATES[-1])), "", ("llm.token_budget=5",))
    listed = airflow(*wanted.airflow(), "--dry-run").partition("Runs to be attempted:")[2]
    keys = [
        cells[2].strip() for line in listed.splitlines() if line.startswith("|") and (cells := line.split("|")) and "partition" not in line
    ]
    assert keys == DATES
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "airflow"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m airflow "$@"\n')
    program.chmod(0o755)
    scheduler = tool.Scheduler(str(program), environment)
    assert not scheduler.is_at_work()
    assert scheduler.runs() == {}
    with pytest.raises(tool.BackfillError, match="kar_nightly is paused"):
        scheduler.ready()
