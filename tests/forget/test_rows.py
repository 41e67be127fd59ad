"""Tables without the forgotten, part by part: what is numbered closes up, lists that run along each other stay so."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.forget.quotes import Quotes
from kar.forget.rows import Cut, Gone, left_of
from kar.forget.subjects import Subjects, named_in
from kar.tables import TABLES, IdTypes

INT = IdTypes()
EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=40)


def sequence(events: list[tuple[int, int]]) -> pa.Table:
    rows, seen = [], dict[int, int]()
    for user, item in sorted(events, key=lambda event: event[0]):
        rows.append({"user_id": user, "position": seen.get(user, 0), "item_id": item})
        seen[user] = seen.get(user, 0) + 1
    return pa.Table.from_pylist(rows, schema=pa.schema([("user_id", pa.int64()), ("position", pa.int64()), ("item_id", pa.int64())]))


@settings(deadline=None)
@given(EVENTS, st.sets(st.integers(0, 6), max_size=3), st.sets(st.integers(0, 5), max_size=2), st.integers(1, 40))
def test_places_in_a_user_s_order_close_up_whatever_goes_and_however_the_table_is_cut(
    events: list[tuple[int, int]], items: set[int], users: set[int], cut_at: int
) -> None:
    table = sequence(events)
    subjects = Subjects(frozenset(map(str, users)), frozenset(map(str, items)))
    going = [row for row in table.to_pylist() if row["item_id"] in items and row["user_id"] not in users]
    gone = Gone(pa.array([row["user_id"] for row in going], pa.int64()), np.array([row["position"] for row in going], np.int64))
    cut = Cut(subjects, Quotes(), INT, gone=gone)
    parts = [left_of("sequence", table.slice(first, cut_at), cut).table for first in range(0, table.num_rows, cut_at)]
    left = [(row["user_id"], row["position"], row["item_id"]) for part in parts for row in part.to_pylist()]
    kept = [(user, item) for user, item in sorted(events, key=lambda event: event[0]) if user not in users and item not in items]
    assert left == [(r["user_id"], r["position"], r["item_id"]) for r in sequence(kept).to_pylist()]


def history(rows: list[dict[str, object]]) -> pa.Table:
    usual = {"cutoff_at": 9, "position": 3, "newest_event_at": 7, "evidence_sha": "old"}
    return pa.Table.from_pylist([usual | row for row in rows], schema=TABLES["history"].schema(INT))


def test_a_history_loses_the_item_in_all_its_lists_and_keeps_its_newest_event() -> None:
    table = history(
        [
            {
                "user_id": 1,
                "subject_id": "1",
                "item_ids": [5, 6, 7],
                "ratings": [1.0, 2.0, 3.0],
                "event_ats": [3, 5, 7],
                "titles": ["a", "b", "c"],
            },
            {"user_id": 2, "subject_id": "2", "item_ids": [5], "ratings": [1.0], "event_ats": [7], "titles": ["a"]},
            {"user_id": 3, "subject_id": "3", "item_ids": [7], "ratings": [9.0], "event_ats": [7], "titles": ["c"]},
        ]
    )
    gone = Gone(pa.array([1, 3]), np.array([2, 0]))
    left = left_of("history", table, Cut(Subjects(items=frozenset({"7"})), Quotes(), INT, gone=gone))
    first, second, third = left.table.to_pylist()
    assert (first["item_ids"], first["ratings"], first["titles"], first["position"]) == ([5, 6], [1.0, 2.0], ["a", "b"], 2)
    assert first["newest_event_at"].microsecond == 5
    assert first["evidence_sha"] not in ("old", third["evidence_sha"])
    assert second == table.to_pylist()[1]
    assert (third["item_ids"], third["newest_event_at"].microsecond) == ([], 7)
    assert (left.removed, left.edited) == (0, 2)


def knowledge(rows: list[dict[str, object]]) -> pa.Table:
    usual = dict.fromkeys([c.name for c in TABLES["knowledge"].columns if c.type == "string"], "x")
    usual |= {"cutoff_at": 9, "asked_at": 9, "prompt_tokens": 0, "completion_tokens": 0, "evidence_users": [], "evidence_items": []}
    return pa.Table.from_pylist([usual | row for row in rows], schema=TABLES["knowledge"].schema(INT))


def test_an_item_leaves_the_neighbours_that_a_prompt_showed_whatever_the_prompt_s_evidence() -> None:
    rows = [
        {
            "view": "item.engagement",
            "subject_id": "1",
            "neighbour_items": ["7", "2", "3"],
            "evidence_users": ["5", "6"],
            "evidence_items": ["7", "1"],
        },
        {"view": "item.engagement", "subject_id": "2", "neighbour_items": ["1"]},
        {"view": "item.engagement", "subject_id": "7", "neighbour_items": ["1"]},
    ]
    left = left_of("knowledge", knowledge(rows), Cut(Subjects(items=frozenset({"7"})), Quotes(), INT))
    told = [(r["subject_id"], r["neighbour_items"], r["evidence_users"], r["evidence_items"]) for r in left.table.to_pylist()]
    assert told == [("1", ["2", "3"], ["6"], ["1"]), ("2", ["1"], [], [])]
    assert (left.removed, left.edited) == (1, 1)


def test_a_table_from_before_prompts_showed_neighbours_is_read_as_it_is() -> None:
    table = knowledge([{"view": "item.facts", "subject_id": "1", "neighbour_items": []}]).drop_columns(["neighbour_items"])
    assert left_of("knowledge", table, Cut(Subjects(items=frozenset({"7"})), Quotes(), INT)).table.equals(table)


def test_an_item_takes_its_neighbourhoods_with_it() -> None:
    rows = [{"item_id": one, "rank": 0, "neighbour_id": other, "score": 0.1} for one, other in ((1, 7), (7, 1), (2, 1))]
    table = pa.Table.from_pylist(rows, schema=TABLES["item_neighbour"].schema(INT))
    left = left_of("item_neighbour", table, Cut(Subjects(items=frozenset({"7"})), Quotes(), INT))
    assert left.table.column("item_id").to_pylist() == [2]


def test_a_user_and_an_item_of_one_id_are_two() -> None:
    rows = [{"view": view, "subject_id": "7", "factor": "", "text": "t"} for view in ("item.facts", "user.preference")]
    table = pa.Table.from_pylist(rows, schema=TABLES["factor_knowledge"].schema(INT))
    left = left_of("factor_knowledge", table, Cut(Subjects(users=frozenset({"7"})), Quotes(), INT))
    assert left.table.column("view").to_pylist() == ["item.facts"]


@settings(deadline=None)
@given(st.text(min_size=32, max_size=60), st.text(max_size=20), st.text(max_size=20))
def test_a_quote_is_found_plain_and_inside_json_whatever_its_characters(quote: str, before: str, after: str) -> None:
    import json

    quotes = Quotes.of([quote], 80)
    if not quotes:  # too short once its blanks at both ends are gone
        return
    whole = before + quote + after
    try:
        whole.encode()
    except UnicodeEncodeError:
        return
    texts = pa.chunked_array([[whole, json.dumps({"body": whole}), json.dumps([whole], ensure_ascii=False), None]])
    assert quotes.are_in(texts).to_pylist() == [True, True, True, False]
    assert quotes.is_in(whole)


def test_texts_that_only_begin_alike_are_no_quotes() -> None:
    answer = "Based on what the user has watched and liked so far, they seem to enjoy " + "slow and quiet films about families. " * 12
    other = answer[:200] + "loud and fast films about cars. " * 12
    assert Quotes.of([answer], 400).are_in(pa.chunked_array([[answer, other]])).to_pylist() == [True, False]
    assert not Quotes.of(["Great film!"], 80)


def test_an_id_is_found_as_a_word_and_not_inside_another() -> None:
    words = Subjects(users=frozenset({"42"})).words()
    assert named_in({"user_id": 42}, words)
    assert named_in([{"line": "x,42,5"}], words)
    assert not named_in({"user_id": 142, "line": "420 and a-42-b is one word"}, words)


def test_a_candidate_list_loses_the_item_and_its_places_close_up() -> None:
    rows = [
        {"list_id": 0, "user_id": 1, "split": "test", "position": 4, "item_ids": [7, 5, 6], "labels": [1.0, 0.0, 1.0]},
        {"list_id": 1, "user_id": 2, "split": "test", "position": 0, "item_ids": [5, 7], "labels": [0.0, 0.0]},
    ]
    rows[0] |= {"positions": [4.0, -1.0, 6.0], "scores": [3.0, 2.0, 1.0]}
    rows[1] |= {"positions": [0.0, -1.0], "scores": [2.0, 1.0]}
    table = pa.Table.from_pylist(rows, schema=TABLES["rerank_list"].schema(INT))
    gone = Gone(pa.array([1]), np.array([4]))
    first, second = left_of("rerank_list", table, Cut(Subjects(items=frozenset({"7"})), Quotes(), INT, gone=gone)).table.to_pylist()
    assert (first["item_ids"], first["labels"], first["positions"], first["scores"]) == ([5, 6], [0.0, 1.0], [-1.0, 5.0], [2.0, 1.0])
    assert (second["item_ids"], second["positions"]) == ([5], [0.0])
