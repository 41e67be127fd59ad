"""How far a history has moved: the distance between two distributions of an item attribute.

    p(v) = mean over the events of (1 / values of the event's item), for each value v that the item has
    drift = ½ Σ_v |p_last(v) − p_tonight(v)|        total variation distance, 0 (the same mixture) to 1 (nothing in common)

An item without the attribute counts as one whose only value is the empty text. p_last is over the events that the last
prompt saw. p_tonight is over the newest (events seen + new events) of the history: what the last prompt left out for want
of room, being older, is no news.

What it costs: table item_attribute is read once a night, and the values of each item that has the attribute stay in memory
(about 150 bytes an item); then some 40 µs for each user whose evidence digest changed, nothing for the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import SettingsError

_NONE = ("",)


class Mixtures:
    """The mixture of an attribute's values over some events.

    Args:
        values: item, as text → its values.
    """

    def __init__(self, values: dict[str, tuple[str, ...]]) -> None:
        self._values = values

    @classmethod
    def of(cls, item_attribute: pa.Table, name: str) -> Mixtures:
        """Of one attribute of table item_attribute. Raises SettingsError if no item has it."""
        rows = item_attribute.filter(pc.equal(item_attribute.column("name"), name))
        if not rows.num_rows:
            known = ", ".join(sorted(pc.unique(item_attribute.column("name")).to_pylist())) or "none"
            raise SettingsError(f"prompts.drift_attribute is {name!r}, which no item has", f"items have: {known}; or leave it empty")
        values: dict[str, list[str]] = defaultdict(list)
        items = rows.column("item_id").cast(pa.string()).to_pylist()
        for item, value in zip(items, rows.column("value").to_pylist(), strict=True):
            values[item].append(value)
        return cls({item: tuple(own) for item, own in values.items()})

    def of_events(self, items: Iterable[str]) -> dict[str, float]:
        """Value → share, summing to 1; empty for no events."""
        weights: dict[str, float] = defaultdict(float)
        count = 0
        for item in items:
            own = self._values.get(item, _NONE)
            count += 1
            for value in own:
                weights[value] += 1.0 / len(own)
        return {value: weight / count for value, weight in weights.items()}

    def drift(self, seen: Iterable[str], tonight: Iterable[str]) -> float:
        """Total variation distance between two lists of items, 0-1; 1 if one of them is empty and the other is not."""
        last, now = self.of_events(seen), self.of_events(tonight)
        if not last or not now:
            return float(bool(last) != bool(now))
        return 0.5 * sum(abs(last.get(v, 0.0) - now.get(v, 0.0)) for v in last.keys() | now.keys())
