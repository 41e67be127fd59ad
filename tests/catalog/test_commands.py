"""`kar sql`, `kar catalog` and `kar release export` as they are typed."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from kar.settings import Settings
from kar.store import Home
from tests.catalog.filled import OLDEST_USER
from tests.cli.in_process import kar

ROOT = Path(__file__).parents[2]
SETTINGS = """
[scenario]
name = "fake-films"
domain = "movies"
[sources]
rating_range = [1, 5]
interactions = {path = "x.csv", format = "csv", columns = {}}
[llm]
model = "smollm2-135m-instruct"
usd_per_million_prompt_tokens = 1.0
usd_per_million_completion_tokens = 10.0
"""


@pytest.fixture
def desk(shop: tuple[Settings, Home], tmp_path: Path) -> Path:
    """A folder to type in, with settings and the filled home."""
    (tmp_path / "films.toml").write_text(SETTINGS)
    (tmp_path / "home").symlink_to(shop[1].root)
    return tmp_path


def test_a_question_is_answered_from_the_shell(desk: Path) -> None:
    done = kar(desk, "sql", "-s", "films.toml", "--ask", "oldest_of_the_busiest", "--with", "rows=1000", "-f", "json")
    assert done.returncode == 0, done.stderr
    held = [row for row in map(json.loads, done.stdout.splitlines()) if not row["is_missing"]]
    assert held[0]["subject_id"] == str(OLDEST_USER)
    done = kar(desk, "sql", "-s", "films.toml", "--ask", "lineage", "--with", "subject=4", "--format", "records")
    assert "an answer about 4" in done.stdout


def test_a_statement_comes_from_the_command_line_or_from_stdin(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "select count(*) as n from users where user_id > $least::int"
    assert "24" in kar(desk, "sql", "-s", "films.toml", asked, "--with", "least=0").stdout
    monkeypatch.setattr("sys.stdin", io.StringIO(asked))
    assert "(1 row)" in kar(desk, "sql", "-s", "films.toml", "-", "--with", "least=20").stdout


def test_the_documented_questions_are_listed(desk: Path) -> None:
    shown = kar(desk, "sql", "-s", "films.toml", "--questions").stdout
    assert len(shown.splitlines()) == 5
    assert "(--with subject side=user)" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["drop table users"], 1, "kar: the catalogue is read-only: DROP is refused\n  do: "),
        (["select nothing from users"], 1, "kar: Binder Error: "),
        (["--ask", "why"], 1, "there is no question 'why'\n  do: the questions are about, "),
        (["--ask", "about"], 1, "question about: it was not told subject"),
        ([], 2, "give one statement, or a question"),
        (["select 1", "--ask", "about"], 2, "give one statement, or a question"),
        (["select 1", "--with", "novalue"], 2, "is not NAME=VALUE"),
    ],
)
def test_what_is_wrong_ends_with_its_exit_code_and_one_paragraph(desk: Path, arguments: list[str], code: int, words: str) -> None:
    done = kar(desk, "sql", "-s", "films.toml", *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_catalogue_is_written_and_opens(desk: Path) -> None:
    done = kar(desk, "catalog", "-s", "films.toml", "--out", "films.duckdb")
    assert done.returncode == 0, done.stderr
    with duckdb.connect(str(desk / "films.duckdb"), read_only=True) as connection:
        assert connection.execute("select count(*) from release_knowledge").fetchall() == [(24 + 18,)]


def test_a_release_is_exported_by_name_and_by_side(desk: Path) -> None:
    done = kar(desk, "release", "export", "-s", "films.toml", "--out", "plain", "--side", "item", "--files", "20")
    assert done.returncode == 0, done.stderr
    assert "18 items in 18 files" in done.stdout
    assert pq.read_table(desk / "plain" / "item_knowledge").num_rows == 18
    again = kar(desk, "release", "export", "-s", "films.toml", "--out", "plain")
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    assert kar(desk, "release", "export", "-s", "films.toml", "--out", "x", "--release", "nowhere").returncode == 1


def test_every_statement_that_the_readme_shows_runs(desk: Path) -> None:
    statements = re.findall(r'^kar sql "([^"]+)"', (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(statements) == 3
    for statement in statements:
        done = kar(desk, "sql", "-s", "films.toml", statement)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) >= 3
