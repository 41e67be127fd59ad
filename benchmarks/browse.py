"""What a page of `kar browse` takes over a large home: python -m benchmarks.browse [FOLDER] [--users N] [--items N] [--nights N]

The home is written once (some gigabytes; FOLDER is kept and used again) with tables of the declared shape and texts of usual
length, then pages of random subjects are asked through the application, each twice: cold (a subject never asked before) and warm.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from kar import flow
from kar.release.layout import TIME
from kar.release.publish import publish
from kar.release.rows import Facts, SideRows, ViewRows
from kar.settings import Settings, parse
from kar.store import Home, Manifest, Output
from kar.tables import TABLES, IdTypes

FIRST = dt.date(2026, 11, 1)
_PART = 16_384
_EVENTS = 30
_ASKED_SHARE = 0.05
_WIDTHS = (32, 384)
_WORDS = [
    "slow",
    "warm",
    "dry",
    "bright",
    "quiet",
    "sharp",
    "tender",
    "odd",
    "grand",
    "plain",
    "films",
    "stories",
    "people",
    "places",
    "craft",
    "humour",
    "seasons",
    "letters",
    "trains",
    "rivers",
]


def _settings() -> Settings:
    return parse(
        {
            "scenario": {"name": "large", "domain": "movies"},
            "sources": {"rating_range": [1, 5], "interactions": {"path": "x.csv", "format": "csv", "columns": {}}},
            "llm": {"provider": "openai", "model": "tiny"},
        }
    )


class Large:
    """Tables of one night, column by column; texts of about 800 characters."""

    def __init__(self, users: int, items: int, night: int) -> None:
        self.users, self.items, self.date = np.arange(1, users + 1), np.arange(1, items + 1), FIRST + dt.timedelta(days=night)
        self.night, self.draw = night, np.random.default_rng(7)
        self.cutoff = dt.datetime.combine(self.date + dt.timedelta(days=1), dt.time(), dt.UTC)
        self.texts = [" ".join(self.draw.choice(_WORDS, 130)) for _ in range(997)]

    def parts(self, table: str) -> Iterator[pa.Table]:
        """The table in key order; empty ones give one part of no rows."""
        schema = TABLES[table].schema(IdTypes())
        made = getattr(self, table, None)
        if made is None:
            yield schema.empty_table()
            return
        for columns in made():
            yield pa.table({field.name: _array(columns[field.name], field.type) for field in schema}, schema)

    def user(self) -> Iterator[dict[str, object]]:
        yield {"user_id": self.users}

    def item(self) -> Iterator[dict[str, object]]:
        count = len(self.items)
        yield {"item_id": self.items, "title": self._titles(self.items), "description": [None] * count}

    def _titles(self, items: np.ndarray) -> list[str]:
        return [f"The {_WORDS[i % 20]} {_WORDS[i // 20 % 20]} {_WORDS[i // 400 % 20]} of number {i}" for i in items.tolist()]

    def history(self) -> Iterator[dict[str, object]]:
        for first in range(0, len(self.users), _PART):
            users = self.users[first : first + _PART]
            items = self.draw.integers(1, len(self.items) + 1, (len(users), _EVENTS))
            titles = np.array(self._titles(self.items))
            yield {
                "user_id": users, "subject_id": [str(u) for u in users.tolist()], "cutoff_at": [self.cutoff] * len(users), "position": np.full(len(users), 40),
                "item_ids": items.tolist(), "ratings": (items % 5 + 1.0).tolist(), "event_ats": [[self.cutoff] * _EVENTS] * len(users),
                "titles": titles[items - 1].tolist(), "newest_event_at": [self.cutoff] * len(users), "evidence_sha": ["e"] * len(users),
            }  # fmt: skip

    def item_profile(self) -> Iterator[dict[str, object]]:
        count = len(self.items)
        yield {
            "item_id": self.items, "subject_id": [str(i) for i in self.items.tolist()], "cutoff_at": [self.cutoff] * count, "title": self._titles(self.items),
            "text": [self.texts[i % 997] for i in range(count)], "event_count": self.items, "rating_mean": np.full(count, 3.5),
            "evidence_sha": ["e"] * count, **_no_evidence(count),
        }  # fmt: skip

    def _by_view(self) -> Iterator[tuple[str, np.ndarray]]:
        """(view, subjects as text in key order), a part at a time."""
        for view, ids in (("item.facts", self.items), ("user.preference", self.users)):
            ordered = np.sort(ids.astype(str))
            for first in range(0, len(ordered), _PART):
                yield view, ordered[first : first + _PART]

    def plan(self) -> Iterator[dict[str, object]]:
        rank = 0
        for view, subjects in self._by_view():
            count = len(subjects)
            is_asked = self.draw.random(count) < _ASKED_SHARE
            ranks = np.where(is_asked, rank + np.cumsum(is_asked) - 1, -1)
            rank += int(is_asked.sum())
            yield {
                "view": [view] * count, "subject_id": subjects, "decision": np.where(is_asked, "ask", "fresh"), "reason": np.where(is_asked, "evidence", ""),
                "rank": ranks, "value": np.ones(count), "prompt_tokens": np.full(count, 400), "answer_tokens": np.full(count, 200),
                "history_shown": np.full(count, 30), "history_dropped": np.zeros(count, int), "request_key": [""] * count, "template_id": [view] * count,
                "template_version": [f"{view}@1:abc"] * count, "form": ["prose"] * count, "evidence_sha": ["e"] * count, "cutoff_at": [self.cutoff] * count,
                **_no_evidence(count), "neighbour_items": [[]] * count,
            }  # fmt: skip
        self.asked = rank

    def request(self) -> Iterator[dict[str, object]]:
        count = self.asked
        body = [json.dumps({"messages": [{"role": "user", "content": self.texts[i % 997] * 2}]}) for i in range(count)]
        yield {
            "place": np.arange(count), "view": ["user.preference"] * count, "subject_id": [str(i) for i in range(count)], "request_key": ["k"] * count,
            "revision": [""] * count, "family": ["f"] * count, "body": body, "prompt_tokens": np.full(count, 400), "answer_tokens": np.full(count, 200),
            "template_version": ["t"] * count, "form": ["prose"] * count,
        }  # fmt: skip

    def knowledge(self) -> Iterator[dict[str, object]]:
        for view, subjects in self._by_view():
            count = len(subjects)
            yield {
                "view": [view] * count, "subject_id": subjects, "text": [self.texts[(int(s) + (self.night if int(s) % 50 == 0 else 0)) % 997] for s in subjects],
                "origin": ["last_good"] * count, "model": ["tiny"] * count, "model_revision": [""] * count, "template_version": [f"{view}@1:abc"] * count,
                "request_key": ["k"] * count, "evidence_sha": ["e"] * count, "cutoff_at": [self.cutoff] * count, "asked_at": [self.cutoff] * count,
                "prompt_tokens": np.full(count, 400), "completion_tokens": np.full(count, 130), "evidence_users": [[]] * count,
                "evidence_items": [["1234"] * (_EVENTS if view.startswith("user") else 0)] * count, "evidence_newest_at": [self.cutoff] * count,
                "neighbour_items": [[]] * count,
            }  # fmt: skip

    def factor_knowledge(self) -> Iterator[dict[str, object]]:
        factors = ("acting", "genre", "mood", "music", "pace", "period", "setting", "theme", "tone")
        for view, subjects in self._by_view():
            rows = len(subjects) * len(factors)
            text = [self.texts[n % 997][:90] for n in range(rows)]
            yield {
                "view": [view] * rows,
                "subject_id": np.repeat(subjects, len(factors)),
                "factor": list(factors) * len(subjects),
                "text": text,
            }


def _no_evidence(count: int) -> dict[str, object]:
    return {"evidence_users": [[]] * count, "evidence_items": [[]] * count, "evidence_newest_at": [None] * count}


def _array(values: object, type_: pa.DataType) -> pa.Array:
    return pa.array(values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind == "U" else values, type_)


def build(root: Path, users: int, items: int, nights: int) -> Home:
    """The home, made once: what each night knew, the last one's other tables, a release for the last three."""
    home = Home.of("large", root)
    for night in range(nights):
        large = Large(users, items, night)
        # only the newest night is opened; of the others the timeline reads what was known
        for stage in (flow.SOURCES, flow.HISTORIES, flow.PROMPTS, flow.KNOWLEDGE) if night == nights - 1 else (flow.KNOWLEDGE,):
            folder = home.partition(stage.name, large.date).path
            if (folder / "manifest.json").exists():
                continue
            folder.mkdir(parents=True)
            out = Output(stage, folder, IdTypes())
            for table in stage.writes:
                out.write_stream(table, large.parts(table))
            Manifest(stage.name, large.date.isoformat(), "r", {}, tables=out.tables).write(folder)
        if night >= nights - 3 and len(list(home.published.glob("releases/[!.]*"))) < 3:
            _publish(home, large)
    return home


def _publish(home: Home, large: Large) -> None:
    sides = []
    for view, ids in (("user.preference", large.users), ("item.facts", large.items)):
        draw = np.random.default_rng(large.night)
        adapted, knowledge = (draw.normal(size=(len(ids), width)).astype(np.float32) for width in _WIDTHS)
        knowledge /= np.linalg.norm(knowledge, axis=1, keepdims=True)
        is_missing = np.zeros(len(ids), bool)
        times, words = pa.array([large.cutoff] * len(ids), TIME), pa.array(["tonight"] * len(ids))
        rows = ViewRows(view, is_missing, adapted, knowledge, np.zeros(_WIDTHS[0], np.float32), times, times, words, words)
        sides.append(SideRows("user" if view.startswith("user") else "item", pa.array(ids), (rows,)))
    facts = Facts("large", large.date, large.cutoff, False, "e", {"sha": "a" * 64}, "l2")
    publish(home.published, (sides[0], sides[1]), facts)


def measure(home: Home, users: int, items: int, asked: int = 12) -> list[tuple[str, float, float, float]]:
    """(page, median ms of the first time a subject is asked, median ms of the second, and of it the CPU's)."""
    from starlette.testclient import TestClient

    from kar.browse.app import application

    client = TestClient(application(_settings(), home), base_url="http://127.0.0.1")
    draw = np.random.default_rng(3)

    def paths(kind: str) -> list[str]:
        n, i = draw.integers(1, users + 1, asked).tolist(), draw.integers(1, items + 1, asked).tolist()
        release = sorted(home.published.glob("releases/[!.]*"))[-1].name
        return {
            "start": ["/"] * asked, "search, an id": [f"/search?q={x}" for x in n], "search, words": [f"/search?q={_WORDS[x % 20]}+{_WORDS[x % 19]}" for x in n],
            "user": [f"/user?id={x}" for x in n], "item": [f"/item?id={x}" for x in i], "releases": ["/releases"] * asked,
            "release": [f"/releases/{release}"] * asked,
        }[kind]  # fmt: skip

    rows = []
    client.get("/user?id=1"), client.get("/item?id=1")
    for kind in ("start", "search, an id", "search, words", "user", "item", "releases", "release"):
        first: list[float] = []
        second: list[float] = []
        cpu: list[float] = []
        for path in paths(kind):
            for times in (first, second):
                began, worked = time.perf_counter(), time.process_time()
                answer = client.get(path)
                times.append((time.perf_counter() - began) * 1000)
                assert answer.status_code == 200, answer.text
            cpu.append((time.process_time() - worked) * 1000)
        rows.append((kind, statistics.median(first), statistics.median(second), statistics.median(cpu)))
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, nargs="?", default=Path(".kar/_bench_browse"))
    options.add_argument("--users", type=int, default=200_000)
    options.add_argument("--items", type=int, default=50_000)
    options.add_argument("--nights", type=int, default=10)
    told = options.parse_args()
    home = build(told.folder, told.users, told.items, told.nights)
    print(f"{'page':<16}{'first ms':>10}{'again ms':>10}{'  CPU ms':>10}")
    for kind, first, second, cpu in measure(home, told.users, told.items):
        print(f"{kind:<16}{first:>10.0f}{second:>10.0f}{cpu:>10.0f}")


if __name__ == "__main__":
    main()
