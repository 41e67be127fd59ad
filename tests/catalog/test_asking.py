"""A statement reads and does nothing else; what is wrong with one is named; nobody's words steer the terminal."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.catalog import FORMATS, Answered, Asking, printed
from kar.errors import CatalogError
from kar.settings import Settings
from kar.store import Home
from tests.catalog.filled import HOSTILE

Shop = tuple[Settings, Home]


def lines(shop: Shop, sql: str, form: str = "table", rows: int = 100) -> list[str]:
    with Asking(*shop, sql) as asking:
        return list(printed(asking.answer(), form, rows))


def state_of(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "sql",
    [
        "create table mine as select 1",
        "insert into facts.view values ('x', 'y')",
        "delete from facts.view",
        "update facts.view set name = 'x'",
        "drop view users",
        "copy (select 1) to '{home}/stolen.csv'",
        "copy (select 1 as user_id) to '{parquet}' (format parquet)",
        "export database '{home}/all'",
        "attach '{home}/other.duckdb' as other",
        "set enable_external_access = true",
        "pragma enable_profiling",
        "call pragma_version()",
        "install httpfs",
        "load httpfs",
        "checkpoint",
        "begin",
        "commit",
        "prepare q as select 1",
        "set variable x = 1",
        "with added as (insert into facts.view values ('x', 'y') returning *) select * from added",
        "with gone as (delete from facts.view returning *) select * from gone",
        "explain analyze insert into facts.view values ('x', 'y')",
        "explain analyze copy (select 1) to '{home}/stolen.csv'",
    ],
)
def test_what_would_write_is_refused_and_nothing_changes(shop: Shop, sql: str) -> None:
    home = shop[1].path
    before = state_of(home)
    parquet = next(home.glob("sources/*/user.parquet"))
    with pytest.raises(CatalogError, match=r"read-only|opens its own files"):
        lines(shop, sql.format(home=home, parquet=parquet))
    assert state_of(home) == before


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_text('{other}')",
        "select * from read_csv('{other}')",
        "select * from '{other}'",
        "select * from glob('{folder}/*')",
        "select * from read_json('{manifest}')",
        "select * from parquet_schema('{other}')",
        "from sniff_csv('{other}')",
        "select * from users union all select * from read_csv('{other}')",
    ],
)
def test_no_file_but_the_catalogue_s_own_is_opened(shop: Shop, tmp_path: Path, sql: str) -> None:
    other = tmp_path / "secret.csv"
    other.write_text("user_id\n1\n")
    manifest = next(shop[1].path.glob("sources/*/manifest.json"))
    with pytest.raises(CatalogError, match=r"opens its own files and no others"):
        lines(shop, sql.format(other=other, folder=tmp_path, manifest=manifest))


def test_variables_of_the_process_are_no_tables(shop: Shop) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(CatalogError, match=r"secret does not exist"):
        lines(shop, "select * from secret")
    assert secret.num_rows == 1


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("selec 1", "syntax error"),
        ("", "that is no statements, not one"),
        ("select 1; select 2", "that is 2 statements, not one"),
        ("select nothing from users", 'Referenced column "nothing" not found'),
        ("select * from nobody", "its views are answers, catalogue, cost"),
        ("select $subject", "give each $name a value"),
        ("select 1 / 'x'", "Could not convert"),
        ("select error('no')", "no"),
    ],
)
def test_a_wrong_statement_is_named_with_what_to_do(shop: Shop, sql: str, words: str) -> None:
    with pytest.raises(CatalogError) as error:
        lines(shop, sql)
    assert words in str(error.value)
    assert "\n  do: " in str(error.value)


def test_a_statement_that_breaks_off_half_way_is_named(shop: Shop) -> None:
    with pytest.raises(CatalogError, match=r"far enough"):
        lines(shop, "select case when i = 50000 then error('far enough') end from range(100000) t(i)", "csv")


def test_a_damaged_file_is_named(shop: Shop, tmp_path: Path) -> None:
    import shutil

    home = Home(tmp_path, shop[1].scenario)
    shutil.copytree(shop[1].path, home.path)
    path = next(home.path.glob("sources/*/user.parquet"))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(CatalogError, match=r"user.parquet"):
        lines((shop[0], home), "select * from users")
    assert len(lines((shop[0], home), "select * from refused")) > 2  # what does not read it goes on


@pytest.mark.parametrize("form", FORMATS)
def test_hostile_words_do_nothing_in_any_format(shop: Shop, form: str) -> None:
    shown = "\n".join(lines(shop, "select title from items where item_id = 1", form))
    assert not {char for char in shown if ord(char) < 32 and char != "\n"}
    assert "\u202e" not in shown
    if form != "json":
        assert "⟨U+001B⟩" in shown


def test_a_newline_in_a_title_makes_no_row_of_a_table(shop: Shop) -> None:
    assert len(lines(shop, "select title from items where item_id = 1")) == 3  # names, one row, the count


@given(texts=st.lists(st.text(), max_size=5))
def test_whatever_the_words_are_a_table_has_a_line_a_row_and_nothing_invisible(texts: list[str]) -> None:
    printable = [text.encode("utf-8", "replace").decode() for text in texts]  # Arrow holds no half surrogates
    batch = pa.record_batch({"t": pa.array(printable, pa.string())})
    shown = {form: list(printed(Answered(["t"], iter([batch])), form, 0)) for form in FORMATS}
    assert len(shown["table"]) == len(texts) + 2
    assert [json.loads(line)["t"] for line in shown["json"]] == printable
    kept = {"\n", "\t", "\u00ad", "\u200c", "\u200d"}
    for form in FORMATS:
        hiding = {char for line in shown[form] for char in line if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co")}
        assert hiding <= (kept if form in ("records", "csv") else kept - {"\n"})


def test_json_gives_the_words_back_exactly(shop: Shop) -> None:
    (line,) = lines(shop, "select title, 1.5 as x, 'nan'::double as y, null as z, [1, 2] as v from items where item_id = 1", "json")
    assert json.loads(line) == {"title": HOSTILE, "x": 1.5, "y": None, "z": None, "v": [1, 2]}


def test_two_columns_of_one_name_are_both_there(shop: Shop) -> None:
    assert [json.loads(line) for line in lines(shop, "select 1 as a, 2 as a", "json")] == [{"a": 1, "a_2": 2}]


def test_csv_is_read_back_by_its_own_rules(shop: Shop) -> None:
    text = "\n".join(lines(shop, "select 'a,\"b\"' as quoted, 'two\nlines' as long, date '2026-01-02' as day", "csv"))
    assert list(csv.reader(io.StringIO(text))) == [["quoted", "long", "day"], ['a,"b"', "two\nlines", "2026-01-02"]]


def test_a_long_table_ends_where_it_is_told_and_says_that_there_is_more(shop: Shop) -> None:
    shown = lines(shop, "select i from range(5000) t(i)", rows=7)
    assert len(shown) == 1 + 7 + 1
    assert shown[-1] == "(the first 7 rows; there are more: --rows 0 shows all)"
    assert lines(shop, "select i from range(5000) t(i)", rows=0)[-1] == "(5,000 rows)"
    assert len(lines(shop, "select i from range(5000) t(i)", "csv")) == 5001


def test_times_are_utc_whatever_the_machine_says(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert lines(shop, "select timestamptz '2026-11-19 12:00:00+00' as at")[1].strip() == "2026-11-19 12:00:00"


def test_looking_about_works(shop: Shop) -> None:
    columns: Any = lines(shop, "describe knowledge", "csv")
    assert any(line.startswith("subject_id,VARCHAR") for line in columns)
    assert any("release_user" in line for line in lines(shop, "show all tables", "csv"))
    assert lines(shop, "explain select * from users")
