"""The as-of join: which release serves which example, and what may not."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kar.release
from kar.errors import ReleaseError, ReleaseNotFound, SpaceMismatch
from kar.release import shelf
from kar.release.publish import publish
from tests.release import world

LATE = dt.timedelta(hours=2)  # a release of day n is published at day n + 1, two o'clock
TICK = dt.timedelta(microseconds=1)


@pytest.fixture(scope="module")
def three_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published")
    for number in range(3):
        world.publish_day(path, number)
    return path


def _at(times: list[dt.datetime], user: int = 103, item: str = "i03") -> pa.Table:
    return world.examples(times, [user] * len(times), [item] * len(times))


def test_each_example_meets_the_release_served_at_its_time(three_nights: Path) -> None:
    joined = kar.release.join(three_nights, _at([world.day(9), world.day(1) + LATE, world.day(2) + LATE - TICK, world.day(2) + LATE]))
    vectors, is_missing = joined.vectors("user", "user.preference")
    assert vectors[:, 0].tolist() == [2001.0, 1.0, 1.0, 1001.0]
    assert not is_missing.any()
    assert joined.vectors("item", "item.facts")[0][:, 0].tolist() == [2003.0, 3.0, 3.0, 1003.0]


def test_examples_before_the_first_release_are_missing_and_not_dropped(three_nights: Path) -> None:
    joined = kar.release.join(three_nights, _at([world.day(1) + LATE - TICK, world.day(1) + LATE]))
    assert len(joined) == 2
    assert joined.release_numbers.tolist() == [-1, 0]
    vectors, is_missing = joined.vectors("user", "user.preference")
    assert is_missing.tolist() == [True, False]
    assert vectors[0].tolist() == [0.5] * world.A
    assert joined.rows("user").tolist() == [-1, 1]


def test_a_join_that_no_release_serves_still_answers(three_nights: Path) -> None:
    joined = kar.release.join(three_nights, _at([world.day(-5)] * 3))
    assert joined.vectors("item", "item.facts", kind="knowledge")[0].shape == (3, world.T)
    assert joined.coverage("user", "user.preference") == 0.0


def test_strangers_and_subjects_without_knowledge_are_missing(three_nights: Path) -> None:
    table = world.examples([world.day(9)] * 3, [100, 4711, 103], ["i03", "i00", "stranger"])
    joined = kar.release.join(three_nights, table)
    assert joined.is_missing("user", "user.preference").tolist() == [True, True, False]
    assert joined.is_missing("item", "item.facts").tolist() == [False, True, True]
    assert joined.rows("user").tolist() == [0, -1, 1]


def test_no_example_meets_knowledge_whose_prompt_saw_something_newer(tmp_path: Path) -> None:
    """A release may be served before an example and yet know more than it: two clocks, both checked."""
    users, items = world.sides(newest=lambda n: world.day(n))
    publish(tmp_path, (users, items), world.facts(published_at=world.day(0)))
    joined = kar.release.join(tmp_path, world.examples([world.day(6)] * 4, [100 + 3 * n for n in (4, 6, 7, 11)], ["i03"] * 4))
    vectors, is_missing = joined.vectors("user", "user.preference")
    assert is_missing.tolist() == [False, False, True, True]
    assert vectors[2:].tolist() == [[0.5] * world.A] * 2
    assert not joined.is_missing("item", "item.facts").any()  # its prompts saw no interaction at all


def test_the_evidence_clock_serves_what_is_current_by_the_evidence_alone(tmp_path: Path) -> None:
    users, items = world.sides(newest=lambda n: world.day(n))
    publish(tmp_path, (users, items), world.facts(published_at=world.day(900)))
    table = world.examples([world.day(6), world.day(6) - TICK], [118, 118], ["i03", "i03"])
    assert kar.release.join(tmp_path, table, clock="evidence").is_missing("user", "user.preference").tolist() == [False, True]
    assert kar.release.join(tmp_path, table, clock="published").is_missing("user", "user.preference").tolist() == [True, True]


def test_a_release_that_was_never_promoted_serves_no_example(three_nights: Path, tmp_path: Path) -> None:
    path = shutil.copytree(three_nights, tmp_path / "published")
    world.publish_day(path, 1, published_at=world.day(20), is_reconstructed=True, scenario="backfilled")
    assert len(kar.release.list_releases(path)) == 4
    joined = kar.release.join(path, _at([world.day(30)]))
    assert joined.vectors("user", "user.preference")[0][0, 0] == 2001.0


def test_a_rollback_serves_the_examples_after_it(three_nights: Path, tmp_path: Path) -> None:
    path = shutil.copytree(three_nights, tmp_path / "published")
    first = min(one.id for one in kar.release.list_releases(path))
    shelf.rollback(path, first, at=world.day(10))
    joined = kar.release.join(path, _at([world.day(9), world.day(10), world.day(2)]))
    assert joined.vectors("user", "user.preference")[0][:, 0].tolist() == [2001.0, 1.0, 1.0]
    assert len(joined.releases) == 2


def test_adapted_vectors_of_two_spaces_are_never_mixed_but_knowledge_vectors_of_one_encoder_are(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    world.publish_day(tmp_path, 1, adaptor={"sha": "b" * 64})
    joined = kar.release.join(tmp_path, _at([world.day(1.5), world.day(9)]))
    with pytest.raises(SpaceMismatch, match="adapted vectors of several spaces"):
        joined.vectors("user", "user.preference")
    assert joined.vectors("user", "user.preference", kind="knowledge")[0][:, 0].tolist() == [-1.0, -1001.0]
    alone = kar.release.join(tmp_path, _at([world.day(9)] * 2))
    assert alone.vectors("user", "user.preference")[0][:, 0].tolist() == [1001.0] * 2


def test_knowledge_vectors_of_two_encoders_are_never_mixed(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0)
    world.publish_day(tmp_path, 1, encoder_id="another")
    with pytest.raises(SpaceMismatch, match="knowledge vectors of several encoders"):
        kar.release.join(tmp_path, _at([world.day(1.5), world.day(9)])).vectors("user", "user.preference", kind="knowledge")


def test_a_view_that_came_later_is_missing_before(tmp_path: Path) -> None:
    users, items = world.sides(newest=world.day(0))
    publish(tmp_path, (replace(users, views=()), items), world.facts())
    publish(tmp_path, (users, items), world.facts(world.day(1)))
    joined = kar.release.join(tmp_path, _at([world.day(1.5), world.day(9)]))
    vectors, is_missing = joined.vectors("user", "user.preference", kind="knowledge")
    assert is_missing.tolist() == [True, False]
    assert vectors[:, 0].tolist() == [0.0, -1.0]


def test_times_in_another_zone_and_unit_mean_the_same_instant(three_nights: Path) -> None:
    instant = world.day(2) + LATE
    times = [
        pa.array([instant], pa.timestamp(unit, tz=zone)) for unit, zone in (("us", "UTC"), ("ns", "Asia/Tokyo"), ("s", "America/Lima"))
    ]
    for time in times:
        joined = kar.release.join(three_nights, pa.table({"user_id": [103], "item_id": ["i03"], "event_at": time}))
        assert joined.vectors("user", "user.preference")[0][0, 0] == 1001.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["event_at"]), r"lack the columns \['event_at'\]"),
        (lambda t: t.set_column(2, "event_at", t.column(2).cast(pa.timestamp("us"))), "not an instant with a time zone"),
        (lambda t: t.set_column(2, "event_at", pa.array([5])), "event_at of the examples is int64"),
        (lambda t: t.set_column(2, "event_at", pa.array([None], t.schema.field(2).type)), "holds 1 nulls"),
        (lambda t: t.set_column(0, "user_id", pa.array(["103"])), "user ids are int64 in this release"),
    ],
)
def test_examples_that_do_not_fit_are_named(three_nights: Path, change: object, words: str) -> None:
    with pytest.raises(ReleaseError, match=words):
        kar.release.join(three_nights, change(_at([world.day(5)])))  # type: ignore[operator]


def test_a_clock_that_is_none_is_named(three_nights: Path) -> None:
    with pytest.raises(ReleaseError, match="no clock 'now'"):
        kar.release.join(three_nights, _at([world.day(5)]), clock="now")  # type: ignore[arg-type]


def test_a_served_release_that_is_gone_is_named_only_if_an_example_needs_it(three_nights: Path, tmp_path: Path) -> None:
    path = shutil.copytree(three_nights, tmp_path / "published")
    first = min(one.id for one in kar.release.list_releases(path))
    shutil.rmtree(path / "releases" / first)
    assert len(kar.release.join(path, _at([world.day(9)])).releases) == 1
    with pytest.raises(ReleaseNotFound, match=f"release {first}, which was served at the time of some examples, is gone"):
        kar.release.join(path, _at([world.day(1.5), world.day(9)]))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.floats(-1, 6), st.integers(98, 136), st.integers(-1, world.ITEMS)), min_size=1, max_size=30))
def test_for_all_examples_the_join_is_what_a_reader_of_that_moment_would_have_got(
    three_nights: Path, rows: list[tuple[float, int, int]]
) -> None:
    table = world.examples([world.day(t) for t, _, _ in rows], [u for _, u, _ in rows], [f"i{i:02d}" for _, _, i in rows])
    joined = kar.release.join(three_nights, table)
    vectors, is_missing = joined.vectors("user", "user.preference")
    for row, (time, user, _) in enumerate(rows):
        try:
            release = kar.release.open(three_nights, as_of=world.day(time))
        except ReleaseNotFound:
            assert is_missing[row]
            continue
        expected, expected_missing = release.vectors("user", "user.preference", [user])
        assert is_missing[row] == expected_missing[0]  # the evidence of each night is older than its publication
        assert np.array_equal(vectors[row], expected[0])
