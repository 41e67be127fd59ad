"""What a scenario holds, as views for analysts: the current release, every stage's tables of every night, the ledger. Read-only.

    views/users, items, knowledge, answers, cost, refused, releases …   warehouse/catalog/*.sql, one file a view, over two schemas:
    files.*    one view for each declared table and for the ledger and the release, straight over their Parquet files
    facts.*    small tables read from manifests, CURRENT and the settings
    questions  warehouse/catalog/questions/*.sql: what analysts ask, with parameters

`kar sql` (asking) builds them in memory and lets a statement read and do nothing else. `kar catalog` (writing) puts the same views into a
DuckDB file. It holds no text of anyone: what `kar forget` takes out of the home is gone from it too.
"""

from kar.catalog.asking import Answered, Asking
from kar.catalog.library import Question, View, questions, views
from kar.catalog.printing import FORMATS, printed
from kar.catalog.writing import write

__all__ = ["FORMATS", "Answered", "Asking", "Question", "View", "printed", "questions", "views", "write"]
