"""What lies where in a release, under which name and type. Names only; nothing here opens a file.

    published/CURRENT                                     which release is served, and which were served since when
    published/releases/<id>/manifest.json                 binds everything below by digest
    published/releases/<id>/user_knowledge/part-0.parquet …   sorted by user_id; one row per user of the sources
    published/releases/<id>/item_knowledge/part-0.parquet …   sorted by item_id; one row per item of the sources
    published/releases/<id>/users.<v>.adapted.npy         the same floats as the Parquet column; row n = row n of the table
    published/releases/<id>/stats.json                    norms, effective rank, cosine, missing share

A view `user.preference` gives the columns `preference_adapted_vector`, `preference_is_missing`, …; one of its factors,
`user.preference:mood`, gives `preference_mood_adapted_vector`, …
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from kar.errors import ReleaseError

Side = Literal["user", "item"]
Kind = Literal["adapted", "knowledge"]
SIDES: tuple[Side, ...] = ("user", "item")
KINDS: tuple[Kind, ...] = ("adapted", "knowledge")

MANIFEST = "manifest.json"
STATS = "stats.json"
ROW_GROUP = 131_072
ROWS_PER_PART = 8 * ROW_GROUP
TIME = pa.timestamp("us", tz="UTC")
_VIEW = re.compile(r"^(user|item)\.([a-z0-9_]+)(?::[a-z0-9_]+)?$")


@dataclass(frozen=True)
class Widths:
    """Floats per vector of one view: `knowledge` as the encoder writes, `adapted` as the adaptor does."""

    adapted: int
    knowledge: int


def releases_folder(published: Path) -> Path:
    return published / "releases"


def current_path(published: Path) -> Path:
    return published / "CURRENT"


def table_name(side: Side) -> str:
    return f"{side}_knowledge"


def part_name(side: Side, number: int) -> str:
    return f"{table_name(side)}/part-{number}.parquet"


def id_column(side: Side) -> str:
    return f"{side}_id"


def matrix_name(view: str, kind: Kind) -> str:
    return f"{side_of(view)}s.{short(view)}.{kind}.npy"


def side_of(view: str) -> Side:
    """The side a view is about. Raises ReleaseError for a name that is no view or cannot be a column name."""
    match = _VIEW.match(view)
    if match is None:
        raise ReleaseError(
            f"{view!r} cannot be a published view",
            "name views user.<name> or item.<name>, or one factor, item.<name>:<factor>; names of a-z, 0-9 and _",
        )
    return "user" if match.group(1) == "user" else "item"


def short(view: str) -> str:
    """The part of a view's name after the dot: what its columns and files begin with. No colon: not every file system takes one."""
    return view.split(".", 1)[1].replace(":", "_")


def whole(view: str) -> str:
    """The view that a factor belongs to: item.facts:mood → item.facts; a view that is no factor's is whole itself."""
    return view.partition(":")[0]


def column(view: str, part: str) -> str:
    return f"{short(view)}_{part}"


def vector_column(view: str, kind: Kind) -> str:
    return column(view, f"{kind}_vector")


def vector_type(width: int) -> pa.DataType:
    return pa.list_(pa.field("element", pa.float32(), nullable=False), width)


def schema(side: Side, id_type: pa.DataType, views: dict[str, Widths]) -> pa.Schema:
    """The columns of one side's table, views in the order given.

    Raises:
        ReleaseError: two views would write the same column.
    """
    fields = [pa.field(id_column(side), id_type, nullable=False)]
    for view, widths in views.items():
        fields += [
            pa.field(column(view, "is_missing"), pa.bool_(), nullable=False),
            pa.field(vector_column(view, "adapted"), vector_type(widths.adapted), nullable=False),
            pa.field(vector_column(view, "knowledge"), vector_type(widths.knowledge), nullable=False),
            pa.field(column(view, "evidence_newest_at"), TIME),
            pa.field(column(view, "asked_at"), TIME),
            pa.field(column(view, "origin"), pa.string()),
            pa.field(column(view, "model"), pa.string()),
        ]
    names = [field.name for field in fields]
    if len(set(names)) != len(names):
        raise ReleaseError(f"views {list(views)} would write the same column twice: {sorted({n for n in names if names.count(n) > 1})}")
    return pa.schema(fields)


def plain_schema(columns: pa.Schema) -> list[dict[str, str | bool]]:
    """A schema as the manifest shows it."""
    return [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in columns]
