"""Where the user's files lie, and what their first line says."""

from __future__ import annotations

import difflib
import gzip
import re
from pathlib import Path

from kar.errors import SourceError
from kar.settings import SourcesSettings, SourceTable

_QUOTED = re.compile(r"'([^']+)'")


def find(name: str, table: SourceTable, sources: SourcesSettings) -> list[Path]:
    """The files of one source table, sorted.

    For format duckdb: the files that the query names between quotes, as far as they exist below `sources.folder`; a
    change in a file that it reaches in another way is not noticed.

    Args:
        name: users, items or interactions; for the message.

    Raises:
        SourceError: no such file; says where it looked.
    """
    folder = Path(sources.folder).expanduser()
    if table.format == "duckdb":
        return sorted({path for text in _QUOTED.findall(table.path) for path in _matching(folder, text)})
    found = _matching(folder, table.path)
    if not found:
        near = difflib.get_close_matches(Path(table.path).name, _names(folder), n=1)
        raise SourceError(
            f"sources.{name}: there is no file {table.path!r} in {folder.resolve()} (sources.folder is {sources.folder!r})",
            f"did you mean {near[0]!r}? Mend sources.{name}.path" if near else f"set sources.folder, or mend sources.{name}.path",
        )
    return found


def _matching(folder: Path, text: str) -> list[Path]:
    path = folder / text
    if path.is_file():
        return [path]
    if not any(sign in text for sign in "*?["):
        return []
    anchor = Path(path.anchor or ".")
    pattern = str(path.relative_to(anchor)) if path.anchor else str(path)
    return sorted(p for p in anchor.glob(pattern) if p.is_file())


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def first_line(name: str, path: Path, encoding: str) -> str:
    """The first line of a text file, without its end and byte-order mark.

    Raises:
        SourceError: the file is empty, or not in this encoding.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            raw = stream.readline()
    except (OSError, EOFError) as error:
        raise SourceError(f"sources.{name}: {path} cannot be read: {error}", "check the file") from error
    if not raw.strip(b"\xef\xbb\xbf\r\n\t "):
        raise SourceError(f"sources.{name}: {path} is empty", "export the table again, or name another file")
    try:
        return raw.decode("utf-8-sig" if encoding == "utf-8" else encoding).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise not_utf8(name, path, 1) from error


def not_utf8(name: str, path: Path, line: int) -> SourceError:
    return SourceError(f"sources.{name}: line {line} of {path} is not UTF-8", f'set encoding = "latin-1" in [sources.{name}]')
