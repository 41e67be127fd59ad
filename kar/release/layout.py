"""What lies where in a release, under which name and type. Names only; nothing here opens a file.

    published/CURRENT                                     which release is served, and which were served since when
    published/releases/<id>/manifest.json                 binds everything below by digest
    published/releases/<id>/user_knowledge/part-00-0.parquet …  users of bucket 00, layer 0; sorted by user_id
    published/releases/<id>/item_knowledge/part-00-0.parquet …  items of bucket 00, layer 0; sorted by item_id
    published/releases/<id>/users.<v>.adapted-00-0.npy    the same floats as the column of user_knowledge/part-00-0.parquet, row for row
    published/releases/<id>/users.index-00-0.arrow        ids, masks and a hashed index of that part, to be memory-mapped (`kar.release.index`)
    published/releases/<id>/stats.json                    norms, effective rank, cosine, missing share

Buckets and layers. A subject lies in the bucket that a stable hash of its id names (`kar.release.hashes`), whatever else is published. Layer 0
of a bucket held every subject of it when it was written; each further layer holds those that were new or changed on a later night, and
tombstones (`is_removed`) of those that went. **Of an id the newest layer counts**: every part carries its number in the column `layer`. A file
that a release shares with the one before is the same file (a hard link where the file system has them). To read the tables plainly:
    DuckDB   from 'user_knowledge/*.parquet' qualify row_number() over (partition by user_id order by layer desc) = 1 and not is_removed
    pandas   .sort_values("layer").drop_duplicates("user_id", keep="last").query("not is_removed")
Formats 1 and 2 had neither: part-0.parquet …, one matrix users.<v>.adapted.npy over all parts, no index.

A view `user.preference` gives the columns `preference_adapted_vector`, `preference_is_missing`, …; one of its factors,
`user.preference:mood`, gives `preference_mood_adapted_vector`, …

Pooled views. `user.liked_facts` and `user.disliked_facts` hold, per user, the mean of the adapted vectors of `item.facts` over the events
of the user's history with that label, the very means that a ranker with a knowledge-aware history takes; so a job without histories of its
own gets them by the join. They are views like any other (columns `liked_facts_adapted_vector`, `liked_facts_is_missing`, …; matrix
`users.liked_facts.adapted.npy`), but:
    * no knowledge vector and no `.knowledge.npy`: their knowledge width is 0;
    * is_missing: no such event of an item with knowledge; the vector is then the item view's default;
    * evidence_newest_at: the newest event of the history and of what the items' texts have seen. The pooled vector knows that event's
      label, so that it serves only examples that are truly newer; of a prompt's evidence the same instant is allowed;
    * asked_at: the newest of the items' texts; origin `pooled`; model null;
    * the manifest's entry of the view says `pooled_from`: {view, label, history_events};
    * the shares `covered_share` and the space count the views that somebody wrote, not those that were pooled from them.
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
GONE_DO = "open the one served now; to keep one from being collected while you read: release.lease(…), or open(…, lease_s=600)"
ROW_GROUP = 131_072
LAYER, IS_REMOVED = "layer", "is_removed"
TIME = pa.timestamp("us", tz="UTC")
TOLD: dict[str, pa.DataType] = {"evidence_newest_at": TIME, "asked_at": TIME, "origin": pa.string(), "model": pa.string()}
"""What a table tells of each view besides vectors and mask, in column order."""
WORDS = ("origin", "model")
"""Of these the columns whose values repeat, so that readers and writers hold them as dictionaries."""
_VIEW = re.compile(r"^(user|item)\.([a-z0-9_]+)(?::[a-z0-9_]+)?$")


@dataclass(frozen=True)
class Widths:
    """Floats per vector of one view: `knowledge` as the encoder writes, `adapted` as the adaptor does; knowledge 0: a pooled view."""

    adapted: int
    knowledge: int

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The vectors that the view has."""
        return KINDS if self.knowledge else ("adapted",)


def releases_folder(published: Path) -> Path:
    return published / "releases"


def current_path(published: Path) -> Path:
    return published / "CURRENT"


def table_name(side: Side) -> str:
    return f"{side}_knowledge"


def part_name(side: Side, bucket: int, layer: int) -> str:
    return f"{table_name(side)}/part-{bucket:02d}-{layer}.parquet"


def index_name(side: Side, bucket: int, layer: int) -> str:
    return f"{side}s.index-{bucket:02d}-{layer}.arrow"


def id_column(side: Side) -> str:
    return f"{side}_id"


def matrix_name(view: str, kind: Kind, bucket: int | None = None, layer: int = 0) -> str:
    """The matrix of one part; without a bucket that of a whole side, as formats 1 and 2 had it."""
    place = "" if bucket is None else f"-{bucket:02d}-{layer}"
    return f"{side_of(view)}s.{short(view)}.{kind}{place}.npy"


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


def pooled_view(view: str, label: str) -> str:
    """The user view of the means of an item view: item.facts:mood, liked → user.liked_facts:mood."""
    return f"user.{label}_{view.split('.', 1)[1]}"


def column(view: str, part: str) -> str:
    return f"{short(view)}_{part}"


def vector_column(view: str, kind: Kind) -> str:
    return column(view, f"{kind}_vector")


def vector_type(width: int) -> pa.DataType:
    return pa.list_(pa.field("element", pa.float32(), nullable=False), width)


def schema(side: Side, id_type: pa.DataType, views: dict[str, Widths], *, has_layers: bool = True) -> pa.Schema:
    """The columns of one side's table, views in the order given.

    Args:
        has_layers: False: as formats 1 and 2 had it, without the columns `layer` and `is_removed`.

    Raises:
        ReleaseError: two views would write the same column.
    """
    fields = [pa.field(id_column(side), id_type, nullable=False)]
    if has_layers:
        fields += [pa.field(LAYER, pa.int16(), nullable=False), pa.field(IS_REMOVED, pa.bool_(), nullable=False)]
    for view, widths in views.items():
        fields += [
            pa.field(column(view, "is_missing"), pa.bool_(), nullable=False),
            *(pa.field(vector_column(view, kind), vector_type(getattr(widths, kind)), nullable=False) for kind in widths.kinds),
            *(pa.field(column(view, part), type_) for part, type_ in TOLD.items()),
        ]
    names = [field.name for field in fields]
    if len(set(names)) != len(names):
        raise ReleaseError(f"views {list(views)} would write the same column twice: {sorted({n for n in names if names.count(n) > 1})}")
    return pa.schema(fields)


def plain_schema(columns: pa.Schema) -> list[dict[str, str | bool]]:
    """A schema as the manifest shows it."""
    return [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in columns]
