"""What a `kar forget` did, as a file that may be shown to anybody: no text and no id in clear."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kar.store import Home, write_whole
from kar.store.forgotten import folder_of

KEPT = (
    "weights of models that were trained on examples of the forgotten; to train without them: remove the adaptor partition and run it again",
    "means over many: an item's mean rating and event count of past nights, metrics, gate weights, pooled vectors of other users",
    "texts about others, unless they hold the forgotten's own words literally (32 characters or more)",
    "the user's own source files, exports and backups outside the home; deleted blocks of the disk",
)


@dataclass
class Receipt:
    """What was forgotten, and what was not.

    Args:
        users, items: salted digests of the ids; the salt stays in the home.
        at: when, UTC.
        places: where → what was taken out → how much.
        releases: old id → new id.
        still_leased: old releases that a reader still holds → who, and until when.
        not_done: what could not be done, and why.
        kept: what was left on purpose.
        seconds: it took.
        is_dry: nothing was written.
    """

    scenario: str
    users: list[str]
    items: list[str]
    at: str
    places: dict[str, dict[str, int]] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)
    still_leased: dict[str, str] = field(default_factory=dict)
    not_done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=lambda: list(KEPT))
    seconds: float = 0.0
    is_dry: bool = False
    format: int = 1

    @property
    def is_complete(self) -> bool:
        return not self.not_done and not self.still_leased

    def write(self, home: Home, name: str) -> Path:
        path = folder_of(home) / "receipts" / f"{name}.json"
        write_whole(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        return path
