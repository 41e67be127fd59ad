"""Requests on their way to the servers: taken from the plan as they are needed, never all at once.

What the ledger holds is left out; a key that is on its way already is not sent twice. Of a family that is new and
large one request goes ahead, so that the server computes their common beginning once and not once for each request
that it takes in together; meanwhile other families are asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kar.llm.ledger import Answer, Ledger

_CHUNK = 4096  # keys are random, so each look into the ledger touches all of it: the fewer looks the better
_CROWD = 8  # a family of no more requests needs nobody ahead
_MOST_PARKED = _CHUNK
_LONGEST_WARM_UP_S = 20.0
_REMEMBERED_FAMILIES = 4096


_LENGTH_FIELDS = ("max_completion_tokens", "max_tokens")


def length_field(body: Mapping[str, Any]) -> str | None:
    """Which field of a request's body bounds the answer's tokens; None: none does."""
    return next((name for name in _LENGTH_FIELDS if isinstance(body.get(name), int)), None)


@dataclass(frozen=True, slots=True)
class Request:
    """One planned call.

    Args:
        key: `kar.llm.key.request_key` of body and revision.
        body: the canonical bytes that are sent.
        prompt_tokens: estimate, for the budget.
        answer_tokens: the most the answer may take, for the budget.
        template_version: id@version:digest.
        family: what its prompt begins with, shared with others of the family; empty: nothing.
        retry_of: the key of the request that this one asks again; empty: none.
    """

    key: str
    body: bytes
    prompt_tokens: int
    answer_tokens: int
    template_version: str
    family: str = ""
    retry_of: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """A request whose answer stopped at the token limit: what it takes to ask it again. Its body lies in the ledger."""

    key: bytes
    prompt_tokens: int
    answer_tokens: int
    template_version: str
    family: str


class Stream:
    """The requests of one round.

    Args:
        requests: in the order to send; read in chunks.
        ledger: says which ones are paid for.
        warm_up: let one request of each large family go ahead.
    """

    def __init__(self, requests: Iterable[Request], ledger: Ledger, *, warm_up: bool = True) -> None:
        self._requests: Iterator[Request] = iter(requests)
        self._ledger, self._warm_up = ledger, warm_up
        self._ready: deque[Request] = deque()
        self._parked: dict[str, list[Request]] = {}
        self._leads: dict[str, str] = {}  # a leader's key → its family
        self._warm: dict[str, None] = {}
        self._open: set[str] = set()
        self._released = asyncio.Event()
        self.taken = 0
        self.from_ledger = 0
        self.cut: list[Cut] = []

    def has_more(self) -> bool:
        """Read on until there is a request that must be asked; False: there is none any more."""
        while not self._ready and not self._parked:
            if not self._fill():
                return False
        return True

    async def take(self) -> Request | None:
        """The next request to send; None: all were taken. Waits only while every family at hand has its leader out."""
        while not self._ready:
            if sum(map(len, self._parked.values())) < _MOST_PARKED and self._fill():
                continue
            if not self._parked:
                return None
            self._released.clear()
            await self._released.wait()
        request = self._ready.popleft()
        self.taken += 1
        if request.key in self._leads:
            asyncio.get_running_loop().call_later(_LONGEST_WARM_UP_S, self._release, request.key)
        return request

    def ended(self, request: Request, answer: Answer | None) -> None:
        """A request that was taken has ended, with a row in the ledger or (the run is stopping) without."""
        self._open.discard(request.key)
        if answer is not None and answer.status == "ok":
            self._note(request, answer.finish_reason)
        if self._leads:
            self._release(request.key)

    def _fill(self) -> bool:
        """Read one chunk. False: there was none."""
        chunk = list(islice(self._requests, _CHUNK))
        new = {request.key: request for request in chunk if request.key not in self._open}
        held = self._ledger.endings(new)
        self.from_ledger += len(held)
        for key, finish_reason in held.items():
            self._note(new.pop(key), finish_reason)
        self._open |= new.keys()
        self._line_up(list(new.values()))
        return bool(chunk)

    def _line_up(self, requests: list[Request]) -> None:
        if not self._warm_up:
            self._ready.extend(requests)
            return
        sizes = Counter(request.family for request in requests)
        for request in requests:
            family = request.family
            if family in self._parked:
                self._parked[family].append(request)
                continue
            if family and family not in self._warm and sizes[family] > _CROWD:
                self._parked[family] = []
                self._leads[request.key] = family
            self._ready.append(request)

    def _release(self, leader: str) -> None:
        """Let a leader's family in, before those who came after it."""
        family = self._leads.pop(leader, None)
        if family is None:
            return
        self._ready.extendleft(reversed(self._parked.pop(family)))
        self._warm[family] = None
        if len(self._warm) > _REMEMBERED_FAMILIES:
            del self._warm[next(iter(self._warm))]
        self._released.set()

    def _note(self, request: Request, finish_reason: str) -> None:
        """Keep in mind a good answer that was cut."""
        if finish_reason == "length":
            key = bytes.fromhex(request.key)
            self.cut.append(Cut(key, request.prompt_tokens, request.answer_tokens, request.template_version, request.family))
