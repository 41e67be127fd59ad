"""What a stage read and wrote, told to a lineage server as OpenLineage events. Off unless KAR_LINEAGE is set.

Where the events go is the client library's own matter (`OPENLINEAGE_URL`, or a file named by `OPENLINEAGE_CONFIG`): it belongs to the
place where kar runs and to no scenario, so it is no setting, joins no recipe, and is the same for whatever else tells its lineage there.

    START      a stage begins to make a partition: its inputs
    COMPLETE   the partition is sealed: inputs, outputs, rows, digests, what was left out and why
    FAIL       it ended in an error, of which the class alone is told: kar's words may quote a row
    ABORT      it was stopped (Ctrl-C, SIGTERM); after a SIGKILL nobody is left to tell

A stage that does nothing tells nothing: no version of a table came to be, and what made the one that lies there was told when it did.
Nor does one that cannot begin (NotMade, AlreadyRunning): it read nothing.

No event holds a setting, a text, an id or an address: names of tables and files, counts, digests, dates.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from kar.lineage.sending import sender
from kar.lineage.telling import Told
from kar.store import Inputs, Partition

_OFF = ("", "0", "false", "no", "off")
_is_rehearsal = contextvars.ContextVar("is_rehearsal", default=False)


def told(inputs: Inputs, recipe: Mapping[str, Any], partition: Partition) -> AbstractContextManager[object]:
    """Hold this while a stage makes a partition. Never raises of itself, and costs a stage three seconds at worst, once a process.

    Args:
        recipe: of the partition that is about to be made: holds the digests of what is read.
        partition: where it will lie; its manifest is read after a good end.
    """
    if _is_rehearsal.get() or not is_on(os.environ):
        return contextlib.nullcontext()
    return Told(sender(), inputs, recipe, partition, os.environ)


def is_on(environ: Mapping[str, str]) -> bool:
    """Whether KAR_LINEAGE says so."""
    return environ.get("KAR_LINEAGE", "").strip().lower() not in _OFF


@contextlib.contextmanager
def rehearsal() -> Iterator[None]:
    """What is made meanwhile is thrown away afterwards (`kar backfill` foresees its dates so), and nobody is told of it."""
    token = _is_rehearsal.set(True)
    try:
        yield
    finally:
        _is_rehearsal.reset(token)
