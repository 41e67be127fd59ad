"""What the name of a view says: item.facts, item.facts:mood (one factor of it), item.facts@noise (a control of it), item.facts:mood@noise."""

from __future__ import annotations


def whole_view(view: str) -> str:
    """The view whose texts a factor's or a control's are made of: item.facts:mood@noise → item.facts; of raw text and knowledge itself."""
    return view.partition("@")[0].partition(":")[0]
