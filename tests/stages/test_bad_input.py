"""Bad input, row by row of one table: each gives a named error or a counted rejection, never a traceback, never a half-written partition."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kar import flow
from kar.errors import KarError, SourceError
from kar.store import Home
from tests.stages import shop
from tests.stages.shop import NOON

HEAD = "user_id,item_id,at,stars\n"
GOOD = "".join(f"{1 + place % 2},{10 * (1 + place % 2)},{NOON - 60 * place},3\n" for place in range(10))
STRINGS = {"scenario": {"name": "shop", "domain": "products", "user_id": "string", "item_id": "string"}}
EVENT_COLUMNS = {"user_id": "user_id", "item_id": "item_id", "event_at": "at", "rating": "stars"}
BLOCK = pa.array([b"\xff", b"\xfe"], pa.binary())


@dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Args:
        files: over the usual three, as `shop.write` takes them.
        says: parts of the SourceError that must be raised; empty: none may be.
        rejected: reasons and counts that must be in the manifest.
        sources: settings over the usual ones.
        sections: whole sections of the settings.
    """

    files: dict[str, Any] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    rejected: dict[str, int] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)


def events(*lines: str) -> dict[str, str]:
    """Ten good events and these lines."""
    return {"events__csv": HEAD + GOOD + "".join(f"{line}\n" for line in lines)}


def amazon(*lines: str | dict[str, Any], good: int = 10, end: str = "\n") -> Case:
    """Amazon review lines after some good ones; `end` stands after the last."""
    usual = [
        {
            "reviewerID": f"A{n % 3}",
            "asin": f"B00{n % 2}",
            "overall": 4.0,
            "unixReviewTime": NOON - n,
            "reviewText": f"text {n}",
            "summary": "s",
        }
        for n in range(good)
    ]
    text = "\n".join([*map(json.dumps, usual), *(line if isinstance(line, str) else json.dumps(line) for line in lines)]) + end
    columns = {
        "user_id": "reviewerID",
        "item_id": "asin",
        "event_at": "unixReviewTime",
        "rating": "overall",
        "text": ["summary", "reviewText"],
    }
    table = {"path": "reviews.jsonl", "format": "jsonl", "columns": columns}
    return Case({"reviews__jsonl": text}, sources={"users": None, "items": None, "interactions": table}, sections=STRINGS)


def rejecting(case: Case, **rejected: int) -> Case:
    return Case(case.files, (), rejected, case.sources, case.sections)


def saying(case: Case, *says: str) -> Case:
    return Case(case.files, says, {}, case.sources, case.sections)


REVIEW = {"reviewerID": "A9", "asin": "B009", "overall": 5.0, "unixReviewTime": NOON, "reviewText": "r", "summary": "s"}


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in REVIEW.items() if key not in keys}


CASES: dict[str, Case] = {
    # files
    "a missing file": Case({"users__csv": None}, ("sources.users: there is no file 'users.csv' in", "sources.folder is")),
    "a misspelt file": Case(sources={"items": {"path": "item.csv"}}, says=("there is no file 'item.csv'", "did you mean 'items.csv'?")),
    "a missing folder": Case(sources={"folder": "/nowhere/at/all"}, says=("/nowhere/at/all", "set sources.folder")),
    "a glob without files": Case(sources={"interactions": {"path": "e*.parquet", "format": "parquet"}}, says=("no file 'e*.parquet'",)),
    "an empty file": Case({"events__csv": ""}, ("sources.interactions", "events.csv is empty")),
    "a file of blank lines": Case({"events__csv": "\n\n"}, ("is empty",)),
    "a header without rows": Case({"events__csv": HEAD}, ("sources.interactions: events.csv holds no rows",)),
    "an empty parquet table": Case(
        {"e__parquet": pa.table({name: pa.array([], pa.int64()) for name in ("user_id", "item_id", "at", "stars")})},
        ("e.parquet holds no rows",),
        sources={"interactions": {"path": "e.parquet", "format": "parquet"}},
    ),
    "an empty users table": Case({"users__csv": "user_id,age\n"}, ("sources.users: users.csv holds no rows",)),
    "a parquet file that is none": Case(
        {"e__parquet": b"PAR0 nothing"},
        ("cannot be read as parquet",),
        sources={"interactions": {"path": "e.parquet", "format": "parquet"}},
    ),
    "a gz file that is none": Case({"e__csv__gz": b"plain"}, ("e.csv.gz cannot be read",), sources={"interactions": {"path": "e.csv.gz"}}),
    "a query that is no SQL": Case(
        says=("cannot be read as duckdb", "syntax error"),
        sources={"interactions": {"path": "selct * from 'events.csv'", "format": "duckdb"}},
    ),
    "a query of a table that is not there": Case(
        says=("cannot be read as duckdb",), sources={"interactions": {"path": "select * from nowhere", "format": "duckdb"}}
    ),
    "latin-1 said to be utf-8": Case(
        {"items__csv": "item_id,title,genres\n10,Les Misérables,a\n20,Ten,b\n".encode("latin-1")},
        ("sources.items: line 2 of", "is not UTF-8", 'set encoding = "latin-1" in [sources.items]'),
    ),
    "a latin-1 header said to be utf-8": Case(
        {"items__csv": "item_id,title,genré\n10,T,a\n".encode("latin-1")}, ("line 1 of", "is not UTF-8")
    ),
    "latin-1 JSON lines": saying(
        Case({"reviews__jsonl": '{"reviewerID": "é"}\n'.encode("latin-1")}, sources=amazon().sources, sections=STRINGS),
        "line 1",
        "is not UTF-8",
    ),
    # columns
    "a missing column": Case(
        sources={"interactions": {"columns": EVENT_COLUMNS | {"rating": "star"}}},
        says=("has no column 'star'; it has user_id, item_id, at, stars", "did you mean 'stars'?", "mend sources.interactions.columns"),
    ),
    "a missing JSON key": saying(
        Case({"reviews__jsonl": json.dumps(without("overall")) + "\n"}, sources=amazon().sources, sections=STRINGS),
        "has no column 'overall'; it has asin, reviewText, reviewerID, summary, unixReviewTime",
    ),
    "a missing attribute column": Case(
        sources={"users": {"columns": {"user_id": "user_id", "attributes": {"age": "Age"}}}},
        says=("has no column 'Age'", "did you mean 'age'?"),
    ),
    "two columns of one name": Case({"events__csv": "user_id,at,at,stars\n1,2,3,4\n"}, ("the first line of", "mend the header")),
    "too few names for a file without header": Case(
        {"e__dat": f"1::10::{NOON}::3\n"},
        ("has 4 columns, named u, i", "sources.interactions.names"),
        sources={"interactions": {"path": "e.dat", "format": "dat", "header": False, "names": ["u", "i"]}},
    ),
    "bytes for ids": Case(
        {"u__parquet": pa.table({"user_id": BLOCK})},
        ("column 'user_id'", "is BLOB, which cannot be read as user_id"),
        sources={"users": {"path": "u.parquet", "format": "parquet", "columns": {"user_id": "user_id"}}},
    ),
    "a list for a time": Case(
        {"e__parquet": pa.table({"user_id": [1], "item_id": [10], "at": [[NOON]], "stars": [3]})},
        ("column 'at'", "BIGINT[], which cannot be read as event_at"),
        sources={"interactions": {"path": "e.parquet", "format": "parquet"}},
    ),
    "numbers for iso times": Case(
        {"e__parquet": pa.table({"user_id": [1], "item_id": [10], "at": [NOON], "stars": [3]})},
        ("holds numbers, but sources.time_unit is 'iso'", "set sources.time_unit to s, ms or us"),
        sources={"time_unit": "iso", "interactions": {"path": "e.parquet", "format": "parquet"}},
    ),
    "texts for ratings": Case(
        {"events__csv": HEAD + f"1,10,{NOON},good\n1,20,{NOON},bad\n"},
        ("100% of the 2 rows of events.csv are rejected", "bad_rating", "check sources.rating_range"),
    ),
    "milliseconds said to be seconds": Case(
        {"events__csv": HEAD + f"1,10,{NOON}000,3\n"}, ("bad_time", '"event_at":"', "check sources.time_unit"), sources={"time_unit": "s"}
    ),
    "text ids said to be int": Case(
        {"events__csv": HEAD + f"anna,10,{NOON},3\nbert,10,{NOON},3\n"},
        ("id_not_a_number", '"user_id":"anna"', 'scenario.user_id or scenario.item_id to "string"'),
    ),
    # rows
    "duplicate users": Case({"users__csv": shop.USERS + "2,99\n"}, rejected={"duplicate_key": 1}),
    "duplicate items": Case({"items__csv": shop.ITEMS + "20,Again,c\n"}, rejected={"duplicate_key": 1}),
    "duplicate interactions": Case(events(f"1,10,{NOON},5", f"1,10,{NOON},5"), rejected={"duplicate_key": 2}),
    "an unknown user": Case(events(f"7,10,{NOON},3"), rejected={"unknown_user": 1}),
    "an unknown item": Case(events(f"1,77,{NOON},3", f"2,77,{NOON},3"), rejected={"unknown_item": 2}),
    "mostly unknown items": Case(
        {"items__csv": "item_id,title,genres\n99,T,a\n"},
        ("unknown_item (4 rows: an interaction with an item that is not in the items table)",),
    ),
    "events in the future": Case(events(f"1,10,{NOON + 86_400 * 400},3"), rejected={"after_cutoff": 1}),
    "an event at the cutoff itself": Case(events(f"1,10,{NOON + 129_600},3", f"1,10,{NOON + 129_599},3"), rejected={"after_cutoff": 1}),
    "only events in the future": Case(
        {"events__csv": HEAD + f"1,10,{NOON + 86_400 * 400},3\n"}, ("none of the 1 rows", "1 are after it", "run a later date")
    ),
    "an id beyond 64 bits": Case(events(f"{2**63},10,{NOON},3"), rejected={"id_out_of_range": 1}),
    "a float id that is not exact": Case(
        {"e__parquet": pa.table({"user_id": [1.0, 2.0, 1.5, 2.0**54], "item_id": [10] * 4, "at": [NOON] * 4, "stars": [3] * 4})},
        rejected={"id_not_a_number": 2},
        sources={"interactions": {"path": "e.parquet", "format": "parquet"}},
    ),
    "an id that is no number": Case(events(f"1x,10,{NOON},3", f"1,1e3,{NOON},3"), rejected={"id_not_a_number": 2}),
    "rows without ids": Case(events(f",10,{NOON},3", f"1,,{NOON},3", f"1, ,{NOON},3"), rejected={"missing_id": 3}),
    "a user without id": Case({"users__csv": shop.USERS + ",9\n"}, rejected={"missing_id": 1}),
    "a rating outside the range": Case(events(f"1,10,{NOON},6", f"1,20,{NOON},0.5"), rejected={"bad_rating": 2}),
    "NaN, infinite and missing ratings": Case(
        events(f"1,10,{NOON},nan", f"1,20,{NOON},inf", f"2,10,{NOON},", f"2,20,{NOON},three"),
        rejected={"bad_rating": 4},
        sources={"rating_range": None},
    ),
    "null ratings in parquet": Case(
        {"e__parquet": pa.table({"user_id": [1, 1, 2], "item_id": [10, 20, 10], "at": [NOON] * 3, "stars": [3.0, None, float("nan")]})},
        rejected={"bad_rating": 2},
        sources={"interactions": {"path": "e.parquet", "format": "parquet"}, "max_rejected_share": 0.9},
    ),
    "times that are none": Case(events("1,10,soon,3", "1,10,,3", "1,10,nan,3", "1,10,9e99,3"), rejected={"bad_time": 4}),
    "lines with too few or too many fields": Case(events("1,10", f"1,10,{NOON},3,4,5"), rejected={"bad_row": 2}),
    "an open quote at the end": Case({"events__csv": HEAD + GOOD + f'1,10,{NOON},"3'}, rejected={"bad_row": 1}),
    "trailing blank lines": Case({"events__csv": HEAD + GOOD + "\n\n \n"}, rejected={"bad_row": 1}),
    # the warts of Amazon files
    "reviews without text or summary": rejecting(amazon(without("reviewText"), without("reviewText", "summary", "asin") | {"asin": "B"})),
    "reviews without id, time or stars": rejecting(
        amazon(without("reviewerID"), without("asin"), without("unixReviewTime"), without("overall")),
        missing_id=2,
        bad_time=1,
        bad_rating=1,
    ),
    "a review given twice": rejecting(amazon(REVIEW, REVIEW), duplicate_key=1),
    "blank lines after the last review": rejecting(amazon(REVIEW, end="\n\n\n   \n")),
    "html entities in a review": rejecting(amazon(REVIEW | {"reviewText": "Tom &amp; Jerry &#34;live&#34; <br /> &unknown;"})),
    "a truncated last line": rejecting(amazon('{"reviewerID": "A1", "asin": "B001", "overall": 4.0, "unixRev', end=""), bad_row=1),
    "lines that are JSON but no objects": rejecting(amazon("[1, 2]", '"text"', "null"), bad_row=3),
    "python literals": saying(amazon("{'reviewerID': 'A1', 'asin': 'B'}", good=0), "no line of", "is a JSON object"),
    "a rating written as a word": rejecting(amazon(REVIEW | {"overall": "five"}), bad_rating=1),
    "an empty text id": rejecting(amazon(REVIEW | {"reviewerID": ""}), missing_id=1),
    "a null character and control characters": rejecting(amazon(REVIEW | {"reviewText": "a\u0000b\u0007c"})),
}


def refused(case: Case, chosen: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        shop.make("sources", chosen, tmp_path / "home")
    for part in case.says:
        assert part in str(caught.value)
    assert caught.value.do
    assert list(Home.of("shop", tmp_path / "home").path.rglob("*.parquet")) == []
    assert list((tmp_path / "home").rglob("*.partial")) == []


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_a_named_error_or_a_counted_rejection(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    chosen = shop.settings(shop.write(tmp_path / "data", **case.files), case.sources, **case.sections)
    if case.says:
        refused(case, chosen, tmp_path)
        return
    manifest, made = shop.make("sources", chosen, tmp_path / "home")
    assert manifest.rejected == case.rejected
    for reason, count in case.rejected.items():
        shown = manifest.rejected_examples[reason]
        assert len(shown) == count
        assert all({"table", "row"} < set(row) for row in shown)
    assert made.exists()


def test_every_reason_of_the_stage_is_met_by_a_case() -> None:
    assert {reason for case in CASES.values() for reason in case.rejected} == set(flow.SOURCES.rejects) - {"forgotten"}  # tests/forget
    assert len(CASES) >= 50


def test_twenty_rejected_rows_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    lines = [f"1,10,{NOON},{9 + n}" for n in range(30)]
    chosen = shop.settings(shop.write(tmp_path / "data", **events(*lines)), {"max_rejected_share": 0.8})
    manifest, _ = shop.make("sources", chosen, tmp_path / "home")
    assert manifest.rejected == {"bad_rating": 30}
    shown = manifest.rejected_examples["bad_rating"]
    assert len(shown) == 20
    assert shown[0] == {
        "table": "interactions",
        "row": 11,
        "user_id": "1",
        "item_id": "10",
        "event_at": str(NOON),
        "rating": "9",
        "click": None,
    }


def test_of_two_rows_with_one_key_the_first_is_kept(tmp_path: Path) -> None:
    files = {"items__csv": shop.ITEMS + "20,Again,c\n", **events(f"1,10,{NOON},5", f"1,10,{NOON},1")}
    _, made = shop.make("sources", shop.settings(shop.write(tmp_path / "data", **files)), tmp_path / "home")
    assert [row["title"] for row in shop.rows(made, "item")] == ["Ten", "Twenty"]
    assert [row["rating"] for row in shop.rows(made, "interaction") if row["user_id"] == 1 and row["item_id"] == 10][-1] == 3.0


def test_a_backfill_of_an_early_date_may_leave_most_events_out(tmp_path: Path) -> None:
    late = [f"1,10,{NOON + 86_400 * (2 + n)},3" for n in range(90)]
    manifest, _ = shop.make("sources", shop.settings(shop.write(tmp_path / "data", **events(*late))), tmp_path / "home")
    assert manifest.rejected == {"after_cutoff": 90}


@pytest.mark.parametrize(
    "broken", [lambda text: text.replace("\n", ""), lambda text: text[::-1], lambda text: "\x00" * 100, lambda text: "{" * 100]
)
def test_garbage_is_never_a_traceback(tmp_path: Path, broken: Callable[[str], str]) -> None:
    for form in ("csv", "tsv", "dat", "jsonl", "parquet"):
        data = shop.write(tmp_path / form, events__csv=broken(shop.EVENTS))
        with pytest.raises(KarError):
            shop.make("sources", shop.settings(data, {"interactions": {"format": form}}), tmp_path / "home")
