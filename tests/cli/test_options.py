"""kar/cli/options.py: what a deployment says in its environment, a command line may say otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from kar.cli.options import open_scenario

SETTINGS = Path(__file__).parents[2] / "settings" / "movielens-1m.toml"


def test_lines_of_kar_set_are_settings_and_the_command_line_goes_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAR_SET", "llm.token_budget=123\n\n  features.keep = 9\n")
    loaded, _ = open_scenario(SETTINGS, ["features.keep=4"], tmp_path)
    assert (loaded.llm.token_budget, loaded.features.keep) == (123, 4)
    monkeypatch.delenv("KAR_SET")
    assert open_scenario(SETTINGS, None, tmp_path)[0].llm.token_budget != 123
