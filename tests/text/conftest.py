"""A small lopsided world: users with 1 to 40 events, items that one of them all has met and items that nobody has."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from kar import tables
from kar.settings import Settings
from kar.settings.load import parse
from kar.store import json_sha, text_sha
from kar.tables import TABLES, IdTypes

CUTOFF = dt.datetime(2026, 3, 11, tzinfo=dt.UTC)
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
IDS = IdTypes()
DOMAIN = {
    "factors.toml": """
id = "films"
version = 1
item = { singular = "film", plural = "films" }
verb = "rated"
rating_phrase = "{rating} of 5 stars"
[[factors]]
name = "genre"
hint = "kinds of film"
[[factors]]
name = "mood"
""",
    "user.preference.toml": '''
id = "films.user.preference"
version = 1
view = "user.preference"
side = "user"
system = "You describe taste."
user = """
What does this person like in {{ items }}? Points:
{{ factors }}
About {{ words }} words.
<list>
{{ history }}
</list>
"""
[output]
words = 60
max_tokens = 100
min_words = 10
''',
    "item.facts.toml": '''
id = "films.item.facts"
version = 1
view = "item.facts"
side = "item"
user = """
Describe this {{ item }}. Points: {{ factor_names }}
<entry>
{{ text }}
</entry>
"""
[output]
words = 60
max_tokens = 120
min_words = 10
''',
}


@pytest.fixture
def prompts_folder(tmp_path: Path) -> Path:
    """A prompts folder of one domain, to be edited by tests."""
    folder = tmp_path / "prompts"
    (folder / "films").mkdir(parents=True)
    for name, text in DOMAIN.items():
        (folder / "films" / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def settings_of() -> Callable[..., Settings]:
    """Settings with sections overridden: settings_of(llm={"model": "m"})."""

    def make(**sections: dict[str, Any]) -> Settings:
        base: dict[str, Any] = {
            "scenario": {"name": "small", "domain": "films"},
            "sources": {"interactions": {"path": "i.csv", "format": "csv", "columns": {}}},
            "prompts": {"min_new_events": 3, "max_age_days": 30},
        }
        for name, section in sections.items():
            base[name] = {**base.get(name, {}), **section}
        return parse(base)

    return make


@pytest.fixture(scope="session")
def history_of() -> Callable[..., pa.Table]:
    """history_of({1: [(item, stars), …]}): events a day apart from 1 January on, the newest 30 of each user kept."""

    def make(events: dict[int, list[tuple[int, float]]], cap: int = 30, titles: dict[int, str] | None = None) -> pa.Table:
        rows = []
        for user, seen in events.items():
            timed = [(item, stars, START + dt.timedelta(days=day)) for day, (item, stars) in enumerate(seen)][-cap:]
            rows.append(
                {
                    "user_id": user,
                    "subject_id": str(user),
                    "cutoff_at": CUTOFF,
                    "position": len(seen),
                    "item_ids": [item for item, _, _ in timed],
                    "ratings": [stars for _, stars, _ in timed],
                    "event_ats": [at for _, _, at in timed],
                    "titles": [(titles or {}).get(item, f"Film {item}") for item, _, _ in timed],
                    "newest_event_at": timed[-1][2],
                    "evidence_sha": json_sha([[item, stars, at] for item, stars, at in timed]),
                }
            )
        return tables.conform("history", pa.Table.from_pylist(rows, schema=schema_of("history")), IDS)

    return make


@pytest.fixture(scope="session")
def items_of() -> Callable[..., pa.Table]:
    """items_of({10: (title, text, event_count)})."""

    def make(items: dict[int, tuple[str | None, str, int]]) -> pa.Table:
        rows = [
            {
                "item_id": item,
                "subject_id": str(item),
                "cutoff_at": CUTOFF,
                "title": title,
                "text": text,
                "event_count": count,
                "rating_mean": None,
                "evidence_sha": text_sha(f"{title}\n{text}"),
                "evidence_users": [],
                "evidence_items": [],
                "evidence_newest_at": None,
            }
            for item, (title, text, count) in items.items()
        ]
        return tables.conform("item_profile", pa.Table.from_pylist(rows, schema=schema_of("item_profile")), IDS)

    return make


@pytest.fixture(scope="session")
def attributes_of() -> Callable[..., pa.Table]:
    def make(rows: list[tuple[int, str, str]]) -> pa.Table:
        columns = zip(*rows, strict=True) if rows else ([], [], [])
        return pa.table(dict(zip(("user_id", "name", "value"), map(list, columns), strict=True)), schema=schema_of("user_attribute"))

    return make


@pytest.fixture(scope="session")
def knowledge_of() -> Callable[..., pa.Table]:
    """The knowledge that answers to a plan's asked rows would give, as the knowledge stage writes it."""

    def make(plan: pa.Table, model: str, revision: str, asked_at: dt.datetime = CUTOFF) -> pa.Table:
        copied = ("view", "subject_id", "template_version", "request_key", "evidence_sha", "cutoff_at")
        evidence = ("evidence_users", "evidence_items", "evidence_newest_at", "neighbour_items")
        rows = [
            {
                **{name: row[name] for name in (*copied, *evidence)},
                "text": f"An answer about {row['subject_id']}.",
                "origin": "tonight",
                "model": model,
                "model_revision": revision,
                "asked_at": asked_at,
                "prompt_tokens": 1,
                "completion_tokens": 1,
            }
            for row in plan.to_pylist()
            if row["decision"] == "ask"
        ]
        return tables.conform("knowledge", pa.Table.from_pylist(rows, schema=schema_of("knowledge")), IDS)

    return make


def schema_of(table: str) -> pa.Schema:
    return pa.schema([(column.name, column.arrow(IDS)) for column in TABLES[table].columns])


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A served model's folder with a real byte-level BPE tokenizer of 400 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = ["- Film 12 (1995): 4 of 5 stars\n", "the film is a warm drama about people, music and the sea\n"] * 20
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    folder = tmp_path_factory.mktemp("served-model")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
