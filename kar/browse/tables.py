"""One subject's rows of a night's tables, found by DuckDB over the Parquet files.

Tables are sorted by their keys, so a question for one key reads the row groups that may hold it and no others. Nothing is
kept between questions: the operating system has the files in memory if they are asked for often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from kar.errors import TableError
from kar.store import Home, Partition

_CONFIG: dict[str, str | bool | int | float | list[str]] = {"threads": 2, "memory_limit": "1GB", "enable_external_file_cache": False}


class Tables:
    """Read-only questions to the finished partitions of one scenario. May be asked from several threads.

    DuckDB is held to the scenario's folder: no other file, no network, no extension.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._connection = duckdb.connect(config=_CONFIG)
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute("SET allowed_directories = [$folder]", {"folder": f"{home.path}/"})
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    def of_subject(self, partition: Partition, table: str, side: str, subject_id: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """One subject's rows, of every view of its side, of a table keyed by view and subject_id. None if the night has no such table."""
        where = "view >= $low AND view < $high AND subject_id = $subject_id"
        return self.ask(partition, table, columns, where, {"low": f"{side}.", "high": f"{side}/", "subject_id": subject_id})

    def ask(self, partition: Partition, table: str, columns: Sequence[str], where: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows of one table. `columns` and `where` are our own words; whatever came from elsewhere is in `values`."""
        path = partition.table(table)
        if not partition.exists() or not path.is_file():
            return []
        return self.query(f"SELECT {', '.join(columns)} FROM read_parquet($file) WHERE {where}", values | {"file": str(path)})

    def over_nights(
        self, partitions: Sequence[Partition], table: str, side: str, subject_id: str, columns: Sequence[str]
    ) -> list[dict[str, Any]]:
        """`of_subject` over many nights, each row with its `night` (the partition's folder name)."""
        files = [str(path) for p in partitions if (path := p.table(table)).is_file()]
        if not files:
            return []
        return self.query(
            f"SELECT {', '.join(columns)}, parse_filename(parse_dirpath(filename)) AS night "
            "FROM read_parquet($files, filename = true, union_by_name = true) "
            "WHERE view >= $low AND view < $high AND subject_id = $subject_id",
            {"files": files, "low": f"{side}.", "high": f"{side}/", "subject_id": subject_id},
        )

    def query(self, sql: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows of a SELECT of ours.

        Raises:
            TableError: a file is damaged, of an earlier version, or was replaced while it was read.
        """
        try:
            rows: list[dict[str, Any]] = self._connection.cursor().sql(sql, params=values).to_arrow_table().to_pylist()
        except (duckdb.Error, UnicodeDecodeError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TableError(
                f"a table of {self.home.path} cannot be read: {first}",
                "load the page again (a run may have replaced it just now); if it stays so, run the stage again",
            ) from error
        return rows
