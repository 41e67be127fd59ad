"""Where a night's requests lie, and where what was sent is remembered."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from kar.errors import NotMade
from kar.store import Home


def planned_requests(home: Home, date: dt.date) -> Path:
    """The date's table of requests. Raises NotMade with the command that makes it."""
    partition = home.partition("prompts", date)
    if not partition.exists() or not partition.table("request").is_file():
        raise NotMade(f"prompts has not been made for {date}", f"run: kar run prompts --date {date}, or kar plan --date {date}")
    return partition.table("request")
