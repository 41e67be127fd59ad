"""The settings files that ship: they load, and they read the files they were written for."""

from __future__ import annotations

import datetime as dt
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kar.settings import load
from kar.store import Home, Manifest, file_sha
from kar.tables import IdTypes, conform
from tests.stages import shop
from tests.warehouse.filled import knowledge

FOLDER = Path(__file__).parents[2] / "settings"
START = int(dt.datetime(2014, 3, 1, tzinfo=dt.UTC).timestamp())


def amazon(path: Path, reviews: int = 2000) -> None:
    """Review lines as the public files have them: whole days, missing keys, duplicates, entities, blank and truncated lines."""
    draw = random.Random(5)
    lines = []
    for place in range(reviews):
        line = {
            "reviewerID": f"A{draw.randrange(300):05d}",
            "asin": f"{draw.randrange(150):010d}",
            "overall": float(draw.choice([1, 2, 3, 4, 4, 5, 5, 5])),
            "unixReviewTime": START + 86_400 * draw.randrange(120),
            "reviewText": "A &amp; B " + "word " * draw.randrange(40),
            "summary": f"Review {place}",
            "helpful": [0, draw.randrange(9)],
        }
        for key in ("reviewText", "summary"):
            if draw.random() < 0.05:
                del line[key]
        lines.append(json.dumps(line))
    path.write_text("\n".join([*lines, lines[0], lines[1], "", lines[2][:60]]) + "\n\n", encoding="utf-8")


def movielens_100k(folder: Path) -> None:
    (folder / "ml-100k.user").write_text("user_id:token\tage:token\tgender:token\toccupation:token\n1\t24\tM\twriter\n2\t53\tF\tother\n")
    (folder / "ml-100k.item").write_text(
        'item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\t"Quoted" Film\t1995\tAnimation Comedy\n'
    )
    (folder / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t1\t3\t881250949\n2\t1\t5\t881250950\n"
    )


def movielens_1m(folder: Path) -> None:
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    (folder / "movies.dat").write_bytes("1::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1"))
    (folder / "ratings.dat").write_text("1::1::5::978300760\n2::1::3::978302109\n")


@pytest.mark.parametrize("name", ["movielens-100k", "movielens-1m", "amazon-reviews", "demo-llmrec"])
def test_shipped_settings_load_and_name_their_own_scenario(name: str) -> None:
    assert load(FOLDER / f"{name}.toml").scenario.name == name
    assert len(list(FOLDER.glob("*.toml"))) == 4


def test_movielens_100k_reads_recboles_files(tmp_path: Path) -> None:
    movielens_100k(tmp_path)
    chosen = load(FOLDER / "movielens-100k.toml", [f"sources.folder={tmp_path}"])
    for stage in ("sources", "histories"):
        manifest, made = shop.make(stage, chosen, tmp_path / "home", dt.date(1998, 4, 23))
        assert manifest.rejected == {}
    assert shop.rows(made, "item_profile")[0]["text"] == '"Quoted" Film. Genres: Animation, Comedy. Year: 1995.'


def test_movielens_1m_reads_the_original_files(tmp_path: Path) -> None:
    movielens_1m(tmp_path)
    chosen = load(FOLDER / "movielens-1m.toml", [f"sources.folder={tmp_path}"])
    for stage in ("sources", "histories"):
        manifest, made = shop.make(stage, chosen, tmp_path / "home", dt.date(2003, 2, 28))
        assert manifest.rejected == {}
    assert shop.rows(made, "item_profile")[0]["text"] == "Misérables, Les (1995). Genres: Drama, Musical."


def test_amazon_reviews_describe_items_by_what_was_written_before(tmp_path: Path) -> None:
    amazon(tmp_path / "reviews.jsonl")
    chosen = load(FOLDER / "amazon-reviews.toml", [f"sources.folder={tmp_path}"])
    day = dt.date(2014, 5, 10)
    manifest, _ = shop.make("sources", chosen, tmp_path / "home", day)
    assert manifest.rejected["duplicate_key"] >= 1
    assert manifest.rejected["bad_row"] == 1
    assert manifest.rejected["after_cutoff"] > 500
    assert manifest.figures["tie_share"] > 0
    _, made = shop.make("histories", chosen, tmp_path / "home", day)
    profiles = shop.rows(made, "item_profile")
    cutoff = dt.datetime(2014, 5, 11, tzinfo=dt.UTC)
    assert all(row["title"] is None for row in profiles)
    assert all(len(row["evidence_users"]) <= 5 for row in profiles)
    assert max(row["evidence_newest_at"] for row in profiles if row["evidence_newest_at"]) < cutoff
    assert "A & B" in profiles[0]["text"]


def test_amazon_examples_meet_texts_that_are_older_than_they(tmp_path: Path) -> None:
    amazon(tmp_path / "reviews.jsonl")
    chosen = load(FOLDER / "amazon-reviews.toml", [f"sources.folder={tmp_path}"])
    day = dt.date(2014, 6, 10)
    snapshot = chosen.snapshot_date(day)
    for stage, date in (("sources", snapshot), ("histories", snapshot), ("sources", day), ("histories", day)):
        _, partition = shop.make(stage, chosen, tmp_path / "home", date)
        if (stage, date) == ("histories", snapshot):
            profiles = {row["item_id"]: row for row in shop.rows(partition, "item_profile")}
    facts = [
        {"view": "item.facts", "subject_id": item, **{key: row[key] for key in ("evidence_users", "evidence_items", "evidence_newest_at")}}
        for item, row in profiles.items()
    ]
    ids = IdTypes("string", "string")
    place = Home.of("amazon-reviews", tmp_path / "home").partition("knowledge", snapshot)
    place.path.mkdir(parents=True)
    pq.write_table(conform("knowledge", knowledge(facts, ids), ids), place.table("knowledge"))
    Manifest("knowledge", snapshot.isoformat(), "", {}, {"knowledge": {"sha": file_sha(place.table("knowledge"))}}).write(place.path)
    manifest, made = shop.make("examples", chosen, tmp_path / "home", day)
    examples = shop.rows(made, "example")
    assert len(examples) > 100
    assert set(manifest.rejected) <= {"short_history", "in_evidence"}
    assert all(row["event_at"] > profiles[row["item_id"]]["evidence_newest_at"] for row in examples if row["has_item_knowledge"])
    assert all(leak["fault_count"] == 0 for leak in manifest.figures["leaks"])


def protocols() -> dict[str, list[str]]:
    """Protocol of `make movielens-1m` → what it sets."""
    text = (FOLDER.parent / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.removeprefix("PROTOCOL_").partition(" :=") for line in text.splitlines() if line.startswith("PROTOCOL_")]
    return {name: rest.replace("--set", "").split() for name, _, rest in lines}


def test_every_protocol_of_movielens_1m_loads_and_is_what_its_name_says() -> None:
    found = {name: load(FOLDER / "movielens-1m.toml", overrides) for name, overrides in protocols().items()}
    assert set(found) == {"per_user", "time", "cold_items"}
    assert {name: (s.histories.mode, s.examples.split) for name, s in found.items()} == {
        "per_user": ("per_user", "by_user"),
        "time": ("time", "by_time"),
        "cold_items": ("per_user", "by_user"),
    }
    assert {name: (s.examples.held_out_items, s.adaptor.item_id_dropout) for name, s in found.items()} == {
        "per_user": (0, 0),
        "time": (0, 0),
        "cold_items": (0.15, 0.15),
    }
    assert len({s.scenario.name for s in found.values()}) == 3  # none overwrites another's verdict
    assert found["time"].snapshot_date(dt.date(2003, 2, 28)) == dt.date(2000, 11, 30)
    assert found["per_user"].adaptor.user_fields == ["gender", "age", "occupation"]
