"""Published releases: what downstream CTR jobs import. Needs pyarrow and numpy, nothing else of kar's.

    release = kar.release.open("…/published")
    vectors, is_missing = release.vectors("item", "item.facts", item_ids)      # float32 [N, A], bool [N]

    release = kar.release.open("s3://bucket/prefix")                           # credentials and endpoint: AWS_… in the environment

    joined = kar.release.join("…/published", examples)                         # each example as of its own time
    vectors, is_missing = joined.vectors("user", "user.preference")

    for batch in kar.release.Stream("…/published", "examples.parquet", columns=["label"]): …   # training batches
    kar.release.join_files("…/published", "examples.parquet", "joined.parquet")               # file to file, of any size

This room writes, verifies, lists and reads releases. It trains nothing, encodes nothing and imports no other room.
"""

from kar.errors import ReleaseBusy, ReleaseCorrupt, ReleaseError, ReleaseNotFound, SpaceMismatch
from kar.release.asof import Joined
from kar.release.collect import Collected
from kar.release.diff import Diff, diff
from kar.release.filejoin import JoinedFile, join_files
from kar.release.leases import Lease
from kar.release.loader import Batch, Rows, Stream, collate, lookup, torch_dataset
from kar.release.macro import duckdb_macro
from kar.release.reader import Release
from kar.release.reader import open_release as open  # noqa: A004  (read as kar.release.open)
from kar.release.remote import collect, join, list_releases, promote, rollback, verify
from kar.release.shelf import Listed

__all__ = [
    "Batch",
    "Collected",
    "Diff",
    "Joined",
    "JoinedFile",
    "Lease",
    "Listed",
    "Release",
    "ReleaseBusy",
    "ReleaseCorrupt",
    "ReleaseError",
    "ReleaseNotFound",
    "Rows",
    "SpaceMismatch",
    "Stream",
    "collate",
    "collect",
    "diff",
    "duckdb_macro",
    "join",
    "join_files",
    "list_releases",
    "lookup",
    "open",
    "promote",
    "rollback",
    "torch_dataset",
    "verify",
]
