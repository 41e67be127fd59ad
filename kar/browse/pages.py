"""Values into HTML. Autoescape is on, and whatever is printed is made visible first: as in the report."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kar.page import marks, numbers
from kar.untrusted import shown, title

_MOST_CHARS = 40_000
"""No single text is longer on a page; a prompt is the longest there is."""


def page(name: str, **values: Any) -> str:
    """One page as an HTML document. `values` hold plain data; links are made by the templates."""
    return _environment().get_template(name).render(**values)


@functools.cache
def style() -> bytes:
    """The report's style and what these pages add to it."""
    parts = (resources.files("kar.page").joinpath("page.css"), resources.files("kar.browse").joinpath("browse.css"))
    return "\n".join(part.read_text(encoding="utf-8") for part in parts).encode()


@functools.cache
def style_name() -> str:
    """Changes with the style, so that a browser may keep it for ever."""
    return f"style-{hashlib.sha256(style()).hexdigest()[:12]}.css"


ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#0b6a6a"/>'
    b'<path d="M5 3v10M5 9l5-5M7 7.5l4 5.5" stroke="#fff" stroke-width="1.8" fill="none"/></svg>'
)


def link(path: str, **query: Any) -> str:
    """An address of ours; empty values are left out. Percent-encoded: whatever an id holds, it stays one value of the query."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def release_link(release_id: str) -> str:
    return f"/releases/{quote(release_id, safe='')}"


def _bar(cosine: float | None) -> Markup:
    """A cosine as a bar from 0 to 1; what is below 0 is an empty one."""
    return marks.stack([("fate-tonight", max(cosine or 0.0, 0.0))], height=8)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("kar.browse", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=numbers.count, percent=numbers.share, fixed=numbers.fixed, signed=numbers.signed, size=numbers.size, usd=numbers.usd,
        title=title, bar=_bar,
    )  # fmt: skip
    environment.globals.update(link=link, release_link=release_link, style_name=style_name())
    return environment


def _finalize(value: object) -> object:
    """Every value that is printed passes here before it is escaped, so no text can be forgotten."""
    if value is None:
        return numbers.DASH
    return shown(value, _MOST_CHARS) if isinstance(value, str) and not isinstance(value, Markup) else value
