"""A small shop whose last events are of yesterday, so that the scheduler's own nights find something new every day.

Two tastes as in tests/world.py: users whose number divides by three like horror, the others comedy. Every user does one thing a day for
DAYS days, and is due again every night.
"""

from __future__ import annotations

import csv
import datetime as dt
import random
from pathlib import Path
from typing import Any

USERS, ITEMS, DAYS = 24, 30, 24
_SETTINGS = """
[scenario]
name = "shop"
domain = "movies"
[sources]
folder = "{folder}/data"
rating_range = [1, 5]
users = {{path = "users.csv", format = "csv", columns = {{user_id = "user", attributes = {{age = "age"}}}}}}
items = {{path = "items.csv", format = "csv", columns = {{item_id = "item", title = "name", attributes = {{genre = "genre"}}}}}}
[sources.interactions]
path = "interactions.csv"
format = "csv"
columns = {{user_id = "user", item_id = "item", event_at = "at", rating = "stars"}}
[histories]
mode = "time"
cap = 6
[prompts]
folder = "{prompts}"
min_new_events = 1
[llm]
provider = "openai"
model = "tiny"
base_url = "{base_url}"
concurrency = {concurrency}
metrics = "off"
[vectors]
encoder = "hash-64"
[examples]
split = "by_user"
window_days = 8
valid_share = 0.2
test_share = 0.3
[adaptor]
backbones = ["fibinet"]
seeds = [1]
epochs = 1
embedding_dim = 8
expert_hidden = 8
mlp = [16]
batch_size = 64
resamples = 100
item_fields = ["genre"]
threads = 1
"""


def open_shop(folder: Path, last_day: dt.date, base_url: str, concurrency: int) -> Path:
    """Write the shop's tables and its settings; the settings' path."""
    data = folder / "data"
    data.mkdir(parents=True)
    genres = {0: "Horror", 1: "Comedy"}
    _csv(data / "users.csv", [{"user": u, "age": 20 + u % 40} for u in range(1, USERS + 1)])
    _csv(data / "items.csv", [{"item": i, "name": f"Film {i} (19{60 + i % 40})", "genre": genres[i % 2]} for i in range(1, ITEMS + 1)])
    _csv(data / "interactions.csv", _events(last_day))
    path = folder / "shop.toml"
    prompts = Path(__file__).parents[2] / "prompts"
    path.write_text(_SETTINGS.format(folder=folder, prompts=prompts, base_url=base_url, concurrency=concurrency))
    return path


def _events(last_day: dt.date, seed: int = 7) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    begin = dt.datetime.combine(last_day, dt.time(8), dt.UTC) - dt.timedelta(days=DAYS - 1)
    made = []
    for user in range(1, USERS + 1):
        for day, item in enumerate(draw.sample(range(1, ITEMS + 1), DAYS)):
            at = begin + dt.timedelta(days=day, hours=user % 12, minutes=user % 7)
            stars = draw.choice((4, 5)) if (user % 3 == 0) == (item % 2 == 0) else draw.choice((1, 2))
            made.append({"user": user, "item": item, "stars": stars, "at": int(at.timestamp())})
    return made


def _csv(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
