"""The sources stage on the user's files: what it reads, in which formats, and how it writes ids, times and texts."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.errors import SettingsError
from kar.tables import IdTypes
from kar.warehouse import Warehouse
from tests.stages import shop
from tests.stages.shop import NOON


def at(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def test_three_csv_files_become_five_tables(tmp_path: Path) -> None:
    manifest, made = shop.make("sources", shop.settings(shop.write(tmp_path / "data")), tmp_path / "home")
    assert shop.rows(made, "user") == [{"user_id": 1}, {"user_id": 2}]
    assert shop.rows(made, "item")[0] == {"item_id": 10, "title": "Ten", "description": None}
    assert shop.rows(made, "user_attribute")[0] == {"user_id": 1, "name": "age", "value": "20"}
    assert [(r["item_id"], r["value"], r["place"]) for r in shop.rows(made, "item_attribute")] == [(10, "a", 0), (10, "b", 1), (20, "b", 0)]
    events = shop.rows(made, "interaction")
    assert [(e["user_id"], e["item_id"], e["event_at"], e["rating"]) for e in events] == [
        (1, 10, at(NOON), 5.0),
        (1, 20, at(NOON + 60), 2.0),
        (2, 10, at(NOON), 4.0),
        (2, 20, at(NOON + 1), 3.0),
    ]
    assert manifest.rejected == {}
    assert manifest.figures["tie_share"] == 0.0
    assert manifest.figures["source_rows"] == {"users": 2, "items": 2, "interactions": 4}
    assert manifest.figures["last_event_at"] == "2026-01-09T12:01:00+00:00"


def test_a_second_run_does_nothing_and_a_changed_file_is_noticed(tmp_path: Path) -> None:
    data = shop.write(tmp_path / "data")
    first, made = shop.make("sources", shop.settings(data), tmp_path / "home")
    before = made.manifest_path.stat().st_mtime_ns
    assert shop.make("sources", shop.settings(data), tmp_path / "home")[0] == first
    assert made.manifest_path.stat().st_mtime_ns == before
    (data / "users.csv").write_text(shop.USERS + "3,40\n")
    assert shop.make("sources", shop.settings(data), tmp_path / "home")[0].tables["user"]["rows"] == 3


def test_the_order_of_the_lines_changes_no_byte(tmp_path: Path) -> None:
    header, *lines = shop.EVENTS.splitlines()
    turned = "\n".join([header, *reversed(lines)]) + "\n"
    one, _ = shop.make("sources", shop.settings(shop.write(tmp_path / "one")), tmp_path / "home1")
    two, _ = shop.make("sources", shop.settings(shop.write(tmp_path / "two", events__csv=turned)), tmp_path / "home2")
    assert one.tables == two.tables


COLUMNS = {"user_id": "user_id", "item_id": "item_id", "event_at": "at", "rating": "stars"}
LINES = [line.split(",") for line in shop.EVENTS.splitlines()]
PLAIN = pa.table({name: [int(row[place]) for row in LINES[1:]] for place, name in enumerate(LINES[0])})


def as_jsonl(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


FORMATS: dict[str, tuple[dict[str, str | bytes | pa.Table], dict[str, Any]]] = {
    "tsv": ({"e__tsv": shop.EVENTS.replace(",", "\t")}, {"path": "e.tsv", "format": "tsv"}),
    "recbole": (
        {"e__inter": "user_id:token\titem_id:token\tat:float\tstars:float\n" + "".join("\t".join(row) + "\n" for row in LINES[1:])},
        {"path": "e.inter", "format": "tsv"},
    ),
    "dat": (
        {"e__dat": "".join("::".join(row) + "\n" for row in LINES[1:])},
        {"path": "e.dat", "format": "dat", "header": False, "names": LINES[0]},
    ),
    "jsonl": ({"e__jsonl": as_jsonl(PLAIN.to_pylist())}, {"path": "e.jsonl", "format": "jsonl"}),
    "jsonl.gz": ({"e__json__gz": gzip.compress(as_jsonl(PLAIN.to_pylist()).encode())}, {"path": "e.json.gz", "format": "jsonl"}),
    "parquet": ({"e__parquet": PLAIN}, {"path": "e.parquet", "format": "parquet"}),
    "parquet glob": ({"p1__parquet": PLAIN.slice(0, 1), "p2__parquet": PLAIN.slice(1)}, {"path": "p*.parquet", "format": "parquet"}),
    "parquet of text": (
        {"e__parquet": PLAIN.cast(pa.schema([(n, pa.string()) for n in PLAIN.column_names]))},
        {"path": "e.parquet", "format": "parquet"},
    ),
    "parquet of floats": (
        {"e__parquet": PLAIN.cast(pa.schema([(n, pa.float64()) for n in PLAIN.column_names]))},
        {"path": "e.parquet", "format": "parquet"},
    ),
    "query": ({"e__parquet": PLAIN}, {"path": "select * from 'e.parquet' where stars > 0", "format": "duckdb"}),
    "crlf and byte-order mark": (
        {"e__csv": b"\xef\xbb\xbf" + shop.EVENTS.replace("\n", "\r\n").encode() + b"\r\n\r\n"},
        {"path": "e.csv", "format": "csv"},
    ),
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_bytes(tmp_path: Path, form: str) -> None:
    files, table = FORMATS[form]
    usual, _ = shop.make("sources", shop.settings(shop.write(tmp_path / "usual")), tmp_path / "home1")
    chosen = shop.settings(shop.write(tmp_path / "data", **files), {"interactions": {"columns": COLUMNS, **table}})
    manifest, _ = shop.make("sources", chosen, tmp_path / "home2")
    assert manifest.tables == usual.tables
    assert manifest.rejected == {}


def test_a_query_may_attach_a_database_file(tmp_path: Path) -> None:
    data = shop.write(tmp_path / "data")
    with duckdb.connect(str(data / "shop.db")) as connection:
        connection.execute(f"create table events as select * from read_csv('{data}/events.csv')")
    query = f"attach '{data}/shop.db' as shop (read_only); select * from shop.events"
    chosen = shop.settings(data, {"interactions": {"path": query, "format": "duckdb"}})
    manifest, _ = shop.make("sources", chosen, tmp_path / "home")
    assert manifest.tables["interaction"]["rows"] == 4
    assert "data/shop.db" in manifest.recipe["files"]


def test_without_users_and_items_the_interactions_name_them(tmp_path: Path) -> None:
    data = shop.write(tmp_path / "data", users__csv=None, items__csv=None)
    _, made = shop.make("sources", shop.settings(data, {"users": None, "items": None}), tmp_path / "home")
    assert shop.rows(made, "user") == [{"user_id": 1}, {"user_id": 2}]
    assert shop.rows(made, "item") == [{"item_id": i, "title": None, "description": None} for i in (10, 20)]


BIG = [2**31 + 1, 2**53 + 1, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_large_ids_survive_to_the_last_digit(tmp_path: Path, form: str) -> None:
    lines = [{"user_id": big, "item_id": 10, "at": NOON, "stars": 3} for big in BIG]
    text = "user_id,item_id,at,stars\n" + "".join(f"{line['user_id']},10,{NOON},3\n" for line in lines)
    content = {"csv": text, "jsonl": as_jsonl(lines), "parquet": pa.Table.from_pylist(lines)}[form]
    data = shop.write(tmp_path / "data", **{f"e__{form}": content})
    chosen = shop.settings(data, {"users": None, "interactions": {"path": f"e.{form}", "format": form}})
    manifest, made = shop.make("sources", chosen, tmp_path / "home")
    assert [row["user_id"] for row in shop.rows(made, "interaction")] == sorted(BIG)
    assert manifest.rejected == {}


STRANGE = ["a b", " lead", "trail ", "é☕😀", "0042", "42.0", "x,y", "'", "NULL", "null", "nan"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_text_ids_are_kept_byte_for_byte(tmp_path: Path, form: str) -> None:
    lines = [{"user_id": name, "item_id": name, "at": NOON, "stars": 3} for name in STRANGE]
    text = "user_id,item_id,at,stars\n" + "".join(f'"{name}","{name}",{NOON},3\n' for name in STRANGE)
    content = {"csv": text, "jsonl": as_jsonl(lines), "parquet": pa.Table.from_pylist(lines)}[form]
    data = shop.write(tmp_path / "data", **{f"e__{form}": content})
    chosen = shop.settings(
        data,
        {"users": None, "items": None, "interactions": {"path": f"e.{form}", "format": form}},
        scenario={"name": "shop", "domain": "products", "user_id": "string", "item_id": "string"},
    )
    _, made = shop.make("sources", chosen, tmp_path / "home")
    assert sorted(row["user_id"] for row in shop.rows(made, "user")) == sorted(STRANGE)
    assert sorted(row["item_id"] for row in shop.rows(made, "interaction")) == sorted(STRANGE)


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        ("s", "1700000000", "2023-11-14T22:13:20+00:00"),
        ("s", "1700000000.25", "2023-11-14T22:13:20.250000+00:00"),
        ("s", "-1.5", "1969-12-31T23:59:58.500000+00:00"),
        ("s", "1.7e9", "2023-11-14T22:13:20+00:00"),
        ("ms", "1700000000123", "2023-11-14T22:13:20.123000+00:00"),
        ("us", "1700000000123456", "2023-11-14T22:13:20.123456+00:00"),
        ("iso", "2023-11-14T22:13:20", "2023-11-14T22:13:20+00:00"),
        ("iso", "2023-11-14 22:13:20.5Z", "2023-11-14T22:13:20.500000+00:00"),
        ("iso", "2023-11-15T00:13:20+02:00", "2023-11-14T22:13:20+00:00"),
        ("iso", "2023-11-14", "2023-11-14T00:00:00+00:00"),
        ("s", "1700000000123456", None),
        ("s", "999999999999999999999999999", None),
        ("s", "2023-11-14", None),
        ("s", "nan", None),
        ("s", "", None),
        ("iso", "infinity", None),
        ("iso", "yesterday", None),
        ("iso", "2023-02-30", None),
    ],
)
def test_times_are_read_in_the_declared_unit_or_not_at_all(unit: str, text: str, expected: str | None) -> None:
    with Warehouse() as warehouse:
        warehouse.view("asked", pa.table({"written": [text], "unit": [unit]}))
        found = warehouse.connection.sql("select to_event_at(written, unit) as at from asked").to_arrow_table()["at"][0].as_py()
    assert found == (None if expected is None else dt.datetime.fromisoformat(expected))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["s", "ms", "us"]),
    st.lists(
        st.integers(-(10**20), 10**20) | st.integers(-(10**15), 10**15) | st.sampled_from([-(2**63), 2**63 - 1, 2**63, 0]), min_size=1
    ),
)
def test_a_whole_number_is_read_as_the_same_with_a_decimal_place_for_all_units(unit: str, numbers: list[int]) -> None:
    with Warehouse() as warehouse:
        warehouse.view("asked", pa.table({"plain": [str(n) for n in numbers], "decimal": [f"{n}.0" for n in numbers]}))
        read = [
            f"select to_event_at({text}, '{unit}') as at, to_user_id({text}) as id, user_id_fault({text}) as fault from asked"
            for text in ("plain", "decimal")
        ]
        plain, decimal = (warehouse.connection.sql(sql).to_arrow_table() for sql in read)
    assert plain.equals(decimal)
    assert plain["id"].to_pylist() == [n if -(2**63) <= n < 2**63 else None for n in numbers]


@pytest.mark.parametrize("unit", ["s", "iso"])
def test_a_timestamp_column_needs_no_unit(tmp_path: Path, unit: str) -> None:
    table = PLAIN.set_column(2, "at", pa.array([at(NOON), at(NOON + 60), at(NOON), at(NOON + 1)]).cast(pa.timestamp("ms", tz="Asia/Tokyo")))
    data = shop.write(tmp_path / "data", e__parquet=table)
    usual, _ = shop.make("sources", shop.settings(data), tmp_path / "home1")
    chosen = shop.settings(data, {"time_unit": unit, "interactions": {"path": "e.parquet", "format": "parquet"}})
    assert shop.make("sources", chosen, tmp_path / "home2")[0].tables == usual.tables


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**34), 2**37), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=50))
def test_the_tie_key_of_int_items_is_the_formula_without_overflow(events: list[tuple[int, int]]) -> None:
    asked = pa.table(
        {"us": [second * 1_000_000 + 999_999 for second, _ in events], "item": pa.array([item for _, item in events], pa.int64())}
    )
    with Warehouse() as warehouse:
        warehouse.view("asked", asked)
        found = warehouse.connection.execute("select to_tie_key(make_timestamptz(us), item_number(item)) from asked").fetchall()
    assert [row[0] for row in found] == [(second * 2654435761 + item * 40503) % 1000003 for second, item in events]


def test_the_tie_key_of_text_items_uses_the_first_60_bits_of_their_md5() -> None:
    number = int(hashlib.md5("é 😀".encode()).hexdigest()[:15], 16)
    with Warehouse(IdTypes("int", "string")) as warehouse:
        found = warehouse.connection.execute("select to_tie_key(make_timestamptz(5000000), item_number('é 😀'))").fetchall()
    assert found == [((5 * 2654435761 + number * 40503) % 1000003,)]


def test_tie_share_counts_events_that_share_user_and_second(tmp_path: Path) -> None:
    events = f"user_id,item_id,at,stars\n1,10,{NOON},5\n1,20,{NOON}.5,2\n2,10,{NOON},4\n2,20,{NOON + 1},3\n"
    manifest, _ = shop.make("sources", shop.settings(shop.write(tmp_path / "data", events__csv=events)), tmp_path / "home")
    assert manifest.figures["tie_share"] == 0.5


def test_texts_are_joined_and_cleaned_and_lists_are_split(tmp_path: Path) -> None:
    lines = [
        {"user_id": 1, "item_id": 10, "at": NOON, "summary": "Fine!", "body": "Tom &amp; Jerry say &quot;hi&quot; "},
        {"user_id": 1, "item_id": 20, "at": NOON, "summary": "So so", "body": None},
        {"user_id": 2, "item_id": 20, "at": NOON, "summary": "Short", "body": "Long"},
        {"user_id": 2, "item_id": 10, "at": NOON},
    ]
    items = [
        {"item_id": 10, "title": "R&amp;B", "about": ["One.", "Two."], "kinds": ["a", "b", "a", " "]},
        {"item_id": 20, "title": " ", "about": "Plain", "kinds": "c"},
    ]
    data = shop.write(tmp_path / "data", e__jsonl=as_jsonl(lines), i__jsonl=as_jsonl(items))
    chosen = shop.settings(
        data,
        {
            "items": {
                "path": "i.jsonl",
                "format": "jsonl",
                "columns": {"item_id": "item_id", "title": "title", "description": "about", "attributes": {"kind": "kinds"}},
                "lists": {},
            },
            "interactions": {
                "path": "e.jsonl",
                "format": "jsonl",
                "columns": {"user_id": "user_id", "item_id": "item_id", "event_at": "at", "text": ["summary", "body"]},
            },
        },
    )
    _, made = shop.make("sources", chosen, tmp_path / "home")
    assert shop.rows(made, "item") == [
        {"item_id": 10, "title": "R&B", "description": "One. Two."},
        {"item_id": 20, "title": None, "description": "Plain"},
    ]
    assert [(r["item_id"], r["value"], r["place"]) for r in shop.rows(made, "item_attribute")] == [(10, "a", 0), (10, "b", 1), (20, "c", 0)]
    texts = {(e["user_id"], e["item_id"]): (e["text"], e["rating"]) for e in shop.rows(made, "interaction")}
    assert texts == {
        (1, 10): ('Fine! Tom & Jerry say "hi"', None),
        (1, 20): ("So so.", None),
        (2, 20): ("Short. Long", None),
        (2, 10): (None, None),
    }


def test_clicks_are_read_in_their_usual_spellings(tmp_path: Path) -> None:
    events = f"user_id,item_id,at,stars\n1,10,{NOON},true\n1,20,{NOON},0\n2,10,{NOON},\n2,20,{NOON},perhaps\n"
    columns = {"user_id": "user_id", "item_id": "item_id", "event_at": "at", "click": "stars"}
    data = shop.write(tmp_path / "data", events__csv=events)
    manifest, made = shop.make("sources", shop.settings(data, {"interactions": {"columns": columns}}), tmp_path / "home")
    assert [e["click"] for e in shop.rows(made, "interaction")] == [True, False, None]
    assert manifest.rejected == {"bad_rating": 1}


def test_a_table_whose_id_column_is_not_mapped_is_a_settings_error(tmp_path: Path) -> None:
    chosen = shop.settings(shop.write(tmp_path / "data"), {"users": {"columns": {"attributes": {"age": "age"}}}})
    with pytest.raises(SettingsError, match=r"sources\.users\.columns does not say which column is user_id"):
        shop.make("sources", chosen, tmp_path / "home")


def test_a_list_of_an_attribute_that_is_not_mapped_is_a_settings_error(tmp_path: Path) -> None:
    chosen = shop.settings(shop.write(tmp_path / "data"), {"items": {"lists": {"genres": "|"}}})
    with pytest.raises(SettingsError, match=r"sources\.items\.lists names 'genres'"):
        shop.make("sources", chosen, tmp_path / "home")
