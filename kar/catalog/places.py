"""What the catalogue stands on: which files hold each declared table, the release and the ledger, as SQL over their names.

`files.<table>` has the rows of all nights and the column `date`; `files.newest_<table>` those of the newest night of its stage. A table that
no night has made yet is there without rows, so that a question about it answers "none" and not "no such table".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kar import flow
from kar.llm.ledger.answer import SCHEMA as ANSWER
from kar.llm.ledger.reading import Reading
from kar.release import Release, layout
from kar.settings import Settings
from kar.store import Home, Partition
from kar.tables import TABLES, IdTypes

Named = Callable[[Path], str]
_VECTOR = pa.list_(pa.float32())


@dataclass(frozen=True)
class Base:
    """A view straight over files. `sql(named)` is its SELECT; `named` says how a path is written."""

    files: tuple[Path, ...]
    sql: Callable[[Named], str]


def tables(settings: Settings, home: Home) -> dict[str, Base]:
    """`files.<table>` and `files.newest_<table>` of every stage."""
    ids = IdTypes(settings.scenario.user_id, settings.scenario.item_id)
    found: dict[str, Base] = {}
    for stage in (*flow.FLOW, *flow.ASIDE):
        nights = home.partitions(stage.name)
        for table in stage.writes:
            files = [night.table(table) for night in nights if night.table(table).is_file()]
            found[f"files.{table}"] = _declared(table, files, ids)
            found[f"files.newest_{table}"] = _declared(table, files[-1:] if _is_of(files, nights) else [], ids)
    return found


def _is_of(files: list[Path], nights: list[Partition]) -> bool:
    return bool(files) and files[-1].parent == nights[-1].path


def _declared(table: str, files: list[Path], ids: IdTypes) -> Base:
    columns = {column.name: column.arrow(ids) or _VECTOR for column in TABLES[table].columns}
    if not files:
        return Base((), lambda named: _nothing({**columns, "date": pa.date32()}))

    def dated(named: Named) -> str:
        # a night made by an earlier kar may lack a column; if the newest does, all do
        held = set(pq.read_schema(files[-1]).names)
        absent = [f"null::{sql_type(columns[name])} as {name}" for name in columns if name not in held]
        return f"select {', '.join(['*', *absent])} from {_read(files, named, is_dated=True)}"

    return Base(tuple(files), dated)


def release(opened: Release | None) -> dict[str, Base]:
    """`files.release_user`, `files.release_item`: one row per subject, the newest layer's; `files.served`: one per subject and view."""
    if opened is None:
        held = {"side": "", "view": "", "subject_id": "", "model": "", "origin": ""}
        columns = dict.fromkeys(held, pa.string()) | {"is_missing": pa.bool_(), "evidence_newest_at": layout.TIME, "asked_at": layout.TIME}
        return {
            "files.release_user": Base((), lambda named: _nothing({"user_id": pa.string()})),
            "files.release_item": Base((), lambda named: _nothing({"item_id": pa.string()})),
            "files.served": Base((), lambda named: _nothing(columns)),
        }
    users, items = (_side(opened, side) for side in layout.SIDES)
    selects = [_view(view, side) for side in layout.SIDES for view in opened.views(side)]
    return {
        "files.release_user": users,
        "files.release_item": items,
        "files.served": Base((*users.files, *items.files), lambda named: " union all ".join(selects)),
    }


def _side(opened: Release, side: layout.Side) -> Base:
    entry = opened.manifest["tables"][layout.table_name(side)]
    files = [opened.file(file["path"]) for file in entry["files"]]
    key = layout.id_column(side)
    if "layer" not in {column["name"] for column in entry["schema"]}:
        return Base(tuple(files), lambda named: f"select * from {_read(files, named)}")

    def newest(named: Named) -> str:
        read = _read(files, named)
        # not a window over whole rows: that would hold every vector; this holds ids and layer numbers
        top = f"(select {key}, max(layer) as layer from {read} group by {key})"
        return f"select rows.* exclude (layer, is_removed) from {read} as rows semi join {top} as top using ({key}, layer) where not is_removed"

    return Base(tuple(files), newest)


def _view(view: str, side: layout.Side) -> str:
    parts = ("is_missing", "evidence_newest_at", "asked_at", "origin", "model")
    columns = ", ".join(f'"{layout.column(view, part)}" as {part}' for part in parts)
    return (
        f"select '{side}' as side, '{view}' as view, {layout.id_column(side)}::varchar as subject_id, {columns} from files.release_{side}"
    )


def ledger(home: Home, *, has_rows_of_shards: bool) -> dict[str, Base]:
    """`files.answer`: the parts, and (where `facts.shard_answer` holds them) the rows that still lie in SQLite."""
    files = part_files(home)
    names = ", ".join(ANSWER.names)

    def sql(named: Named) -> str:
        selects = [f"select {names} from {_read(files, named)}"] if files else []
        if has_rows_of_shards:
            # a row that was moved by hand from a copied ledger may lie in both
            known = f" where digest not in (select digest from {_read(files, named)})" if files else ""
            selects.append(f"select {names} from facts.shard_answer{known}")
        return " union all ".join(selects) or _nothing({field.name: field.type for field in ANSWER})

    return {"files.answer": Base(tuple(files), sql)}


def part_files(home: Home) -> list[Path]:
    """The ledger's parts that count now."""
    if not home.ledger.is_dir():
        return []
    with Reading(home.ledger) as reading, reading.moment() as (_, parts):
        return [part.path for part in parts]


def shard_rows(home: Home) -> pa.Table:
    """The rows that no compaction has moved from SQLite to Parquet yet: of a night that is not judged, or of an older kar."""
    tables = [ANSWER.empty_table()]
    if home.ledger.is_dir():
        with Reading(home.ledger) as reading, reading.moment() as (shards, _):
            tables += [part.select(ANSWER.names) for shard in shards for part in shard.stream(ANSWER.names)]
    return pa.concat_tables(tables)


def str_of(path: Path) -> str:
    return str(path)


def _read(files: list[Path], named: Named, *, is_dated: bool = False) -> str:
    listed = ", ".join(quoted(named(path)) for path in files)
    dated = ", hive_partitioning = true, hive_types = {'date': date}" if is_dated else ", hive_partitioning = false"
    return f"read_parquet([{listed}], union_by_name = true{dated})"


def _nothing(columns: dict[str, pa.DataType]) -> str:
    return f"select {', '.join(f'null::{sql_type(kind)} as {name}' for name, kind in columns.items())} where false"


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that our tables use."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_timestamp(kind):
        return "timestamptz"
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
        return "blob"
    return {
        "string": "varchar",
        "bool": "boolean",
        "int64": "bigint",
        "int32": "integer",
        "double": "double",
        "float": "float",
        "date32[day]": "date",
    }[str(kind)]
