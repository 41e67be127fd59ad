"""The SQL models: headers against queries, columns against columns.toml and the declared tables, keys that are keys."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from kar import flow
from kar.errors import StageError
from kar.tables import TABLES
from kar.warehouse import FOLDER, Warehouse, models
from tests.warehouse.filled import ORDER, PARAMETERS, filled

COLUMNS: dict[str, dict[str, str]] = tomllib.loads((FOLDER / "columns.toml").read_text(encoding="utf-8"))
DECLARED = [
    name for stage in (flow.SOURCES, flow.HISTORIES, flow.EXAMPLES) for name in stage.writes if name != "item_neighbour"
]  # kar.graph makes it
DUCKDB_TYPES = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "int32": "INTEGER",
    "float64": "DOUBLE",
    "bool": "BOOLEAN",
    "time": "TIMESTAMP WITH TIME ZONE",
    "user_id": "BIGINT",
    "item_id": "BIGINT",
    "list<struct<name: string, values: list<string>>>": 'STRUCT("name" VARCHAR, "values" VARCHAR[])[]',
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with filled(tmp_path_factory.mktemp("shop")) as warehouse:
        yield warehouse


def duckdb_type(declared: str) -> str:
    if declared in DUCKDB_TYPES:
        return DUCKDB_TYPES[declared]
    return DUCKDB_TYPES[declared.removeprefix("list<").removesuffix(">")] + "[]"


def tables_read(sql: str) -> set[str]:
    """Tables that a query names, without its own CTEs."""
    found: set[str] = set()
    own: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "BASE_TABLE":
                found.add(node["table_name"])
            if "cte_map" in node:
                own.update(entry["key"] for entry in node["cte_map"]["map"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    [(text,)] = duckdb.execute("select json_serialize_sql(?::varchar)", [sql]).fetchall()
    parsed = json.loads(text)
    assert not parsed["error"], parsed
    walk(parsed)
    return found - own


def test_every_model_is_run_by_this_folder_of_tests() -> None:
    assert {name for name in models() if not name.startswith("check_")} == set(ORDER)
    assert len(models()) >= 30


@pytest.mark.parametrize("name", models())
def test_a_header_names_exactly_the_tables_and_parameters_of_its_query(name: str) -> None:
    model = models()[name]
    assert tables_read(model.sql) == set(model.reads)
    written = {part.split("$")[1] for part in _parameters(model.sql)}
    assert written == set(model.takes)


def _parameters(sql: str) -> list[str]:
    import re

    return re.findall(r"\$[a-z_]+", "\n".join(line.partition("--")[0] for line in sql.splitlines()))


@pytest.mark.parametrize("name", ORDER)
def test_a_key_is_a_key_and_a_row_is_there(shop: Warehouse, name: str) -> None:
    key = models()[name].key
    assert shop.count(name) > 0 or name in ("report_fault", "report_leak", "core_leak")
    grouped = f'select count(*) from (select distinct {", ".join(key)} from "{name}")' if key else "select 1"
    assert shop.connection.execute(grouped).fetchall()[0][0] == shop.count(name)


@pytest.mark.parametrize("name", ORDER)
def test_every_column_of_a_model_is_described_once_and_has_that_type(shop: Warehouse, name: str) -> None:
    described = shop.connection.execute(f'describe "{name}"').fetchall()
    assert {row[0]: row[1] for row in described} == {row[0]: duckdb_type(COLUMNS[row[0]]["type"]) for row in described}


def test_columns_toml_describes_no_column_that_is_not_there(shop: Warehouse) -> None:
    there = {row[0] for name in ORDER for row in shop.connection.execute(f'describe "{name}"').fetchall()}
    assert set(COLUMNS) == there
    assert all(set(entry) <= {"type", "unit", "meaning"} and entry["meaning"] for entry in COLUMNS.values())


@pytest.mark.parametrize("name", DECLARED)
def test_columns_toml_agrees_with_the_declared_table(name: str) -> None:
    declared = TABLES[name]
    assert {c.name: c.type for c in declared.columns} == {c.name: COLUMNS[c.name]["type"] for c in declared.columns}
    assert models()[name].key == declared.key


def test_a_parameter_that_is_lacking_is_named(shop: Warehouse) -> None:
    with pytest.raises(StageError, match="core_event takes cutoff_at; it was not given cutoff_at"):
        shop.run("core_event", cap=3)


def test_a_folder_without_models_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="there are no SQL models in"):
        models(tmp_path)


def test_a_header_that_names_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "one.sql").write_text("-- name: two\n-- grain: g\n-- key: k\n-- reads: t\nselect 1 as k\n")
    with pytest.raises(StageError, match="does not name one"):
        models(tmp_path)


def test_the_same_parameters_give_the_same_rows_twice(shop: Warehouse) -> None:
    assert shop.run("history", **PARAMETERS).equals(shop.run("history", **PARAMETERS))


def test_neighbours_by_text_are_the_nearest_of_the_relation_that_are_still_there(shop: Warehouse) -> None:
    rows = shop.connection.execute("select item_id, rank, neighbour_id from core_near_item order by all").fetchall()
    assert rows == [(10, 0, 20), (10, 1, 30), (20, 0, 10), (30, 0, 10)]
