"""What moved between two releases whose every movement is known."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kar.release
from kar.release.publish import publish
from kar.release.rows import SideRows, ViewRows
from tests.release import world

TIME = pa.timestamp("us", tz="UTC")


def taken(side: SideRows, rows: list[int]) -> SideRows:
    """Some rows of a side."""
    rows_K = np.array(rows, np.int64)
    places = pa.array(rows_K)
    views = tuple(
        replace(
            view,
            is_missing=view.is_missing[rows_K],
            adapted=view.adapted[rows_K],
            knowledge=view.knowledge[rows_K],
            **{name: getattr(view, name).take(places) for name in ("evidence_newest_at", "asked_at", "origin", "model")},
        )
        for view in side.views
    )
    return SideRows(side.side, side.ids.take(places), views)


def turned(view: ViewRows, angles: dict[int, float]) -> ViewRows:
    """Rows whose knowledge vectors are turned by an angle, and asked again a day later."""
    knowledge, asked = view.knowledge.copy(), view.asked_at.to_pylist()
    for row, angle in angles.items():
        vector = np.zeros(view.knowledge.shape[1], np.float64)
        vector[0] = 1.0
        across = np.zeros_like(vector)
        across[1] = 1.0
        knowledge[row] = (math.cos(angle) * vector + math.sin(angle) * across).astype(np.float32)
        asked[row] = asked[row] + dt.timedelta(days=1)
    return replace(view, knowledge=knowledge, asked_at=pa.array(asked, TIME))


def unit(side: SideRows) -> SideRows:
    """The same side with every known knowledge vector the first unit vector."""
    (view,) = side.views
    knowledge = np.zeros_like(view.knowledge)
    knowledge[~view.is_missing, 0] = 1.0
    return SideRows(side.side, side.ids, (replace(view, knowledge=knowledge),))


def two(tmp_path: Path, before: tuple[SideRows, SideRows], after: tuple[SideRows, SideRows], **changed: Any) -> kar.release.Diff:
    first = publish(tmp_path, before, world.facts())
    second = publish(tmp_path, after, world.facts(world.day(1), **changed))
    return kar.release.diff(kar.release.open(first.path), kar.release.open(second.path))


def test_the_same_content_has_not_moved(tmp_path: Path) -> None:
    told = two(tmp_path, world.sides(), world.sides())
    assert told.before != told.after
    for side in told.sides:
        assert (side.added, side.lost, side.added_ids, side.views_added, side.views_lost) == (0, 0, (), (), ())
        (view,) = side.views
        assert (view.gained, view.lost, view.changed, view.asked_again, view.cosines, view.movers) == (0, 0, 0, 0, {}, ())
        assert (view.kind, view.cosine_mean) == ("knowledge", 1.0)
    assert (told.users.views[0].kept, told.items.views[0].kept) == (10, 5)


def test_added_and_lost_subjects_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    users, items = world.sides()
    told = two(tmp_path, (taken(users, [*range(1, 12)]), items), (taken(users, [0, *range(2, 10)]), taken(items, [3, 4])))
    assert (told.users.rows_before, told.users.rows_after, told.users.added, told.users.lost) == (11, 9, 1, 3)
    assert (told.users.added_ids, told.users.lost_ids) == (("100",), ("103", "130", "133"))
    assert (told.items.lost, len(told.items.lost_ids), told.items.lost_ids[0]) == (18, 10, "i00")
    assert told.items.views[0].kept == 2


def test_knowledge_that_came_and_went_is_counted_apart_from_what_changed(tmp_path: Path) -> None:
    users, items = world.sides()
    view = world.view_rows("user.preference", world.USERS, missing={1, 2, 5}, newest=world.DAY)
    told = two(tmp_path, (users, items), (SideRows("user", users.ids, (view,)), items)).users.views[0]
    assert (told.gained, told.lost, told.kept, told.changed) == (1, 2, 8, 0)
    assert (told.covered_before, told.covered_after) == (10 / 12, 9 / 12)


def test_the_furthest_turned_come_first_with_their_cosines(tmp_path: Path) -> None:
    users, items = (unit(side) for side in world.sides())
    angles = {1: math.pi / 3, 2: math.pi, 3: math.pi / 2, 11: 0.1}
    after = SideRows("user", users.ids, (turned(users.views[0], angles),))
    told = two(tmp_path, (users, items), (after, items)).users.views[0]
    assert (told.changed, told.asked_again, told.kept) == (4, 4, 10)
    assert [mover.subject_id for mover in told.movers] == ["106", "109", "103", "133"]
    assert [mover.cosine for mover in told.movers] == pytest.approx([-1.0, 0.0, 0.5, math.cos(0.1)], abs=1e-6)
    assert told.cosine_mean == pytest.approx((6 - 1.0 + 0.0 + 0.5 + math.cos(0.1)) / 10, abs=1e-6)
    assert (told.cosines[0.0], told.cosines[1.0]) == pytest.approx((-1.0, math.cos(0.1)), abs=1e-6)


def test_no_more_movers_are_named_than_asked(tmp_path: Path) -> None:
    first, second = world.publish_day(tmp_path, 0), world.publish_day(tmp_path, 1)
    told = kar.release.diff(kar.release.open(first.path), kar.release.open(second.path), movers=3)
    assert (told.users.views[0].changed, len(told.users.views[0].movers)) == (10, 3)


def test_another_encoder_leaves_the_counts_and_says_why_vectors_are_not_compared(tmp_path: Path) -> None:
    told = two(tmp_path, world.sides(), world.sides(offset=5), encoder_id="other-6")
    view = told.users.views[0]
    assert (told.is_same_space, told.is_same_encoder) == (False, False)
    assert (view.kind, view.why_not, view.kept, view.cosine_mean, view.movers) == (None, "another encoder made its vectors", 10, None, ())


def test_another_adaptor_leaves_the_knowledge_vectors_comparable(tmp_path: Path) -> None:
    told = two(tmp_path, world.sides(), world.sides(offset=5), adaptor={"sha": "b" * 64})
    assert (told.is_same_space, told.users.views[0].kind, told.users.views[0].changed) == (False, "knowledge", 10)


def test_views_that_only_one_release_has_are_named(tmp_path: Path) -> None:
    users, items = world.sides()
    tags = world.view_rows("item.tags", world.ITEMS, missing=set(), newest=None)
    told = two(tmp_path, (users, items), (users, SideRows("item", items.ids, (*items.views, tags))))
    assert (told.items.views_added, told.items.views_lost, [view.view for view in told.items.views]) == (("item.tags",), (), ["item.facts"])


@settings(max_examples=10, deadline=None)
@given(kept_before=st.sets(st.integers(0, world.USERS - 1)), kept_after=st.sets(st.integers(0, world.USERS - 1)))
def test_any_two_sets_of_users_are_told_apart(
    tmp_path_factory: pytest.TempPathFactory, kept_before: set[int], kept_after: set[int]
) -> None:
    users, items = world.sides()
    before = (taken(users, sorted(kept_before)), items)
    after = (taken(users, sorted(kept_after)), items)
    told = two(tmp_path_factory.mktemp("two"), before, after).users
    assert (told.added, told.lost) == (len(kept_after - kept_before), len(kept_before - kept_after))
    assert told.views[0].kept == len((kept_before & kept_after) - {0, 5})
    assert told.views[0].changed == 0
