"""Who was forgotten: salted digests of ids and of request keys, so that nothing that comes later brings them back.

<home>/<scenario>/forgotten/list.json       salt and digests of users and items; joins the recipe of what reads the user's files
<home>/<scenario>/forgotten/requests.json   digests of the requests that were erased from the ledger; an import leaves them out
<home>/<scenario>/.forget.lock              shared by every stage that runs, alone by `kar forget`

The salt keeps digests of two homes from being compared. Whoever has the home and a guess at an id can still test the guess,
as anything that keeps somebody out must be able to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kar.errors import StageError
from kar.store.locking import locked
from kar.store.paths import Home
from kar.store.whole import write_whole

Side = Literal["user", "item"]
_WORD = re.compile(r"[\w.@:+-]+")


@dataclass(frozen=True)
class Forgotten:
    """The exclusion list of a home.

    Args:
        salt: 32 hex digits, made once a home; empty: nobody was ever forgotten.
        users, items, requests: digests, hex.
    """

    salt: str = ""
    users: frozenset[str] = field(default_factory=frozenset)
    items: frozenset[str] = field(default_factory=frozenset)
    requests: frozenset[str] = field(default_factory=frozenset)

    def __bool__(self) -> bool:
        return bool(self.users or self.items)

    def digest(self, kind: str, value: str) -> str:
        """sha256 of salt, kind (user · item · request) and value; the same in `warehouse/staging/stg_forgotten.sql`."""
        return hashlib.sha256(f"{self.salt}:{kind}:{value}".encode()).hexdigest()

    def of(self, side: Side) -> frozenset[str]:
        return self.users if side == "user" else self.items

    def holds(self, side: Side, subject_id: str) -> bool:
        """Whether a user or item was forgotten; the id as text."""
        return bool(self.of(side)) and self.digest(side, subject_id) in self.of(side)

    def holds_request(self, key: str) -> bool:
        return bool(self.requests) and self.digest("request", key) in self.requests

    def names_one(self, shown: object) -> bool:
        """Whether a rejected row, as a manifest shows it, has the id of somebody forgotten among its words."""
        if not self:
            return False
        words = set(_WORD.findall(shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False, default=str)))
        words |= {part for word in words for part in re.split(r"[.:@+-]+", word)}
        return any(self.holds("user", word) or self.holds("item", word) for word in words)

    def plus(self, *, users: Iterable[str] = (), items: Iterable[str] = (), requests: Iterable[str] = ()) -> Forgotten:
        """The list with more on it: ids and keys in clear."""
        salted = self if self.salt else replace(self, salt=secrets.token_hex(16))
        return replace(
            salted,
            users=self.users | {salted.digest("user", one) for one in users},
            items=self.items | {salted.digest("item", one) for one in items},
            requests=self.requests | {salted.digest("request", one) for one in requests},
        )

    def write(self, home: Home) -> None:
        """Write both files, each whole or not at all."""
        subjects = {"salt": self.salt, "users": sorted(self.users), "items": sorted(self.items)}
        write_whole(list_path(home), json.dumps(subjects, indent=1) + "\n")
        write_whole(requests_path(home), json.dumps({"requests": sorted(self.requests)}, indent=1) + "\n")


def folder_of(home: Home) -> Path:
    return home.path / "forgotten"


def list_path(home: Home) -> Path:
    return folder_of(home) / "list.json"


def requests_path(home: Home) -> Path:
    return folder_of(home) / "requests.json"


def read_forgotten(home: Home) -> Forgotten:
    """The exclusion list; empty where nobody was forgotten.

    Raises:
        StageError: a file is damaged: going on would bring somebody back.
    """
    subjects, requests = _read(list_path(home)), _read(requests_path(home))
    try:
        return Forgotten(
            str(subjects.get("salt", "")),
            frozenset(subjects.get("users", ())),
            frozenset(subjects.get("items", ())),
            frozenset(requests.get("requests", ())),
        )
    except TypeError as error:
        raise _damaged(list_path(home), error) from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise _damaged(path, "it is no JSON object")
    return found


def _damaged(path: Path, why: object) -> StageError:
    return StageError(
        f"{path}, the list of who was forgotten, cannot be read: {why}", "restore it from a backup: without it they come back"
    )


def nobody_is_forgotten(home: Home) -> contextlib.AbstractContextManager[None]:
    """Held by whatever writes below the home. Raises AlreadyRunning while `kar forget` is at work."""
    return locked(_lock_path(home), f"kar forget is at work in {home.path}", "wait for it, then run again", is_shared=True)


def alone(home: Home) -> contextlib.AbstractContextManager[None]:
    """Held by `kar forget`. Raises AlreadyRunning while a stage runs."""
    return locked(_lock_path(home), f"a stage is running in {home.path}", "wait for it, or stop it; nothing was forgotten")


def _lock_path(home: Home) -> Path:
    return home.path / ".forget.lock"
