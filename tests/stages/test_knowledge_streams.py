"""The knowledge stage walks sorted tables side by side; what comes out does not depend on where the parts end."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from kar.stages.knowledge.keyed import Keyed, joined, keys
from kar.stages.knowledge.spool import spools

SCHEMA = pa.schema([("view", pa.string()), ("subject_id", pa.string()), ("text", pa.string())])
KEYS = st.tuples(st.sampled_from(["item.facts", "item.tags", "user.preference"]), st.text("012é\x7f😀z", max_size=3))


def table(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.Table.from_pylist([{"view": v, "subject_id": s, "text": f"of {v} {s}"} for v, s in rows], schema=SCHEMA)


@given(rows=st.sets(KEYS), stops=st.lists(KEYS, max_size=4), cuts=st.lists(st.integers(0, 30), max_size=5))
def test_rows_come_up_to_each_key_whatever_the_parts(rows: set[tuple[str, str]], stops: list[tuple[str, str]], cuts: list[int]) -> None:
    whole = table(list(rows)).sort_by([("view", "ascending"), ("subject_id", "ascending")])
    assert keys(whole) == sorted(rows), "Arrow and Python order keys alike"
    ends = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    walked = Keyed(SCHEMA, (whole.slice(a, b - a) for a, b in itertools.pairwise(ends)))
    got: list[tuple[str, str]] = []
    for stop in sorted(stops):
        got += keys(walked.upto(stop))
        assert got == sorted(key for key in rows if key <= stop)
    assert got + keys(walked.upto(None)) == sorted(rows)
    assert walked.upto(None).num_rows == 0


@given(left=st.lists(KEYS, max_size=6), right=st.lists(KEYS, max_size=6))
def test_joined_keys_are_equal_exactly_where_the_keys_are(left: list[tuple[str, str]], right: list[tuple[str, str]]) -> None:
    a, b = joined(table(left)).to_pylist(), joined(table(right)).to_pylist()
    for one, text in zip(left, a, strict=True):
        for other, text_too in zip(right, b, strict=True):
            assert (one == other) == (text == text_too)


def test_a_spool_gives_back_what_it_was_given_and_leaves_nothing_behind(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = table([("item.facts", "1"), ("item.facts", "2")]).to_pylist()
    with spools(tmp_path, good=SCHEMA, bad=SCHEMA) as spool:
        spool["good"].add(rows[:1])
        spool["good"].add([])
        spool["good"].add(table([("item.facts", "2")]))
        assert [row for part in spool["good"].parts() for row in part.to_pylist()] == rows
        assert list(spool["bad"].parts()) == [] or sum(p.num_rows for p in spool["bad"].parts()) == 0
        assert list(tmp_path.iterdir()) != []
    assert list(tmp_path.iterdir()) == []
