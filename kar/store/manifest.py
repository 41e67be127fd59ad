"""manifest.json of a partition: what was made, from what, at what cost. Written last; without it nothing exists."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kar.errors import StageError


@dataclass
class Manifest:
    """The record of one finished partition.

    Args:
        recipe_sha: digest of `recipe`; the same recipe for the same date is a no-op.
        recipe: stage and its version, settings recipe, digests of tables and files read.
        tables: table → {"rows", "sha", "bytes"}.
        rejected: reason → rows left out.
        rejected_examples: reason → up to 20 rows, for a person to read.
        figures: whatever the stage counts (tokens, money, shares); numbers and short texts only.
        warnings: sentences for the report.
    """

    stage: str
    date: str
    recipe_sha: str
    recipe: dict[str, Any]
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    rejected_examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    made_at: str = ""
    packages: dict[str, str] = field(default_factory=dict)

    @property
    def gate(self) -> list[dict[str, Any]]:
        """What a promotion gate said of it, one verdict a check; none where it has no gate, or had none when it was made."""
        verdicts: list[dict[str, Any]] = self.figures.get("gate") or []
        return verdicts

    @property
    def failed_checks(self) -> dict[str, str]:
        """Check → why, of those that the gate did not let pass."""
        return {verdict["check"]: verdict["why"] for verdict in self.gate if not verdict["is_passed"]}

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, sort_keys=True, default=_plain)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises StageError if the file is no manifest of ours."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise StageError(f"{path} cannot be read as a manifest: {error}", f"remove {path.parent} and run the stage again") from error


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not belong into a manifest")


def file_sha(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_sha(text: str) -> str:
    """sha256 of a text's UTF-8 bytes, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def json_sha(value: object) -> str:
    """sha256 of a value's canonical JSON (sorted keys, no spaces), hex."""
    return text_sha(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain))
