"""What must be known of the subjects before anything of them goes: their requests, their words, and that they are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import flow
from kar.errors import StageError
from kar.forget.quotes import ANSWERED, WRITTEN, Quotes
from kar.forget.subjects import SIDES, Subjects
from kar.llm.ledger import look_up
from kar.store import Home, Manifest, Partition
from kar.store.forgotten import Side
from kar.tables import TABLES
from kar.text.clean import TEXT_CHARS, clean

STAGES = tuple(stage.name for stage in flow.EVERY)
_KEYED = ("plan", "request", "knowledge", "refused")
_TEXTS = {"knowledge": ("text",), "factor_knowledge": ("text",), "refused": ("answer",)}


@dataclass
class Gathered:
    """What is known of the subjects.

    Args:
        met: side → ids of them that a table holds.
        keys: of their requests, and of the requests about others that show what they wrote.
        kept: keys among theirs that others asked in the very same words.
        quoting_keys: the part of `keys` that is about others.
        quotes: their words.
        reviews: item id as text → what the forgotten users wrote about it.
    """

    met: dict[str, set[str]] = field(default_factory=lambda: {side: set() for side in SIDES})
    keys: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    quoting_keys: set[str] = field(default_factory=set)
    quotes: Quotes = field(default_factory=Quotes)
    reviews: dict[str, list[str]] = field(default_factory=dict)


def tables(home: Home) -> Iterator[tuple[Partition, str, str]]:
    """Every table of every finished partition: partition, stage, name."""
    for stage in STAGES:
        for partition in home.partitions(stage):
            for name in Manifest.read(partition.manifest_path).tables:
                if name in TABLES and partition.table(name).is_file():
                    yield partition, stage, name


def gather(home: Home, subjects: Subjects) -> Gathered:
    """Read all tables once, of each only the columns that tell.

    Raises:
        StageError: a table cannot be read.
        LedgerError: nor can the ledger.
    """
    found, written, answered = Gathered(), set[str](), set[str]()
    for partition, _, name in tables(home):
        try:
            _look(partition, name, subjects, found, written, answered)
        except (pa.ArrowException, OSError) as error:
            raise StageError(f"{partition.table(name)} cannot be read: {error}", "make its stage again, then forget") from error
    found.quoting_keys -= found.keys
    found.kept = _kept(home, subjects, found.keys)
    found.keys = (found.keys - found.kept) | found.quoting_keys
    if home.ledger.is_dir():
        own = found.keys - found.quoting_keys
        answered |= {answer.text for answer in look_up(home.ledger, own).values()}
    texts = written | {clean(text, TEXT_CHARS) for text in written}
    found.quotes = Quotes.of(texts, WRITTEN).plus(Quotes.of(answered, ANSWERED))
    return found


def _kept(home: Home, subjects: Subjects, keys: set[str]) -> set[str]:
    """Those of the subjects' requests that others asked in the very same words."""
    kept: set[str] = set()
    wanted = pa.array(sorted(keys), pa.string())
    for partition, _, name in tables(home) if keys else ():
        if name in _KEYED:
            table = pq.read_table(partition.table(name), columns=["view", "subject_id", "request_key"])
            table = table.filter(pc.is_in(table.column("request_key"), value_set=wanted))
            kept |= set(table.filter(pc.invert(subjects.are_of_views(table))).column("request_key").to_pylist())
    return kept


def _look(partition: Partition, name: str, subjects: Subjects, found: Gathered, written: set[str], answered: set[str]) -> None:
    columns = [column.name for column in TABLES[name].columns if column.type in ("user_id", "item_id")]
    if {"view", "subject_id"} <= set(TABLES[name].column_names):
        columns += ["view", "subject_id"]
    if not columns:
        return
    more = {"interaction": ("text",), "item": ("description",), **_TEXTS}.get(name, ())
    keyed = ("request_key",) if name in _KEYED else ()
    evidence = ("evidence_users", "neighbour_items") if name in ("plan", "knowledge") else ()
    with pq.ParquetFile(partition.table(name), pre_buffer=False) as file:
        for batch in file.iter_batches(65_536, columns=[*columns, *more, *keyed, *evidence]):
            table = pa.Table.from_batches([batch])
            own = _own(table, subjects, found)
            if keyed:
                _note_keys(table, own, subjects, found, has_evidence=bool(evidence))
            mine = table.filter(own) if more else table.slice(0, 0)
            for column in more:
                texts = [text for text in mine.column(column).to_pylist() if text]
                (answered if name in _TEXTS else written).update(texts)
            if name == "interaction":
                _note_reviews(mine, subjects, found)


def _own(table: pa.Table, subjects: Subjects, found: Gathered) -> pa.ChunkedArray:
    """bool: which rows are about the subjects; whom they name is noted."""
    own = pa.chunked_array([pa.repeat(pa.scalar(False), table.num_rows)])
    for side in SIDES:
        if f"{side}_id" in table.column_names:
            ids = table.column(f"{side}_id")
            hits = subjects.are(side, ids)
            found.met[side] |= {str(one) for one in pc.unique(ids.filter(hits)).to_pylist()}
            own = pc.or_(own, hits)
        if "view" in table.column_names:
            ids = table.column("subject_id")
            hits = pc.and_(pc.starts_with(table.column("view"), f"{side}."), subjects.are(side, ids))
            found.met[side] |= set(pc.unique(ids.filter(hits)).to_pylist())
            own = pc.or_(own, hits)
    return own


def _note_keys(table: pa.Table, own: pa.ChunkedArray, subjects: Subjects, found: Gathered, *, has_evidence: bool) -> None:
    """Keys of the subjects' requests, and of others' that show what a forgotten user wrote or a forgotten item beside their own."""
    keys = table.column("request_key")
    found.keys |= set(keys.filter(own).to_pylist()) - {""}
    shown: tuple[tuple[Side, str], ...] = (("user", "evidence_users"), ("item", "neighbour_items"))
    for side, column in shown if has_evidence else ():
        if subjects.of(side) and column in table.column_names:  # a partition may be older than a column
            lists = table.column(column).combine_chunks()
            is_named = subjects.are(side, pa.chunked_array([lists.flatten()])).to_numpy(zero_copy_only=False)
            rows = pc.list_parent_indices(lists).to_numpy()[is_named]
            about_items = table.take(pa.array(sorted(set(rows.tolist())), pa.int64()))
            is_item = pc.starts_with(about_items.column("view"), "item.")
            found.quoting_keys |= set(about_items.column("request_key").filter(is_item).to_pylist()) - {""}


def _note_reviews(mine: pa.Table, subjects: Subjects, found: Gathered) -> None:
    rows = mine.filter(subjects.are("user", mine.column("user_id")))
    for item, text in zip(rows.column("item_id").to_pylist(), rows.column("text").to_pylist(), strict=True):
        if text and text not in (known := found.reviews.setdefault(str(item), [])):
            known.append(text)
