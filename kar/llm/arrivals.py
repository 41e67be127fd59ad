"""Answers that came into the ledger outside the knowledge stage: imported from a batch, or asked again by a replay.

The stage of that date must look at the ledger once more although none of its tables changed: what came is noted in a
small file, and the file's digest is part of the stage's recipe. What adds nothing to the ledger is not noted.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from kar.errors import LedgerError
from kar.store import Home, write_whole


def arrivals_path(home: Home, date: dt.date) -> Path:
    """The file of a partition date; it need not be there."""
    return home.ledger / "replays" / f"date={date.isoformat()}.json"


def note(home: Home, date: dt.date, what: str, keys: Collection[str], as_of: dt.datetime) -> None:
    """Note that answers to a date's requests come into the ledger; before they do, so that a kill cannot hide them.

    Args:
        what: how they came, in a few words.
        keys: of the rows; none: nothing is noted.

    Raises:
        LedgerError: the file is damaged, or cannot be written.
    """
    if not keys:
        return
    path = arrivals_path(home, date)
    digest = hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()
    try:
        noted = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        noted.append({"what": what, "at": as_of.isoformat(), "rows": len(keys), "keys_sha": digest})
        write_whole(path, json.dumps(noted, indent=1) + "\n")
    except ValueError as error:
        raise LedgerError(f"{path} cannot be read: {error}", f"remove it; then: kar run knowledge --date {date}") from error
    except OSError as error:
        raise LedgerError(f"{path} cannot be written: {error}", "make room on the disk and repeat the command: nothing is lost") from error
