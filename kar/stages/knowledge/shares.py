"""One share of a night's questions, for processes that ask at the same time; the knowledge stage judges what all of them got.

A share is a request's by its key alone, so every process finds its own without a word to the others. It has its share of the night's
budget, less what its earlier attempts took. An attempt that was killed is gone on with, a share that was asked to its end is not asked again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kar import log
from kar.errors import ServerUnreachable
from kar.llm import arrivals
from kar.llm.ask import Asked
from kar.llm.budget import Budget, Planned, Reservation, rest, share_of
from kar.llm.ledger.reading import Reading
from kar.llm.stream import Request
from kar.settings import LLMSettings, Settings
from kar.stages.knowledge.asking import ask_some, planned_revision, requests_of
from kar.stages.knowledge.attempts import Attempt, Attempts, by_share, settled, shares_folder, summed
from kar.stages.knowledge.share import Share
from kar.store import Inputs
from kar.store.forgotten import nobody_is_forgotten
from kar.store.locking import locked


@dataclass(frozen=True)
class Took:
    """What a share has come to, over all attempts at it."""

    share: Share
    planned: int
    attempts: int
    asked: Asked

    def figures(self) -> dict[str, Any]:
        """For a program: numbers and words of ours, nobody's text."""
        asked = self.asked
        names = ("calls", "answered", "failed", "from_ledger", "pushed_back", "prompt_tokens", "cached_tokens", "completion_tokens")
        return {
            "shard": str(self.share),
            "planned": self.planned,
            "attempts": self.attempts,
            **{name: getattr(asked, name) for name in names},
            "tokens": asked.prompt_tokens + asked.completion_tokens,
            "usd": round(asked.usd, 6),
            "seconds": round(asked.seconds, 3),
            "stopped_by": asked.stopped_by,
        }


def ask_share(inputs: Inputs, settings: Settings, share: Share, stop_in_s: float | None = None) -> Took:
    """Ask a share of the plan, in its order; answers go to the ledger and nowhere else.

    Args:
        inputs: of the knowledge stage.
        stop_in_s: seconds from now after which no call begins; None: as llm.deadline_s says.

    Raises:
        AlreadyRunning: this share is being asked, or the night in other shares, or the knowledge stage runs.
        ServerUnreachable, ServerRefused, ModelChanged, LedgerError: as `kar.llm.ask.ask`. What was answered is kept.
    """
    ends_at = None if stop_in_s is None else time.monotonic() + stop_in_s
    with nobody_is_forgotten(inputs.home), _only_asker(inputs, share):
        attempts = Attempts.of_plan(inputs)
        before = settled(inputs, settings.llm, attempts.all())
        own = by_share(before).get((share.of, share.place), [])
        if own and own[-1].is_done:
            log.info("ask: nothing to do", date=inputs.date, shard=share)
            return Took(share, own[-1].planned, len(own), summed(own))
        part, whole, keys = _planned(inputs, share)
        attempt = Attempt(share.place, share.of, len(own), inputs.as_of, len(keys))
        attempts.keep(attempt)
        llm = _until(ends_at, _paid_by(settings.llm, share, before, own, part, whole))
        asked = _ask(inputs, settings.model_copy(update={"llm": llm}), share, keys)
        attempt = dataclasses.replace(attempt, is_over=True, asked=asked)
        attempts.keep(attempt)
        return Took(share, len(keys), len(own) + 1, summed([*own, attempt]))


@contextlib.contextmanager
def _only_asker(inputs: Inputs, share: Share) -> Iterator[None]:
    """Beside the night's other shares, but not beside the stage, this share or another cut: requests would be paid twice."""
    home, date, folder = inputs.home, inputs.date, shares_folder(inputs.home, inputs.date)
    stage = locked(
        home.partition("knowledge", date).lock,
        f"another process is running knowledge for {date}",
        "wait for it, or stop it",
        is_shared=True,
    )
    own = locked(folder / f".{share.place}-of-{share.of}.lock", f"another process asks share {share} of {date}", "wait for it, or stop it")
    with stage, own:
        for path in folder.glob(".*-of-*.lock"):
            if not path.name.endswith(f"-of-{share.of}.lock"):  # whoever holds its own looks at the others': of two at least one sees it
                name = path.name.strip(".").removesuffix(".lock").replace("-", " ")
                with locked(
                    path, f"another process asks {date} in other shares ({name})", f"wait for it, or ask in as many, not in {share.of}"
                ):
                    pass
        yield


def _planned(inputs: Inputs, share: Share) -> tuple[Planned, Planned, set[str]]:
    """What the share takes at most, what the whole plan does, and the share's keys."""
    keys: set[str] = set()
    sizes = [[0, 0], [0, 0]]
    for request in requests_of(inputs):
        is_own = share.holds(request.key)
        for size in sizes if is_own else sizes[1:]:
            size[0] += request.prompt_tokens
            size[1] += request.answer_tokens
        if is_own:
            keys.add(request.key)
    return Planned(*sizes[0]), Planned(*sizes[1]), keys


def _paid_by(llm: LLMSettings, share: Share, before: list[Attempt], own: list[Attempt], part: Planned, whole: Planned) -> LLMSettings:
    """The share's budget: its part of what attempts in another cut left of the night's, less what its own took."""
    others = [attempt for attempt in before if attempt.of != share.of]
    return rest(share_of(rest(llm, *_spent(others)), part, whole), *_spent(own))


def _spent(attempts: Iterable[Attempt]) -> tuple[int, float]:
    """Tokens and dollars."""
    asked = [attempt.asked for attempt in attempts]
    return sum(a.prompt_tokens + a.completion_tokens for a in asked), sum(a.usd for a in asked)


def _until(ends_at: float | None, llm: LLMSettings) -> LLMSettings:
    if ends_at is None:
        return llm
    left_s = ends_at - time.monotonic()
    return llm.model_copy(update={"deadline_s": left_s if llm.deadline_s is None else min(left_s, llm.deadline_s)})


def _ask(inputs: Inputs, settings: Settings, share: Share, keys: set[str]) -> Asked:
    """Ask those keys; no server is needed where all are held, or where the budget does not reach for the first that is not."""
    revision, llm = planned_revision(inputs), settings.llm
    if revision is None or not keys:
        return Asked()
    with Reading(inputs.home.ledger) as ledger:
        held = ledger.held(keys)
    if llm.provider == "batch":
        return Asked(from_ledger=len(held))
    if first := next((request for request in _mine(inputs, share) if request.key not in held), None):
        stop = Budget.of(llm).reserve(first.prompt_tokens, first.answer_tokens)
        if not isinstance(stop, Reservation):
            return Asked(from_ledger=len(held), stopped_by=stop)
        if inputs.home.partition("knowledge", inputs.date).exists():  # made before all was asked: it must look at the ledger again
            arrivals.note(inputs.home, inputs.date, f"share {share}", keys - held, inputs.as_of)
    is_shared = llm.provider == "local" and share.of > 1
    llm = _served_once(llm, share, revision) if is_shared else llm
    try:
        return ask_some(inputs, settings.model_copy(update={"llm": llm}), _mine(inputs, share), revision, len(keys), is_beside=True)
    except ServerUnreachable as error:
        if not is_shared:
            raise
        do = f"serve the model once for all shares (kar serve, at {llm.base_url}), or ask in one: --shard 0/1"
        raise ServerUnreachable(f"a share of several starts no server of its own, and {error.what}", do) from error


def _mine(inputs: Inputs, share: Share) -> Iterator[Request]:
    return (request for request in requests_of(inputs) if share.holds(request.key))


def _served_once(llm: LLMSettings, share: Share, revision: str) -> LLMSettings:
    """The local model as `kar serve` serves it at llm.base_url, to all shares: each has its part of the requests that may be in flight."""
    most = max(1, llm.concurrency // share.of)
    return llm.model_copy(update={"provider": "openai", "endpoints": [], "revision": revision, "concurrency": most})
