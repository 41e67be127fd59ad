"""The runner of a benchmark's sections: it keeps what was measured before a section fails, and says how loaded the machine was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import sections
from benchmarks.table import Row


def _counted(count: int) -> Iterator[Row]:
    for number in range(count):
        yield Row("rows", "kar", number, "count")


def _failing(count: int) -> Iterator[Row]:
    yield Row("before it failed", "kar", count, "count")
    raise RuntimeError("no disk")


_SECTIONS = {"counted": _counted, "failing": _failing}


def test_all_sections_run_unless_some_are_named_and_each_is_followed_by_the_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    parser = sections.parser(__doc__, list(_SECTIONS))
    assert parser.parse_args([]).only == ["counted", "failing"]
    assert sections.parser(__doc__, list(_SECTIONS), ["failing"]).parse_args([]).only == ["failing"]
    asked = parser.parse_args(["--only", "counted", "counted", "--out", str(out)])
    sections.run(_SECTIONS, asked.only, 2, asked.out)
    names = [row["name"] for row in json.loads(out.read_text())]
    assert names == ["rows", "rows", "load average when counted began"] * 2
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(names)


def test_a_section_that_fails_loses_no_row_that_came_before(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no disk"):
        sections.run(_SECTIONS, ["counted", "failing"], 1, tmp_path / "rows.json")
    assert [row["name"] for row in json.loads((tmp_path / "rows.json").read_text())][-1] == "before it failed"
