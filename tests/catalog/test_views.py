"""The views: each can be asked, before the first night too, and says what the files below it say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kar.release
from kar import flow
from kar.catalog import Asking, places, views
from kar.release import Release
from kar.settings import Settings
from kar.store import Home
from tests.catalog.filled import DEAREST_ITEM
from tests.page import fake_home

Shop = tuple[Settings, Home]


def ask(shop: Shop, sql: str, **parameters: str) -> list[dict[str, Any]]:
    with Asking(*shop, sql) as asking:
        answered = asking.answer(parameters)
        return [row for batch in answered.batches for row in batch.to_pylist()]


def test_there_are_views_for_what_analysts_ask_about() -> None:
    wanted = {
        "users",
        "items",
        "knowledge",
        "answers",
        "requests",
        "refused",
        "vectors",
        "releases",
        "release_user",
        "release_item",
        "cost",
    }
    assert wanted <= set(views())


@pytest.mark.parametrize("name", [*views(), "files.metric", "files.newest_user", "facts.price"])
def test_every_view_can_be_asked_before_the_first_night_and_after_it(shop: Shop, empty: Shop, name: str) -> None:
    has_rows_at_once = {"catalogue", "facts.price"}
    assert bool(ask(empty, f"select * from {name}")) == (name in has_rows_at_once)
    assert ask(shop, f"select * from {name} limit 1")


def test_the_catalogue_lists_every_view_and_what_it_holds(shop: Shop) -> None:
    assert {row["name"]: row["holds"] for row in ask(shop, "from catalogue")} == {view.name: view.what for view in views().values()}


@pytest.mark.parametrize("stage", [*flow.FLOW[:-1]], ids=lambda stage: stage.name)
def test_a_stage_s_tables_are_there_under_their_own_names_with_the_night_s_date(shop: Shop, stage: flow.Stage) -> None:
    counts = " union all ".join(
        f"select '{table}' as name, count(*) as n, any_value(date) as date from files.{table}" for table in stage.writes
    )
    partition = shop[1].partition(stage.name, fake_home.DATE)
    rows = {table: pq.read_metadata(partition.table(table)).num_rows for table in stage.writes}
    assert {row["name"]: (row["n"], row["date"]) for row in ask(shop, counts)} == {
        table: (count, fake_home.DATE if count else None) for table, count in rows.items()
    }


def test_answers_are_those_in_parquet_and_those_still_in_sqlite_each_once_with_their_price(shop: Shop) -> None:
    asked = pq.read_metadata(shop[1].partition("prompts", fake_home.DATE).table("request")).num_rows
    rows = ask(shop, "select * from answers")
    assert len(places.part_files(shop[1])) == 1
    assert len(rows) == asked + 1  # one failed, and was asked again
    bodies = {row["body"] for row in rows}
    assert len(bodies) == asked
    (failed,) = [row for row in rows if row["status"] == "exhausted"]
    assert failed["usd"] == pytest.approx((400 - 100 + 400) / 1e6 + 100 / 1e6)
    good = next(row for row in rows if row["text"] == f"an answer about {DEAREST_ITEM}" and row["status"] == "ok")
    assert good["usd"] == pytest.approx((400 * 1.0 + 108 * 10.0) / 1e6)


def test_cost_adds_up_to_the_ledger(shop: Shop) -> None:
    cost = ask(shop, "select sum(usd) as usd, sum(request_count) as requests from cost")[0]
    assert cost["usd"] == pytest.approx(ask(shop, "select sum(usd) as usd from answers")[0]["usd"])
    assert cost["requests"] == ask(shop, "select count(*) as n from answers")[0]["n"]


def test_the_release_s_rows_are_those_that_its_reader_gives(shop: Shop) -> None:
    release = kar.release.open(shop[1].published)
    rows = ask(shop, "select user_id, preference_is_missing, preference_adapted_vector as v from release_user order by user_id")
    assert [row["user_id"] for row in rows] == release.ids("user").to_pylist()
    assert [row["preference_is_missing"] for row in rows] == release.is_missing("user", "user.preference").tolist()
    assert [row["v"][0] for row in rows] == [float(v[0]) for v in release.vectors("user", "user.preference", release.ids("user"))[0]]


def test_of_a_row_in_several_layers_the_newest_counts_and_a_removed_one_is_gone(tmp_path: Path) -> None:
    schema = [{"name": name, "type": "", "nullable": False} for name in ("user_id", "v", "layer", "is_removed")]
    base = {"user_id": [1, 2, 3], "v": [1.0, 2.0, 3.0], "layer": [0, 0, 0], "is_removed": [False] * 3}
    later = {"user_id": [2, 3, 4], "v": [20.0, 30.0, 40.0], "layer": [1, 1, 1], "is_removed": [False, True, False]}
    again = {"user_id": [3, 4], "v": [300.0, 0.0], "layer": [2, 2], "is_removed": [False, True]}
    files = []
    for number, rows in enumerate((base, later, again)):
        pq.write_table(pa.table(rows), tmp_path / f"part-00-{number}.parquet")
        files.append({"path": f"part-00-{number}.parquet"})
    release = Release(tmp_path, {"release": "r", "tables": {"user_knowledge": {"files": files, "schema": schema}}})
    base_view = places._side(release, "user")
    import duckdb

    with duckdb.connect() as connection:
        assert connection.execute(f"from ({base_view.sql(str)}) order by user_id").fetchall() == [(1, 1.0), (2, 20.0), (3, 300.0)]


def test_a_text_of_the_release_stands_beside_its_vector_with_its_age(shop: Shop) -> None:
    rows = ask(shop, "select * from release_knowledge where side = 'user' and not is_missing")
    texts = {row["subject_id"]: row["text"] for row in ask(shop, "select * from knowledge where side = 'user'")}
    assert {row["subject_id"]: row["text"] for row in rows} == texts
    assert {row["age_days"] for row in rows if row["subject_id"] == "4"} == {19}  # asked on 1 November, published on the 20th


def test_a_view_says_first_what_others_read(shop: Shop) -> None:
    order = list(views())
    for name, view in views().items():
        assert all(order.index(read) < order.index(name) for read in view.reads if read in views())


def test_a_release_says_what_share_of_the_active_it_covers_and_which_checks_it_failed(shop: Shop, tmp_path: Path) -> None:
    from kar.release.publish import publish
    from kar.release.verdicts import GateVerdict
    from tests.release import world

    home = Home(tmp_path, shop[1].scenario)
    verdicts = (GateVerdict("rows", 12.0, 10.0, True, "enough"), GateVerdict("norm item.facts", 9.0, 2.0, False, "too long"))
    publish(home.published, world.sides(), world.facts(), gate=lambda new, before: verdicts)
    (row,) = ask((shop[0], home), "select is_current, failed_checks, user_covered_share, user_covered_active_share from releases")
    assert row == {
        "is_current": False,
        "failed_checks": ["norm item.facts"],
        "user_covered_share": pytest.approx(10 / 12),
        "user_covered_active_share": None,
    }
