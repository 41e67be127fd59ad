"""Pins: releases that `collect` keeps for good, each with the reason. `published/pins.json`, swapped in one step.

A pin is of a release; one that was set for a report also names the report's date, and goes when that is unpinned.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path

from kar.errors import ReleaseCorrupt, ReleaseError
from kar.release import durable, leases, manifest, pointer


@dataclass(frozen=True)
class Pin:
    """A reason to keep a release.

    Args:
        report_date: of the report that names the release, YYYY-MM-DD; empty: it was pinned for itself.
    """

    release: str
    why: str
    pinned_at: dt.datetime
    report_date: str = ""

    def __str__(self) -> str:
        what = f"pinned with the report of {self.report_date}" if self.report_date else "pinned"
        return f"{what}: {self.why}" if self.why else what


def read(published: Path) -> list[Pin]:
    """Every pin, oldest first.

    Raises:
        ReleaseCorrupt: pins.json is not what `add` writes.
    """
    path = _path(published)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        return [
            Pin(str(e["release"]), str(e["why"]), manifest.in_utc(manifest.from_text(e["pinned_at"])), str(e["report_date"]))
            for e in json.loads(data)["pins"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, ReleaseError) as error:
        what = "is empty" if not data.strip() else f"cannot be read: {error!r}"
        raise ReleaseCorrupt(
            f"{path} {what}; nobody can say what is pinned, so nothing is removed", "mend it, or remove it and pin again"
        ) from error


def add(published: Path, release: str, why: str = "", report_date: str = "", at: dt.datetime | None = None) -> Pin:
    """Pin a release; once more for the same reason changes the words only.

    Args:
        at: now; None: the machine's clock.

    Raises:
        ReleaseNotFound: no such release.
        ReleaseCorrupt: pins.json is damaged.
        ReleaseError: it cannot be written.
    """
    with leases.keeping(published, alone=True):  # the collector holds it while it removes: what is pinned here stays
        pointer.folder_of(published, release)
        pin = Pin(release, why, at or dt.datetime.now(dt.UTC), report_date)
        _write(published, [*(p for p in read(published) if (p.release, p.report_date) != (release, report_date)), pin])
    return pin


def remove(published: Path, release: str = "", report_date: str = "") -> list[Pin]:
    """Unpin a release altogether, or what was pinned with a report; returns the pins that went. The release itself stays for `collect` to judge.

    Raises:
        ReleaseError: nothing of that name is pinned, or pins.json cannot be written.
        ReleaseCorrupt: pins.json is damaged.
    """
    with leases.keeping(published, alone=True):
        pins = read(published)
        gone = [pin for pin in pins if (release and pin.release == release) or (report_date and pin.report_date == report_date)]
        if not gone:
            held = ", ".join(dict.fromkeys(pin.release for pin in pins)) or "nothing"
            raise ReleaseError(f"{release or f'the report of {report_date}'} is not pinned in {published}", f"pinned is {held}")
        _write(published, [pin for pin in pins if pin not in gone])
    return gone


def named(published: Path, text: str) -> str:
    """The pinned release whose id is, or begins with, a text, there or gone; the text itself if none or several do."""
    fitting = {pin.release for pin in read(published) if pin.release.startswith(text)}
    return fitting.pop() if len(fitting) == 1 else text


def _path(published: Path) -> Path:
    return published / "pins.json"


def _write(published: Path, pins: list[Pin]) -> None:
    value = {"pins": [vars(pin) | {"pinned_at": manifest.to_text(pin.pinned_at)} for pin in pins]}
    try:
        durable.replace(_path(published), (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise ReleaseError(
            f"{_path(published)} was not changed: {error}", "make room or give the right to write, then run again"
        ) from error
