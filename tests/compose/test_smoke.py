"""The scenario of `make compose-smoke`, run here without containers: its settings, its tables, its two nights."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest

import kar.release
from kar import flow
from kar import run as runner
from kar.llm.local import LOCAL_MODELS
from kar.settings import Settings, load
from kar.store import Home, Manifest
from tests.compose.rendered import ROOT, script
from tests.llm.loopback import loopback

smoke_world = script(ROOT / "docker/smoke_world.py")
SCRIPT = (ROOT / "docker/smoke.sh").read_text()


def settings(tables: Path, base_url: str) -> Settings:
    return load(ROOT / "docker/smoke.toml", [f"sources.folder={tables}", f"llm.base_url={base_url}"])


def test_script_settings_and_tables_agree(tmp_path: Path) -> None:
    found = load(ROOT / "docker/smoke.toml")
    assert f"SCENARIO={found.scenario.name} " in SCRIPT
    assert f"LLM_MODEL={found.llm.model} " in SCRIPT
    assert found.llm.model in LOCAL_MODELS
    assert f"/var/kar/{found.scenario.name}/published" in SCRIPT
    for name, night in (("FIRST", smoke_world.FIRST_NIGHT), ("NIGHT", smoke_world.SECOND_NIGHT)):
        assert re.findall(rf"^{name}=(.*)$", SCRIPT, re.MULTILINE) == [night.isoformat()]
    smoke_world.write(tmp_path)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(written) == {found.sources.users.path, found.sources.items.path, found.sources.interactions.path}
    smoke_world.write(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == written


@pytest.mark.slow
def test_the_first_night_trains_and_the_second_has_something_to_ask_and_is_served(tmp_path: Path) -> None:
    smoke_world.write(tmp_path / "tables")
    home = Home.of("smoke", tmp_path / "home")
    now = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
    nightly = [name for name in flow.NAMES if name not in flow.TRAINING]
    with loopback() as server:
        runner.run_all(settings(tmp_path / "tables", server.base_url), home, smoke_world.FIRST_NIGHT, lambda: now)
        asked = server.calls
        runner.run_all(settings(tmp_path / "tables", server.base_url), home, smoke_world.SECOND_NIGHT, lambda: now, nightly)
        assert (asked, server.calls - asked) == (40, smoke_world.USERS)
    assert Manifest.read(home.partition("features", smoke_world.SECOND_NIGHT).manifest_path).stage == "features"
    assert kar.release.open(home.published, verify=True).id.startswith(smoke_world.SECOND_NIGHT.isoformat())
