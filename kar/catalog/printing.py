"""Rows as text: a table to look at, records to read, JSON lines and CSV for other programs. Other people's words do no harm in any of them.

table     a cell is one line of at most 60 characters; at most `rows` rows
records   one column a line, texts whole and wrapped; at most `rows` rows
json      one object a line, exact: whatever is not plain ASCII is escaped
csv       every row; what is invisible is shown by its code point, so for exact bytes take json
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
import textwrap
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

from kar.catalog.asking import Answered
from kar.show import aligned
from kar.untrusted import shown

FORMATS = ("table", "records", "json", "csv")
_CELL_CHARS, _LINE_CHARS = 40, 200
_TEXT_CHARS = 100_000
_WIDTH = 100


def printed(answered: Answered, form: str, rows: int) -> Iterator[str]:
    """The lines to print, made as the rows come.

    Args:
        form: one of FORMATS.
        rows: most rows of a table or of records; 0: all of them.
    """
    return {"table": _table, "records": _records, "json": _json, "csv": _csv}[form](answered, rows)


def _rows(answered: Answered) -> Iterator[list[Any]]:
    for batch in answered.batches:
        columns = [column.to_pylist() for column in batch.columns]  # by place: two columns may share a name
        yield from map(list, zip(*columns, strict=True))


def _first(answered: Answered, rows: int) -> tuple[list[list[Any]], bool]:
    """So many rows, and whether there are more."""
    source = _rows(answered)
    found = list(islice(source, rows + 1)) if rows else list(source)
    return (found[:rows], len(found) > rows) if rows else (found, False)


def _table(answered: Answered, rows: int) -> Iterator[str]:
    found, has_more = _first(answered, rows)
    most = max(_CELL_CHARS, _LINE_CHARS // max(len(answered.columns), 1))
    cells = [tuple(_cell(value, most) for value in row) for row in found]
    yield from aligned([tuple(_line(name) for name in answered.columns), *cells])
    is_cut = any(cell.endswith("…") for row in cells for cell in row)
    yield f"({_counted(found, has_more, rows)}{'; long texts are cut: --format records shows them whole' if is_cut else ''})"


def _records(answered: Answered, rows: int) -> Iterator[str]:
    found, has_more = _first(answered, rows)
    width = max((len(_line(name)) for name in answered.columns), default=0)
    for number, row in enumerate(found, 1):
        yield f"─── {number} "
        for name, value in zip(answered.columns, row, strict=True):
            lines = [part for line in _text(value).splitlines() or [""] for part in textwrap.wrap(line, _WIDTH) or [""]]
            yield f"{_line(name).ljust(width)}  {lines[0]}"
            yield from (f"{'':{width}}  {line}" for line in lines[1:])
    yield f"({_counted(found, has_more, rows)})"


def _counted(found: list[list[Any]], has_more: bool, rows: int) -> str:
    if has_more:
        return f"the first {rows:,} rows; there are more: --rows 0 shows all"
    return f"{len(found):,} row{'' if len(found) == 1 else 's'}"


def _json(answered: Answered, rows: int) -> Iterator[str]:
    names = _distinct(answered.columns)
    for row in _rows(answered):
        yield json.dumps(dict(zip(names, map(_plain, row), strict=True)), allow_nan=False)


def _distinct(names: list[str]) -> list[str]:
    """Two columns of one name would be one key of the object: the second gets a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found


def _csv(answered: Answered, rows: int) -> Iterator[str]:
    yield _csv_line(answered.columns)
    for row in _rows(answered):
        yield _csv_line([_text(value) for value in row])


def _csv_line(values: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue().removesuffix("\n")


def _cell(value: Any, most: int) -> str:
    line = _line(_text(value))
    return line if len(line) <= most else line[: most - 1] + "…"


def _line(text: str) -> str:
    return " ".join(shown(text, _TEXT_CHARS).split())


def _text(value: Any) -> str:
    """A value as people read it, nothing invisible in it."""
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S") if value.tzinfo else value.isoformat(" ", "seconds")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | dict):
        return shown(json.dumps(_plain(value), ensure_ascii=False), _TEXT_CHARS)
    return shown(value.hex() if isinstance(value, bytes) else str(value), _TEXT_CHARS)


_PLAIN: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
    (bool, lambda value: value),
    (float, lambda value: value if math.isfinite(value) else None),
    ((int, str), lambda value: value),
    (list, lambda value: [_plain(each) for each in value]),
    (tuple, lambda value: [_plain(each) for each in value]),
    (Decimal, lambda value: int(value) if value == value.to_integral_value() else float(value)),
    (dict, lambda value: {str(key): _plain(each) for key, each in value.items()}),
    (bytes, lambda value: value.hex()),
    ((dt.datetime, dt.date), lambda value: value.isoformat()),
)


def _plain(value: Any) -> Any:
    """A value as JSON holds it; NaN and infinity become null."""
    if value is None:
        return None
    return next((made(value) for kind, made in _PLAIN if isinstance(value, kind)), str(value))
