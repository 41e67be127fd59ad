"""A small lopsided world to publish: 12 users, 20 items, vectors that say whose they are."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kar.release.publish import Published, publish
from kar.release.rows import Facts, SideRows, ViewRows
from kar.release.verdicts import Gate

A, T = 4, 6
DAY = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
USERS, ITEMS = 12, 20


def day(number: float) -> dt.datetime:
    """Midnight UTC of day `number`; day 0 is 2026-11-01."""
    return DAY + dt.timedelta(days=number)


def view_rows(
    view: str, count: int, *, missing: set[int], newest: Any, offset: float = 0.0, adapted: int = A, knowledge: int = T
) -> ViewRows:
    """Row n's adapted vector begins with n + offset; its knowledge vector with -(n + offset).

    Args:
        newest: datetime, None, or a function of the row number.
    """
    is_missing = np.array([n in missing for n in range(count)], bool)
    default = np.full(adapted, 0.5, np.float32)
    adapted_NA = np.arange(count * adapted, dtype=np.float32).reshape(count, adapted) / 100
    adapted_NA[:, 0] = np.arange(count) + offset
    knowledge_NT = np.ones((count, knowledge), np.float32)
    knowledge_NT[:, 0] = -adapted_NA[:, 0]
    adapted_NA[is_missing], knowledge_NT[is_missing] = default, 0.0
    seen = [None if n in missing else newest(n) if callable(newest) else newest for n in range(count)]

    def words(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.array([None if m else value for m in is_missing], kind)

    return ViewRows(
        view=view,
        is_missing=is_missing,
        adapted=adapted_NA,
        knowledge=knowledge_NT,
        default=default,
        evidence_newest_at=pa.array(seen, pa.timestamp("us", tz="UTC")),
        asked_at=words(DAY, pa.timestamp("us", tz="UTC")),
        origin=words("tonight", pa.string()),
        model=words("tiny", pa.string()),
    )


def user_ids(text: bool = False) -> pa.Array:
    """Every third number from 100; as texts they sort otherwise than as numbers, with a space and an emoji."""
    return pa.array(sorted([f"u {n} 🎬" for n in range(USERS)], key=str.encode)) if text else pa.array([100 + 3 * n for n in range(USERS)])


def item_ids() -> pa.Array:
    return pa.array([f"i{n:02d}" for n in range(ITEMS)])


def sides(newest: Any = DAY, *, offset: float = 0.0, text_users: bool = False, adapted: int = A) -> tuple[SideRows, SideRows]:
    """Users 0 and 5 have no preference; only items 3 … 7 have facts, and no prompt about an item saw an interaction."""
    users = view_rows("user.preference", USERS, missing={0, 5}, newest=newest, offset=offset, adapted=adapted)
    facts = view_rows("item.facts", ITEMS, missing=set(range(ITEMS)) - set(range(3, 8)), newest=None, offset=offset, adapted=adapted)
    return SideRows("user", user_ids(text_users), (users,)), SideRows("item", item_ids(), (facts,))


def facts(date: dt.datetime = DAY, published_at: dt.datetime | None = None, **changed: Any) -> Facts:
    values: dict[str, Any] = {
        "scenario": "small",
        "date": date.date(),
        "published_at": published_at or date + dt.timedelta(days=1, hours=2),
        "is_reconstructed": False,
        "encoder_id": "hash-6",
        "adaptor": {"sha": "a" * 64, "backbone": "fibinet"},
        "normalisation": "l2",
    }
    return Facts(**{**values, **changed})


def publish_day(published: Path, number: int, *, promote: bool = True, gate: Gate | None = None, **changed: Any) -> Published:
    """The release of day `number`: evidence up to its noon, published two hours after its end, vectors offset by 1000 × day."""
    rows = sides(newest=day(number + 0.5), offset=1000.0 * number)
    return publish(published, rows, facts(day(number), **changed), promote=promote, gate=gate)


def examples(times: list[dt.datetime], users: list[Any], items: list[str]) -> pa.Table:
    return pa.table({"user_id": users, "item_id": items, "event_at": pa.array(times, pa.timestamp("us", tz="UTC"))})
