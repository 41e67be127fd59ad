"""Ask dead letters again, through the ordinary client, gate, budget and ledger.

The ledger would give the same answer to the same body, so a refused answer is only asked again with something changed:
more tokens, another temperature or seed. That makes another key, whose answer names the planned request as the one it
asks again; the knowledge stage finds it there. Requests that never got an answer are asked as they are.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from kar.errors import ModelChanged, SettingsError, StageError
from kar.llm import arrivals
from kar.llm.ask import ask
from kar.llm.budget import Stop
from kar.llm.client import Request
from kar.llm.deadletters import DeadLetter
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Answer, Ledger
from kar.llm.ledger.reading import Reading
from kar.llm.stream import length_field
from kar.settings import LLMSettings
from kar.store import Home

WITHOUT_ANSWER = frozenset({"bad_request", "exhausted"})
CUT = frozenset({"truncated", "truncated_by_reasoning"})


@dataclass(frozen=True, slots=True)
class Change:
    """What a replay changes in the body; None: as it was. Cut answers get twice their tokens if nothing else is said."""

    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None

    @property
    def is_none(self) -> bool:
        return self.max_tokens is None and self.temperature is None and self.seed is None


@dataclass
class Replay:
    """What a replay asks, and what came of it.

    Args:
        requests, prompt_tokens, answer_tokens: to ask; answer tokens at most.
        left_out: why → dead letters that cannot be asked again.
        calls, usd: what it took; stopped_by: a budget that ended it.
        from_ledger: requests whose changed body had been answered before.
        answered, failed: rows that this replay added.
    """

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    usd: float = 0.0
    stopped_by: Stop = "none"
    from_ledger: int = 0
    answered: int = 0
    failed: int = 0


def check(reasons: Iterable[str], change: Change, settings: LLMSettings, *, is_dry: bool) -> None:
    """Refuse a replay that could only bring the same answers, or that has nobody to ask.

    Raises:
        StageError, SettingsError: with what to change.
    """
    same = sorted(set(reasons) - WITHOUT_ANSWER - CUT)
    if same and change.is_none:
        raise StageError(
            f"a replay of {', '.join(same)} with the same body would get the same answer from the ledger, for nothing",
            "change something: --temperature 0.7, --seed 1 or --max-tokens N",
        )
    if settings.provider == "batch" and not is_dry:
        raise SettingsError(
            "llm.provider is 'batch', so there is no server to ask now",
            "name one for this command: --set llm.provider=openai --set llm.base_url=http://HOST/v1",
        )


def replay(
    letters: Iterable[DeadLetter],
    change: Change,
    settings: LLMSettings,
    home: Home,
    date: dt.date,
    as_of: dt.datetime,
    *,
    limit: int | None = None,
    is_dry: bool = False,
) -> Replay:
    """Ask dead letters again; what comes is in the ledger, and noted for the date's knowledge stage, even if this is stopped.

    Args:
        date: of the dead letters.
        as_of: the clock, UTC.
        limit: most requests to ask; None: all.
        is_dry: only count.

    Raises:
        ServerUnreachable, ServerRefused, ModelChanged, ServerStartFailed, LedgerError, AlreadyRunning.
    """
    made = Replay()
    requests = list(islice(_again(letters, change, settings, made), limit))
    made.requests = len(requests)
    made.prompt_tokens = sum(request.prompt_tokens for _, request in requests)
    made.answer_tokens = sum(request.answer_tokens for _, request in requests)
    by_revision: dict[str, list[Request]] = {}
    for revision, request in requests:
        by_revision.setdefault(revision, []).append(request)
    for revision, some in by_revision.items() if not is_dry else ():
        with Reading(home.ledger) as ledger:
            fresh = {request.key for request in some} - ledger.held([request.key for request in some])
        arrivals.note(home, date, "replay", fresh, as_of)
        try:
            asked = ask(some, settings, home, revision, as_of, lambda request, answer: None, total=len(some))
            made.calls, made.usd, made.from_ledger = made.calls + asked.calls, made.usd + asked.usd, made.from_ledger + asked.from_ledger
            made.stopped_by = asked.stopped_by
        except ModelChanged as changed:
            raise ModelChanged(changed.what, f"plan the date anew: kar run prompts --date {date}") from None
        finally:
            _count(some, home, as_of, made)
    if by_revision and not is_dry:
        with Ledger.open(home.ledger) as opened:
            opened.compact()
    return made


def _count(requests: list[Request], home: Home, as_of: dt.datetime, made: Replay) -> None:
    """What this replay added to the ledger."""
    with Reading(home.ledger) as ledger:
        found = ledger.every([request.key for request in requests])
    rows = [row for key, rows in found.items() for row in rows if row.key == key and row.asked_at == as_of]
    made.answered += sum(row.status == "ok" for row in rows)
    made.failed += sum(row.status != "ok" for row in rows)


def _again(letters: Iterable[DeadLetter], change: Change, settings: LLMSettings, made: Replay) -> Iterator[tuple[str, Request]]:
    """(revision, request) for each dead letter that can be asked again; each key once."""
    seen: set[str] = set()
    for letter in letters:
        first = letter.first
        if first is None:
            made.left_out["imported, so there is no request: mend the imported file"] += 1
            continue
        request = changed(letter, first, change, settings)
        if isinstance(request, str):
            made.left_out[request] += 1
        elif request.key not in seen:
            seen.add(request.key)
            yield first.revision, request


def changed(letter: DeadLetter, first: Answer, change: Change, settings: LLMSettings) -> Request | str:
    """The request to ask for a dead letter, or why there is none.

    Args:
        first: its planned request, as the ledger has it.
    """
    body: dict[str, Any] = orjson.loads(first.body)
    if body.get("model") != settings.model or (settings.revision and settings.revision != first.revision):
        return f"asked of another model than llm.model ({settings.model}): plan the date anew"
    before = dict(body)
    name = length_field(body) or "max_tokens"
    prompt_tokens = max(row.prompt_tokens for row in letter.rows)
    tokens, room = change.max_tokens, settings.context_tokens - prompt_tokens
    had = max([int(orjson.loads(row.body).get(name) or 0) for row in letter.rows if row.finish_reason == "length"], default=0)
    if tokens is None and change.is_none and letter.reason in CUT:
        tokens = 2 * had or room
    if tokens is not None:
        body[name] = min(tokens, room)
        if letter.reason in CUT and body[name] <= had:
            return "cut, and no more tokens than it had: raise --max-tokens or llm.context_tokens"
    body |= {field: value for field, value in (("temperature", change.temperature), ("seed", change.seed)) if value is not None}
    if letter.reason not in WITHOUT_ANSWER:
        if body == before:
            return "the change is what its body says already: the answer would be the same"
        if body | {"seed": None} == before | {"seed": None} and body.get("temperature") == 0:
            return "at temperature 0 a seed changes nothing: give --temperature too"
    raw = body_bytes(body)
    key = request_key(raw, first.revision)
    return Request(
        key,
        raw,
        prompt_tokens or len(raw) // 4,
        int(body.get(name) or 0),
        first.template_version,
        family=first.template_version,
        retry_of=letter.planned_key if key != letter.planned_key else "",
    )
