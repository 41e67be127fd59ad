"""Three small tables for the smoke test: 12 users, 16 films, one day more than its first night sees. Standard library only.

smoke_world.py FOLDER
"""

from __future__ import annotations

import csv
import datetime as dt
import random
import sys
from pathlib import Path
from typing import Any

USERS, ITEMS, EVENTS = 12, 16, 12
FIRST_NIGHT = dt.date(2026, 11, 18)
SECOND_NIGHT = dt.date(2026, 11, 19)
_FILMS = (
    *("Airplane!", "Dumb and Dumber", "The Naked Gun", "Some Like It Hot", "Young Frankenstein", "Duck Soup", "Groundhog Day", "Big"),
    *("Halloween", "The Exorcist", "Alien", "The Shining", "Psycho", "Carrie", "Scream", "The Omen"),
)


def write(folder: Path) -> None:
    """users.csv, items.csv and interactions.csv in the folder; whatever lay there by these names is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    _csv(folder / "users.csv", [{"user": user, "age": 20 + user} for user in range(1, USERS + 1)])
    genres = ["Comedy"] * (ITEMS // 2) + ["Horror"] * (ITEMS // 2)
    films = zip(range(1, ITEMS + 1), _FILMS, genres, strict=True)
    _csv(folder / "items.csv", [{"item": item, "name": name, "genre": genre} for item, name, genre in films])
    _csv(folder / "interactions.csv", [row for user in range(1, USERS + 1) for row in _events(user)])


def _events(user: int) -> list[dict[str, int]]:
    """A user's ratings, oldest first: most before the first night's end, three of them on the second night's day."""
    draw = random.Random(user)
    end = dt.datetime.combine(SECOND_NIGHT, dt.time(8), dt.UTC)
    rows = []
    for place, item in enumerate(draw.sample(range(1, ITEMS + 1), EVENTS)):
        days_before = 0 if place >= EVENTS - 3 else EVENTS - place
        likes = (user % 3 == 0) == (item > ITEMS // 2)
        at = end - dt.timedelta(days=days_before, minutes=-place)
        rows.append({"user": user, "item": item, "stars": draw.choice((4, 5) if likes else (1, 2)), "at": int(at.timestamp())})
    return rows


def _csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
