"""`kar.release` needs pyarrow, numpy and the standard library; nothing else of what is installed is even looked at."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy
import pyarrow
import pytest

from kar.release.publish import Published
from tests.release import world

REPOSITORY = Path(__file__).resolve().parents[2]

_READ = """
release = kar.release.open(sys.argv[1], verify=True)
vectors, is_missing = release.vectors("user", "user.preference", [103])
assert vectors[0, 0] == 1.0 and not is_missing[0]
import pyarrow as pa, datetime as dt
when = pa.array([dt.datetime(2026, 12, 1, tzinfo=dt.UTC)], pa.timestamp("us", tz="UTC"))
joined = kar.release.join(sys.argv[1], pa.table({"user_id": [103], "item_id": ["i03"], "event_at": when}))
assert joined.vectors("item", "item.facts")[0][0, 0] == 3.0
kar.release.list_releases(sys.argv[1])
assert kar.release.lookup(release, "item", ["i03", "none"])["facts_is_missing"].to_pylist() == [False, True]
import pathlib, tempfile, pyarrow.parquet as pq
with tempfile.TemporaryDirectory() as folder:
    examples, out = pathlib.Path(folder, "e.parquet"), pathlib.Path(folder, "out.parquet")
    pq.write_table(pa.table({"user_id": [103], "item_id": ["i03"], "event_at": when}), examples)
    assert kar.release.join_files(sys.argv[1], examples, out).rows == 1
    assert pq.read_table(out)["user_preference_adapted_vector"][0][0].as_py() == 1.0
    (batch,) = kar.release.Stream(sys.argv[1], examples, columns=["user_id"], seed=1)
    assert batch.vectors["item.facts"][0, 0] == 3.0 and batch.columns["user_id"].tolist() == [103]
rows = kar.release.Rows(joined)
assert rows[0].vectors["item.facts"][0, 0] == 3.0
assert "kar_features(examples)" in kar.release.duckdb_macro(sys.argv[1])
assert not {"torch", "duckdb"} & set(sys.modules)
"""

_BLOCKED = """
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names | {"kar", "pyarrow", "numpy"} and not top.startswith("_sysconfigdata"):
            asked.append(name)
            raise ModuleNotFoundError(name, name=name)
asked = []
sys.meta_path.insert(0, Only())
import kar.release
"""


def _run(python: str, script: str, *args: object, **environment: str) -> str:
    done = subprocess.run(
        [python, "-c", script, *map(str, args)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_opening_joining_and_listing_work_when_every_other_import_is_blocked(tmp_path: Path, night: Published) -> None:
    _run(sys.executable, _BLOCKED + _READ, tmp_path)


def test_only_the_release_room_and_the_errors_of_kar_are_imported(tmp_path: Path, night: Published) -> None:
    script = "import sys, kar.release, kar.release.publish\n" + _READ + "print(*sorted(m for m in sys.modules if m.split('.')[0] == 'kar'))"
    modules = _run(sys.executable, script, tmp_path).split()
    assert "kar.release.reader" in modules
    assert [m for m in modules if m not in ("kar", "kar.errors") and not m.startswith("kar.release")] == []


@pytest.mark.slow
def test_a_bare_environment_with_pyarrow_and_numpy_alone_reads_a_release(tmp_path: Path) -> None:
    """A new venv without index: the two libraries are linked into it from this one, nothing else is there."""
    world.publish_day(tmp_path / "published", 0)
    venv.create(tmp_path / "bare", with_pip=False)
    packages = next((tmp_path / "bare").glob("lib/python*/site-packages"))
    for library in (pyarrow, numpy):
        home = Path(library.__file__).parent
        (packages / home.name).symlink_to(home)
        if (libraries := home.with_name(f"{home.name}.libs")).exists():
            (packages / libraries.name).symlink_to(libraries)
    script = "import sys, kar.release\n" + _READ + "import importlib.util\nprint(importlib.util.find_spec('duckdb'))"
    assert _run(str(tmp_path / "bare/bin/python"), script, tmp_path / "published", PYTHONPATH=str(REPOSITORY)) == "None\n"
