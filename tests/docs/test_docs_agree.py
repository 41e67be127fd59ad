"""If two places must agree, a test compares them: flow and modules, flow and README, help and Makefile, lock and pyproject."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from kar import flow
from kar.flow import Stage
from kar.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def docstring(stage: Stage) -> str:
    module = ROOT / f"kar/stages/{stage.name}"
    path = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text is not None
    return text


def listed(text: str, word: str) -> list[str]:
    """The names after `reads`/`writes` in a stage's docstring, over its indented lines."""
    match = re.search(rf"^{word}\s+(.*(?:\n {{4,}}.*)*)", text, re.MULTILINE)
    return re.findall(r"[a-z_.]+", match.group(1)) if match else []


EVERY_STAGE = (*flow.FLOW, *flow.ASIDE)


def test_there_are_nine_stages_and_two_aside_and_a_module_for_each_and_no_other() -> None:
    assert (len(flow.FLOW), flow.ASIDE_NAMES) == (9, ("rerank", "retrieval"))
    modules = {path.stem for path in (ROOT / "kar/stages").iterdir() if not path.name.startswith("__")}
    assert modules == {stage.name for stage in EVERY_STAGE}


@pytest.mark.parametrize("stage", EVERY_STAGE, ids=lambda s: s.name)
def test_a_stage_says_in_its_docstring_what_the_flow_says(stage: Stage) -> None:
    text = docstring(stage)
    assert text.startswith(f"{stage.name}: ")
    assert {name.split(".")[-1] for name in listed(text, "reads")} >= {read.table for read in stage.reads}
    assert set(listed(text, "writes")) >= set(stage.writes)
    unnamed = [reason for reason in stage.rejects if not re.search(rf"\b{reason}\b", text)]
    assert unnamed == []


@pytest.mark.parametrize("stage", EVERY_STAGE, ids=lambda s: s.name)
def test_the_readme_has_a_row_for_each_stage_in_the_flow_s_words(stage: Stage) -> None:
    assert f"| {stage.name} | {stage.title} |" in README


def test_every_stage_has_a_settings_section_of_its_name() -> None:
    names = {stage.name for stage in EVERY_STAGE}
    assert names <= set(Settings.model_fields)
    assert set(Settings.model_fields) - names == {"scenario", "llm"}
    for stage in EVERY_STAGE:
        assert stage.name in stage.settings
        assert set(stage.settings) <= set(Settings.model_fields)


def test_every_make_target_that_the_readme_names_exists_and_is_explained() -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", README))
    assert len(named) >= 4
    helped = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    explained = {line.split()[0] for line in helped.splitlines() if line.strip()}
    assert named <= explained


def test_every_kar_command_that_the_readme_names_exists() -> None:
    import typer

    from kar.cli import app

    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^kar ([a-z]+)", README, re.MULTILINE)) | set(re.findall(r"`kar ([a-z]+)", README))
    assert len(named) >= 5
    assert named <= commands


@pytest.mark.parametrize("group", ["batch", "deadletters", "ledger", "release", "training"])
def test_the_readme_has_a_row_for_each_command_of_a_group_and_for_no_other(group: str) -> None:
    import typer

    from kar.cli import app

    commands = set(typer.main.get_command(app).commands[group].commands)  # type: ignore[attr-defined]
    assert len(commands) >= 3
    assert set(re.findall(rf"^\| `kar {group} ([a-z]+)", README, re.MULTILINE)) == commands


def test_the_lock_names_no_path_and_no_index_and_pins_what_pyproject_pins() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|--index|--extra-index|--find-links|@ ", lock)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for group in project["optional-dependencies"].values() for r in group)]
    pins = {re.sub(r"\[.*\]", "", r) for r in wanted if "==" in r} - {"torch==2.13.0"}
    assert len(pins) >= 7
    assert pins <= set(re.findall(r"^[A-Za-z0-9_.-]+==[^\s;]+", lock, re.MULTILINE))


def test_every_settings_file_loads() -> None:
    from kar.settings import load

    files = sorted((ROOT / "settings").glob("*.toml"))
    assert [path.stem for path in files] == ["amazon-reviews", "demo-llmrec", "movielens-100k", "movielens-1m"]
    for path in files:
        assert load(path).scenario.name == path.stem


def test_the_tree_names_no_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert len(tracked) > 50
    pattern = re.compile(r"(^|[^A-Za-z0-9_.])/(wo[r]k|fa[r]m|ro[o]t|opt/wh[e]els)/|file:///|--(extra-)?index-url|--find-links")
    found = [
        name for name in tracked if name != "tests/docs/test_docs_agree.py" and pattern.search((ROOT / name).read_text(errors="replace"))
    ]
    assert found == []
