"""A home as the other stages would leave it, with known numbers: what the page's tests and trials are made from.

To look at a page of it:  python -m tests.page.fake_home FOLDER [--kind helps|…|nothing] [--users N] [--provider local|openai]
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kar import flow, run
from kar.settings import Settings, parse
from kar.store import Home, Manifest, Output, json_sha, text_sha
from kar.tables import TABLES, IdTypes
from tests.page.fake_training import KINDS, FakeTraining

DATE = dt.date(2026, 11, 19)
AS_OF = dt.datetime(2026, 11, 20, 1, 30, tzinfo=dt.UTC)
CUTOFF = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
ARMS = ("base", "text", "knowledge", "permuted")
VIEWS = ("user.preference", "item.facts")

_FIRST = ("The Last", "A Quiet", "Midnight", "The Paper", "Seven", "Under the", "The Glass", "Return to", "One More", "The Salt")
_SECOND = ("Lighthouse", "Orchard", "Express", "Detective", "Winters", "Harbour", "Violin", "Meridian", "Summer", "Cartographer")


@dataclass
class Plan:
    """What the home should hold.

    Args:
        kind: which verdict the comparison gives.
        edit: table → what to do with its rows before they are written; a place to plant odd text or NaN.
        figures: stage → figures that replace the usual ones.
    """

    users: int = 24
    items: int = 18
    kind: str = "helps"
    base: str = "same_evidence"
    backbones: tuple[str, ...] = ("fibinet", "din")
    arms: tuple[str, ...] = ARMS
    ablations: tuple[str, ...] = ()
    is_tuned: bool = False
    seeds: tuple[int, ...] = (1, 2, 3)
    provider: str = "local"
    known_share: float = 0.5
    edit: dict[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected_examples: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


def settings(plan: Plan) -> Settings:
    sections: dict[str, Any] = {
        "scenario": {"name": "fake-films", "domain": "movies"},
        "sources": {"rating_range": [1, 5], "interactions": {"path": "x.csv", "format": "csv", "columns": {}}},
        "histories": {"mode": "per_user", "cap": 30},
        "llm": {"provider": plan.provider, "model": "smollm2-135m-instruct", "token_budget": 120_000},
        "adaptor": {"backbones": ["fibinet", "din"], "bases": [plan.base], "published_base": plan.base, "seeds": list(plan.seeds)},
        "report": {"reading_count": 10},
    }
    for name, section in plan.settings.items():
        sections[name] = {**sections.get(name, {}), **section}
    return parse(sections)


def build(root: Path, plan: Plan | None = None) -> tuple[Settings, Home]:
    """Write every stage's partition but the report's."""
    plan = plan or Plan()
    made = settings(plan)
    home = Home.of(made.scenario.name, root)
    world = _World(plan)
    for stage in flow.FLOW[:-1]:
        folder = home.partition(stage.name, DATE).path
        folder.mkdir(parents=True)
        out = Output(stage, folder, IdTypes())
        for table in stage.writes:
            rows = plan.edit.get(table, _same)(list(getattr(world, table, tuple)()))  # a table that the page does not show is empty
            out.write(table, _table(table, rows))
        world.fill(out)
        _seal(stage, out, folder, made, world.seconds[stage.name])
    return made, home


def page(root: Path, plan: Plan | None = None) -> str:
    """Build the home, run the report stage over it as the runner does, and return the page."""
    made, home = build(root, plan)
    run.run_stage("report", made, home, DATE, AS_OF)
    return (home.partition("report", DATE).path / "index.html").read_text(encoding="utf-8")


def _same(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows


def _table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    ids = IdTypes()
    arrow = {c.name: c.arrow(ids) or pa.list_(pa.field("element", pa.float32(), nullable=False), 8) for c in TABLES[name].columns}
    return pa.table({column: pa.array([row[column] for row in rows], made) for column, made in arrow.items()})


def _seal(stage: flow.Stage, out: Output, folder: Path, made: Settings, seconds: float) -> None:
    recipe = {
        "stage": stage.name,
        "version": stage.version,
        "date": DATE.isoformat(),
        "settings": {section: getattr(made, section).recipe() for section in stage.settings},
    }
    Manifest(
        stage=stage.name,
        date=DATE.isoformat(),
        recipe_sha=json_sha(recipe),
        recipe=recipe,
        tables=out.tables,
        rejected=out.rejected,
        rejected_examples=out.rejected_examples,
        figures=out.figures,
        warnings=out.warnings,
        seconds=seconds,
        made_at=AS_OF.isoformat(),
        packages={"duckdb": "2.0.0", "pyarrow": "26.0.1", "torch": "2.13.0"},
    ).write(folder)


class _World:
    """Rows of every table, by table name. Everything is drawn from one seed."""

    seconds = {  # noqa: RUF012
        "sources": 1.2,
        "histories": 0.9,
        "prompts": 6.4,
        "knowledge": 148.0,
        "vectors": 21.5,
        "examples": 1.1,
        "adaptor": 61.0,
        "features": 2.3,
    }

    def __init__(self, plan: Plan) -> None:
        self.wanted = plan
        self.draw = random.Random(7)
        self.titles = {i: f"{_FIRST[i % 10]} {_SECOND[(i // 10 + i) % 10]} ({1960 + i % 40})" for i in range(1, plan.items + 1)}
        self.events = {u: self._events(u) for u in range(1, plan.users + 1)}
        tested = [user for user in self.events if user % 10 == 0]
        self.test_users, self.test_examples = len(tested), sum(len(self.events[user]) for user in tested)
        self.training = FakeTraining(
            plan.base, plan.backbones, plan.arms, plan.ablations, plan.seeds, plan.kind, self.test_examples, self.test_users, plan.is_tuned
        )
        self.fates = {view: self._fates(n) for view, n in zip(VIEWS, (plan.users, plan.items), strict=True)}

    def _events(self, user: int) -> list[tuple[int, float, dt.datetime]]:
        chosen = self.draw.sample(range(1, self.wanted.items + 1), min(self.wanted.items, 5 + user % 26))
        start = CUTOFF - dt.timedelta(days=90 - user % 30)
        return [(item, float(self.draw.choice((1, 2, 3, 4, 4, 5))), start + dt.timedelta(hours=3 * k)) for k, item in enumerate(chosen)]

    def _fates(self, subjects: int) -> dict[int, str]:
        """subject → tonight · fresh · fallback · refused · empty · over_budget, so that the first known_share have a text."""
        known = round(subjects * self.wanted.known_share)
        names = ("tonight", "tonight", "tonight", "fresh", "tonight", "tonight", "fallback")
        lost = ("over_budget", "over_budget", "refused", "over_budget", "empty")
        return {s: names[s % 7] if s <= known else lost[s % 5] for s in range(1, subjects + 1)}

    # ---- sources, histories
    def user(self) -> Iterable[dict[str, Any]]:
        return ({"user_id": u} for u in self.events)

    def item(self) -> Iterable[dict[str, Any]]:
        return ({"item_id": i, "title": t, "description": None} for i, t in self.titles.items())

    def user_attribute(self) -> Iterable[dict[str, Any]]:
        return ({"user_id": u, "name": "age", "value": str(20 + u % 40)} for u in self.events)

    def item_attribute(self) -> Iterable[dict[str, Any]]:
        return ({"item_id": i, "name": "genre", "value": self._genre(i), "place": 0} for i in self.titles)

    def interaction(self) -> Iterable[dict[str, Any]]:
        for user, events in self.events.items():
            for item, rating, at in events:
                yield {"user_id": user, "item_id": item, "event_at": at, "tie_key": item, "rating": rating, "click": None, "text": None}

    def history(self) -> Iterable[dict[str, Any]]:
        for user, events in self.events.items():
            yield {
                "user_id": user,
                "subject_id": str(user),
                "cutoff_at": CUTOFF,
                "position": len(events) + 12,
                "item_ids": [item for item, _, _ in events],
                "ratings": [rating for _, rating, _ in events],
                "event_ats": [at for _, _, at in events],
                "titles": [self.titles[item] for item, _, _ in events],
                "newest_event_at": events[-1][2],
                "evidence_sha": text_sha(str(user)),
            }

    def item_profile(self) -> Iterable[dict[str, Any]]:
        for item, title in self.titles.items():
            yield {
                "item_id": item,
                "subject_id": str(item),
                "cutoff_at": CUTOFF,
                "title": title,
                "text": f"{title}. genre: {self._genre(item)}. year: {1960 + item % 40}.",
                "event_count": 3 * item,
                "rating_mean": 3.0 + item % 20 / 10,
                "evidence_sha": text_sha(title),
                **_evidence([], []),
            }

    def item_neighbour(self) -> Iterable[dict[str, Any]]:
        return ()

    def _genre(self, item: int) -> str:
        return ("Comedy", "Drama", "Horror", "Western")[item % 4]

    # ---- prompts, knowledge, vectors
    def plan_row(self, view: str, subject: int, fate: str) -> dict[str, Any]:
        decision = {"fresh": "fresh", "over_budget": "over_budget", "empty": "empty"}.get(fate, "ask")
        shown = min(30, len(self.events[subject])) if view.startswith("user.") else 0
        return {
            "view": view,
            "subject_id": str(subject),
            "decision": decision,
            "reason": "new" if decision == "ask" else "",
            "rank": subject if decision == "ask" else -1,
            "value": 1.0 / subject,
            "prompt_tokens": 412,
            "answer_tokens": 160,
            "history_shown": shown,
            "history_dropped": subject % 3 if shown else 0,
            "request_key": text_sha(f"{view}{subject}") if decision == "ask" else "",
            "template_id": view,
            "template_version": f"{view}@1:0123456789ab",
            "form": "prose" if view.startswith("user.") else "factors",
            "evidence_sha": text_sha(str(subject)),
            "cutoff_at": CUTOFF,
            **self._seen(view, subject),
        }

    def _seen(self, view: str, subject: int) -> dict[str, Any]:
        events = self.events[subject][-30:] if view.startswith("user.") else []
        return _evidence([(str(subject), str(item)) for item, _, _ in events], [at for _, _, at in events]) | {"neighbour_items": []}

    def _messages(self, view: str, subject: int) -> list[dict[str, str]]:
        if view.startswith("user."):
            told = "\n".join(f"- {self.titles[item]}, {rating:.0f} stars" for item, rating, _ in self.events[subject])
            ask = f"A person rated these films, oldest first:\n{told}\n\nSay what they look for in genre, mood, pace, period, people and craft."
        else:
            ask = f"Film: {self.titles[subject]}\nGenre: {self._genre(subject)}\n\nDescribe it by genre, mood, pace, period, people and craft."
        return [{"role": "system", "content": "You know films well and write plain, specific prose."}, {"role": "user", "content": ask}]

    def plan(self) -> Iterable[dict[str, Any]]:
        return (self.plan_row(view, s, fate) for view in VIEWS for s, fate in self.fates[view].items())

    def pace(self) -> Iterator[dict[str, Any]]:
        draw = random.Random(5)
        for place in range(60):
            window = 8.0 + min(place, 20) * 2 - (18 if place > 35 else 0)
            flight = int(window) if place < 55 else 60 - place
            yield {
                "endpoint": 0,
                "second": 2.0 * place,
                "window": window,
                "in_flight": flight,
                "waiting": draw.randint(0, 3) + (14 if 31 < place < 36 else 0),
                "running": max(flight - 2, 0),
                "kv_share": 0.4,
                "preemptions": 0,
                "answered": 9 * place,
                "tokens_per_s": 40.0 + 5 * min(place, 20) + draw.random() * 12,
                "prefix_hit_share": 0.61,
            }

    def request(self) -> Iterator[dict[str, Any]]:
        asked = [row for row in self.plan() if row["decision"] == "ask"]
        for place, row in enumerate(asked):
            messages = self._messages(row["view"], int(row["subject_id"]))
            body = json.dumps({"model": "smollm2-135m-instruct", "messages": messages})
            same = ("view", "subject_id", "request_key", "prompt_tokens", "answer_tokens", "template_version", "form")
            yield {**{c: row[c] for c in same}, "place": place, "revision": "", "family": row["template_version"], "body": body}

    def knowledge(self) -> Iterable[dict[str, Any]]:
        for view in VIEWS:
            for subject, fate in self.fates[view].items():
                if fate in ("tonight", "fresh", "fallback"):
                    yield {
                        "view": view,
                        "subject_id": str(subject),
                        "text": self._prose(view, subject),
                        "origin": "tonight" if fate == "tonight" else "last_good",
                        "model": "smollm2-135m-instruct",
                        "model_revision": "8f1d2c77aa01",
                        "template_version": f"{view}@1:0123456789ab",
                        "request_key": text_sha(f"{view}{subject}"),
                        "evidence_sha": text_sha(str(subject)),
                        "cutoff_at": CUTOFF,
                        "asked_at": AS_OF,
                        "prompt_tokens": 412,
                        "completion_tokens": 118,
                        **self._seen(view, subject),
                    }

    def factor_knowledge(self) -> Iterator[dict[str, Any]]:
        """Users in prose, items in two factors: everybody's genre, and the mood of every second."""
        for row in self.knowledge():
            key = {"view": row["view"], "subject_id": row["subject_id"]}
            if row["view"].startswith("user."):
                yield {**key, "factor": "", "text": row["text"]}
                continue
            yield {**key, "factor": "genre", "text": f"A {self._genre(int(row['subject_id'])).lower()}."}
            if int(row["subject_id"]) % 2:
                yield {**key, "factor": "mood", "text": f"Wry and patient, like number {row['subject_id']}."}

    def _prose(self, view: str, subject: int) -> str:
        if view.startswith("user."):
            best = max(self.events[subject], key=lambda event: event[1])[0]
            return (
                f"This viewer is drawn to patient, character-led stories such as {self.titles[best]}, with dry humour and a sense of place. "
                "Loud spectacle earns two stars at most. Ensemble casts, period settings and unshowy camera work would suit; "
                "broad farce and sequels would not."
            )
        return (
            f"{self.titles[subject]} is a {self._genre(subject).lower()} that moves slowly and looks closely. Its mood is wry, its people are "
            "stubborn and decent, and the craft lies in faces and weather rather than in action."
        )

    def refused(self) -> Iterable[dict[str, Any]]:
        for view in VIEWS:
            for subject, fate in self.fates[view].items():
                if fate in ("refused", "fallback"):
                    reason = ("repetition", "too_short", "echo")[subject % 3]
                    text = {
                        "repetition": "The film is a film about a film, and the film is a film about a film. " * 6,
                        "too_short": "It is good.",
                    }
                    yield {
                        "view": view,
                        "subject_id": str(subject),
                        "reason": reason,
                        "detail": "61 % of the 4-grams repeat, at most 35 % may"
                        if reason == "repetition"
                        else "3 words, at least 12 are asked for",
                        "answer": text.get(reason, "You know films well and write plain, specific prose."),
                        "request_key": text_sha(f"{view}{subject}"),
                        "has_fallback": fate == "fallback",
                    }

    def knowledge_vector(self) -> Iterable[dict[str, Any]]:
        subjects = {view: [s for s, f in fates.items() if f in ("tonight", "fresh", "fallback")] for view, fates in self.fates.items()}
        subjects |= {"user.raw": list(self.events), "item.raw": list(self.titles)}
        for view, ids in subjects.items():
            middle = {"user.raw": 190, "item.raw": 28}.get(view, 96)
            for subject in ids:
                tokens = max(4, round(self.draw.gauss(middle, middle / 4)))
                vector = np.ones(8, np.float32) / math.sqrt(8)
                row = {"view": view, "subject_id": str(subject), "text_sha": text_sha(view), "encoder_id": "hash-8", "vector": vector}
                yield {**row, "n_tokens": tokens, "truncated": tokens > 256}

    # ---- examples, adaptor
    def sequence(self) -> Iterable[dict[str, Any]]:
        for user, events in self.events.items():
            for place, (item, rating, at) in enumerate(events):
                yield {"user_id": user, "position": place, "item_id": item, "event_at": at, "rating": rating, "label": int(rating > 3)}

    def example_item(self) -> Iterable[dict[str, Any]]:
        return ({"item_id": item, "is_held_out": False, "evidence_newest_at": None} for item in self.titles)

    def example(self) -> Iterable[dict[str, Any]]:
        number = 0
        for user, events in self.events.items():
            split = ("test", "valid")[user % 10] if user % 10 < 2 else "train"
            for place, (item, rating, at) in enumerate(events):
                yield {
                    "example_id": number,
                    "user_id": user,
                    "item_id": item,
                    "event_at": at,
                    "position": place,
                    "label": int(rating > 3),
                    "split": split,
                    "has_user_knowledge": self.fates["user.preference"][user] in ("tonight", "fresh", "fallback"),
                    "has_item_knowledge": self.fates["item.facts"][item] in ("tonight", "fresh", "fallback"),
                }
                number += 1

    def metric(self) -> Iterable[dict[str, Any]]:
        return self.training.metric()

    def comparison(self) -> Iterable[dict[str, Any]]:
        return self.training.comparison()

    def calibration(self) -> Iterable[dict[str, Any]]:
        return self.training.calibration()

    def epoch(self) -> Iterable[dict[str, Any]]:
        return self.training.epoch()

    def gate_weight(self) -> Iterable[dict[str, Any]]:
        return self.training.gate_weight()

    def study(self) -> Iterable[dict[str, Any]]:
        return self.training.study()

    def view_use(self) -> Iterable[dict[str, Any]]:
        return self.training.view_use()

    # ---- features
    def release(self) -> Iterable[dict[str, Any]]:
        yield {
            "release_id": "2026-11-19T013000Z-4f2a91c0",
            "space_id": "9c1e77d20b5a4e1f",
            "data_cutoff": CUTOFF - dt.timedelta(hours=5),
            "published_at": AS_OF,
            "is_promoted": True,
            "is_reconstructed": False,
            "manifest_sha": text_sha("manifest"),
            "user_count": len(self.events),
            "item_count": len(self.titles),
            "user_covered_share": self.wanted.known_share,
            "item_covered_share": self.wanted.known_share,
        }

    # ---- what the stages record
    def fill(self, out: Output) -> None:
        """Rejected rows, figures and warnings as the stage would record them."""
        stage = out.stage.name
        if stage == "sources":
            odd = self.wanted.rejected_examples or [
                {"user_id": 7, "item_id": 9_999, "rating": 4.0},
                {"user_id": 12, "item_id": 10_001, "rating": 2.0},
            ]
            out.reject("unknown_item", 41, odd)
            out.reject("bad_rating", 3, [{"user_id": 3, "item_id": 5, "rating": 9.0}])
            out.reject("bad_time", 0)
        if stage == "knowledge":
            out.reject("repetition", 5)
        if stage == "examples":
            out.reject("in_evidence", 17, [{"user_id": 4, "item_id": 2}])
            out.warn("the valid split holds 2 users only")
        out.record(**self.wanted.figures.get(stage, _FIGURES.get(stage, {})))


_FIGURES: dict[str, dict[str, Any]] = {
    "sources": {"tie_share": 0.031, "source_rows": {"users": 943, "items": 1682, "interactions": 100_000}},
    "prompts": {"planned_tokens": 119_400},
    "knowledge": {
        "calls": 286,
        "answered": 281,
        "from_ledger": 14,
        "prompt_tokens": 86_120,
        "completion_tokens": 33_410,
        "usd": 0.0,
        "seconds_asking": 141.2,
        "tokens_per_s": 236.6,
        "stopped_by": "token_budget",
    },
    "examples": {"tie_share": 0.024, "leaks": [{"view": "user.preference", "reason": "in_evidence", "leak_count": 0, "fault_count": 0}]},
    "adaptor": {"parameters": 1_640_000, "test_touched": {"same_evidence fibinet knowledge": 3}, "test_head_share": 0.28},
}


def _evidence(pairs: list[tuple[str, str]], times: list[dt.datetime]) -> dict[str, Any]:
    return {
        "evidence_users": [user for user, _ in pairs],
        "evidence_items": [item for _, item in pairs],
        "evidence_newest_at": max(times, default=None),
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write a fake home and the report over it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", default="helps", choices=sorted(KINDS))
    parser.add_argument("--ablations", nargs="*", default=["item_only", "target_only", "without:mood", "masked", "linear"])
    parser.add_argument("--base", default="same_evidence", choices=("thin", "same_evidence", "rich"))
    parser.add_argument("--users", type=int, default=240)
    parser.add_argument("--provider", default="local", choices=("local", "openai"))
    given = parser.parse_args()
    plan = Plan(
        users=given.users,
        items=given.users,
        kind=given.kind,
        provider=given.provider,
        known_share=0.42,
        ablations=tuple(given.ablations),
        base=given.base,
    )
    arms = tuple(arm for arm in ARMS if given.kind != "not_measured" or arm in ("base", "knowledge"))
    plan.arms = arms
    page(given.folder, plan)
    print(Home.of("fake-films", given.folder).partition("report", DATE).path / "index.html")


if __name__ == "__main__":
    _main()
