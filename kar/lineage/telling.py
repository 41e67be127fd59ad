"""The run of one stage as events: one START, and one of COMPLETE, FAIL and ABORT."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

from kar.lineage.sending import Sender
from kar.store import Inputs, Manifest, Partition

State = Literal["START", "COMPLETE", "FAIL", "ABORT"]


class Told:
    """Tells of what happens while it is held.

    Args:
        sender: where events go.
        inputs: of the stage; its clock is the events' clock.
        recipe, partition: as `kar.lineage.told` takes them.
        environ: names the run that this one is part of, if there is one.
    """

    def __init__(self, sender: Sender, inputs: Inputs, recipe: Mapping[str, Any], partition: Partition, environ: Mapping[str, str]) -> None:
        self._sender, self._inputs, self._recipe, self._partition, self._environ = sender, inputs, recipe, partition, environ
        self._run_id = ""
        self._started = time.monotonic()

    def __enter__(self) -> None:
        self._tell("START")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._tell("COMPLETE")
        else:
            self._tell("FAIL" if issubclass(kind, Exception) else "ABORT", kind.__name__)

    def _tell(self, state: State, error: str = "") -> None:
        at = self._inputs.as_of + dt.timedelta(seconds=time.monotonic() - self._started)

        def event() -> Any:
            from kar.lineage.events import Run, event_of, new_run_id

            self._run_id = self._run_id or new_run_id()
            made = Manifest.read(self._partition.manifest_path) if state == "COMPLETE" else None
            return event_of(state, Run(self._run_id, self._inputs, self._recipe, self._environ), at, made, error)

        self._sender.send(event, is_last=state != "START")
