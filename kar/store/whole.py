"""A small file, written whole or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write text beside the file and rename it into place: a reader sees the old file or the new one. Makes the folder.

    Raises:
        OSError: as the disk says; the old file is then still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
