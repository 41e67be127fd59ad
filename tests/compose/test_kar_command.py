"""The `kar` service's command: the nights' settings reach every command that takes --set, and no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compose.rendered import ROOT

OVERRIDES = "llm.model=some/model\n\nfeatures.published=s3://kar-releases/a b\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which `python -m kar` answers --help as kar does and otherwise says what it was given, one argument a line."""
    (tmp_path / "python").write_text(
        "#!/bin/sh\n"
        "for last; do :; done\n"
        'if [ "$last" = --help ]; then [ "$3" = list ] || echo "  --set TEXT  Override a setting"; exit 0; fi\n'
        'printf "%s\\n" "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def said(path: str, *arguments: str, overrides: str | None = OVERRIDES) -> list[str]:
    environment = {"PATH": path} | ({} if overrides is None else {"KAR_SET": overrides})
    done = subprocess.run([str(ROOT / "docker/kar.sh"), *arguments], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_each_line_becomes_one_override_whatever_it_holds(path: str) -> None:
    given = ["--set", "llm.model=some/model", "--set", "features.published=s3://kar-releases/a b"]
    assert said(path, "plan", "--date", "2026-11-19") == ["-m", "kar", "plan", "--date", "2026-11-19", *given]


def test_a_command_without_overrides_is_left_as_it_is(path: str) -> None:
    assert said(path, "list", "x") == ["-m", "kar", "list", "x"]
    assert said(path, "plan", overrides=None) == ["-m", "kar", "plan"]
    assert said(path, "plan", overrides="") == ["-m", "kar", "plan"]


@pytest.mark.slow
def test_kar_itself_takes_them_from_the_script(tmp_path: Path) -> None:
    python = tmp_path / "python"  # no link: through one, an interpreter does not find the environment that it belongs to
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "KAR_SET": "llm.concurrency=none"}
    command = [str(ROOT / "docker/kar.sh"), "plan", "--settings", str(ROOT / "settings/movielens-100k.toml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "llm.concurrency" in done.stderr
