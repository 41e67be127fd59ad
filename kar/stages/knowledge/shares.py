"""One share of a night's questions, for processes that ask at the same time; the knowledge stage judges what all of them got.

A share is a request's by its key alone, so every process finds its own without a word to the others. It has its share of the night's
budget, less what its earlier attempts took. An attempt that was killed is gone on with, a share that was asked to its end is not asked again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kar import log
from kar.errors import ServerUnreachable
from kar.llm import arrivals
from kar.llm.ask import Asked
from kar.llm.budget import Budget, Planned, Reservation, rest, share_of
from kar.llm.ledger.reading import Reading
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
        planned, part, whole = _planned(inputs, share)
        attempt = Attempt(share.place, share.of, len(own), inputs.as_of, planned)
        attempts.keep(attempt)
        llm = _until(ends_at, _paid_by(settings.llm, share, before, own, part, whole))
        asked = _ask(inputs, settings.model_copy(update={"llm": llm}), share, planned)
        attempt = dataclasses.replace(attempt, is_over=True, asked=asked)
        attempts.keep(attempt)
        return Took(share, planned, len(own) + 1, summed([*own, attempt]))


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


def _planned(inputs: Inputs, share: Share) -> tuple[int, Planned, Planned]:
    """How many requests the share has, what they take at most, and what the whole plan does."""
    count, own, all_of_it = 0, [0, 0], [0, 0]
    for part in _sizes(inputs):
        for key, *tokens in part:
            is_own = share.holds(key)
            count += is_own
            for size in (own, all_of_it) if is_own else (all_of_it,):
                size[0] += tokens[0]
                size[1] += tokens[1]
    return count, Planned(*own), Planned(*all_of_it)


def _sizes(inputs: Inputs) -> Iterator[list[tuple[str, int, int]]]:
    """Key, prompt and answer tokens of the planned requests, in parts."""
    names = ["request_key", "prompt_tokens", "answer_tokens"]
    for part in inputs.stream("request", names):
        yield list(zip(*(part.column(name).to_pylist() for name in names), strict=True))


@dataclass
class _Held:
    """What the ledger holds of a share.

    Args:
        count: requests with a good answer.
        first: the first without one: its prompt and answer tokens; None: there is none.
        rest: keys of all without one.
    """

    count: int = 0
    first: tuple[int, int] | None = None
    rest: list[str] = field(default_factory=list)


def _held(inputs: Inputs, share: Share) -> _Held:
    found = _Held()
    with Reading(inputs.home.ledger) as ledger:
        for part in _sizes(inputs):
            own = {key: (prompt, answer) for key, prompt, answer in part if share.holds(key)}
            held = ledger.held(own)
            missing = [key for key in own if key not in held]
            found.count += len(held)
            found.rest += missing
            if missing and found.first is None:
                found.first = own[missing[0]]
    return found


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


def _ask(inputs: Inputs, settings: Settings, share: Share, planned: int) -> Asked:
    """Ask the share; no server is needed where all is held, or where the budget does not reach for the first that is not."""
    revision, llm = planned_revision(inputs), settings.llm
    if revision is None or not planned:
        return Asked()
    held = _held(inputs, share)
    if llm.provider == "batch":
        return Asked(from_ledger=held.count)
    if held.first is not None:
        stop = Budget.of(llm).reserve(*held.first)
        if not isinstance(stop, Reservation):
            return Asked(from_ledger=held.count, stopped_by=stop)
        if inputs.home.partition("knowledge", inputs.date).exists():  # made before all was asked: it must look at the ledger again
            arrivals.note(inputs.home, inputs.date, f"share {share}", held.rest, inputs.as_of)
    is_shared = llm.provider == "local" and share.of > 1
    llm = _served_once(llm, share, revision) if is_shared else llm
    mine = (request for request in requests_of(inputs) if share.holds(request.key))
    try:
        return ask_some(inputs, settings.model_copy(update={"llm": llm}), mine, revision, planned, is_beside=True)
    except ServerUnreachable as error:
        if not is_shared:
            raise
        do = f"serve the model once for all shares (kar serve, at {llm.base_url}), or ask in one: --shard 0/1"
        raise ServerUnreachable(f"a share of several starts no server of its own, and {error.what}", do) from error


def _served_once(llm: LLMSettings, share: Share, revision: str) -> LLMSettings:
    """The local model as `kar serve` serves it at llm.base_url, to all shares: each has its part of the requests that may be in flight."""
    most = max(1, llm.concurrency // share.of)
    return llm.model_copy(update={"provider": "openai", "endpoints": [], "revision": revision, "concurrency": most})
