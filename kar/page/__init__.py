"""The report's page: facts in, one self-contained HTML document out. It reads no file, opens no socket, runs no script."""

from kar.page.factors import ByFactor, by_factor, centres, tally
from kar.page.facts import Chosen, Facts
from kar.page.reading import choose
from kar.page.render import judge, render

__all__ = ["ByFactor", "Chosen", "Facts", "by_factor", "centres", "choose", "judge", "render", "tally"]
