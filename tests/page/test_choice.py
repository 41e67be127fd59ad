"""Who is printed to be read, and how their history looks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.page import choose
from kar.page.reading import stars


@given(total=st.integers(0, 40), known=st.integers(0, 40), count=st.integers(0, 20), seed=st.integers(0, 99))
def test_as_many_are_drawn_as_there_are_and_half_of_them_know_where_possible(total: int, known: int, count: int, seed: int) -> None:
    subjects = [str(i) for i in range(total)]
    have = set(subjects[: min(known, total)])
    drawn = choose(subjects, have, count, seed)
    assert len(drawn) == len(set(drawn)) == min(count, total)
    knowing = sum(s in have for s in drawn)
    assert knowing >= min(len(have), math.ceil(len(drawn) / 2))
    assert len(drawn) - knowing >= min(total - len(have), len(drawn) // 2)


def test_the_same_seed_draws_the_same_and_another_seed_others() -> None:
    subjects = [str(i) for i in range(200)]
    assert choose(subjects, {"3", "5"}, 10, 1) == choose(subjects, {"3", "5"}, 10, 1)
    assert choose(subjects, {"3", "5"}, 10, 1) != choose(subjects, {"3", "5"}, 10, 2)


@pytest.mark.parametrize(
    ("rating", "scale", "written"),
    [
        (4.0, (1, 5), "★★★★☆"),
        (0.0, (0, 5), "☆☆☆☆☆"),
        (3.5, (0.5, 5), "3.5"),
        (7.0, (1, 10), "7"),
        (4.0, None, "4"),
        (math.nan, (1, 5), ""),
        (None, (1, 5), ""),
    ],
)
def test_whole_stars_are_drawn_and_other_ratings_are_numbers(rating: float | None, scale: tuple[float, float] | None, written: str) -> None:
    assert stars(rating, scale) == written
