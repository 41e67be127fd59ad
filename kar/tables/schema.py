"""What a declared table is: its columns, their types and units, its key and grain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

IdType = Literal["int", "string"]

_PLAIN: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "float64": pa.float64(),
    "float32": pa.float32(),
    "bool": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
    "list<string>": pa.list_(pa.string()),
    "list<float64>": pa.list_(pa.float64()),
    "list<time>": pa.list_(pa.timestamp("us", tz="UTC")),
}


@dataclass(frozen=True)
class IdTypes:
    """How the scenario writes its ids."""

    user: IdType = "int"
    item: IdType = "int"

    def arrow(self, side: Literal["user", "item"]) -> pa.DataType:
        return pa.int64() if getattr(self, side) == "int" else pa.string()


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        name: as in the file.
        type: a plain type name, `user_id`, `item_id`, `list<item_id>`, or `vector` (fixed_size_list<float32 not null>,
            the width is the file's own).
        meaning: one line, with the unit.
        is_nullable: whether null may occur; what null means belongs into `meaning`.
    """

    name: str
    type: str
    meaning: str
    is_nullable: bool = False

    def arrow(self, ids: IdTypes) -> pa.DataType | None:
        """The Arrow type; None for `vector`, whose width only the file knows."""
        if self.type == "vector":
            return None
        if self.type in ("user_id", "item_id"):
            return ids.arrow("user" if self.type == "user_id" else "item")
        if self.type == "list<item_id>":
            return pa.list_(ids.arrow("item"))
        return _PLAIN[self.type]


@dataclass(frozen=True)
class Table:
    """One declared table.

    Args:
        name: the file is `<name>.parquet` in its stage's partition.
        grain: what one row is.
        key: the columns that make a row unique; also the sort order of the file, so that equal rows are equal bytes.
        columns: in file order.
        row_group_rows: rows of a Parquet row group; fewer where rows are long, so that a reader holds little at a time.
    """

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    row_group_rows: int = 16_384

    def schema(self, ids: IdTypes) -> pa.Schema:
        """The Arrow schema. Not for tables with a `vector`, whose width only the file knows."""
        return pa.schema([pa.field(c.name, c.arrow(ids), nullable=c.is_nullable) for c in self.columns])

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]
