"""kar/tables: a table that does not match its declaration is refused, one that does is always the same bytes."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.errors import TableError
from kar.tables import TABLES, IdTypes, conform, subject_ids

INTS = IdTypes("int", "int")


def items(ids: list[object], titles: list[str | None] | None = None) -> pa.Table:
    return pa.table(
        {"item_id": ids, "title": pa.array(titles or ["t"] * len(ids), pa.string()), "description": pa.nulls(len(ids), pa.string())}
    )


def test_columns_come_in_declared_order_and_rows_in_key_order() -> None:
    mixed = items([3, 1, 2], ["c", "a", None]).select(["description", "title", "item_id"])
    result = conform("item", mixed, INTS)
    assert result.column_names == ["item_id", "title", "description"]
    assert result.column("item_id").to_pylist() == [1, 2, 3]
    assert result.column("title").to_pylist() == ["a", None, "c"]
    assert not result.schema.field("item_id").nullable


@given(st.permutations(list(range(8))))
def test_any_order_of_the_same_rows_is_the_same_table(order: list[int]) -> None:
    wanted = conform("item", items(list(range(8)), [str(i) for i in range(8)]), INTS)
    assert conform("item", items(order, [str(i) for i in order]), INTS).equals(wanted)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (items([1, 2]).drop_columns(["title"]), r"missing columns \['title'\]"),
        (items([1, 2]).append_column("stars", pa.array([1, 2])), r"unknown columns \['stars'\]"),
        (items([1, None]), "holds 1 nulls"),
        (items(["a", "b"]), "declared as int64"),
        (items([5, 4, 5]), r"repeats in 1 rows, first {'item_id': 5}"),
    ],
)
def test_a_table_that_differs_from_its_declaration_is_refused(table: pa.Table, message: str) -> None:
    with pytest.raises(TableError, match=message):
        conform("item", table, INTS)


def test_a_key_of_several_columns_repeats_only_if_all_repeat() -> None:
    rows = {"user_id": [1, 1, 2], "name": ["age", "age", "age"], "value": ["3", "4", "3"]}
    assert conform("user_attribute", pa.table(rows), INTS).num_rows == 3
    with pytest.raises(TableError, match="repeats"):
        conform("user_attribute", pa.table({**rows, "value": ["3", "3", "3"]}), INTS)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["", "a", "ab", "é", "\U0001f3ac", "\uffff"])), unique=True))
def test_rows_that_come_in_order_are_left_as_they_are_and_others_are_sorted(keys: list[tuple[int, str]]) -> None:
    def rows(of: list[tuple[int, str]]) -> pa.Table:
        columns = {"user_id": pa.array([u for u, _ in of], pa.int64()), "name": pa.array([n for _, n in of], pa.string())}
        return pa.table({**columns, "value": pa.array([f"{u}{n}" for u, n in of], pa.string())})

    ordered = sorted(keys, key=lambda key: (key[0], key[1].encode()))
    assert conform("user_attribute", rows(ordered), INTS).column("value").to_pylist() == [f"{u}{n}" for u, n in ordered]
    assert conform("user_attribute", rows(keys), INTS).equals(conform("user_attribute", rows(ordered), INTS))


def test_a_key_that_repeats_among_rows_in_order_is_found() -> None:
    with pytest.raises(TableError, match=r"repeats in 1 rows, first {'item_id': 4}"):
        conform("item", items([1, 4, 4, 5]), INTS)


def test_a_vector_column_must_be_a_fixed_size_list() -> None:
    base = {"view": ["v"], "subject_id": ["1"], "text_sha": ["x"], "encoder_id": ["e"], "n_tokens": [1], "truncated": [False]}
    loose = pa.table({**base, "vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32()))})
    with pytest.raises(TableError, match="declared as fixed_size_list"):
        conform("knowledge_vector", loose, INTS)
    fixed = pa.table({**base, "vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))})
    assert conform("knowledge_vector", fixed, INTS).schema.field("vector").type.list_size == 2


@pytest.mark.parametrize("value", [0, -7, 2**31, 2**53 + 1, 2**63 - 1])
def test_an_int_id_survives_as_text_exactly(value: int) -> None:
    assert subject_ids(pa.array([value])).to_pylist() == [str(value)]


def test_every_table_states_grain_key_and_the_meaning_of_each_column() -> None:
    assert len(TABLES) == 33
    for table in TABLES.values():
        assert table.grain
        assert set(table.key) <= set(table.column_names)
        assert len(set(table.column_names)) == len(table.columns)
        assert all(column.meaning for column in table.columns)
        assert all(("null" in column.meaning) == column.is_nullable for column in table.columns), table.name
