"""A home of three nights and two releases, written table by table, so that every value on a page is known.

To look at it:  python -m tests.browse.planted FOLDER [--hostile]   (then kar browse, with the settings it prints)
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kar import flow
from kar.release import remote
from kar.release.rows import Facts, SideRows, ViewRows
from kar.release.verdicts import GateVerdict
from kar.settings import Settings, parse
from kar.store import Home, Manifest, Output, text_sha
from kar.tables import TABLES, IdTypes

NIGHTS = tuple(dt.date(2026, 11, 17) + dt.timedelta(days=n) for n in range(3))
HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(2)>",
    "\u202egnp.exe\u202c\u2066hidden\u2069",
    "a\x00b\x1b[31mred\x07\x85",
    "{{ 7*7 }}{% raw %}",
    "../../../../etc/passwd",
    "a/b?c=d&e=f#g%2e%2e",
    "'; DROP TABLE user; --",
)
TITLES = (
    "The Glass Harbour (1961)",
    "Amélie on the Night Express (2001)",
    "Seven Winters (1974)",
    "A Quiet Orchard (1988)",
    "Midnight Detective (1947)",
    "The Salt Meridian (1999)",
    "One More Violin (1953)",
    "Under the Lighthouse (1982)",
)


@dataclass
class World:
    """What is planted. Item n is near item n + 1: their knowledge vectors are n × 10 degrees apart.

    Args:
        user_ids, item_ids: ints, or texts for a scenario of such ids.
        say: what every foreign text is made from; by default plain words.
    """

    user_ids: list[Any] = field(default_factory=lambda: list(range(1, 7)))
    item_ids: list[Any] = field(default_factory=lambda: [10 * n for n in range(1, len(TITLES) + 1)])
    titles: tuple[str, ...] = TITLES
    say: str = ""

    @property
    def id_types(self) -> IdTypes:
        return IdTypes("int" if isinstance(self.user_ids[0], int) else "string", "int" if isinstance(self.item_ids[0], int) else "string")


def hostile() -> World:
    """The same with every word, id and title meaning harm."""
    return World(
        [f"u{n} {word}" for n, word in enumerate(HOSTILE[:6])], [f"i{n} {word}" for n, word in enumerate(HOSTILE)], HOSTILE, HOSTILE[0]
    )


def settings(world: World, folder: Path) -> Settings:
    return parse(sections(world, folder))


def sections(world: World, folder: Path) -> dict[str, Any]:
    return {
        "scenario": {"name": "planted", "domain": "movies", "user_id": world.id_types.user, "item_id": world.id_types.item},
        "sources": {"folder": str(folder), "rating_range": [1, 5], "interactions": {"path": "x.csv", "format": "csv", "columns": {}}},
        "llm": {"provider": "openai", "model": "tiny"},
    }


def build(root: Path, world: World | None = None) -> tuple[Settings, Home]:
    """Write the nights and publish the second's and the third's release; the third is served."""
    world = world or World()
    made, home = settings(world, root), Home.of("planted", root)
    for night in NIGHTS:
        _write(home, world, night)
    publish_all(world, home.published)
    return made, home


def publish_all(world: World, where: Path | str) -> None:
    """The releases of the second and the third night, in a folder or at a uri."""
    for night in NIGHTS[1:]:
        _publish(where, world, night)


def item_text(world: World, place: int, night: dt.date) -> str:
    """What is known of an item: told on the first night, told anew of item 1 on the third."""
    told = "A patient story of weather and work" if not (place == 1 and night == NIGHTS[2]) else "A quick comedy of trains and letters"
    return f"{told}, number {place}. Dry humour, long shots and a small cast; made for those who like to look. {world.say}".strip()


def user_text(world: World, place: int) -> str:
    return (
        f"This viewer likes slow films with a sense of place, number {place}. Loud spectacle earns two stars at most. {world.say}".strip()
    )


def _known(world: World, night: dt.date) -> list[tuple[str, str, str]]:
    """(view, subject, text): of users all but the last, of items all but number 3 and, on the first night, number 2."""
    users = [("user.preference", str(u), user_text(world, n)) for n, u in enumerate(world.user_ids[:-1])]
    items = [
        ("item.facts", str(i), item_text(world, n, night))
        for n, i in enumerate(world.item_ids)
        if n != 3 and (n != 2 or night != NIGHTS[0])
    ]
    return users + items


def _rows(world: World, night: dt.date) -> dict[str, list[dict[str, Any]]]:
    cutoff = _at(night + dt.timedelta(days=1))
    known = _known(world, night)
    users, items, titles = world.user_ids, world.item_ids, world.titles
    item_ids = {str(item): place for place, item in enumerate(items)}
    events = {
        u: [(items[(n + k) % len(items)], float(1 + (n * k) % 5), _at(night) - dt.timedelta(days=9 - k)) for k in range(3 + n)]
        for n, u in enumerate(users)
    }
    everyone = [("user.preference", str(u)) for u in users] + [("item.facts", str(i)) for i in items]
    place_of = {key: place for place, key in enumerate(everyone)}
    prompt = [{"role": "system", "content": "You know films well."}, {"role": "user", "content": f"Say what is known of it. {world.say}"}]
    body = json.dumps({"model": "tiny", "messages": prompt})
    no_evidence = {"evidence_users": [], "evidence_items": [], "evidence_newest_at": None, "neighbour_items": []}
    seen = {
        str(u): no_evidence
        | {"evidence_users": [str(u)] * len(e), "evidence_items": [str(i) for i, _, _ in e], "evidence_newest_at": e[-1][2]}
        for u, e in events.items()
    }
    first = night == NIGHTS[0]
    asked = {("item.facts", str(items[1]))} if night == NIGHTS[2] else set(everyone) if first else set()

    def evidence(view: str, subject: str) -> dict[str, Any]:
        return seen[subject] if view.startswith("user.") else no_evidence

    def planned(view: str, subject: str) -> dict[str, Any]:
        is_asked = (view, subject) in asked
        shared = {"view": view, "subject_id": subject, "template_id": view, "template_version": f"{view}@1:0123456789ab", "form": "prose"}
        counts = {"rank": place_of[view, subject] if is_asked else -1, "value": 1.0, "prompt_tokens": 40, "answer_tokens": 60}
        told = {"decision": "ask" if is_asked else "fresh", "reason": "new" if is_asked and first else "evidence" if is_asked else ""}
        rest = {
            "history_shown": 3,
            "history_dropped": 0,
            "request_key": text_sha(view + subject) if is_asked else "",
            "evidence_sha": "e",
            "cutoff_at": cutoff,
        }
        return {**shared, **counts, **told, **rest, **evidence(view, subject)}

    plan = [planned(*key) for key in everyone]
    request = [
        {
            **{c: row[c] for c in TABLES["request"].column_names if c in row},
            "place": row["rank"],
            "revision": "",
            "family": "f",
            "body": body,
        }
        for row in plan
        if row["rank"] >= 0
    ]
    refused = [
        {"view": "item.facts", "subject_id": str(items[3]), "reason": "entity_mismatch", "detail": f"names {titles[0]}", "answer": f"It is about {titles[0]}.", "request_key": "k", "has_fallback": False},
        *([{"view": "item.facts", "subject_id": str(items[0]), "reason": "repetition", "detail": "one line 12 times", "answer": "again again again", "request_key": "k2", "has_fallback": True}] if night == NIGHTS[2] else []),
    ]  # fmt: skip
    knowledge = [
        {
            "view": view, "subject_id": subject, "text": text, "origin": "tonight" if (view, subject) in asked else "last_good", "model": f"tiny {world.say}".strip(),
            "model_revision": "r1", "template_version": f"{view}@1:0123456789ab", "request_key": text_sha(view + subject), "evidence_sha": "e", "cutoff_at": cutoff,
            "asked_at": _at(NIGHTS[2] if (view, subject) in asked and not first else NIGHTS[0], 25), "prompt_tokens": 40, "completion_tokens": 30, **evidence(view, subject),
        }
        for view, subject, text in known
    ]  # fmt: skip
    factors = [
        {"view": v, "subject_id": s, "factor": name, "text": f"{name} of it. {world.say}".strip()}
        for v, s, _ in known
        if v == "item.facts"
        for name in ("genre", "mood")
    ]
    return {
        "user": [{"user_id": u} for u in users],
        "item": [{"item_id": i, "title": titles[n], "description": None} for n, i in enumerate(items)],
        "user_attribute": [{"user_id": u, "name": "age", "value": f"{20 + n} {world.say}".strip()} for n, u in enumerate(users)],
        "item_attribute": [{"item_id": i, "name": "genre", "value": f"Drama {world.say}".strip(), "place": 0} for i in items],
        "interaction": [{"user_id": u, "item_id": i, "event_at": at, "tie_key": 0, "rating": r, "click": None, "text": None} for u, e in events.items() for i, r, at in e],
        "history": [
            {
                "user_id": u, "subject_id": str(u), "cutoff_at": cutoff, "position": len(e), "item_ids": [i for i, _, _ in e], "ratings": [r for _, r, _ in e],
                "event_ats": [at for _, _, at in e], "titles": [titles[item_ids[str(i)]] for i, _, _ in e], "newest_event_at": e[-1][2], "evidence_sha": "e",
            }
            for u, e in events.items()
        ],
        "item_profile": [
            {"item_id": i, "subject_id": str(i), "cutoff_at": cutoff, "title": titles[n], "text": f"{titles[n]}. genre: Drama.", "event_count": 100 - n, "rating_mean": 3.5, "evidence_sha": "e", **no_evidence}
            for n, i in enumerate(items)
        ],
        "item_neighbour": [],
        "plan": plan, "request": request, "knowledge": knowledge, "factor_knowledge": factors, "refused": refused, "pace": [],
    }  # fmt: skip


def _write(home: Home, world: World, night: dt.date) -> None:
    rows = _rows(world, night)
    for stage in (flow.SOURCES, flow.HISTORIES, flow.PROMPTS, flow.KNOWLEDGE):
        folder = home.partition(stage.name, night).path
        folder.mkdir(parents=True)
        out = Output(stage, folder, world.id_types)
        for table in stage.writes:
            schema = TABLES[table].schema(world.id_types)
            out.write(table, pa.Table.from_pylist(rows[table], schema))
        Manifest(stage.name, night.isoformat(), "r", {}, tables=out.tables, made_at=_at(night, 25).isoformat()).write(folder)


def angle(place: int, night: dt.date) -> float:
    """Of an item's knowledge vector, in degrees; item 1 moved by 60 on the third night."""
    return 10.0 * place + (60.0 if place == 1 and night == NIGHTS[2] else 0.0)


def _publish(where: Path | str, world: World, night: dt.date) -> None:
    known = {(view, subject) for view, subject, _ in _known(world, night)}
    sides = []
    for side, view, ids in (("user", "user.preference", world.user_ids), ("item", "item.facts", world.item_ids)):
        order = sorted(range(len(ids)), key=lambda n, ids=ids: ids[n] if isinstance(ids[n], int) else ids[n].encode())
        is_missing = np.array([(view, str(ids[n])) not in known for n in order])
        degrees = np.radians([angle(n, night) for n in order])
        vectors = np.stack([np.cos(degrees), np.sin(degrees), np.zeros(len(order))], 1).astype(np.float32)
        vectors[is_missing] = 0
        default = np.full(3, 0.5, np.float32)
        words = pa.array([None if m else "tonight" for m in is_missing], pa.string())
        times = pa.array([None if m else _at(night) for m in is_missing], pa.timestamp("us", tz="UTC"))
        adapted = np.where(is_missing[:, None], default, vectors).astype(np.float32)
        rows = ViewRows(view, is_missing, adapted, vectors, default, times, times, words, words)
        sides.append(
            SideRows("user" if side == "user" else "item", pa.array([ids[n] for n in order]), (rows,), np.arange(len(order)) % 2 == 0)
        )
    uplift = [
        {"base": "rich", "backbone": "fibinet", "arm_a": "knowledge", "arm_b": arm, "slice": "all", "metric": metric, "difference": value, "low": value - 0.002, "high": value + 0.002}
        for arm, value in (("base", 0.0041), ("text", 0.0017), ("permuted", -0.0003)) for metric in ("auc", "gauc")
    ]  # fmt: skip
    models = [{"view": "item.facts", "model": f"tiny {world.say}".strip(), "model_revision": "r1", "origin": "tonight", "count": 7}]
    facts = Facts(
        "planted", night, _at(night, 26), False, "hash-3", {"sha": "a" * 64, "backbone": "fibinet"}, "l2",
        templates={"item.facts": {"item.facts@1:0123456789ab": 7}}, models=models, uplift=uplift, code_version="0.1.0",
        cost={"night": {"prompt_tokens": 40, "completion_tokens": 30, "usd": 0.0123}, "published": {"tokens": 910}}, active_days=30,
    )  # fmt: skip
    remote.publish(where, (sides[0], sides[1]), facts, gate=_gate if night == NIGHTS[2] else None)


def _gate(new: object, before: object) -> list[GateVerdict]:
    return [
        GateVerdict("rows item", 8.0, 4.0, True, "8 items, at least 4.0"),
        GateVerdict("collapse item.facts", 0.4, 0.9, True, "mean cosine 0.40, at most 0.90"),
    ]


def _at(night: dt.date, hours: int = 0) -> dt.datetime:
    return dt.datetime.combine(night, dt.time(), dt.UTC) + dt.timedelta(hours=hours)


if __name__ == "__main__":
    build(Path(sys.argv[1]), hostile() if "--hostile" in sys.argv else None)
