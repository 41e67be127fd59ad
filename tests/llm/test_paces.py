"""The looks of several processes as one course: their own summed, the server's as it was seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.llm.pace import Pace
from kar.llm.paces import merged, thinned


def look(second: float, *, endpoint: int = 0, answered: int = 0, in_flight: int = 1, window: float = 4.0, preemptions: int = -1) -> Pace:
    return Pace(second, endpoint, window, in_flight, 7, 3, 0.5, preemptions, answered, 10.0, 0.25)


def test_one_process_is_left_as_it_is() -> None:
    rows = [look(0.0, preemptions=0), look(2.0, answered=3, preemptions=2), look(2.0, endpoint=1), look(4.0, answered=5, preemptions=2)]
    assert merged([(90.0, rows)]) == rows
    assert merged([]) == []


def test_two_at_the_same_time_are_summed_and_one_that_is_over_leaves_its_answers() -> None:
    first = [look(0.0), look(4.0, answered=3)]
    second = [
        look(0.0, in_flight=2, window=8.0),
        look(2.0, answered=1, in_flight=2, window=8.0),
        look(6.0, answered=9, in_flight=0, window=8.0),
    ]
    made = merged([(100.0, first), (101.0, second)])
    assert [row.second for row in made] == [0.0, 1.0, 3.0, 4.0, 7.0]
    assert [row.answered for row in made] == [0, 0, 1, 4, 12]
    assert [row.in_flight for row in made] == [1, 3, 3, 3, 0]
    assert [row.window for row in made] == [4.0, 12.0, 12.0, 12.0, 8.0]
    assert [row.tokens_per_s for row in made] == [10.0, 20.0, 20.0, 20.0, 10.0]
    assert {(row.waiting, row.running, row.kv_share) for row in made} == {(7, 3, 0.5)}


def test_what_a_server_threw_out_is_counted_once_however_many_saw_it() -> None:
    together = merged(
        [(0.0, [look(0.0, preemptions=0), look(5.0, preemptions=4)]), (0.5, [look(0.0, preemptions=0), look(5.0, preemptions=4)])]
    )
    assert together[-1].preemptions == 4
    after = merged(
        [(0.0, [look(0.0, preemptions=0), look(5.0, preemptions=4)]), (60.0, [look(0.0, preemptions=0), look(5.0, preemptions=3)])]
    )
    assert [row.preemptions for row in after] == [0, 4, 4, 7]
    assert merged([(0.0, [look(0.0)])])[0].preemptions == -1


@given(st.lists(st.tuples(st.floats(0, 500), st.lists(st.floats(0, 500), max_size=20, unique=True), st.integers(0, 2)), max_size=6))
def test_there_is_one_row_a_server_and_moment_and_every_answer_is_in_the_last(processes: list[tuple[float, list[float], int]]) -> None:
    looks = [
        (began, [look(second, endpoint=endpoint, answered=number) for number, second in enumerate(sorted(seconds))])
        for began, seconds, endpoint in processes
    ]
    made = merged(looks)
    keys = [(row.second, row.endpoint) for row in made]
    assert len(set(keys)) == len(keys)
    assert keys == sorted(keys)
    for endpoint in range(3):
        own = [rows for _, rows in looks if rows and rows[0].endpoint == endpoint]
        last = [row.answered for row in made if row.endpoint == endpoint][-1:]
        assert last == ([sum(rows[-1].answered for rows in own)] if own else [])


@given(st.integers(0, 200), st.integers(1, 40))
def test_thinned_rows_are_few_and_end_with_the_last(count: int, most: int) -> None:
    rows = [look(float(n), endpoint=e, answered=n) for n in range(count) for e in range(2)]
    kept = thinned(rows, most)
    assert len(kept) == (2 * count if count <= most else len(kept)) <= 2 * max(most, 1)
    assert kept[-2:] == rows[-2:] or count == 0
    if count >= 2 * most > 2:
        assert len(kept) > most / 2


def test_thinning_keeps_the_mean_speed() -> None:
    rows = [replace(look(float(n)), tokens_per_s=float(n % 7)) for n in range(64)]
    kept = thinned(rows, 8)
    assert len(kept) == 8
    assert sum(row.tokens_per_s for row in kept) / 8 == pytest.approx(sum(row.tokens_per_s for row in rows) / 64, abs=0.02)
