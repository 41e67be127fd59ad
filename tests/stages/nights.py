"""Nights in a row over a small world, by the real runner against a loopback server."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kar import run as runner
from kar.settings import Settings
from kar.store import Manifest
from tests import begun, world
from tests.llm.loopback import Behaviour, loopback

NIGHTLY = ["sources", "histories", "prompts", "knowledge"]
PLANNING = ["sources", "histories", "prompts"]
REPO_PROMPTS = Path(__file__).parents[2] / "prompts"


class Nights:
    """Twelve users and eight items; each night is one date more, over the same tables, with its own settings.

    `settings` are the last run's.
    """

    settings: Settings

    def __init__(self, folder: Path) -> None:
        self.folder, self.night = folder, -1
        self.home, self.data = begun.begin(
            folder, tuple(world.LAST_DAY + dt.timedelta(days=n) for n in range(3)), users=12, items=8, events=4
        )
        shutil.copytree(REPO_PROMPTS / "movies", folder / "prompts" / "movies")

    @property
    def date(self) -> dt.date:
        return world.LAST_DAY + dt.timedelta(days=self.night)

    def __call__(self, behaviour: Behaviour = lambda call: "ok", stages: list[str] = NIGHTLY, **sections: dict[str, Any]) -> int:
        """Run the next night; returns the calls that the server saw."""
        self.night += 1
        return self.again(behaviour, stages, **sections)

    def again(self, behaviour: Behaviour = lambda call: "ok", stages: list[str] = NIGHTLY, **sections: dict[str, Any]) -> int:
        """Run the same night once more."""
        clock = dt.datetime.combine(self.date + dt.timedelta(days=1), dt.time(1), dt.UTC)
        card, is_away = sections.pop("card", {}), sections.pop("is_away", False)
        prompts = {"folder": str(self.folder / "prompts"), **sections.pop("prompts", {})}
        with loopback(behaviour, card=card) as server:
            llm = {"base_url": "http://127.0.0.1:9/v1" if is_away else server.base_url, "max_attempts": 1, **sections.pop("llm", {})}
            self.settings = world.settings(self.data, prompts=prompts, llm=llm, **sections)
            runner.run_all(self.settings, self.home, self.date, lambda: clock, stages)
            return server.calls

    def rows(self, stage: str, table: str) -> dict[tuple[str, str], dict[str, Any]]:
        found = pq.read_table(self.home.partition(stage, self.date).table(table)).to_pylist()
        return {(row["view"], row["subject_id"]): row for row in found}

    def decided(self, decision: str) -> dict[tuple[str, str], str]:
        """Who has that decision, and the reason."""
        return {key: row["reason"] for key, row in self.rows("prompts", "plan").items() if row["decision"] == decision}

    def figures(self, stage: str = "prompts") -> dict[str, Any]:
        return Manifest.read(self.home.partition(stage, self.date).manifest_path).figures

    def own_data(self) -> Path:
        """The data's folder, from now on a copy that the test may change."""
        self.data = Path(shutil.copytree(self.data, self.folder / "data"))
        return self.data

    def reword(self, template: str, old: str, new: str) -> None:
        path = self.folder / "prompts" / "movies" / f"{template}.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def variant(self, view: str = "item.facts") -> None:
        """A second template of a view, one word different."""
        text = (self.folder / "prompts" / "movies" / f"{view}.toml").read_text()
        made = text.replace(f'id = "movies.{view}"', f'id = "movies.{view}.b"').replace("one paragraph", "one lively paragraph")
        assert made.count("lively") == 1
        (self.folder / "prompts" / "movies" / f"{view}.b.toml").write_text(made)
