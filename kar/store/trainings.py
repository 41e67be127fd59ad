"""Which trainings may be used: the verdict of their gate, and the word of a person that goes before it.

The adaptor stage writes what its gate said into the partition's manifest (`figures.gate`, `gate_failed`, `held_back`). A held-back partition is
there to be looked at, and whoever reads the newest training passes over it. `kar training promote` and `hold` put a small file beside the
manifest; a training that is made anew is judged anew, and the file goes with the old one.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from kar.errors import StageError
from kar.store.manifest import Manifest
from kar.store.paths import Home, Partition
from kar.store.whole import write_whole

STAGE = "adaptor"


@dataclass(frozen=True)
class Word:
    """What a person decided about one training.

    Args:
        is_promoted: use it whatever its gate said; False: do not use it whatever its gate said.
        at: when, UTC, ISO.
        why: their reason; may be empty.
    """

    is_promoted: bool
    at: str
    why: str = ""


def word_path(partition: Partition) -> Path:
    return partition.path / "word.json"


def word_on(partition: Partition) -> Word | None:
    """A person's decision about a training, if there is one. Raises StageError for a file that is none of ours."""
    path = word_path(partition)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Word(bool(told["is_promoted"]), str(told["at"]), str(told.get("why", "")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(f"{path} cannot be read: {error}", f"decide again: kar training promote --date {partition.date}") from error


def decide(partition: Partition, is_promoted: bool, at: dt.datetime, why: str = "") -> Word:
    """Write a person's decision down, in the place of an earlier one."""
    word = Word(is_promoted, at.isoformat(), why)
    write_whole(word_path(partition), json.dumps(asdict(word), indent=1, ensure_ascii=False) + "\n")
    return word


def failed_checks(partition: Partition) -> dict[str, str]:
    """Check → why, of those that the training did not pass."""
    return Manifest.read(partition.manifest_path).failed_checks


def is_held_back(partition: Partition) -> bool:
    """Whether readers pass over this training."""
    word = word_on(partition)
    return bool(failed_checks(partition)) if word is None else not word.is_promoted


def why_held_back(partition: Partition) -> str:
    """The reason in words, for a message; empty where it is not held back."""
    word = word_on(partition)
    if word is not None:
        return "" if word.is_promoted else f"somebody held it back at {word.at[:16]}{f': {word.why}' if word.why else ''}"
    return "; ".join(f"{check}: {why}" for check, why in failed_checks(partition).items())


def latest_promoted(home: Home, date: dt.date) -> Partition | None:
    """The newest training at a date or earlier that is not held back; None if there is none."""
    fitting = (partition for partition in reversed(home.partitions(STAGE)) if partition.date <= date)
    return next((partition for partition in fitting if not is_held_back(partition)), None)


def newer_held_back(home: Home, date: dt.date) -> list[Partition]:
    """Trainings at a date or earlier that are held back and newer than the one in use, oldest first."""
    used = latest_promoted(home, date)
    newer = [p for p in home.partitions(STAGE) if p.date <= date and (used is None or p.date > used.date)]
    return [partition for partition in newer if is_held_back(partition)]


def told_of_held_back(home: Home, date: dt.date) -> list[str]:
    """A sentence about each of them."""
    used = latest_promoted(home, date)
    instead = f"that of {used.date} is used" if used is not None else "there is no other"
    return [
        f"the training of {held.date} is held back, and {instead}: {why_held_back(held)} (kar training list; to use it all the same: "
        f"kar training promote --date {held.date})"
        for held in newer_held_back(home, date)
    ]
