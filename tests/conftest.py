"""What all tests share: nothing leaves the machine, and no test reads a user's home."""

from __future__ import annotations

import os

# Before any library is imported: no model hub, no telemetry, single-threaded tokenizers.
os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1"})

import ipaddress
import signal
import socket
from typing import Any

_connect = socket.socket.connect


def _loopback_only(self: socket.socket, address: Any) -> None:
    """Refuse every connection that would leave the machine, so that a test that tries fails by itself."""
    is_ip = self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "localhost"
    if is_ip and not ipaddress.ip_address(address[0]).is_loopback:
        raise AssertionError(f"a test connects to {address}; only loopback is allowed")
    _connect(self, address)


socket.socket.connect = _loopback_only  # type: ignore[method-assign, assignment]

# A shell's background job ignores Ctrl-C, and so would everything a test starts; the tests of Ctrl-C would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
