"""The way out: an event is handed to the OpenLineage client, and a night never waits for it longer than a moment.

A transport is somebody else's code with a network behind it, so it works in a thread that is left alone when it takes too long. After
the first fault of a process nothing more is sent: a server that is away costs one wait and one warning, not one a stage.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from kar import log

PATIENCE_S = 3.0
_CLIENT: dict[str, Any] = {
    # these two win over the user's own file: the one would copy environment variables into events, the other the address of the
    # repository that lies around the working directory, which may hold a token
    "facets": {"environment_variables": [], "source_code_location": {"disabled": True}},
}


class Sender:
    """Sends events, one after another, until one does not arrive.

    Args:
        patience_s: the longest that one event may take.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._client: Any = None
        self._gave_up = False

    def send(self, event: Callable[[], Any], *, is_last: bool = False) -> None:
        """Send what `event` makes, or warn once and never try again.

        Args:
            is_last: of its run; what the transport holds back is sent too.
        """
        if self._gave_up:
            return
        fault = self._without_library() or self._in_time(functools.partial(self._emit, event, is_last=is_last))
        if fault:
            self._gave_up = True
            log.warning("no lineage is told any more; the stages go on", because=fault)

    def _without_library(self) -> str:
        try:
            import openlineage.client  # noqa: F401  (half a second that is not the server's)
        except ImportError:
            return "KAR_LINEAGE is set, and openlineage-python is not installed: pip install 'kar[lineage]'"
        return ""

    def _emit(self, event: Callable[[], Any], *, is_last: bool) -> str:
        if self._client is None:
            self._client = _client(self._patience_s)
        if self._client.transport.kind == "console" and not (self._client.config.transport or {}).get("type"):
            return "KAR_LINEAGE is set, and neither OPENLINEAGE_URL nor OPENLINEAGE_CONFIG says where to send it"
        self._client.emit(event())
        if is_last:
            client, self._client = self._client, None
            if not client.close(self._patience_s):
                return f"not all events had arrived after {self._patience_s:g} s"
        return ""

    def _in_time(self, work: Callable[[], str]) -> str:
        """What went wrong; empty: nothing."""
        ends: queue.SimpleQueue[str] = queue.SimpleQueue()

        def worked() -> None:
            try:
                ends.put(work())
            except Exception as error:  # noqa: BLE001  a transport raises what it likes, and none of it may end a night
                ends.put(_shown(error))

        threading.Thread(target=worked, name="kar-lineage", daemon=True).start()
        try:
            return ends.get(timeout=self._patience_s)
        except queue.Empty:
            return f"no answer within {self._patience_s:g} s"


@functools.cache
def sender() -> Sender:
    """The process's own."""
    return Sender()


def _client(patience_s: float) -> Any:
    """The library's client, configured as the library does it, in haste."""
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.http import HttpTransport

    # its warnings repeat values of the environment, and ours say what matters
    logging.getLogger("openlineage").addHandler(logging.NullHandler())
    client = OpenLineageClient(config=_CLIENT)
    if isinstance(client.transport, HttpTransport):
        client.transport.timeout = min(client.transport.timeout, patience_s)
        client.transport.config.retry = {"total": 0}
    return client


def _shown(error: Exception) -> str:
    """The class and the status: a message would quote the address, and that may hold a password."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return type(error).__name__ + (f" {status}" if status else "")
