"""The histories stage tells which items stand beside an item, from nothing but events that a prompt may know of."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from kar.settings import Settings
from tests.stages import shop
from tests.stages.shop import NOON

HEAD = "user_id,item_id,at,stars\n"
DAY_S = 86_400
USERS = "user_id,age\n" + "".join(f"{user},30\n" for user in range(1, 7))
ITEMS = "item_id,title,genres\n" + "".join(f"{item},Item {item},a\n" for item in range(10, 18))
MET = {1: (10, 11, 12), 2: (10, 11), 3: (11, 12, 13), 4: (13, 14, 10), 5: (14, 15), 6: (16,)}
"""User → items, in the order in which they met them, an hour apart and all before the cutoff. Nobody met 17; 16 shares no user with another."""


def event(user: int, item: int, after_s: int) -> str:
    return f"{user},{item},{NOON + after_s},4\n"


def met(more: str = "") -> str:
    return HEAD + "".join(event(user, item, 3_600 * place) for user, items in MET.items() for place, item in enumerate(items)) + more


def chosen(folder: Path, events: str, mode: str = "time", **neighbours: Any) -> Settings:
    data = shop.write(folder, users__csv=USERS, items__csv=ITEMS, events__csv=events)
    return shop.settings(data, histories={"mode": mode, "neighbours": {"source": "engagement", **neighbours}})


def neighbours(folder: Path, events: str, mode: str = "time", **more: Any) -> tuple[dict[int, list[int]], list[dict[str, Any]]]:
    """Item → its neighbours, the nearest first; and the table's rows."""
    settings = chosen(folder / "data", events, mode, **more)
    shop.make("sources", settings, folder / "home")
    rows = shop.rows(shop.make("histories", settings, folder / "home")[1], "item_neighbour")
    found: dict[int, list[int]] = {}
    for row in rows:
        assert row["rank"] == len(found.setdefault(row["item_id"], []))
        found[row["item_id"]].append(row["neighbour_id"])
    return found, rows


def test_neighbours_are_those_of_personalized_pagerank(tmp_path: Path) -> None:
    found, rows = neighbours(tmp_path, met(), count=3)
    graph = nx.Graph([(f"u{user}", item) for user, items in MET.items() for item in items])
    for item in (10, 11, 12, 13, 14, 15):
        score = nx.pagerank(graph, alpha=0.85, personalization={item: 1.0}, tol=1e-12, max_iter=1_000)
        others = sorted((i for i in score if isinstance(i, int) and i != item and score[i] > 1e-9), key=lambda i: (-round(score[i], 5), i))
        assert found[item] == others[:3]
        assert [row["score"] for row in rows if row["item_id"] == item] == pytest.approx([score[i] for i in others[:3]], rel=1e-3)
    assert 16 not in found
    assert 17 not in found


def test_without_a_source_there_are_no_neighbours(tmp_path: Path) -> None:
    assert neighbours(tmp_path, met(), source="none") == ({}, [])


def test_an_event_after_the_cutoff_changes_nothing(tmp_path: Path) -> None:
    later = "".join(event(user, 17, 3 * DAY_S) for user in range(1, 7))
    assert neighbours(tmp_path / "a", met()) == neighbours(tmp_path / "b", met(later))
    assert 17 in neighbours(tmp_path / "c", met(later.replace(str(NOON + 3 * DAY_S), str(NOON + 9 * 3_600))))[0], "before it, it does"


def test_in_per_user_mode_the_events_that_examples_are_made_of_change_nothing(tmp_path: Path) -> None:
    """Of a user's n events the first (n + 1) // 2 are history: what the others are about must not be seen."""
    one, other = (
        neighbours(tmp_path / name, met().replace(f"3,13,{NOON + 7_200}", f"3,{item},{NOON + 7_200}"), "per_user")
        for name, item in (("a", 13), ("b", 17))
    )
    assert one == other
    assert one[0][11] == [10, 12]
    assert {row["evidence_newest_at"] for row in one[1]} == {None}


def test_the_graphs_newest_event_stands_in_every_row(tmp_path: Path) -> None:
    newest = dt.datetime.fromtimestamp(NOON + 2 * 3_600, dt.UTC)
    assert {row["evidence_newest_at"] for row in neighbours(tmp_path, met())[1]} == {newest}


def test_the_manifest_counts_them(tmp_path: Path) -> None:
    settings = chosen(tmp_path / "data", met(), count=2)
    shop.make("sources", settings, tmp_path / "home")
    manifest, partition = shop.make("histories", settings, tmp_path / "home")
    told = manifest.figures["neighbours"]
    assert (told["edges"], told["items"]) == (len(shop.rows(partition, "item_neighbour")), 6)
