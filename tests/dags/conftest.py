"""What the tests of the DAGs share: their modules on the path, an Airflow home of their own, a stand-in for kar."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "dags"))
# Airflow configures itself from these when it is first imported, and makes files in its home
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="kar-airflow-"))
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

STAND_IN = str(Path(__file__).with_name("stand_in.py"))


class StandIn:
    """The stand-in's folder: what it is told to do, and what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rules(self, **rules: dict[str, Any]) -> None:
        """What commands, words or a stage's name, say and how they end; see stand_in.py."""
        (self.folder / "rules.json").write_text(json.dumps(rules), encoding="utf-8")

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    folder = tmp_path / "stand_in"
    folder.mkdir()
    monkeypatch.setenv("KAR_STAND_IN", str(folder))
    return StandIn(folder)
