"""Every paid answer, kept: append-only SQLite shards while a run goes on, Parquet parts after it.

An answer lies under its request key (`kar.llm.key`). Rows are only ever added; of several answers to one key the first good
one counts (by `ended_at`, then by the row's digest: the same in every shard and copy), so a later failure never hides what
was paid for. Writes are grouped by a thread of their own: a process killed with SIGKILL loses the requests in flight plus at
most one commit window.

WAL with synchronous=NORMAL: a commit survives the death of the process; after a power cut the last ones may be gone.
"""

from kar.llm.ledger.answer import Answer, Status
from kar.llm.ledger.idle import Compacted, compact_all, held_shards
from kar.llm.ledger.ledger import COMMIT_WINDOW_S, Ledger, look_up
from kar.llm.ledger.places import file_system_of
from kar.llm.ledger.stats import Group, Size, Stats, sizes, stats
from kar.llm.ledger.transfer import Exported, Merged, export, merge
from kar.llm.ledger.verify import Verified, verify

__all__ = [
    "COMMIT_WINDOW_S",
    "Answer",
    "Compacted",
    "Exported",
    "Group",
    "Ledger",
    "Merged",
    "Size",
    "Stats",
    "Status",
    "Verified",
    "compact_all",
    "export",
    "file_system_of",
    "held_shards",
    "look_up",
    "merge",
    "sizes",
    "stats",
    "verify",
]
