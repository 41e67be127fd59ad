"""Which model the configured server serves, for planning: asked from the server if it answers, else as it was last seen.

Planning sends no prompt, and a night without news needs no server at all. So the identity that a server once gave is kept,
by the model's name, in `<home>/ledger/server.json`; it stands in while the server is away.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from kar import log
from kar.errors import ServerRefused, ServerUnreachable
from kar.llm.identity import key_revision, server_identity
from kar.settings import LLMSettings
from kar.store import Home, write_whole

_FILE = "server.json"
_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Served:
    """What stands for the model in request keys, and the software that serves it; empty: unknown."""

    revision: str = ""
    server_version: str = ""


def served_model(settings: LLMSettings, home: Home, timeout_s: float = _TIMEOUT_S) -> Served:
    """The model's revision and the server's version. Waits for a server `timeout_s` at most, and needs none.

    The setting `llm.revision` goes first; a local model is known by its digest, without a server.

    Raises:
        SettingsError: a local model that has not been fetched.
    """
    if settings.provider == "local" or settings.revision:
        return Served(key_revision(settings, home))
    path, seen = home.ledger / _FILE, _read(home.ledger / _FILE)
    if settings.provider == "batch":
        return seen.get(settings.model, Served())  # nobody is there to be asked
    try:
        identity = server_identity(settings, timeout_s=timeout_s)
    except (ServerUnreachable, ServerRefused) as error:
        last = seen.get(settings.model, Served())
        log.info("no server answers; its model is taken to be the one last seen", revision=last.revision or "unknown", because=error.what)
        return last
    if identity.is_silent:
        return seen.get(settings.model, Served())
    found = Served(key_revision(settings, home, identity), identity.server_version)
    if seen.get(settings.model) != found:
        known = seen | {settings.model: found}
        write_whole(path, json.dumps({model: asdict(entry) for model, entry in sorted(known.items())}, indent=2) + "\n")
    return found


def _read(path: Path) -> dict[str, Served]:
    """By model name; empty if there is no such file, or it cannot be read: it is a memory, not a record."""
    try:
        return {model: Served(**entry) for model, entry in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
