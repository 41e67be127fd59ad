"""Puts the views into a DuckDB database: facts as tables, files as views, and the analysts' views over both."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pyarrow as pa

from kar.catalog import places
from kar.catalog.facts import facts
from kar.catalog.library import views
from kar.errors import CatalogError
from kar.release import Release, pointer, remote
from kar.release import open as open_release
from kar.settings import Settings
from kar.store import Home

_LOOKS_ABOUT = re.compile(r"\b(show|describe|summarize|information_schema|duckdb_\w+|pg_\w+|sqlite_master)\b", re.IGNORECASE)
_ANSWER = "files.answer"
_MEND = "a file is damaged or was made by another version: kar status shows the nights, kar release verify the release"


def current_release(home: Home) -> Release | None:
    """The release that is served now; None before the first. Raises ReleaseError for a damaged one."""
    return open_release(home.releases_at) if remote.looked(home.releases_at, pointer.maybe_current) else None


def wanted(sql: str | None) -> set[str]:
    """The relations that a statement may mean, and what they stand on: more rather than fewer. None: all there are."""
    library = views()
    if sql is None or _LOOKS_ABOUT.search(sql):
        return {*library, "*"}
    words = set(re.findall(r"\w+", sql.lower()))
    found = {name for name in library if name in words} | {f"files.{word}" for word in words} | {f"facts.{word}" for word in words}
    for name in reversed(library):  # those that are read come before their readers
        if name in found:
            found.update(library[name].reads)
    return found


def build(
    connection: duckdb.DuckDBPyConnection, settings: Settings, home: Home, names: set[str], named: places.Named, *, has_shards: bool
) -> list[Path]:
    """Make the views.

    Args:
        connection: to an empty database.
        names: which; as `wanted` gives them.
        named: how a path is written in a view.
        has_shards: copy the ledger's rows that still lie in SQLite, which DuckDB cannot read, into the database.

    Returns:
        every file that the views read.

    Raises:
        CatalogError: a file cannot be read as the table that it should be.
    """
    connection.execute("create schema files; create schema facts")
    is_all = "*" in names
    for name, made in facts(settings, home).items():
        if is_all or f"facts.{name}" in names:
            _keep(connection, f"facts.{name}", made())
    needs_ledger = is_all or _ANSWER in names
    if needs_ledger and has_shards:
        _keep(connection, "facts.shard_answer", places.shard_rows(home))
    needs_release = is_all or any(name.startswith(("files.release_", "files.served")) for name in names)
    bases = {
        **places.tables(settings, home),
        **(places.ledger(home, has_rows_of_shards=has_shards) if needs_ledger else {}),
        **places.release(current_release(home) if needs_release else None),
    }
    chosen = {name: base for name, base in bases.items() if is_all or name in names}
    if "files.served" in chosen:
        chosen = {name: bases[name] for name in ("files.release_user", "files.release_item")} | chosen
    for name, base in chosen.items():
        try:
            _view(connection, name, base.sql(named))
        except (pa.ArrowException, OSError) as error:
            raise CatalogError(f"{base.files[-1]} cannot be read: {error}", _MEND) from error
    for name, view in views().items():
        if name in names:
            _view(connection, name, view.sql)
    return sorted({path for base in chosen.values() for path in base.files})


def _keep(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    connection.register("_arrow", table)
    connection.execute(f"create table {name} as select * from _arrow")
    connection.unregister("_arrow")


def _view(connection: duckdb.DuckDBPyConnection, name: str, sql: str) -> None:
    try:
        connection.execute(f"create view {name} as {sql}")
    except duckdb.Error as error:
        raise CatalogError(
            f"the view {name} cannot be made: {str(error).splitlines()[0]}",
            _MEND,
        ) from error
