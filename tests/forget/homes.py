"""A home with everything in it: three users' worth of planted words, run through the real stages against a loopback server."""

from __future__ import annotations

import csv
import datetime as dt
import functools
import io
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from kar import flow
from kar import run as runner
from kar.settings import Settings, parse
from kar.store import Home
from tests import world
from tests.llm.loopback import Call, loopback

DAY = world.LAST_DAY
NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(days=2)
USER, ITEM = "quillfeather-77", "zanzibar-reel-9"
WORDS = "Yggdrasilian marmalade moonlight made me weep for seventeen hours in the balcony seat"
"""What the user wrote about an item that has no title: it describes the item, and stands in its prompt."""
UNTITLED = "i20"


def data(folder: Path) -> Path:
    """The small world with text ids; user 4 is USER, item 7 is ITEM, item 20 has no title and is described by reviews."""
    folder.mkdir(parents=True, exist_ok=True)
    users = {4: USER}
    items = {7: ITEM}
    genres = {0: "Horror", 1: "Comedy"}
    write(folder / "users.csv", [{"user": users.get(u, f"u{u}"), "age": 20 + u % 40} for u in range(1, 17)])
    write(
        folder / "items.csv",
        [
            {"item": items.get(i, f"i{i}"), "name": "" if i == 20 else f"Film {i} (19{60 + i % 40})", "genre": genres[i % 2]}
            for i in range(1, 21)
        ],
    )
    rows = world.rows(users=16, items=20)
    review = {"user": 4, "item": 20, "stars": 5, "at": min(r["at"] for r in rows if r["user"] == 4) - 60}
    rows = [r for r in rows if (r["user"], r["item"]) != (4, 20)] + [review]
    write(
        folder / "interactions.csv",
        [
            {
                "user": users.get(r["user"], f"u{r['user']}"),
                "item": items.get(r["item"], f"i{r['item']}"),
                "stars": r["stars"],
                "at": r["at"],
                "words": WORDS if r is review else (f"seen by {r['user']}, well enough" if r["item"] == 20 and r["user"] in (3, 9) else ""),
            }
            for r in rows
        ],
    )
    return folder


def write(path: Path, rows: list[dict[str, object]]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(stream.getvalue())


def settings(folder: Path, base_url: str = "http://127.0.0.1:9/v1", **sections: dict[str, object]) -> Settings:
    columns = {"user_id": "user", "item_id": "item", "event_at": "at", "rating": "stars", "text": "words"}
    base = world.settings(folder).model_dump(exclude_unset=True)
    base["scenario"] |= {"user_id": "string", "item_id": "string"}
    base["sources"]["interactions"]["columns"] = columns
    base["histories"] |= {"neighbours": {"source": "engagement"}}
    base["llm"] |= {"base_url": base_url, "max_attempts": 1, **sections.pop("llm", {})}
    base["examples"] |= {"test_share": 0.5}
    base["adaptor"] |= {"epochs": 1, "arms": ["base", "text", "knowledge", "permuted"]}
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section}
    return parse(base)


def behave(call: Call) -> str:
    """The answer about ITEM repeats its prompt, so that there is a dead letter."""
    return "echo" if "Film 7 (1967)" in call.prompt and call.prompt.count("(19") < 3 else "ok"


@functools.cache
def _made() -> tempfile.TemporaryDirectory[str]:
    """Two nights, the second without training, once a process."""
    kept = tempfile.TemporaryDirectory(prefix="kar-forget-")
    folder = Path(kept.name)
    data(folder / "data")
    home = Home.of("world", folder / "home")
    with loopback(behave) as server:
        chosen = settings(folder / "data", server.base_url)
        runner.run_all(chosen, home, DAY, lambda: NOW)
        nightly = [name for name in flow.NAMES if name not in flow.TRAINING]
        runner.run_all(chosen, home, DAY + dt.timedelta(days=1), lambda: NOW + dt.timedelta(days=1), nightly)
    return kept


def begin(folder: Path) -> tuple[Home, Path]:
    """A home of its own, and the data, which all share: its folder is part of every recipe."""
    made = Path(_made().name)
    shutil.copytree(made / "home", folder / "home", symlinks=True)
    return Home.of("world", folder / "home"), made / "data"


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder as bytes, with what compression hides: Parquet decoded, SQLite dumped, names of files too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(folder))
        found[name] = name.encode() + path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            shown = [c for c in table.column_names if "vector" not in c]
            found[name] += repr(table.select(shown).to_pylist()).encode() + repr(table.schema.metadata).encode()
        elif path.suffix == ".sqlite":
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                found[name] += "\n".join(connection.iterdump()).encode("utf-8", "replace")
    return found


def holding(folder: Path, *needles: str) -> dict[str, list[str]]:
    """Needle → files that hold it."""
    files = everything(folder)
    assert len(files) > 20, "the test looks into the wrong folder"
    return {needle: [name for name, content in files.items() if needle.encode() in content] for needle in needles}
