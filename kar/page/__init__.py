"""The report's page: facts in, one self-contained HTML document out. It reads no file, opens no socket, runs no script."""

from kar.page.drift import measure
from kar.page.factors import ByFactor, by_factor, centres, tally
from kar.page.facts import Chosen, Facts
from kar.page.item_map import MOST as MAPPED_ITEMS
from kar.page.item_map import ItemMap, item_map, met_together
from kar.page.nights import nights
from kar.page.reading import choose
from kar.page.render import judge, render

__all__ = [
    "MAPPED_ITEMS",
    "ByFactor",
    "Chosen",
    "Facts",
    "ItemMap",
    "by_factor",
    "centres",
    "choose",
    "item_map",
    "judge",
    "measure",
    "met_together",
    "nights",
    "render",
    "tally",
]
