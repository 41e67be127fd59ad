"""A page as a test reads it: its words by section, its links, its tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "link", "input", "br", "rect", "img", "col"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element | str] = field(default_factory=list)

    @property
    def words(self) -> str:
        return " ".join("".join(child if isinstance(child, str) else f" {child.words} " for child in self.children).split())

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Every element below of that tag with these attributes, in order; `class_` fits one of several classes."""
        below = [child for child in self.children if isinstance(child, Element)]
        return [found for child in below for found in [*([child] if child.fits(tag, attributes) else []), *child.all(tag, **attributes)]]

    def fits(self, tag: str, attributes: dict[str, str]) -> bool:
        classes = self.attributes.get("class", "").split()
        return tag in ("", self.tag) and all(
            value in classes if name == "class_" else self.attributes.get(name) == value for name, value in attributes.items()
        )

    def one(self, tag: str = "", **attributes: str) -> Element:
        found = self.all(tag, **attributes)
        assert len(found) == 1, (tag, attributes, len(found))
        return found[0]

    @property
    def rows(self) -> list[list[str]]:
        """The words of a table's body, cell by cell."""
        return [[cell.words for cell in row.children if isinstance(cell, Element)] for body in self.all("tbody") for row in body.all("tr")]


class Page(HTMLParser):
    """Parses strictly: an element that is not closed, or closed twice, fails."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self._at = Element("", {})
        self.feed(text)
        self.close()
        assert self._at is self.root, f"<{self._at.tag}> was never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self._at)
        self._at.children.append(element)
        if tag not in _VOID:
            self._at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self._at.children.append(Element(tag, {name: value or "" for name, value in attrs}, self._at))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self._at.tag, f"</{tag}> closes <{self._at.tag}>"
        assert self._at.parent is not None
        self._at = self._at.parent

    def handle_data(self, data: str) -> None:
        self._at.children.append(data)


def page(text: str) -> Element:
    return Page(text).root
