"""The user's own files: find them, name their columns, and let DuckDB read them as the settings say.

Never: judge a row. That is the staging models' work; here a row is read as it stands, or not at all (`bad_row`).
"""

from kar.source.find import find
from kar.source.read import INTERACTIONS, ITEMS, USERS, Kind, load
from kar.source.scan import Scan, scan

__all__ = ["INTERACTIONS", "ITEMS", "USERS", "Kind", "Scan", "find", "load", "scan"]
