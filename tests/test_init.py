"""kar init: what it reads off three files, what it asks, and that what it proposes loads and runs."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pytest

from kar.errors import SettingsError, SourceError
from kar.init import Proposal, propose
from kar.settings import Settings, load
from tests import world
from tests.stages import shop
from tests.stages.shop import NOON


def loaded(folder: Path, proposal: Proposal) -> Settings:
    (folder / "proposed.toml").write_text(proposal.toml, encoding="utf-8")
    return load(folder / "proposed.toml")


def test_a_proposal_for_the_small_world_reads_it_as_its_own_settings_do(tmp_path: Path) -> None:
    data = world.write(tmp_path / "data")
    proposal = propose("world", data / "users.csv", data / "items.csv", data / "interactions.csv")
    proposed, own = loaded(tmp_path, proposal), world.settings(data)
    assert proposed.sources == own.sources
    assert proposed.examples.label == "rating > 3"
    assert proposed.histories.mode == "per_user"
    assert proposed.adaptor.item_fields == ["genre"]
    assert proposed.adaptor.user_fields == []  # an age that each user has for himself tells no more than his id
    assert proposal.date == "2026-11-19"
    assert proposal.factors_path == Path("prompts/products/factors.toml")
    assert any("what are the items?" in question for question in proposal.questions)
    manifest, _ = shop.make("sources", proposed, tmp_path / "home", world.LAST_DAY)
    assert manifest.rejected == {}


def test_every_guess_is_marked(tmp_path: Path) -> None:
    data = world.write(tmp_path / "data")
    toml = propose("world", data / "users.csv", data / "items.csv", data / "interactions.csv").toml
    settled = {"name", "folder", "path"}
    lines = [line for line in toml.splitlines() if " = " in line and not line.startswith("#")]
    unmarked = {line.split(" = ")[0] for line in lines if "# guessed: " not in line}
    assert len(lines) >= 15
    assert unmarked == settled


def test_files_of_movielens_have_no_header_and_latin_1_titles(tmp_path: Path) -> None:
    titles = ["Les Misérables (1995)", "Toy Story (1995)", "Heat (1995)", "Babe (1995)"]
    (tmp_path / "movies.dat").write_bytes("".join(f"{n}::{title}::Drama|War\n" for n, title in enumerate(titles, 1)).encode("latin-1"))
    (tmp_path / "ratings.dat").write_text(
        "".join(f"{u}::{i}::{1 + (u + i) % 5}::{978300000 + u * 86400 * 9 + i}\n" for u in range(1, 9) for i in range(1, 5))
    )
    proposal = propose("ml", None, tmp_path / "movies.dat", tmp_path / "ratings.dat")
    proposed = loaded(tmp_path, proposal)
    assert proposed.scenario.domain == "movies"
    assert proposed.sources.items is not None
    assert (proposed.sources.items.encoding, proposed.sources.items.header) == ("latin-1", False)
    assert proposed.sources.items.columns.item_id == "column1"
    assert proposed.sources.items.columns.title == "column2"
    columns = proposed.sources.interactions.columns
    assert (columns.user_id, columns.item_id, columns.rating, columns.event_at) == ("column1", "column2", "column3", "column4")
    assert len([question for question in proposal.questions if "which column is" in question]) == 3
    assert proposed.histories.mode == "time"
    manifest, made = shop.make("sources", proposed, tmp_path / "home", dt.date.fromisoformat(proposal.date))
    assert manifest.rejected == {}
    assert shop.rows(made, "item")[0]["title"] == "Les Misérables (1995)"


def test_amazon_reviews_alone_are_text_ids_and_texts_of_two_columns(tmp_path: Path) -> None:
    lines = [
        {
            "reviewerID": f"A{n}",
            "asin": f"{n:010d}",
            "overall": float(1 + n % 5),
            "unixReviewTime": NOON - n,
            "reviewText": "t",
            "summary": "s",
        }
        for n in range(20)
    ]
    (tmp_path / "books.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    proposed = loaded(tmp_path, propose("my-books", None, None, tmp_path / "books.json"))
    assert (proposed.scenario.user_id, proposed.scenario.item_id, proposed.scenario.domain) == ("string", "string", "books")
    assert proposed.sources.interactions.columns.text == ["summary", "reviewText"]
    assert proposed.sources.users is None
    assert proposed.sources.interactions.format == "jsonl"


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([NOON, NOON + 1], "s"),
        ([NOON * 1000, NOON * 1000 + 1], "ms"),
        ([NOON * 10**6, NOON * 10**6 + 1], "us"),
        (["2026-01-09T12:00:00Z", "2026-01-09T12:00:01Z"], "iso"),
        (pa.array([NOON, NOON + 1], pa.timestamp("s")), "iso"),
    ],
)
def test_the_time_unit_is_read_off_the_magnitude(tmp_path: Path, values: object, unit: str) -> None:
    data = shop.write(tmp_path, e__parquet=pa.table({"uid": [1, 2], "sku": ["a", "b"], "when": values, "clicked": [0, 1]}))
    proposal = propose("clicks", None, None, data / "e.parquet")
    proposed = loaded(tmp_path, proposal)
    assert proposed.sources.time_unit == unit
    assert proposed.examples.label == "click"
    assert (proposed.scenario.user_id, proposed.scenario.item_id) == ("int", "string")
    assert proposal.date == "2026-01-09"
    manifest, _ = shop.make("sources", proposed, tmp_path / "home", dt.date(2026, 1, 9))
    assert (manifest.rejected, manifest.tables["interaction"]["rows"]) == ({}, 2)


def test_ids_with_leading_zeros_are_text(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(f"user_id,item_id,timestamp,rating\n007,1,{NOON},3\n8,2,{NOON},4\n9,2,{NOON},5\n")
    assert loaded(tmp_path, propose("zeros", None, None, tmp_path / "e.csv")).scenario.user_id == "string"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("nothing.csv", None, "there is no file"),
        ("empty.csv", b"", "is empty"),
        ("blank.csv", b"\n\n", "is empty"),
        ("header.csv", b"user_id,item_id,timestamp\n", "holds no rows"),
        ("broken.parquet", b"PAR1 no", "cannot be read as parquet"),
        ("broken.csv.gz", b"no gzip", "cannot be read"),
        ("prose.txt", b"Once upon a time\nthere was\n", "holds no comma, tab or '::', and is no JSON"),
        ("list.json", b'{"a": 1\n', "no line of"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=says) as caught:
        propose("mine", None, None, tmp_path / name)
    assert name in caught.value.what
    assert caught.value.do


def test_a_name_that_cannot_be_a_folder_is_a_settings_error(tmp_path: Path) -> None:
    data = world.write(tmp_path / "data")
    with pytest.raises(SettingsError, match=r"scenario\.name"):
        propose("My Shop", None, None, data / "interactions.csv")
