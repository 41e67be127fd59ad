"""What was sent to a provider and has not come back: one JSON file a batch, so that no night is paid for twice.

<home>/<scenario>/batches/ID.json       where it stands; written before anything is sent, and after every step
<home>/<scenario>/batches/ID.parquet    its requests: answers stay usable when the date is planned anew meanwhile
<home>/<scenario>/batches/ID.jsonl      what is uploaded; goes away once the batch has started
<home>/<scenario>/batches/ID.output.jsonl, ID.errors.jsonl   what came back
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from kar.errors import NotMade, StageError
from kar.llm.batch.planned import Known, prefixes
from kar.store import Home, write_whole
from kar.store.locking import locked


@dataclass
class Night:
    """One batch, ours and the provider's.

    Args:
        id: ours; also kept by the provider as metadata.
        date: whose requests it holds.
        base_url: of the provider; made_at: when it was written, UTC.
        requests, prompt_tokens, answer_tokens: what it asks, answer tokens at most.
        file_id, batch_id: the provider's; empty until it has them.
        status: written · uploaded · as the provider says · forgotten.
        completed, failed: requests, as the provider counts.
        detail: why the provider refused the file.
        is_open: its answers are still to come, and its requests are not sent again.
    """

    id: str
    date: str
    base_url: str
    made_at: str
    requests: int
    prompt_tokens: int
    answer_tokens: int
    file_id: str = ""
    batch_id: str = ""
    status: str = "written"
    completed: int = 0
    failed: int = 0
    detail: str = ""
    is_open: bool = True


def planned_requests(home: Home, date: dt.date) -> Path:
    """The date's table of requests. Raises NotMade with the command that makes it."""
    partition = home.partition("prompts", date)
    if not partition.exists() or not partition.table("request").is_file():
        raise NotMade(f"prompts has not been made for {date}", f"run: kar run prompts --date {date}, or kar plan --date {date}")
    return partition.table("request")


class Nights:
    """All batches of a scenario.

    Raises (any method):
        StageError: a file is damaged, or cannot be written.
    """

    def __init__(self, home: Home) -> None:
        self.folder = home.path / "batches"

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """One command at a time. Raises AlreadyRunning."""
        return locked(self.folder / ".lock", "another kar batch command is running for this scenario", "wait for it, or stop it")

    def all(self) -> list[Night]:
        """Every batch, oldest first."""
        return sorted((self._read(path) for path in self.folder.glob("*.json")), key=lambda night: (night.made_at, night.id))

    def open(self) -> list[Night]:
        return [night for night in self.all() if night.is_open]

    def save(self, night: Night) -> None:
        """Write where a batch stands; the old state is replaced in one step."""
        try:
            write_whole(self.folder / f"{night.id}.json", json.dumps(asdict(night), indent=2) + "\n")
        except OSError as error:
            raise StageError(f"{self.folder} cannot be written: {error}", "make room on the disk, then repeat the command") from error

    def drop(self, night: Night) -> None:
        """Take a batch away that was never started."""
        for suffix in ("json", "parquet", "jsonl"):
            (self.folder / f"{night.id}.{suffix}").unlink(missing_ok=True)

    def clear(self) -> None:
        """Take away what was written for batches that did not get as far as their state: nothing of them was sent."""
        for path in [*self.folder.glob("*.parquet"), *self.folder.glob("*.jsonl")]:
            is_result = path.name.count(".") > 1  # ID.output.jsonl: paid for
            if not is_result and not path.with_suffix(".json").exists():
                path.unlink()

    def requests(self, night: Night) -> Path:
        return self.folder / f"{night.id}.parquet"

    def upload(self, night: Night) -> Path:
        return self.folder / f"{night.id}.jsonl"

    def results(self, night: Night, kind: str) -> Path:
        """Where a result file goes; kind is output or errors."""
        return self.folder / f"{night.id}.{kind}.jsonl"

    def known(self) -> Known:
        """Which of some keys are in an open batch. Eight bytes a request in memory."""
        parts = [prefixes(self.requests(night)) for night in self.open()]
        sent = np.concatenate(parts) if parts else np.zeros(0, np.uint64)

        def among(keys: Sequence[str]) -> set[str]:
            places = np.isin(np.array([int(key[:16], 16) for key in keys], np.uint64), sent)
            return {key for key, is_sent in zip(keys, places.tolist(), strict=True) if is_sent}

        return among

    def _read(self, path: Path) -> Night:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return Night(**{f.name: data[f.name] for f in fields(Night)})
        except (ValueError, KeyError, TypeError) as error:
            raise StageError(
                f"{path} cannot be read as the state of a batch: {error!r}", "restore it, or move it away with its .parquet"
            ) from error


def new_id(date: dt.date) -> str:
    """A name for what one submit sends."""
    return f"{date.isoformat()}-{uuid.uuid4().hex[:8]}"
