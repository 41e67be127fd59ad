"""docker-compose.yml as Compose understands it: interpolated, merged, validated."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
COMPOSE = shutil.which("docker-compose")
REASON = "docker-compose is not installed here"


def values(path: Path = EXAMPLE) -> dict[str, str]:
    """The NAME=value lines of an env file."""
    lines = (line.partition("=") for line in path.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return {name: value for name, _, value in lines}


def config(*arguments: str, without: str = "", **changed: str) -> subprocess.CompletedProcess[str]:
    """`docker-compose config` with the example's values.

    Args:
        without: a variable that .env lacks.
        changed: variables that the shell sets, which go before the file's.
    """
    assert COMPOSE is not None
    named = values()
    clean = {name: value for name, value in os.environ.items() if name not in named and not name.startswith("COMPOSE_")}
    given = {name: value for name, value in named.items() if name != without and name != "COMPOSE_PROFILES"}
    with tempfile.NamedTemporaryFile() as empty:  # so that no .env of this folder is read
        command = [COMPOSE, "--env-file", empty.name, "--file", str(FILE), *arguments, "config"]
        return subprocess.run(command, env={**clean, **given, **changed}, capture_output=True, text=True, check=False)


def rendered(**changed: str) -> Mapping[str, Any]:
    """The validated file as a dict, every profile's services in it."""
    done = config(**changed)
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout))


def tool(name: str) -> str | None:
    """A program of the dev extra: beside this interpreter, or on the path."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else shutil.which(name)


def script(path: Path) -> ModuleType:
    """A script as a module. By its path: `docker` is also the name of a package that Airflow's provider needs."""
    spec = importlib.util.spec_from_file_location(f"kar_script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module
