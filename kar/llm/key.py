"""The request key: what makes two requests the same question."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson


def body_bytes(body: Mapping[str, Any]) -> bytes:
    """The canonical JSON of a request body: sorted keys, no spaces, UTF-8. These are the bytes that are sent."""
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


def request_key(body: bytes, revision: str) -> str:
    """sha256, hex, over the exact body and the model's revision.

    Any byte of the body that changes can change the answer, so it changes the key. Address, host, concurrency and
    client version are in neither, so they do not.

    Args:
        body: as `body_bytes` writes it and the client sends it.
        revision: of the model, as the server reports it or the settings say; empty if unknown.
    """
    return hashlib.sha256(body + b"\x00" + revision.encode()).hexdigest()
