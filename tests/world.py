"""A small generated world with a known answer: two tastes, lopsided, so that a swap shows.

Users whose number divides by three like horror and the others comedy; odd items are comedies, even ones horror. A user
rates what they like 4 or 5 and the rest 1 or 2. Comedy is twice as common among users as horror.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import random
from pathlib import Path
from typing import Any

from kar.settings import Settings, parse

FIRST_DAY = dt.datetime(2026, 10, 1, 8, tzinfo=dt.UTC)
LAST_DAY = dt.date(2026, 11, 19)


def likes(user: int, item: int) -> bool:
    """The known answer."""
    return (user % 3 == 0) == (item % 2 == 0)


def rows(users: int = 12, items: int = 20, events: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Interactions, each user's at least two apart in items; the last of them on LAST_DAY."""
    draw = random.Random(seed)
    days = (LAST_DAY - FIRST_DAY.date()).days
    made = []
    for user in range(1, users + 1):
        chosen = draw.sample(range(1, items + 1), min(items, events + user % 3))
        for place, item in enumerate(chosen):
            at = FIRST_DAY + dt.timedelta(days=days * place / (len(chosen) - 1), hours=user % 12, minutes=user % 7)
            rating = draw.choice((4, 5)) if likes(user, item) else draw.choice((1, 2))
            made.append({"user": user, "item": item, "stars": rating, "at": int(at.timestamp())})
    return made


def write(folder: Path, users: int = 12, items: int = 20, events: int = 12, seed: int = 0) -> Path:
    """users.csv, items.csv and interactions.csv in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _csv(folder / "users.csv", [{"user": u, "age": 20 + u % 40} for u in range(1, users + 1)])
    genres = {0: "Horror", 1: "Comedy"}
    _csv(folder / "items.csv", [{"item": i, "name": f"Film {i} (19{60 + i % 40})", "genre": genres[i % 2]} for i in range(1, items + 1)])
    _csv(folder / "interactions.csv", rows(users, items, events, seed))
    return folder


def settings(folder: Path, **sections: dict[str, Any]) -> Settings:
    """Settings for the world: hash encoder, one seed, few epochs; sections are merged over them."""
    base: dict[str, Any] = {
        "scenario": {"name": "world", "domain": "movies"},
        "sources": {
            "folder": str(folder),
            "rating_range": [1, 5],
            "users": {"path": "users.csv", "format": "csv", "columns": {"user_id": "user", "attributes": {"age": "age"}}},
            "items": {
                "path": "items.csv",
                "format": "csv",
                "columns": {"item_id": "item", "title": "name", "attributes": {"genre": "genre"}},
            },
            "interactions": {
                "path": "interactions.csv",
                "format": "csv",
                "columns": {"user_id": "user", "item_id": "item", "event_at": "at", "rating": "stars"},
            },
        },
        "histories": {"mode": "per_user", "cap": 6},
        "prompts": {"folder": str(Path(__file__).parents[1] / "prompts")},
        "llm": {"provider": "openai", "model": "tiny"},
        "vectors": {"encoder": "hash-64"},
        "examples": {"valid_share": 0.2, "test_share": 0.3},
        "adaptor": {
            "backbones": ["fibinet"],
            "epochs": 2,
            "embedding_dim": 8,
            "expert_hidden": 8,
            "mlp": [16],
            "batch_size": 32,
            "resamples": 100,
            "item_fields": ["genre"],
            "threads": 1,
        },
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section}
    return parse(base)


def facts(folder: Path, items: int = 20, left_out: int = 0) -> Path:
    """Texts to import: one line per item, its genre in words; the first `left_out` items have none."""
    words = {
        0: "A frightening horror film full of dread, ghosts and dark corridors that scares its audience well into the night.",
        1: "A cheerful comedy full of jokes, warm characters and silly misunderstandings that makes its audience laugh out loud.",
    }
    path = folder / "facts.jsonl"
    lines = [json.dumps({"item_id": i, "text": f"Film {i}. {words[i % 2]}"}) for i in range(left_out + 1, items + 1)]
    path.write_text("\n".join(lines) + "\n")
    return path


def _csv(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
