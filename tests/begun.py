"""The small world with its first two stages made already, once a process: what most tests of later stages begin with.

The runner decides what that is worth: a test whose settings or files give sources or histories another recipe makes them anew.
"""

from __future__ import annotations

import datetime as dt
import functools
import shutil
import tempfile
from pathlib import Path

from kar import run as runner
from kar.store import Home
from tests import world


def begin(folder: Path, dates: tuple[dt.date, ...], users: int, items: int, events: int) -> tuple[Home, Path]:
    """A home of its own in `folder`, with sources and histories of these dates; and the data, which all share: copy before a change."""
    made = Path(_made(dates, users, items, events).name)
    shutil.copytree(made / "home", folder / "home")
    return Home.of("world", folder / "home"), made / "data"


@functools.cache
def _made(dates: tuple[dt.date, ...], users: int, items: int, events: int) -> tempfile.TemporaryDirectory[str]:
    kept = tempfile.TemporaryDirectory(prefix="kar-begun-")
    folder = Path(kept.name)
    settings = world.settings(world.write(folder / "data", users=users, items=items, events=events))
    for date in dates:
        clock = dt.datetime.combine(date + dt.timedelta(days=1), dt.time(1), dt.UTC)
        runner.run_all(settings, Home.of("world", folder / "home"), date, lambda at=clock: at, ["sources", "histories"])
    return kept
