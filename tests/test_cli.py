"""The `kar` command as its user meets it: exit codes, and errors that say what, where and what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from kar.store import Manifest
from tests import world
from tests.cli.in_process import kar
from tests.llm.loopback import loopback

ROOT = Path(__file__).parents[1]
DATE = ["--date", world.LAST_DAY.isoformat()]
SETTINGS = """
[scenario]
name = "world"
domain = "movies"
[sources]
folder = "{folder}"
rating_range = [1, 5]
[sources.users]
path = "users.csv"
format = "csv"
columns = {{user_id = "user"}}
[sources.items]
path = "items.csv"
format = "csv"
columns = {{item_id = "item", title = "name", attributes = {{genre = "genre"}}}}
[sources.interactions]
path = "interactions.csv"
format = "csv"
columns = {{user_id = "user", item_id = "item", event_at = "at", rating = "stars"}}
[histories]
mode = "per_user"
[prompts]
folder = "{prompts}"
[llm]
provider = "openai"
model = "tiny"
base_url = "http://127.0.0.1:9/v1"
[vectors]
encoder = "hash-64"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with the small world and its settings."""
    world.write(tmp_path / "data")
    (tmp_path / "world.toml").write_text(SETTINGS.format(folder=tmp_path / "data", prompts=ROOT / "prompts"))
    return tmp_path


def process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KAR_HOME": str(folder / "home"), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "kar", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--help",), 0, "release"),
        (("run", "all", "-s", "nowhere.toml"), 1, "kar: there is no settings file nowhere.toml\n  do: "),
        (("plann",), 2, "No such command 'plann'"),
    ],
)
def test_a_process_ends_with_its_exit_code_and_no_traceback(shop: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = process(shop, *arguments)
    assert done.returncode == code
    assert says in (done.stderr if code else done.stdout)
    assert "Traceback" not in done.stderr


_LOOKS = """
import contextlib, sys
from kar.cli import main
for words in (["plan", *{date}], ["show", "user", "1"], ["status"], ["ledger", "stats"]):
    sys.argv = ["kar", *words, "-s", "world.toml"]
    with contextlib.suppress(SystemExit):
        main()
print("MODULES", *sys.modules)
"""


def test_what_only_looks_never_imports_torch(shop: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KAR_HOME": str(shop / "home")}
    command = [sys.executable, "-c", _LOOKS.format(date=DATE)]
    done = subprocess.run(command, cwd=shop, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert "to ask   32 requests" in done.stdout
    assert "[user]" in done.stdout, "show"
    assert "there is no ledger" in done.stderr
    loaded = done.stdout.split("MODULES")[1].split()
    assert "kar.stages.prompts" in loaded
    assert not {"torch", "transformers", "sentence_transformers"} & set(loaded)


def test_the_help_names_every_command_and_every_stage(tmp_path: Path) -> None:
    from kar import flow

    overall, run = kar(tmp_path, "--help"), kar(tmp_path, "run", "--help")
    assert (overall.returncode, run.returncode) == (0, 0)
    for command in (
        "run",
        "plan",
        "status",
        "show",
        "init",
        "serve",
        "fetch",
        "release",
        "factors",
        "batch",
        "deadletters",
        "rerank",
        "retrieve",
    ):
        assert f" {command} " in overall.stdout
    assert all(f" {name} " in run.stdout for name in (*flow.NAMES, *flow.ASIDE_NAMES))


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "everything", "--settings", "world.toml"),
        ("run", "all"),
        ("run", "all", "--settings", "world.toml", "--date", "yesterday"),
        ("show", "customer", "1", "--settings", "world.toml"),
        ("fetch", "the-internet"),
        ("plann",),
    ],
)
def test_wrong_usage_exits_2_without_a_traceback(shop: Path, arguments: tuple[str, ...]) -> None:
    done = kar(shop, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "all", "-s", "nowhere.toml"), "there is no settings file nowhere.toml"),
        (("run", "all", "-s", "."), "is a folder"),
        (("plan", "-s", "world.toml", "--set", "llm.modle=x"), "unknown key llm.modle (did you mean model?)"),
        (("plan", "-s", "world.toml", "--set", "sources.folder=elsewhere"), "elsewhere"),
        (("plan", "-s", "world.toml", "--set", "scenario.domain=cheese"), "cheese"),
        (("run", "vectors", "-s", "world.toml", *DATE), "run: kar run knowledge --date 2026-11-19"),
        (("show", "user", "1", "-s", "world.toml"), "histories has not been made"),
        (("release", "show", "-s", "world.toml"), "there is no folder"),
        (("init", "x", "--interactions", "nothing.csv"), "nothing.csv"),
    ],
)
def test_a_named_error_exits_1_and_says_what_to_do(shop: Path, arguments: tuple[str, ...], says: str) -> None:
    done = kar(shop, *arguments)
    assert done.returncode == 1, done.stderr
    assert "kar: " in done.stderr
    assert says in done.stderr
    assert "\n  do: " in done.stderr
    assert "Traceback" not in done.stderr


CARE = (("ledger", "compact"), ("ledger", "verify"), ("release", "collect"), ("release", "verify"))


@pytest.mark.parametrize("command", CARE)
def test_before_the_first_night_there_is_nothing_to_take_care_of(shop: Path, command: tuple[str, ...]) -> None:
    done = kar(shop, *command, "-s", "world.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"nothing to {command[1]}" in done.stdout
    assert not (shop / "home").exists()


@pytest.mark.parametrize(("stage", "command"), [("knowledge", CARE[1]), ("features", CARE[2]), ("features", CARE[3])])
def test_what_a_night_made_and_is_no_longer_there_is_an_error(shop: Path, stage: str, command: tuple[str, ...]) -> None:
    night = shop / "home" / "world" / stage / "date=2026-11-19"
    night.mkdir(parents=True)
    Manifest(stage, "2026-11-19", recipe_sha="", recipe={}, figures={"calls": 3}).write(night)
    done = kar(shop, *command, "-s", "world.toml")
    assert done.returncode == 1
    assert "there is no" in done.stderr


def test_overrides_of_the_environment_come_before_those_of_the_command(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAR_SET", "llm.concurrency=3\n\n  scenario.domain=cheese\n")
    of_environment = kar(shop, "plan", "-s", "world.toml", *DATE)
    assert (of_environment.returncode, "cheese" in of_environment.stderr) == (1, True)
    own = kar(shop, "plan", "-s", "world.toml", *DATE, "--set", "scenario.domain=gruyere")
    assert (own.returncode, "gruyere" in own.stderr) == (1, True)
    assert "cheese" not in own.stderr


def test_a_server_that_is_not_there_is_named_and_nothing_is_half_written(shop: Path) -> None:
    done = kar(shop, "run", "all", "-s", "world.toml", *DATE)
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "\n  do: " in done.stderr
    assert "Traceback" not in done.stderr
    made = {path.parent.parent.name for path in (shop / "home").rglob("manifest.json")}
    assert made == {"sources", "histories", "prompts"}
    assert list((shop / "home").rglob("*.partial")) == []


def test_plan_asks_nothing_and_shows_the_bill(shop: Path) -> None:
    done = kar(shop, "plan", "-s", "world.toml", *DATE)
    assert done.returncode == 0, done.stderr
    assert "user.preference" in done.stdout
    assert "item.facts" in done.stdout
    assert "to ask   32 requests" in done.stdout
    priced = kar(shop, "plan", "-s", "world.toml", *DATE, "--set", "llm.usd_per_million_prompt_tokens=1000000")
    assert "USD at most" in priced.stdout


def test_show_prints_the_history_and_the_prompt_of_a_user(shop: Path) -> None:
    kar(shop, "plan", "-s", "world.toml", *DATE)
    shown = kar(shop, "show", "user", "1", "-s", "world.toml")
    assert shown.returncode == 0, shown.stderr
    assert "history: 6 events shown of 6" in shown.stdout or "history:" in shown.stdout
    assert "Film " in shown.stdout
    assert "[user]" in shown.stdout
    unknown = kar(shop, "show", "user", "4711", "-s", "world.toml")
    assert unknown.returncode == 1
    assert "user '4711' is not in the histories" in unknown.stderr


def test_init_proposes_settings_that_load(shop: Path) -> None:
    data = shop / "data"
    done = kar(
        shop,
        "init",
        "mine",
        "--users",
        str(data / "users.csv"),
        "--items",
        str(data / "items.csv"),
        "--interactions",
        str(data / "interactions.csv"),
    )
    assert done.returncode == 0, done.stderr
    from kar.settings import load

    proposed = load(shop / "settings/mine.toml")
    assert proposed.sources.interactions.columns.rating == "stars"
    again = kar(shop, "init", "mine", "--interactions", str(data / "interactions.csv"))
    assert again.returncode == 1
    assert "exists already" in again.stderr


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_says_so_exits_1_and_leaves_nothing_half_written(shop: Path, sent: signal.Signals) -> None:
    with loopback(lambda call: "never") as server:
        command = [sys.executable, "-m", "kar", "run", "all", "-s", "world.toml", *DATE, "--set", f"llm.base_url={server.base_url}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "KAR_HOME": str(shop / "home")}
        with subprocess.Popen(command, cwd=shop, env=environment, stderr=subprocess.PIPE, text=True) as running:
            until = time.monotonic() + 120
            while not server.calls and time.monotonic() < until:
                time.sleep(0.05)
            assert server.calls
            running.send_signal(sent)
            _, said = running.communicate(timeout=120)
    assert running.returncode == 1
    assert said.splitlines()[-1] == "kar: stopped; what was paid for is kept, run the same command again to go on"
    assert "Traceback" not in said
    assert list((shop / "home").rglob("*.partial")) == []


def test_factors_suggest_prints_a_draft_that_the_model_s_list_gives(shop: Path) -> None:
    listed = "Sure! These matter:\n1. **Cuisine**: where it comes from\n2. Effort\n- Ingredients: what it takes\n4. Season\n\nEnjoy!"
    with loopback(lambda call: "list", answers={"list": (listed, "stop")}) as server:
        done = kar(
            shop, "factors", "suggest", "recipes", "--noun", "recipe", "-s", "world.toml", "--set", f"llm.base_url={server.base_url}"
        )
    assert done.returncode == 0, done.stderr
    assert server.calls == 1
    draft = tomllib.loads(done.stdout)
    assert draft["id"] == "recipes"
    assert [factor["name"].lower() for factor in draft["factors"]] == ["cuisine", "effort", "ingredients", "season"]
