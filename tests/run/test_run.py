"""kar/run.py: manifest last, no-op by recipe, nothing half-written, one run at a time. With real stages made for the test."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

from kar import flow
from kar import run as runner
from kar.errors import AlreadyRunning, NotMade, StageError, TableError
from kar.flow import Read, Stage
from kar.settings import Settings, parse
from kar.store import Home, Inputs, Manifest, Output

DAY = dt.date(2026, 11, 19)
NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
FIRST = Stage("first", "makes users", 1, (), ("user",), {"odd": "an odd user"}, ("scenario",))
SECOND = Stage("second", "copies users", 1, (Read("first", "user"),), ("user",), {}, ("scenario", "report"))
MEMORY = Stage("memory", "adds to its own past", 1, (Read("memory", "user", "previous"),), ("user",), {}, ("scenario",))
LATE = Stage("late", "reads the newest", 1, (Read("memory", "user", "latest"),), ("user",), {}, ("scenario",))


class Counted(ModuleType):
    """A stage module that counts its runs and does what the test says."""

    def __init__(self, name: str, work: object) -> None:
        super().__init__(name)
        self.runs, self.work = 0, work

    def run(self, inputs: Inputs, out: Output, settings: Settings) -> None:
        self.runs += 1
        self.work(inputs, out)  # type: ignore[operator]


def users(*ids: int) -> pa.Table:
    return pa.table({"user_id": pa.array(ids, pa.int64())})


@pytest.fixture
def settings() -> Settings:
    columns = {"user_id": "u", "item_id": "i", "event_at": "t"}
    return parse(
        {"scenario": {"name": "tiny", "domain": "movies"}, "sources": {"interactions": {"path": "x", "format": "csv", "columns": columns}}}
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.of("tiny", tmp_path)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counted]:
    """The flow and the modules of this test."""
    made = {
        "first": Counted("first", lambda inputs, out: (out.write("user", users(2, 1)), out.reject("odd", 3, [{"user_id": 9}]))),
        "second": Counted("second", lambda inputs, out: out.write("user", inputs.table("user"))),
        "memory": Counted("memory", _remember),
        "late": Counted("late", lambda inputs, out: out.write("user", inputs.table("user"))),
    }
    monkeypatch.setattr(flow, "EVERY", (FIRST, SECOND, MEMORY, LATE))
    monkeypatch.setattr(flow, "NAMES", tuple(made))
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, f"kar.stages.{name}", module)
    return made


def _remember(inputs: Inputs, out: Output) -> None:
    past = inputs.maybe_table("user")
    out.write("user", users(1) if past is None else users(*range(1, past.num_rows + 2)))


def test_a_stage_is_sealed_with_digests_rows_and_reasons(stages: dict[str, Counted], settings: Settings, home: Home) -> None:
    runner.run_stage("first", settings, home, DAY, NOW)
    made = Manifest.read(home.partition("first", DAY).manifest_path)
    assert made.tables["user"]["rows"] == 2
    assert made.rejected == {"odd": 3}
    assert made.rejected_examples == {"odd": [{"user_id": 9}]}
    assert made.made_at == NOW.isoformat()
    assert [p.name for p in home.partition("first", DAY).path.parent.iterdir() if p.suffix == ".partial"] == []


def test_the_second_run_of_the_same_recipe_does_nothing(stages: dict[str, Counted], settings: Settings, home: Home) -> None:
    first = runner.run_stage("first", settings, home, DAY, NOW)
    again = runner.run_stage("first", settings, home, DAY, NOW + dt.timedelta(hours=1))
    assert stages["first"].runs == 1
    assert first == again


def test_a_changed_setting_of_its_own_runs_a_stage_again_and_one_of_others_does_not(
    stages: dict[str, Counted], settings: Settings, home: Home
) -> None:
    changed = settings.model_copy(update={"report": settings.report.model_copy(update={"seed": 7})})
    for each in (settings, changed):
        runner.run_stage("first", each, home, DAY, NOW)
        runner.run_stage("second", each, home, DAY, NOW)
    assert (stages["first"].runs, stages["second"].runs) == (1, 2)


def test_an_upstream_edit_that_alters_no_row_stops_there(stages: dict[str, Counted], settings: Settings, home: Home) -> None:
    runner.run_stage("first", settings, home, DAY, NOW)
    runner.run_stage("second", settings, home, DAY, NOW)
    stages["first"].files = lambda settings, inputs: [Path(__file__)]  # type: ignore[attr-defined]
    runner.run_stage("first", settings, home, DAY, NOW)
    runner.run_stage("second", settings, home, DAY, NOW)
    assert (stages["first"].runs, stages["second"].runs) == (2, 1)


def test_a_stage_that_fails_leaves_the_partition_as_it_was(stages: dict[str, Counted], settings: Settings, home: Home) -> None:
    runner.run_stage("first", settings, home, DAY, NOW)
    before = {p: p.read_bytes() for p in home.path.rglob("*") if p.is_file() and p.suffix != ".lock"}

    def fail(inputs: Inputs, out: Output) -> None:
        out.write("user", users(7))
        raise TableError("broken half-way")

    stages["first"].work = fail
    stages["first"].files = lambda settings, inputs: [Path(__file__)]  # type: ignore[attr-defined]
    with pytest.raises(TableError, match="half-way"):
        runner.run_stage("first", settings, home, DAY, NOW)
    assert {p: p.read_bytes() for p in home.path.rglob("*") if p.is_file() and p.suffix != ".lock"} == before


def test_an_input_that_is_not_made_names_the_command(stages: dict[str, Counted], settings: Settings, home: Home) -> None:
    with pytest.raises(
        NotMade, match=r"second reads first, which has not been made for 2026-11-19\n  do: run: kar run first --date 2026-11-19"
    ):
        runner.run_stage("second", settings, home, DAY, NOW)


def test_a_folder_without_a_manifest_does_not_exist(stages: dict[str, Counted], settings: Settings, home: Home) -> None:
    runner.run_stage("first", settings, home, DAY, NOW)
    home.partition("first", DAY).manifest_path.unlink()
    with pytest.raises(NotMade):
        runner.run_stage("second", settings, home, DAY, NOW)
    runner.run_stage("first", settings, home, DAY, NOW)
    assert stages["first"].runs == 2


def test_a_stage_meets_only_its_own_earlier_partition(stages: dict[str, Counted], settings: Settings, home: Home) -> None:
    for days in (0, 1, 3):
        runner.run_stage("memory", settings, home, DAY + dt.timedelta(days=days), NOW)
    assert Manifest.read(home.partition("memory", DAY + dt.timedelta(days=3)).manifest_path).tables["user"]["rows"] == 3
    # a date before the others has no past, although newer partitions exist
    runner.run_stage("memory", settings, home, DAY - dt.timedelta(days=9), NOW)
    assert Manifest.read(home.partition("memory", DAY - dt.timedelta(days=9)).manifest_path).tables["user"]["rows"] == 1


def test_latest_is_the_newest_at_or_before_the_date(stages: dict[str, Counted], settings: Settings, home: Home) -> None:
    for days in (0, 1, 5):
        runner.run_stage("memory", settings, home, DAY + dt.timedelta(days=days), NOW)
    made = runner.run_stage("late", settings, home, DAY + dt.timedelta(days=4), NOW)
    assert made.tables["user"]["rows"] == 2
    with pytest.raises(NotMade, match="at or before 2026-11-18"):
        runner.run_stage("late", settings, home, DAY - dt.timedelta(days=1), NOW)


def test_two_runs_of_the_same_partition_do_not_meet(stages: dict[str, Counted], settings: Settings, home: Home) -> None:
    def inner(inputs: Inputs, out: Output) -> None:
        with pytest.raises(AlreadyRunning, match="another process is running first"):
            runner.run_stage("first", settings, home, DAY, NOW)
        out.write("user", users(1))

    stages["first"].work = inner
    runner.run_stage("first", settings, home, DAY, NOW)
    assert stages["first"].runs == 1


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda inputs, out: out.write("item", users(1)), r"writes 'item'; it declares \('user',\)"),
        (lambda inputs, out: (out.write("user", users(1)), out.write("user", users(1))), "each once"),
        (lambda inputs, out: None, r"ended without writing \['user'\]"),
        (lambda inputs, out: out.reject("because", 1), "which it does not declare"),
        (lambda inputs, out: inputs.table("item"), "asks for table 'item', which it does not declare"),
        (lambda inputs, out: inputs.folder("sources"), "asks for the folder of 'sources'"),
    ],
)
def test_what_a_stage_did_not_declare_it_may_not_do(
    work: object, message: str, stages: dict[str, Counted], settings: Settings, home: Home
) -> None:
    stages["first"].work = work
    with pytest.raises(StageError, match=message):
        runner.run_stage("first", settings, home, DAY, NOW)
    assert not home.partition("first", DAY).exists()


def test_equal_rows_are_equal_bytes(stages: dict[str, Counted], settings: Settings, home: Home, tmp_path: Path) -> None:
    other = Home.of("tiny", tmp_path / "elsewhere")
    one = runner.run_stage("first", settings, home, DAY, NOW)
    stages["first"].work = lambda inputs, out: (out.write("user", users(1, 2)), out.reject("odd", 0))
    two = runner.run_stage("first", settings, other, DAY, NOW)
    assert one.tables == two.tables


def test_a_damaged_manifest_is_named(stages: dict[str, Counted], settings: Settings, home: Home) -> None:
    runner.run_stage("first", settings, home, DAY, NOW)
    home.partition("first", DAY).manifest_path.write_text(json.dumps({"stage": "first"}))
    with pytest.raises(StageError, match="cannot be read as a manifest"):
        runner.run_stage("second", settings, home, DAY, NOW)


def test_what_a_stage_tells_of_the_world_outside_is_in_its_recipe_and_in_its_hands(
    stages: dict[str, Counted], settings: Settings, home: Home
) -> None:
    told, seen = {"revision": "r1"}, []

    def work(inputs: Inputs, out: Output) -> None:
        seen.append(inputs.facts)
        out.write("user", users(1))

    stages["first"].work = work
    stages["first"].facts = lambda settings, inputs: dict(told)  # type: ignore[attr-defined]
    assert runner.run_stage("first", settings, home, DAY, NOW).recipe["facts"] == {"revision": "r1"}
    runner.run_stage("first", settings, home, DAY, NOW)
    told["revision"] = "r2"
    assert runner.run_stage("first", settings, home, DAY, NOW).recipe["facts"] == {"revision": "r2"}
    assert seen == [{"revision": "r1"}, {"revision": "r2"}]
    assert "facts" not in runner.run_stage("second", settings, home, DAY, NOW).recipe
