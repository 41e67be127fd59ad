"""Gate, drift, the nights and the map of the items: what the page says of them, with known answers."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kar import page
from kar.page.item_map import TEXT_CHARS
from kar.release.verdicts import GateVerdict
from kar.store import Manifest
from tests.page import fake_home
from tests.page.fake_home import Plan
from tests.release.test_gate import ASKED, Shop, changed, sides, view

GATE = [
    GateVerdict("rows user", 1.0, 0.9, True, "1000 rows"),
    GateVerdict("drift item.facts", None, None, True, "no text changed"),
    GateVerdict("unchanged item.facts", 0.5, 0.9999, False, "item <b>7</b> moved"),
]


def of_home(root: Path, **figures: Any) -> str:
    return fake_home.page(root, Plan(figures={"features": figures}))


def test_a_failed_check_stands_first_and_in_words(tmp_path: Path) -> None:
    html = of_home(tmp_path, gate=[asdict(v) for v in GATE], gate_failed=["unchanged item.facts"])
    section = html[html.index('<section id="gate"') : html.index('<section id="provenance"')]
    assert "1 of 3 checks failed" in section
    assert "item &lt;b&gt;7&lt;/b&gt; moved" in section
    assert section.index("unchanged item.facts") < section.index("rows user") < section.index("drift item.facts")
    assert '<b class="failed">failed</b>' in section
    assert '<span class="quiet">not measured</span>' in section


def test_a_passed_gate_is_said_in_one_sentence(tmp_path: Path) -> None:
    html = of_home(tmp_path, gate=[asdict(v) for v in GATE[:2]], gate_failed=[])
    assert "All 2 checks were passed; 1 of them had nothing to measure." in html


def test_a_release_without_a_gate_and_without_one_before_it_says_both(tmp_path: Path) -> None:
    html = of_home(tmp_path)
    assert "No gate judged this release." in html
    assert "There is no earlier release to compare its vectors with." in html


def test_drift_counts_who_came_who_went_and_whose_text_is_another(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    rows = view("item.facts", known=48)  # two lose their knowledge
    turned = changed(rows, slice(0, 10), -rows.adapted[:10], asked=ASKED + dt.timedelta(days=1))
    new = shop.open(sides(turned, ids=shop.before.ids("item").take(list(range(60)))), 1)
    found = page.measure(new, shop.before)
    assert [(s.side, s.kept_count, s.added_count, s.lost_count) for s in found.sides] == [("user", 60, 0, 0), ("item", 60, 0, 0)]
    facts = next(v for v in found.views if v.view == "item.facts")
    assert (facts.same_count, facts.changed_count, facts.gained_count, facts.dropped_count) == (38, 10, 0, 2)
    assert facts.median == pytest.approx(-1.0)
    assert str(facts.plot).count("<rect") == 20


def test_drift_between_two_spaces_compares_no_vectors(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    moved = replace(view("item.facts"), asked_at=view("item.facts", asked=ASKED + dt.timedelta(days=1)).asked_at)
    found = page.measure(shop.open(sides(moved), 1, adaptor="b" * 64), shop.before)
    facts = next(v for v in found.views if v.view == "item.facts")
    assert (found.is_same_space, facts.changed_count, facts.median, str(facts.plot)) == (False, 50, None, "")


def test_the_nights_come_oldest_first_and_only_the_newest_of_them() -> None:
    first = dt.date(2026, 1, 1)
    made = [
        Manifest("knowledge", str(first + dt.timedelta(days=n)), "r", {}, figures={"prompt_tokens": n, "completion_tokens": 1, "usd": 0.5})
        for n in range(40)
    ]
    found = page.nights([*reversed(made), Manifest("knowledge", "2026-03-01", "r", {})])
    assert (len(found.nights), found.nights[0].date, found.nights[-1].date) == (30, "2026-01-12", "2026-03-01")
    assert (found.nights[0].tokens, found.nights[-1].tokens) == (12.0, None)
    assert [(name, most) for name, _, most, _ in found.plots] == [("tokens", 40.0), ("money", 0.5)]


def _map(count: int = 20, texts: str = "words") -> page.ItemMap:
    """Items of two kinds, even and odd; the same users met neighbours by number."""
    draw = np.random.default_rng(0)
    vectors = np.eye(8)[np.arange(count) % 2] + 0.1 * draw.normal(size=(count, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    users = np.repeat(np.arange(count // 2), 2)
    met = page.met_together(users, np.arange(count), count)
    return page.item_map(
        "item.facts", count, vectors.astype(np.float32), np.arange(count, 0, -1), [f"Film {n}" for n in range(count)], [texts] * count, met
    )


def test_the_map_keeps_kinds_apart_and_stays_inside_the_plane() -> None:
    found = _map()
    left = np.array([p.left for p in found.points])
    assert (left[::2].max() < left[1::2].min()) or (left[1::2].max() < left[::2].min())
    assert all(4 <= p.left <= 96 and 4 <= p.top <= 96 for p in found.points)
    assert found.points[0].radius > found.points[-1].radius
    assert 0.9 < found.variance_share <= 1
    assert _map() == found  # deterministic


def test_a_named_item_is_near_its_kind_by_knowledge_and_near_its_company_by_events() -> None:
    first = _map().named[0]
    assert {int(n.title.split()[1]) % 2 for n in first.by_knowledge} == {0}
    assert [(n.title, n.value, n.is_both) for n in first.by_events] == [("Film 1", 1.0, False)]
    assert _map().both_share == 0.0


def test_met_together_is_the_cosine_of_who_met_each_however_often() -> None:
    users, items = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 1, 2])
    assert page.met_together(users, items, 4)[0].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_long_texts_are_cut_and_too_few_items_make_no_map() -> None:
    assert all(len(p.text) <= TEXT_CHARS + 2 for p in _map(texts="many words " * 100).points)
    assert _map(count=2) == page.ItemMap()


def test_every_item_of_the_map_is_a_radio_button_with_its_title_and_text(tmp_path: Path) -> None:
    html = fake_home.page(tmp_path, Plan(users=30, items=40))
    assert html.count('<input type="radio" name="map"') == 20  # half of the items have a text
    assert html.count('<span class="tip">') == 20
    assert html.count('<section id="map"') == 1
    assert "<script" not in html
