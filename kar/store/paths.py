"""Address = place: `$KAR_HOME/<scenario>/<stage>/date=YYYY-MM-DD/`."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from pathlib import Path

from kar.errors import SettingsError


@dataclass(frozen=True)
class Partition:
    """One stage's folder for one date. It exists only if its manifest does."""

    path: Path

    @property
    def date(self) -> dt.date:
        return dt.date.fromisoformat(self.path.name.removeprefix("date="))

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    def exists(self) -> bool:
        return self.manifest_path.is_file()

    @property
    def lock(self) -> Path:
        """Held by the one process that makes this partition."""
        return self.path.parent / f".{self.path.name}.lock"

    @property
    def work(self) -> Path:
        """What a run of this partition keeps for the case that it is killed. The runner removes it when the partition is sealed."""
        return self.path.parent / ".work" / self.path.name

    def table(self, name: str) -> Path:
        return self.path / f"{name}.parquet"


@dataclass(frozen=True)
class Home:
    """The folder of one scenario.

    Args:
        root: `$KAR_HOME`, or `.kar` in the working directory.
        scenario: the settings' `scenario.name`.
        published_uri: the settings' `features.published`; empty: releases lie in the scenario's folder.
        looked_at: a folder that stands for what lies at the uri, while something is asked of it.
    """

    root: Path
    scenario: str
    published_uri: str = ""
    looked_at: Path | None = None

    @classmethod
    def of(cls, scenario: str, root: Path | None = None, published_uri: str = "") -> Home:
        return cls(home_root(root), scenario, published_uri)

    @property
    def path(self) -> Path:
        return self.root / self.scenario

    @property
    def ledger(self) -> Path:
        """Paid answers. No command that cleans up may delete it."""
        return self.path / "ledger"

    @property
    def published(self) -> Path:
        """Where releases lie as files: the scenario's folder, or what stands for a store while it is looked at."""
        return self.looked_at or self.path / "published"

    @property
    def releases_at(self) -> Path | str:
        """Where this scenario's releases are published and read: its folder, or the uri of an object store."""
        return self.published_uri or self.published

    @property
    def models(self) -> Path:
        """Local language models unpacked from registry wheels; shared by all scenarios."""
        return self.root / "_models"

    def partition(self, stage: str, date: dt.date) -> Partition:
        return Partition(self.path / stage / f"date={date.isoformat()}")

    def partitions(self, stage: str) -> list[Partition]:
        """Finished partitions of a stage, oldest first."""
        found = [Partition(path) for path in (self.path / stage).glob("date=*")]
        return sorted((p for p in found if p.exists()), key=lambda p: p.path.name)

    def latest(self, stage: str, date: dt.date, *, before: bool = False) -> Partition | None:
        """The newest finished partition at `date` or earlier (strictly earlier with `before`); None if there is none."""
        fitting = [p for p in self.partitions(stage) if (p.date < date if before else p.date <= date)]
        return fitting[-1] if fitting else None


def home_root(root: Path | None = None) -> Path:
    """`$KAR_HOME`, or `.kar` below the working directory.

    Raises:
        SettingsError: the place exists and is no folder.
    """
    path = (root or Path(os.environ.get("KAR_HOME") or ".kar")).expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise SettingsError(f"KAR_HOME is {path}, which is a file", "set KAR_HOME to a folder, or remove the file")
    return path
