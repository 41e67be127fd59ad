"""Which of a plan's requests one of several processes asks."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SHARE = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Share:
    """Which part of the requests, of how many; the first is 0."""

    place: int
    of: int

    def __str__(self) -> str:
        return f"{self.place}/{self.of}"

    @classmethod
    def read(cls, text: str) -> Share:
        """Of I/N. Raises ValueError if it names none."""
        found = _SHARE.fullmatch(text)
        if found is None or not int(found[1]) < int(found[2]):
            raise ValueError(f"{text!r} is no share: I/N with I from 0 to N-1, such as 0/4")
        return cls(int(found[1]), int(found[2]))

    def holds(self, key: str) -> bool:
        """Whether a request is in it. A key is a sha256, so the shares are about alike, whatever the order of the plan."""
        return int(key[:16], 16) % self.of == self.place
