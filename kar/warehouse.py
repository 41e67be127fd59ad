"""The SQL models under warehouse/, run by DuckDB in memory over Parquet files and Arrow tables.

No database file: a writer would lock every other process out of it. A model is one SELECT with a header that says what
it makes (`name`, `grain`, `key`), from what (`reads`) and with which parameters (`takes`, written `$name` in the SQL). A check
is a model that returns bad rows. Prefix = layer: stg_ casts and judges, core_ is in between, report_ counts; a model without prefix makes
the declared table of that name.
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import duckdb
import pyarrow as pa

import kar
from kar.errors import CheckFailed, StageError
from kar.store import Inputs
from kar.tables import IdTypes

FOLDER = Path(kar.__file__).resolve().parent.parent / "warehouse"
_SHOWN_ROWS = 3
_numbers = itertools.count()


@dataclass(frozen=True)
class Model:
    """One SQL file and what its header says."""

    name: str
    grain: str
    key: tuple[str, ...]
    reads: tuple[str, ...]
    takes: tuple[str, ...]
    sql: str
    path: Path


@functools.cache
def models(folder: Path = FOLDER) -> dict[str, Model]:
    """Every model and check below the folder, by name.

    Raises:
        StageError: the folder is not there, or a header lacks a line or names another model.
    """
    paths = [path for path in sorted(folder.glob("*/*.sql")) if path.parent.name not in ("macros", "catalog")]
    if not paths:
        raise StageError(f"there are no SQL models in {folder}", "install kar from its repository: pip install -e .")
    return {path.stem: _model(path) for path in paths}


def _model(path: Path) -> Model:
    sql = path.read_text(encoding="utf-8")
    said: dict[str, str] = {}
    for line in sql.splitlines():
        word, colon, rest = line.removeprefix("-- ").partition(":")
        if not line.startswith("-- ") or not colon or word not in ("name", "grain", "key", "reads", "takes"):
            break
        said[word] = rest.strip()
    absent = {"name", "grain", "key", "reads"} - said.keys()
    if absent or said["name"] != path.stem:
        raise StageError(f"{path}: the header lacks {sorted(absent)} or does not name {path.stem}", "begin it with -- name: … lines")
    split = {word: tuple(part.strip() for part in said.get(word, "").split(",") if part.strip()) for word in ("key", "reads", "takes")}
    return Model(said["name"], said["grain"], split["key"], split["reads"], split["takes"], sql, path)


@functools.cache
def _server(process: int) -> tuple[duckdb.DuckDBPyConnection, tempfile.TemporaryDirectory[str]]:
    """The process's one DuckDB, and the folder that it spills to, which goes when the process ends.

    To start DuckDB costs fifty times what a database more in a running one costs. A forked process starts its own: the
    threads of its parent's are not there.
    """
    spill = tempfile.TemporaryDirectory(prefix="kar-warehouse-")
    return duckdb.connect(":memory:", config={"temp_directory": spill.name}), spill


class Warehouse:
    """An in-memory database with views over what it was given and tables that the models made; use as a context manager.

    Each is alone: none sees another's tables, and they go when it closes. Times are UTC throughout. What does not fit in
    memory spills to a temporary folder.

    Args:
        ids: the scenario's id types; they define the macros `to_user_id`, `to_item_id` and their kin.
        folder: where the models lie.
    """

    def __init__(self, ids: IdTypes | None = None, folder: Path = FOLDER) -> None:
        self.models = models(folder)
        self._name = f"warehouse_{next(_numbers)}"
        self.connection = _server(os.getpid())[0].cursor()
        self.connection.execute(f"attach ':memory:' as {self._name}; use {self._name}")
        self.connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false; set python_enable_replacements = false")
        for side in ("user", "item"):
            id_type = getattr(ids or IdTypes(), side)
            self.connection.execute((folder / "macros" / f"id_{id_type}.sql").read_text(encoding="utf-8").replace("side_", f"{side}_"))
        self.connection.execute((folder / "macros" / "values.sql").read_text(encoding="utf-8"))

    def view(self, name: str, source: Path | pa.Table) -> None:
        """Let models read a Parquet file or an Arrow table under this name; a file is not copied."""
        if isinstance(source, Path):
            self.connection.read_parquet(str(source)).create_view(name)
        else:
            self.connection.register(name, source)

    def read(self, inputs: Inputs, *tables: str) -> None:
        """Let models read declared tables of a stage's inputs, each under its own name."""
        for table in tables:
            path = inputs.path(table)
            if path is None:
                raise StageError(f"stage {inputs.stage.name}: no earlier partition holds {table}")
            self.view(table, path)

    def make(self, *names: str, **parameters: object) -> None:
        """Run models, in the order given, each into a table of its name that later models can read."""
        for name in names:
            model = self.models[name]
            self.connection.execute(f'create table "{name}" as {model.sql}', _taken(model, parameters))

    def run(self, name: str, **parameters: object) -> pa.Table:
        """The rows of one model. Parameters that it does not take are ignored; one it takes and lacks is a StageError."""
        model = self.models[name]
        return self.connection.sql(model.sql, params=_taken(model, parameters)).to_arrow_table()

    def table(self, name: str) -> pa.Table:
        """The rows of a table that `make` made or a view that `view` registered."""
        return self.connection.sql(f'select * from "{name}"').to_arrow_table()

    def count(self, name: str) -> int:
        """Rows of a table or view."""
        return int(self.connection.execute(f'select count(*) from "{name}"').fetchall()[0][0])

    def check(self, *names: str, **parameters: object) -> None:
        """Run checks; each returns the rows that break its claim.

        Raises:
            CheckFailed: a check returned rows; names it, how many, and the first of them.
        """
        for name in names:
            bad = self.run(name, **parameters)
            if bad.num_rows:
                shown = [{key: str(value) for key, value in row.items()} for row in bad.slice(0, _SHOWN_ROWS).to_pylist()]
                raise CheckFailed(
                    f"{name}: {bad.num_rows} bad rows ({self.models[name].grain}); the first: {shown}",
                    "this is a fault in kar or in a table edited by hand: run the stage that made the table again, else report it",
                )

    def close(self) -> None:
        self.connection.close()
        _server(os.getpid())[0].execute(f"detach database if exists {self._name}")

    def __enter__(self) -> Warehouse:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _taken(model: Model, parameters: dict[str, object]) -> dict[str, object] | None:
    """Those of the parameters that the model takes. Raises StageError if it takes one that is not given."""
    lacking = [name for name in model.takes if name not in parameters]
    if lacking:
        raise StageError(f"model {model.name} takes {', '.join(model.takes)}; it was not given {', '.join(lacking)}")
    return {name: parameters[name] for name in model.takes} or None
