"""The bases: what a ranker sees beside the knowledge. An uplift is an uplift over its base, and every verdict names it.

thin           KAR's: the item id, one item attribute, 5 events
same_evidence  the events that the prompt saw, every item attribute that the settings name, first value each
rich           besides: the user's id and attributes, all values of the item attributes, the hour, mean ratings, a longer history

KAR gives the language model 30 events and the ranker 5; on MovieLens-1M letting the ranker see all 30 is worth more than the whole gain
that the paper reports. An uplift over a base that sees less than the prompt is one from data, not from knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass

from kar.settings import AdaptorSettings
from kar.settings.schema import Base as BaseName
from kar.verdict import Seen

_THIN_EVENTS = 5
_RICH_EVENTS = 50


@dataclass(frozen=True)
class Base:
    """What a ranker sees.

    Args:
        name: thin, same_evidence or rich.
        history_events: the longest history, in events.
        item_fields: item attributes, the first value of each; of the target and of the history's items.
        item_lists: item attributes of which the target shows every value.
        user_fields: user attributes.
        has_user_id, has_hour, has_means: the user's id; the hour of the example (UTC); the mean ratings of user and item before the examples.
    """

    name: BaseName
    history_events: int
    item_fields: tuple[str, ...]
    item_lists: tuple[str, ...] = ()
    user_fields: tuple[str, ...] = ()
    has_user_id: bool = False
    has_hour: bool = False
    has_means: bool = False


def base_of(name: BaseName, settings: AdaptorSettings, cap: int) -> Base:
    """A base by its name.

    Args:
        cap: events that a prompt may show (histories.cap).
    """
    if name == "thin":
        return Base(name, _THIN_EVENTS, tuple(settings.item_fields[:1]))
    if name == "same_evidence":
        return Base(name, settings.history_events or cap, tuple(settings.item_fields))
    return Base(
        name,
        settings.history_events or max(cap, _RICH_EVENTS),
        tuple(settings.item_fields),
        item_lists=tuple(settings.item_fields),
        user_fields=tuple(settings.user_fields),
        has_user_id=settings.use_user_id,
        has_hour=True,
        has_means=True,
    )


def seen(name: BaseName, settings: AdaptorSettings, cap: int) -> Seen:
    """How many events of a history a base sees, and a prompt of the knowledge's views may show (only those about users show any)."""
    return Seen(base_of(name, settings, cap).history_events, cap if settings.user_views else 0)
