"""One night of a small generated world against a server: 200 items to ask about, short answers.

Everything but the asking is done in this process; `kar run knowledge` is the real command in a process of its own, so
that it can be sent signals.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kar.llm.ledger import Answer, look_up
from kar.run import run_all
from kar.settings import load
from kar.store import Home, Manifest
from tests import world
from tests.integration.vllm_server import MODEL

ROOT = Path(__file__).parents[2]
COUNT = 200
DATE = world.LAST_DAY
AS_OF = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
ANSWER_TOKENS = 16
_SETTINGS = """
[scenario]
name = "world"
domain = "movies"
[sources]
folder = "{folder}/data"
rating_range = [1, 5]
users = {{path = "users.csv", format = "csv", columns = {{user_id = "user"}}}}
items = {{path = "items.csv", format = "csv", columns = {{item_id = "item", title = "name", description = "plot", attributes = {{genre = "genre"}}}}}}
[sources.interactions]
path = "interactions.csv"
format = "csv"
columns = {{user_id = "user", item_id = "item", event_at = "at", rating = "stars"}}
[histories]
mode = "per_user"
[prompts]
folder = "{folder}/prompts"
views = {views}
order = "{order}"
value_bands = 1
[llm]
provider = "{provider}"
model = "{model}"
base_url = "{base_url}"
tokenizer = "{tokenizer}"
concurrency = {concurrency}
[knowledge]
min_words = 4
retry_truncated = false
"""


class Night:
    """A scenario in a folder of its own, planned and not yet asked.

    Args:
        tokenizer: the model's folder; empty: the plan estimates.
        views: that are asked.
        order: of the requests, as in prompts.order; "prefix" with all of them in one band of value.
    """

    def __init__(
        self,
        folder: Path,
        base_url: str,
        tokenizer: Path | str,
        *,
        users: int = 12,
        items: int = COUNT,
        views: Sequence[str] = ("item.facts",),
        answer_tokens: int = ANSWER_TOKENS,
        order: str = "value",
        concurrency: int = 32,
        provider: str = "openai",
    ) -> None:
        self.folder = folder
        world.write(folder / "data", users=users, items=items)
        _short_answers(folder / "prompts", answer_tokens)
        chosen = {"model": MODEL, "base_url": base_url, "tokenizer": tokenizer, "concurrency": concurrency}
        chosen |= {"order": order, "provider": provider}
        self.settings_path = folder / "world.toml"
        self.settings_path.write_text(_SETTINGS.format(folder=folder, views=json.dumps(list(views)), **chosen))
        self.home = Home(folder / "home", "world")
        self.describe({})

    def command(self, *arguments: str) -> list[str]:
        """A kar command about this night; `run knowledge` if nothing is said."""
        where = ["--settings", str(self.settings_path), "--home", str(self.home.root), "--date", DATE.isoformat()]
        return [sys.executable, "-m", "kar", *(arguments or ("run", "knowledge")), *where]

    def kar(self, *arguments: str) -> str:
        """Run a kar command to its end; what it prints."""
        ours = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, env=ours, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> subprocess.Popen[str]:
        """Begin to ask; the caller waits or sends signals."""
        return subprocess.Popen(self.command(), stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def ask(self) -> None:
        """Ask to the end."""
        with self.start() as process:
            _, said = process.communicate(timeout=900)
        assert process.returncode == 0, said

    def forget_the_tables(self) -> None:
        """As if the stage had never ended; the ledger stays."""
        shutil.rmtree(self.home.partition("knowledge", DATE).path, ignore_errors=True)

    def table(self, stage: str, name: str) -> pa.Table:
        return pq.read_table(self.home.partition(stage, DATE).path / f"{name}.parquet")

    def bodies(self) -> dict[str, str]:
        """Request key → the planned request's body, in the order to send."""
        request = self.table("prompts", "request")
        return dict(zip(request.column("request_key").to_pylist(), request.column("body").to_pylist(), strict=True))

    def planned_tokens(self) -> dict[str, int]:
        """Request key → tokens of its prompt, as the plan counts them."""
        request = self.table("prompts", "request")
        return dict(zip(request.column("request_key").to_pylist(), request.column("prompt_tokens").to_pylist(), strict=True))

    def paid(self) -> dict[str, Answer]:
        """Request key → its good answer, of those planned."""
        return look_up(self.home.ledger, list(self.bodies()))

    def bytes_of_tables(self) -> dict[str, bytes]:
        """What the asking ends in. How fast it went is no part of it."""
        return {name: (self.home.partition("knowledge", DATE).path / f"{name}.parquet").read_bytes() for name in ("knowledge", "refused")}

    def manifest(self, stage: str = "knowledge") -> Manifest:
        return Manifest.read(self.home.partition(stage, DATE).manifest_path)

    def describe(self, plots: dict[int, str]) -> None:
        """Give items a description, and plan."""
        path = self.folder / "data" / "items.csv"
        with path.open(newline="") as stream:
            rows = [row | {"plot": plots.get(int(row["item"]), row.get("plot", ""))} for row in csv.DictReader(stream)]
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        run_all(load(self.settings_path), self.home, DATE, lambda: AS_OF, ["sources", "histories", "prompts"])


def _short_answers(target: Path, tokens: int) -> None:
    """The shipped prompts, word for word, but with short answers."""
    shutil.copytree(ROOT / "prompts", target)
    for path in (target / "movies").glob("*.*.toml"):
        text = path.read_text()
        for name, value in (("max_tokens", tokens), ("min_words", 4)):
            text, changed = re.subn(rf"^{name} = \d+$", f"{name} = {value}", text, flags=re.MULTILINE)
            assert changed == 1
        path.write_text(text)
