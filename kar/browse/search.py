"""Users and items by id or title: the exact one first, then those that begin so, then those that hold the words."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from kar.browse.tables import Tables
from kar.release.layout import Side
from kar.store import Partition

PAGE = 25
_MOST_CHARS = 200
_OFTEN = 8

_RANKED = """
WITH subject AS (SELECT {id}::VARCHAR AS id, {title} AS title FROM read_parquet($file)),
folded AS (SELECT id, title, strip_accents(lower(id)) AS f_id, strip_accents(lower(coalesce(title, ''))) AS f_title FROM subject),
ranked AS (
  SELECT id, title, CASE
    WHEN id = $text THEN 0 WHEN f_id = $folded OR f_title = $folded THEN 1
    WHEN starts_with(f_title, $folded) THEN 2 WHEN starts_with(f_id, $folded) THEN 3
    WHEN contains(f_title, $folded) THEN 4 WHEN contains(f_id, $folded) THEN 5
    ELSE 6 END AS place
  FROM folded
  WHERE contains(f_id, $folded) OR contains(f_title, $folded)
    OR len(list_filter($words::VARCHAR[], lambda word: NOT contains(f_title, word))) = 0
)
SELECT id, title, count(*) OVER () AS found FROM ranked
ORDER BY place, length(coalesce(title, id)), coalesce(title, ''), id LIMIT $limit OFFSET $offset
"""


@dataclass(frozen=True)
class Hit:
    """A user or item that was found. `title` is empty where the source has none."""

    side: Side
    id: str
    title: str
    events: int | None = None


@dataclass(frozen=True)
class Found:
    """One side's part of an answer: these of `total`."""

    side: Side
    hits: list[Hit]
    total: int


def search(tables: Tables, date: dt.date, side: Side, text: str, page: int = 0) -> Found:
    """The subjects of a night whose id or title fits.

    Args:
        text: an id, or words of a title; capitals and accents do not matter.
        page: 0-based, PAGE hits each.
    """
    text = " ".join(text.split())[:_MOST_CHARS]
    source = tables.home.partition("sources", date)
    if not source.exists() or not text:
        return Found(side, [], 0)
    folded = str(tables.query("SELECT strip_accents(lower($text)) AS folded", {"text": text})[0]["folded"])
    sql = _RANKED.format(id=f"{side}_id", title="title" if side == "item" else "NULL::VARCHAR")
    values = {
        "file": str(source.table(side)),
        "text": text,
        "folded": folded,
        "words": folded.split(),
        "limit": PAGE,
        "offset": PAGE * page,
    }
    rows = tables.query(sql, values)
    return Found(side, [Hit(side, row["id"], row["title"] or "") for row in rows], rows[0]["found"] if rows else 0)


def often(tables: Tables, date: dt.date, side: Side) -> list[Hit]:
    """Those with the most events before a night's cutoff: where a reader who looks for nobody in particular may begin."""
    partition = tables.home.partition("histories", date)
    if not partition.exists():
        return []
    table, count, title = ("history", "position", "NULL") if side == "user" else ("item_profile", "event_count", "title")
    rows = tables.query(
        f"SELECT subject_id, {title} AS title, {count} AS events FROM read_parquet($file) ORDER BY {count} DESC, subject_id LIMIT {_OFTEN}",
        {"file": str(partition.table(table))},
    )
    return [Hit(side, row["subject_id"], row["title"] or "", row["events"]) for row in rows]


def titles_of(tables: Tables, partition: Partition, item_ids: list[Any]) -> dict[str, str]:
    """Titles of some items, by id as text; those without one are left out.

    Args:
        item_ids: in the source's own type.
    """
    if not item_ids:
        return {}
    rows = tables.ask(partition, "item_profile", ["subject_id", "title"], "item_id IN (SELECT unnest($ids))", {"ids": item_ids})
    return {row["subject_id"]: row["title"] for row in rows if row["title"]}
