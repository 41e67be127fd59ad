"""The key of a server: it is sent, and blotted out of whatever comes back before anybody else sees that.

Servers and gateways repeat the key they were given, in refusals above all. What they say goes into the ledger, dead letters, logs and
messages, often cut to its first characters, and half a key is worth hiding too: so the whole reply is cleaned, and not what is shown of it.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

BLOT = "***"
_SHORTEST = 8


def without(content: bytes, key: str, *, is_answer: bool = False) -> bytes:
    """A reply without the key, as it is or as URLs and JSON write it.

    Args:
        is_answer: a text of the model's, out of which a key of fewer than eight characters is not taken: `EMPTY`, `none` and `ollama`
            are what servers without keys are given, and words.
    """
    if not key or (is_answer and len(key) < _SHORTEST):
        return content
    for form in {key, quote(key, safe=""), key.replace("/", r"\/")}:
        if (written := form.encode()) in content:
            content = content.replace(written, BLOT.encode())
    return content


def text_without(text: str, key: str) -> str:
    """As `without`, of a text that is no answer."""
    return without(text.encode("utf-8", "replace"), key).decode()


def blot_file(path: Path, key: str) -> None:
    """Take the key out of a file of lines, each of which fits into memory. A file without it is not written."""
    with path.open("rb") as lines:
        if all(without(line, key, is_answer=True) == line for line in lines):
            return
    cleaned = path.with_name(f"{path.name}.cleaned")
    with path.open("rb") as lines, cleaned.open("wb") as target:
        target.writelines(without(line, key, is_answer=True) for line in lines)
    cleaned.replace(path)
