"""`kar catalog`: the views as a DuckDB file, for notebooks, DBeaver and the duckdb command.

The file names Parquet files and copies none of their rows: the nights, the release and the ledger's parts that there were when it was
written. What came later is seen after writing it again; the release in it can be read until `kar release collect` takes its files.
Paths are absolute, so that it may be opened from anywhere on this machine; or, with `is_relative`, relative to the file's own folder: then
the folder and the home may be moved or mounted together, and DuckDB must be started in that folder.
Answers that still lie in SQLite are left out: DuckDB cannot read those by itself. `kar sql` shows them.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import duckdb

from kar.catalog import building
from kar.catalog.library import views
from kar.errors import CatalogError
from kar.settings import Settings
from kar.store import Home


@dataclass(frozen=True)
class Written:
    """What was written: how many analysts' views over how many files."""

    path: Path
    views: int
    files: int


def write(settings: Settings, home: Home, path: Path, *, is_relative: bool = False) -> Written:
    """Write the catalogue, in one step: readers see the old file or the new one.

    Raises:
        CatalogError: the file is no catalogue of ours and would be lost, is open elsewhere, or cannot be written.
        ReleaseError, LedgerError: what it would show is damaged.
    """
    path = path.resolve()
    _refuse_stranger(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # DuckDB looks at a view's files when it makes the view, and takes relative paths from the working directory
        with contextlib.chdir(path.parent if is_relative else Path.cwd()), duckdb.connect(str(partial)) as connection:
            connection.execute("set python_enable_replacements = false")
            named = (lambda file: os.path.relpath(file, path.parent)) if is_relative else str
            files = building.build(connection, settings, home, building.wanted(None), named, has_shards=False)
            connection.execute("checkpoint")
        partial.replace(path)
    except (OSError, duckdb.IOException) as error:
        raise CatalogError(f"{path} cannot be written: {error}", "make room, or name another file with --out") from error
    finally:
        with contextlib.suppress(OSError):  # gone when all went well; its folder may never have been there
            partial.unlink()
    return Written(path, len(views()), len(files))


def _refuse_stranger(path: Path) -> None:
    """A file that is there is replaced only if it is a catalogue."""
    if not path.exists():
        return
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            held = connection.execute("select count(*) from duckdb_tables() where schema_name = 'facts' and table_name = 'view'").fetchall()
    except duckdb.Error as error:
        raise CatalogError(f"{path} is there and is no catalogue: {str(error).splitlines()[0]}", "name another file with --out") from error
    if held != [(1,)]:
        raise CatalogError(f"{path} is a DuckDB file of somebody else", "name another file with --out")
