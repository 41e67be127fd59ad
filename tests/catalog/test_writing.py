"""The catalogue as a file: the same views for any DuckDB, no text of anyone, and nobody else's file lost."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import duckdb
import pytest

from kar.catalog import views, write
from kar.errors import CatalogError
from kar.settings import Settings
from kar.store import Home
from tests.catalog.test_views import ask
from tests.page import fake_home

Shop = tuple[Settings, Home]


@pytest.fixture(scope="module")
def file(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(*shop, tmp_path_factory.mktemp("file") / "shop.duckdb").path


def rows(file: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(file), read_only=True) as connection:
        found: list[tuple[object, ...]] = connection.execute(sql).fetchall()
        return found


def test_the_file_has_every_view_and_each_gives_what_kar_sql_gives(shop: Shop, file: Path) -> None:
    same = [name for name in views() if name not in ("answers", "cost")]  # answers that still lie in SQLite are kar sql's alone
    counts = " union all ".join(f"select '{name}' as name, count(*) as n from {name}" for name in same)
    assert sorted(rows(file, counts)) == sorted((row["name"], row["n"]) for row in ask(shop, counts))
    in_parquet = ask(shop, "select count(*) as n from answers where template_version like 'user.%'")[0]["n"]
    assert rows(file, "select count(*) from answers") == [(in_parquet,)]


def test_the_file_holds_views_and_no_text_of_anyone(shop: Shop, file: Path) -> None:
    text = rows(file, "select text from knowledge where side = 'user' limit 1")[0][0]
    title = rows(file, "select title from items where item_id = 2")[0][0]
    held = file.read_bytes()
    for words in (str(text)[:40], str(title), "an answer about 4"):
        assert words.encode() not in held
    assert b"user_knowledge" in held


def test_a_night_that_came_later_is_seen_once_the_file_is_written_again(shop: Shop, tmp_path: Path) -> None:
    home = Home(tmp_path, shop[1].scenario)
    file = write(shop[0], home, tmp_path / "shop.duckdb").path
    assert rows(file, "select count(*) from users") == [(0,)]
    shutil.copytree(shop[1].path, home.path)
    assert rows(file, "select count(*) from users") == [(0,)]
    assert write(shop[0], home, file).files > 20
    assert rows(file, "select count(*) from users") == [(fake_home.Plan().users,)]


def test_relative_paths_let_file_and_home_move_together(shop: Shop, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(shop[1].path, here / "home" / shop[1].scenario)
    write(shop[0], Home(here / "home", shop[1].scenario), here / "shop.duckdb", is_relative=True)
    here.rename(tmp_path / "there")
    with contextlib.chdir(tmp_path / "there"):
        assert rows(Path("shop.duckdb"), "select count(*) from users") == [(24,)]
        assert rows(Path("shop.duckdb"), "select count(*) from release_user") == [(24,)]


def test_a_file_of_somebody_else_is_never_replaced(shop: Shop, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.duckdb"
    with duckdb.connect(str(theirs)) as connection:
        connection.execute("create table thesis as select 'years of work' as text")
    with pytest.raises(CatalogError, match=r"of somebody else"):
        write(*shop, theirs)
    assert rows(theirs, "select text from thesis") == [("years of work",)]
    (tmp_path / "notes.txt").write_text("years of notes")
    with pytest.raises(CatalogError, match=r"is no catalogue"):
        write(*shop, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "years of notes"


def test_what_cannot_be_written_is_named_and_leaves_nothing(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where a folder should be")
    with pytest.raises(CatalogError, match=r"cannot be written"):
        write(*shop, tmp_path / "blocked" / "shop.duckdb")
    assert [path.name for path in tmp_path.iterdir()] == ["blocked"]
