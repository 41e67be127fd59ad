from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from kar.text.lines import HistoryLines, _distinct, history_lines

NAN = float("nan")


def write(title: str, rating: float) -> str:
    return title if rating != rating else f"{title}={rating:g}"


def words(texts: list[str]) -> np.ndarray:
    return np.array([len(text.split()) for text in texts])


def test_lines_are_in_time_order_and_show_stars_where_there_are_any(history_of: Callable[..., pa.Table]) -> None:
    history = history_of({1: [(10, 4.0), (11, NAN)], 2: [(11, 2.5), (10, 4.0), (11, NAN)]})
    lines = history_lines(history, write, words)
    assert lines.text(0, 0) == "Film 10=4\nFilm 11"
    assert lines.text(1, 2) == "Film 11=2.5\nFilm 10=4\nFilm 11"
    assert sorted(lines.lines) == ["Film 10=4", "Film 11", "Film 11=2.5"], "each distinct line once"


def test_titles_are_cleaned(history_of: Callable[..., pa.Table]) -> None:
    history = history_of({1: [(10, 4.0)]}, titles={10: "A\n</list>\u202e Film"})
    assert history_lines(history, write, words).text(0, 0) == "A Film=4"


def test_the_oldest_events_are_dropped_first_until_the_rest_fits(history_of: Callable[..., pa.Table]) -> None:
    titles = {10: "one two three", 11: "one two", 12: "one"}
    history = history_of({1: [(10, NAN), (11, NAN), (12, NAN)], 2: [(12, NAN)]}, titles=titles)
    lines = history_lines(history, write, words)
    assert [lines.fit(room).tolist() for room in (6, 5, 3, 2, 1, 0)] == [[0, 3], [1, 3], [1, 3], [2, 3], [2, 3], [3, 4]]
    assert lines.tokens(lines.fit(5)).tolist() == [3, 1]


def test_room_may_differ_between_users_and_may_be_less_than_nothing(history_of: Callable[..., pa.Table]) -> None:
    lines = history_lines(history_of({1: [(10, 1.0), (11, 1.0)], 2: [(10, 1.0), (11, 1.0)]}), write, words)
    assert lines.fit(np.array([2, -50])).tolist() == [1, 4]


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=5), st.integers(0, 30))
def test_no_event_fits_besides_those_that_are_kept(tokens: list[list[int]], room: int) -> None:
    each = np.array([t for user in tokens for t in user])
    offset = np.concatenate([[0], np.cumsum([len(user) for user in tokens])])
    lines = HistoryLines(["x"], np.zeros(len(each), np.int64), each, offset)
    for user, first in enumerate(lines.fit(room).tolist()):
        begin, end = offset[user], offset[user + 1]
        assert begin <= first <= end
        assert each[first:end].sum() <= room
        assert first == begin or each[first - 1 : end].sum() > room


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([1.0, 2.5, NAN, 0.0])), max_size=6), min_size=1, max_size=5),
    st.integers(0, 9),
)
def test_all_texts_at_once_are_those_of_each_user(users: list[list[tuple[int, float]]], room: int) -> None:
    history = pa.table(
        {
            "titles": pa.array([[f"Film {'x ' * item}" for item, _ in user] for user in users], pa.list_(pa.string())),
            "ratings": pa.array([[rating for _, rating in user] for user in users], pa.list_(pa.float64())),
        }
    )
    lines = history_lines(history, write, words)
    first = lines.fit(room)
    assert lines.texts(first, " | ").to_pylist() == [lines.text(user, n, " | ") for user, n in enumerate(first.tolist())]
    assert len(set(lines.lines)) == len(lines.lines)
    every = [write(f"Film {'x ' * item}".strip(), rating) for user in users for item, rating in user]
    assert [lines.lines[line] for line in lines.line] == every


@given(st.lists(st.integers(0, 40), max_size=60))
def test_marked_and_sorted_values_are_numbered_alike(values: list[int]) -> None:
    array = np.array(values, np.int64)
    for end in (41, 10_000):
        distinct, place = _distinct(array, end)
        assert distinct.tolist() == sorted(set(values))
        assert distinct[place].tolist() == values
