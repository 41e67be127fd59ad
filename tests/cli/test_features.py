"""`kar features` as its user meets it: a file in, a file out, or a script for DuckDB; what is wrong is said in one paragraph."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.cli.in_process import kar
from tests.release import world


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two nights, published as scenario `small` would, its settings, and three examples of which one came before them."""
    for number in range(2):
        world.publish_day(tmp_path / "home/small/published", number)
    table = world.examples([world.day(0), world.day(1.5), world.day(9)], [103, 103, 4711], ["i03"] * 3)
    pq.write_table(table, tmp_path / "e.parquet")
    (tmp_path / "small.toml").write_text(
        '[scenario]\nname = "small"\ndomain = "movies"\n[sources.interactions]\npath = "i.parquet"\nformat = "parquet"\ncolumns = {}\n'
    )
    return tmp_path


def test_examples_come_back_with_their_features_and_what_became_of_them_is_said(folder: Path) -> None:
    done = kar(folder, "features", "join", "-s", "small.toml", "--examples", "e.parquet", "--out", "out.parquet")
    assert done.returncode == 0, done.stderr
    assert "wrote out.parquet: 3 examples, 1 of them before the first release" in done.stdout
    assert "user.preference  33.3% with knowledge" in done.stdout
    assert [row[0] for row in pq.read_table(folder / "out.parquet")["user_preference_adapted_vector"].to_pylist()] == [0.5, 1.0, 0.5]
    again = kar(folder, "features", "join", "-s", "small.toml", "--examples", "e.parquet", "--out", "out.parquet")
    assert (again.returncode, again.stderr) == (1, "kar: out.parquet exists already\n  do: name another file, or remove it\n")


def test_row_numbers_and_parts_are_written_where_asked_for(folder: Path) -> None:
    done = kar(
        folder, "features", "join", "--published", "home/small/published", "--examples", "e.parquet", "--out", "parts", "--rows",
        "--files", "3", "--clock", "evidence", "--view", "user.preference",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables = [pq.read_table(path) for path in sorted((folder / "parts").iterdir())]
    assert [table["user_row"].to_pylist() for table in tables] == [[1], [1], [-1]]
    assert [table["user_preference_is_missing"].to_pylist() for table in tables] == [[True], [False], [True]]


def test_the_script_for_duckdb_runs_as_it_is_printed(folder: Path) -> None:
    done = kar(folder, "features", "sql", "-s", "small.toml")
    assert done.returncode == 0, done.stderr
    with duckdb.connect() as connection:
        connection.execute(done.stdout)
        connection.execute(f"create view mine as from '{folder}/e.parquet'")
        found = connection.execute("select user_preference_adapted_vector[1] from kar_features('mine') order by event_at").fetchall()
    assert found == [(0.5,), (1.0,), (0.5,)]


def test_without_settings_and_folder_the_command_says_what_it_needs(folder: Path) -> None:
    done = kar(folder, "features", "sql")
    assert done.returncode == 2
    assert "--published FOLDER" in done.stderr
