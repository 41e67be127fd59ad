"""A page taken apart with the standard parser, for assertions on what it says and what it would load."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = {"meta", "br", "link", "img", "input", "hr"}
_IN_A_SENTENCE = {"b", "bdi", "code"}
_SELF_CLOSED = {"line", "circle", "rect", "polyline", "polygon"}


class Parsed(HTMLParser):
    """The page's elements, text and faults.

    Attributes:
        elements: (tag, attributes) in order.
        text: all text outside <style>, white space collapsed; screen order.
        faults: tags that close what is not open, or stay open.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.faults: list[str] = []
        self.headline = ""
        self._open: list[str] = []
        self._words: list[str] = []
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> stays open" for tag in self._open]
        self.text = " ".join("".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._part(tag)
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _SELF_CLOSED | _VOID:
            self.faults.append(f"<{tag}/> closes itself")

    def handle_endtag(self, tag: str) -> None:
        self._part(tag)
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> at line {self.getpos()[0]} closes something else")

    def _part(self, tag: str) -> None:
        """Words of two elements do not run together, unless the element is part of a sentence."""
        if tag not in _IN_A_SENTENCE:
            self._words.append(" ")

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self._words.append(data)
        if self._open and self._open[-1] == "h1":
            self.headline += data

    def of(self, tag: str) -> list[dict[str, str]]:
        """Attributes of every element of that tag."""
        return [attributes for name, attributes in self.elements if name == tag]
