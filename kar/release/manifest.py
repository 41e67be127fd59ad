"""manifest.json of a release: one file that binds tables, matrices, space, clocks and provenance by digest."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from kar.errors import ReleaseCorrupt, ReleaseError, ReleaseNotFound
from kar.release import layout

FORMAT = 3  # 1: without pooled views; 2: without buckets and layers
# what may differ between two publications of the same content (stats: floats summed in whatever order the machine likes; gate and cost: what
# was thought of it and paid for it that night; active: what the interactions say of its subjects); everything else is in the content digest
# and so in the id
_NOT_CONTENT = ("release", "parent", "published_at", "is_reconstructed", "code_version", "stats", "gate", "cost", "active_days", "bytes")
# of format 3 neither: which files hold the content
_NOT_LOGICAL = ("matrices", "indexes")
_NOT_LOGICAL_OF_A_TABLE = ("files", "buckets", "active_count", "covered_active_share")
_REQUIRED = (
    "format", "release", "parent", "scenario", "date", "data_cutoff", "published_at", "is_reconstructed", "space_id", "space",
    "id_types", "views", "tables", "matrices", "stats",
)  # fmt: skip
_REQUIRED_SINCE_3 = (
    "encoder_id",
    "adaptor",
    "templates",
    "models",
    "inputs",
    "uplift",
    "indexes",
    "age",
    "gate",
    "cost",
    "bytes",
    "code_version",
)


def space_of(encoder_id: str, adaptor_sha: str, widths: dict[str, layout.Widths], normalisation: str) -> dict[str, Any]:
    """What makes two vectors comparable, as the manifest holds it under `space`."""
    return {
        "encoder_id": encoder_id,
        "adaptor_sha": adaptor_sha,
        "widths": {view: [w.adapted, w.knowledge] for view, w in sorted(widths.items())},
        "normalisation": normalisation,
    }


def space_id(space: dict[str, Any]) -> str:
    """16 hex digits of the sha256 over `space_of(…)`. Vectors of two space_ids never mix."""
    return hashlib.sha256(canonical(space)).hexdigest()[:16]


def content_sha(manifest: dict[str, Any]) -> str:
    """Digest over what a release says, leaving out when and by which code version it was said, and which files hold it."""
    said = {k: v for k, v in manifest.items() if k not in _NOT_CONTENT}
    if has_layers(manifest):
        said = {k: v for k, v in said.items() if k not in _NOT_LOGICAL}
        said["tables"] = {
            name: {k: v for k, v in table.items() if k not in _NOT_LOGICAL_OF_A_TABLE} for name, table in manifest["tables"].items()
        }
    return hashlib.sha256(canonical(said)).hexdigest()


def has_layers(manifest: dict[str, Any]) -> bool:
    """Whether its tables come in buckets and layers; formats 1 and 2 had whole tables only."""
    return int(manifest["format"]) >= 3


def release_id(manifest: dict[str, Any]) -> str:
    """`<date>-<first 10 hex of the content digest>`: the same content published twice is the same release."""
    return f"{manifest['date']}-{content_sha(manifest)[:10]}"


def canonical(value: object) -> bytes:
    """Canonical JSON: sorted keys, no spaces, no NaN, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def to_bytes(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read(folder: Path, expected_sha: str | None = None) -> dict[str, Any]:
    """The manifest of a release folder.

    Args:
        expected_sha: sha256 that CURRENT gives for it; None: not checked.

    Raises:
        ReleaseNotFound: no such folder, or one without a manifest.
        ReleaseCorrupt: not JSON, a key is missing, or its digest is not the expected one.
        ReleaseError: a newer kar wrote it.
    """
    path = folder / layout.MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReleaseNotFound(f"{folder} holds no release: there is no {layout.MANIFEST}", "see which exist: kar release list") from error
    if expected_sha is not None and hashlib.sha256(data).hexdigest() != expected_sha:
        raise ReleaseCorrupt(f"{path} is not the file that CURRENT points at: its sha256 differs", "serve another: kar release rollback ID")
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise ReleaseCorrupt(f"{path} is not JSON: {error}", "serve another: kar release rollback ID") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise ReleaseCorrupt(f"{path} is no release manifest: it has no format number", "serve another: kar release rollback ID")
    if manifest["format"] > FORMAT:
        raise ReleaseError(f"{path} has format {manifest['format']}; this kar reads up to {FORMAT}", "read it with a newer kar")
    missing = [key for key in (*_REQUIRED, *(_REQUIRED_SINCE_3 if has_layers(manifest) else ())) if key not in manifest]
    if missing:
        raise ReleaseCorrupt(f"{path} lacks {missing}", "serve another: kar release rollback ID")
    return manifest


def files(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every file the manifest binds: path inside the release → {"sha256", "bytes", …}."""
    tables = {file["path"]: file for table in manifest["tables"].values() for file in table["files"]}
    return {**tables, **manifest["matrices"], **manifest.get("indexes", {}), manifest["stats"]["path"]: manifest["stats"]}


@dataclass(frozen=True)
class Part:
    """One Parquet file of a side, with the files beside it.

    Args:
        bucket: None in formats 1 and 2.
        first: the row of the matrices that belongs to the part's first row; 0 where each part has matrices of its own.
    """

    side: layout.Side
    path: str
    bucket: int | None
    layer: int
    rows: int
    first: int = 0

    def matrix(self, view: str, kind: layout.Kind) -> str:
        return layout.matrix_name(view, kind, self.bucket, self.layer)

    @property
    def index(self) -> str:
        assert self.bucket is not None, "formats 1 and 2 have no index files"
        return layout.index_name(self.side, self.bucket, self.layer)

    def files(self, views: dict[str, layout.Widths]) -> list[str]:
        """The Parquet file, the index and the matrices of these views, as the manifest names them."""
        return [self.path, self.index, *(self.matrix(view, kind) for view, widths in views.items() for kind in widths.kinds)]


def parts(manifest: dict[str, Any], side: layout.Side) -> list[Part]:
    """The parts of one side; those of a bucket follow each other, oldest layer first."""
    files = manifest["tables"][layout.table_name(side)]["files"]
    if has_layers(manifest):
        found = [Part(side, file["path"], file["bucket"], file["layer"], file["rows"]) for file in files]
        return sorted(found, key=lambda part: (part.bucket, part.layer))
    firsts = [0, *accumulate(file["rows"] for file in files)]
    return [Part(side, file["path"], None, 0, file["rows"], first) for file, first in zip(files, firsts, strict=False)]


def widths(manifest: dict[str, Any], side: layout.Side) -> dict[str, layout.Widths]:
    """The side's views in column order, with their widths."""
    return {
        view: layout.Widths(manifest["views"][view]["adapted_width"], manifest["views"][view]["knowledge_width"])
        for view in manifest["tables"][layout.table_name(side)]["views"]
    }


def is_pooled(manifest: dict[str, Any], view: str) -> bool:
    """Whether the view was pooled from the items of the users' histories; see `layout`."""
    return "pooled_from" in manifest["views"][view]


def to_text(instant: dt.datetime) -> str:
    """An instant as the manifest writes it: UTC, microseconds. Raises ReleaseError without a time zone."""
    return in_utc(instant).isoformat(timespec="microseconds")


def in_utc(instant: dt.datetime) -> dt.datetime:
    if instant.tzinfo is None:
        raise ReleaseError(f"the instant {instant.isoformat()} has no time zone", "give it one, for example +00:00")
    return instant.astimezone(dt.UTC)


def from_text(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
