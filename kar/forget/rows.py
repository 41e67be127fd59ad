"""Tables without the forgotten: which rows go, and what of the others counts, numbers or lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.forget.quotes import Quotes
from kar.forget.subjects import Subjects
from kar.store.forgotten import Side
from kar.tables import TABLES, IdTypes
from kar.warehouse import Warehouse

_QUOTED = {"request": ("body",), "refused": ("detail", "answer"), "knowledge": ("text",), "factor_knowledge": ("text",)}
_Lists = tuple[tuple[str, ...], dict[str, Side]]
_EVIDENCE: _Lists = (("evidence_users", "evidence_items"), {"evidence_users": "user", "evidence_items": "item"})
_NEIGHBOURS: _Lists = (("neighbour_items",), {"neighbour_items": "item"})
_LISTS: dict[str, tuple[_Lists, ...]] = {  # columns that run along each other, and which of them names whom
    "history": ((("item_ids", "ratings", "event_ats", "titles"), {"item_ids": "item"}),),
    "rerank_list": ((("item_ids", "labels", "positions", "scores"), {"item_ids": "item"}),),
    "item_profile": (_EVIDENCE,),
    **dict.fromkeys(("plan", "knowledge"), (_EVIDENCE, _NEIGHBOURS)),
}
_BETWEEN = "\x00"
_SHAS = {
    "history": "sha256(cast(to_json({'item_ids': item_ids, 'ratings': ratings, "
    "'event_us': list_transform(event_ats, lambda event_at: epoch_us(event_at))}) as varchar))",
    "item_profile": "sha256(cast(to_json({'title': title, 'text': text}) as varchar))",
}
"""As warehouse/features/history.sql and item_profile.sql say."""


@dataclass(frozen=True)
class Gone:
    """Events of others that go because their item does: user ids and places in each user's order."""

    users: pa.Array
    positions: np.ndarray

    def before(self, users: pa.ChunkedArray, positions: np.ndarray) -> np.ndarray:
        """int64: how many of a user's events before a place go."""
        if not len(self.users):
            return np.zeros(len(positions), np.int64)
        known = pc.unique(self.users)
        step = np.int64(2**40)
        own = pc.index_in(self.users, value_set=known).to_numpy().astype(np.int64) * step
        at = np.sort(own + self.positions)
        asked = pc.fill_null(pc.index_in(users, value_set=known), -1).to_numpy().astype(np.int64)
        count = np.searchsorted(at, asked * step + positions) - np.searchsorted(at, asked * step)
        return np.where(asked < 0, 0, count)


@dataclass
class Cut:
    """What a partition loses.

    Args:
        gone: events of others whose item goes, in the numbering that the partition uses.
        examples: int64, ascending: the examples that go.
        places: int64, ascending: places of the requests that go.
        quoting: view and subject, joined, whose knowledge goes because it quotes the forgotten.
        quoting_keys: of requests about others that show what the forgotten wrote.
        reviews: item id as text → what the forgotten users wrote about it.
        review_chars: of a review in an item's profile.
    """

    subjects: Subjects
    quotes: Quotes
    ids: IdTypes
    gone: Gone = field(default_factory=lambda: Gone(pa.array([], pa.string()), np.zeros(0, np.int64)))
    examples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    places: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    quoting: frozenset[str] = field(default_factory=frozenset)
    quoting_keys: frozenset[str] = field(default_factory=frozenset)
    reviews: dict[str, list[str]] = field(default_factory=dict)
    review_chars: int = 0


@dataclass
class Left:
    """What is left of a part of a table.

    Args:
        removed: rows.
        edited: rows of others in which something was taken out or numbered anew.
    """

    table: pa.Table
    removed: int = 0
    edited: int = 0


def is_gone(name: str, table: pa.Table, cut: Cut) -> pa.ChunkedArray:
    """bool: which rows of a part of a declared table go."""
    found = pa.chunked_array([pa.repeat(pa.scalar(False), table.num_rows)])
    for column in TABLES[name].columns:
        if column.type in ("user_id", "item_id"):
            side: Side = "user" if column.type == "user_id" else "item"
            found = pc.or_(found, cut.subjects.are(side, table.column(column.name)))
    if {"view", "subject_id"} <= set(table.column_names):
        found = pc.or_(found, cut.subjects.are_of_views(table))
        if cut.quoting and name in ("knowledge", "factor_knowledge", "knowledge_vector"):
            whole = pc.replace_substring_regex(table.column("view"), r"^([^.]+\.[^.:@]+)[:@].*$", r"\1")
            joined = pc.binary_join_element_wise(whole, table.column("subject_id"), _BETWEEN)
            found = pc.or_(found, pc.is_in(joined, value_set=pa.array(sorted(cut.quoting), pa.string())))
    if cut.quotes:
        for text in _QUOTED.get(name, ()):
            found = pc.or_(found, cut.quotes.are_in(table.column(text)))
    if name == "request" and cut.quoting_keys:
        found = pc.or_(found, pc.is_in(table.column("request_key"), value_set=pa.array(sorted(cut.quoting_keys), pa.string())))
    if name == "prediction":
        found = pc.or_(found, pc.is_in(table.column("example_id"), value_set=pa.array(cut.examples)))
    return found


def quoting(table: pa.Table, texts: pa.ChunkedArray, quotes: Quotes) -> set[str]:
    """View and subject, joined, of the rows whose text quotes somebody."""
    joined = pc.binary_join_element_wise(table.column("view"), table.column("subject_id"), _BETWEEN)
    return set(joined.filter(quotes.are_in(texts)).to_pylist())


def left_of(name: str, table: pa.Table, cut: Cut) -> Left:
    """A part of a declared table without the forgotten."""
    goes = is_gone(name, table, cut)
    removed = pc.sum(goes).as_py() or 0
    kept = table.filter(pc.invert(goes)) if removed else table
    edited = np.zeros(kept.num_rows, bool)
    for lists in _LISTS.get(name, ()):
        if set(lists[0]) <= set(kept.column_names):  # a partition may be older than a column
            kept, changed = _without_elements(lists, kept, cut)
            edited |= changed
    for edit in _EDITS.get(name, ()):
        kept, changed = edit(kept, cut)
        edited = edited | changed
    if edited.any() and name in _SHAS:
        kept = _resealed(name, kept, edited, cut.ids)
    return Left(kept, removed, int(edited.sum()))


def _without_elements(lists_of: _Lists, table: pa.Table, cut: Cut) -> tuple[pa.Table, np.ndarray]:
    """Lists without the elements that name somebody forgotten; which rows had one."""
    columns, naming = lists_of
    flat: dict[str, pa.Array] = {}
    goes = None
    for column in columns:
        lists = table.column(column).combine_chunks()
        flat[column] = lists.flatten()
        if column in naming:
            found = cut.subjects.are(naming[column], flat[column]).to_numpy(zero_copy_only=False)
            goes = found if goes is None else goes | found
    assert goes is not None, "each of these tables has a column that names"
    rows = pc.list_parent_indices(table.column(columns[0]).combine_chunks()).to_numpy()
    edited = np.zeros(table.num_rows, bool)
    edited[rows[goes]] = True
    if not edited.any():
        return table, edited
    lengths = np.bincount(rows[~goes], minlength=table.num_rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    for column in columns:
        kept = flat[column].filter(pa.array(~goes))
        made = pa.ListArray.from_arrays(offsets, kept).cast(table.schema.field(column).type)
        table = table.set_column(table.schema.get_field_index(column), table.schema.field(column), made)
    return table, edited


def _set(table: pa.Table, name: str, values: pa.Array | np.ndarray) -> pa.Table:
    schema_field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), schema_field, pa.array(values).cast(schema_field.type))


def _earlier(column: str) -> Callable[[pa.Table, Cut], tuple[pa.Table, np.ndarray]]:
    """An edit: a place in a user's order, less the events before it that go."""

    def edit(table: pa.Table, cut: Cut) -> tuple[pa.Table, np.ndarray]:
        places = table.column(column).to_numpy()
        fewer = cut.gone.before(table.column("user_id"), places)
        return (_set(table, column, places - fewer) if fewer.any() else table), fewer > 0

    return edit


def _numbered(column: str, gone_of: Callable[[Cut], np.ndarray]) -> Callable[[pa.Table, Cut], tuple[pa.Table, np.ndarray]]:
    """An edit: a running number, less the smaller ones that go. Such a row is no other row than before."""

    def edit(table: pa.Table, cut: Cut) -> tuple[pa.Table, np.ndarray]:
        numbers = table.column(column).to_numpy()
        fewer = np.searchsorted(gone_of(cut), numbers)
        fewer = np.where(numbers < 0, 0, fewer)
        return (_set(table, column, numbers - fewer) if fewer.any() else table), fewer > 0

    return edit


def _newest(table: pa.Table, _cut: Cut) -> tuple[pa.Table, np.ndarray]:
    """The newest event of each history that has one left."""
    lists = table.column("event_ats").combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy()
    ends = np.cumsum(lengths)
    newest = lists.flatten().take(pa.array(ends - 1, pa.int64(), mask=lengths == 0))
    newest = pc.coalesce(newest, table.column("newest_event_at").combine_chunks())
    changed = pc.not_equal(newest, table.column("newest_event_at")).to_numpy()
    return (_set(table, "newest_event_at", newest) if changed.any() else table), changed


def _shown_positions(table: pa.Table, cut: Cut) -> tuple[pa.Table, np.ndarray]:
    """The places of a candidate list's real items."""
    lists = table.column("positions").combine_chunks()
    places = lists.flatten().to_numpy()
    users = table.column("user_id").combine_chunks().take(pc.list_parent_indices(lists))
    fewer = np.where(places < 0, 0, cut.gone.before(pa.chunked_array([users]), np.maximum(places, 0).astype(np.int64)))
    changed = np.zeros(table.num_rows, bool)
    changed[pc.list_parent_indices(lists).to_numpy()[fewer > 0]] = True
    if changed.any():
        lengths = pc.list_value_length(lists).to_numpy()
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        field_ = table.schema.field("positions")
        made = pa.ListArray.from_arrays(offsets, pa.array(places - fewer)).cast(field_.type)
        table = table.set_column(table.schema.get_field_index("positions"), field_, made)
    return table, changed


def _unreviewed(table: pa.Table, cut: Cut) -> tuple[pa.Table, np.ndarray]:
    """Items that are described by reviews, without those of the forgotten."""
    changed = np.zeros(table.num_rows, bool)
    if not cut.reviews:
        return table, changed
    texts = table.column("text").to_pylist()
    for row, item in enumerate(table.column("subject_id").to_pylist()):
        for review in cut.reviews.get(item, ()):
            without = _without_review(texts[row], review, cut.review_chars)
            changed[row] |= without != texts[row]
            texts[row] = without
    return (_set(table, "text", pa.array(texts, pa.string())) if changed.any() else table), changed


def _without_review(text: str, review: str, chars: int) -> str:
    """A text without a review; all of it goes where the review stands in it in a form that cannot be cut out."""
    shown = review[:chars] if chars else review
    for piece in (f" | {shown}", f"{shown} | ", shown):
        if piece and piece in text:
            return text.replace(piece, "", 1).strip()
    return "" if len(review) >= 16 and review[:16] in text else text


def _resealed(name: str, table: pa.Table, edited: np.ndarray, ids: IdTypes) -> pa.Table:
    """The digests of edited rows, as the warehouse computes them."""
    rows = np.flatnonzero(edited)
    with Warehouse(ids) as warehouse:
        warehouse.view("edited", table.take(pa.array(rows)).append_column("row", pa.array(rows)))
        made = warehouse.connection.sql(f"select {_SHAS[name]} as sha from edited order by row").to_arrow_table()
    shas = table.column("evidence_sha").to_pylist()
    for row, sha in zip(rows.tolist(), made.column("sha").to_pylist(), strict=True):
        shas[row] = sha
    return _set(table, "evidence_sha", pa.array(shas, pa.string()))


_EDITS: dict[str, tuple[Callable[[pa.Table, Cut], tuple[pa.Table, np.ndarray]], ...]] = {
    "history": (_earlier("position"), _newest),
    "item_profile": (_unreviewed,),
    "plan": (_numbered("rank", lambda cut: cut.places),),
    "request": (_numbered("place", lambda cut: cut.places),),
    "sequence": (_earlier("position"),),
    "example": (_earlier("position"), _numbered("example_id", lambda cut: cut.examples)),
    "prediction": (_numbered("example_id", lambda cut: cut.examples),),
    "rerank_list": (_earlier("position"), _shown_positions),
}
