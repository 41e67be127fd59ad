"""Send a night to a provider, look after it, take what comes back.

A batch is written down before it is sent and after every step; a command that was killed goes on where it stopped, and
asks the provider for the batch under our own id before it starts one that may have been started.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from kar import log
from kar.errors import ServerRefused, StageError
from kar.llm import arrivals
from kar.llm.batch.export import Part, export
from kar.llm.batch.forgetting import drop_lines
from kar.llm.batch.importing import Imported, take
from kar.llm.batch.nights import Night, Nights, new_id, planned_requests
from kar.llm.batch.planned import pending, stream
from kar.llm.batch.remote import BatchServer, RemoteBatch
from kar.llm.batch.results import Results
from kar.llm.ledger import Ledger
from kar.llm.ledger.reading import Reading
from kar.settings import LLMSettings
from kar.store import Home, read_forgotten

Open = Callable[[], contextlib.AbstractContextManager[BatchServer]]


@dataclass
class Submitted:
    """What a submit did.

    Args:
        resumed: batches of an earlier command that was stopped while it started them.
        started: all that were started, those included.
        left_out: why → how many requests: answered · open · repeated.
        too_large: keys of requests that no file can hold.
    """

    resumed: list[Night] = field(default_factory=list)
    started: list[Night] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    too_large: list[str] = field(default_factory=list)


def submit(
    home: Home, date: dt.date, settings: LLMSettings, server: Open, as_of: dt.datetime, *, most_requests: int, most_bytes: int
) -> Submitted:
    """Send the date's requests that have neither an answer nor a place in an open batch.

    Args:
        server: opens the provider; nothing to send, nothing is opened.
        as_of: the clock, UTC.
        most_requests, most_bytes: of one batch.

    Raises:
        NotMade, AlreadyRunning, ServerUnreachable, ServerRefused, SettingsError, StageError.
    """
    planned, nights, made = planned_requests(home, date), Nights(home), Submitted()
    with nights.locked(), contextlib.ExitStack() as stack:
        nights.clear()
        to_start = [n for n in nights.open() if not n.batch_id and n.base_url == settings.base_url]
        made.resumed = list(to_start)
        with Reading(home.ledger) as ledger:
            rest = pending(planned, {"answered": ledger.held, "open": nights.known()}, made.left_out)
            files = export(rest, nights.folder, new_id(date), most_requests=most_requests, most_bytes=most_bytes, with_tables=True)
        made.too_large = files.too_large
        to_start += [_night(part, date, settings.base_url, as_of) for part in files.parts]
        if to_start:
            opened = stack.enter_context(server())
        for night in to_start:
            _start(night, nights, opened)
            made.started.append(night)
    return made


def _night(part: Part, date: dt.date, base_url: str, as_of: dt.datetime) -> Night:
    return Night(
        id=part.path.stem,
        date=date.isoformat(),
        base_url=base_url,
        made_at=as_of.isoformat(),
        requests=part.requests,
        prompt_tokens=part.prompt_tokens,
        answer_tokens=part.answer_tokens,
    )


def _start(night: Night, nights: Nights, server: BatchServer) -> None:
    """Upload and start one batch, from where it stands. One that the provider refuses is forgotten: nothing was paid."""
    since = dt.datetime.fromisoformat(night.made_at)
    # uploaded, and no word of the batch: a command was killed, or lost the connection, while it started it
    remote = server.find(night.id, since) if night.file_id else None
    nights.save(night)
    try:
        if not night.file_id:
            night.file_id, night.status = server.upload(nights.upload(night)), "uploaded"
            nights.save(night)
        remote = remote or server.create(night.file_id, night.id, since)
    except ServerRefused:
        nights.drop(night)
        raise
    night.batch_id, night.status = remote.id, remote.status
    nights.save(night)
    nights.upload(night).unlink(missing_ok=True)
    log.info("batch started", id=night.id, batch=night.batch_id, requests=night.requests)


@dataclass
class Fetched:
    """What came back.

    Args:
        imported: batch → what its results brought; empty where there were none.
        waiting: batches that are not over.
        unknown: batches that the provider does not know (any more, or under this key).
    """

    imported: list[tuple[Night, Imported]] = field(default_factory=list)
    waiting: list[Night] = field(default_factory=list)
    unknown: list[Night] = field(default_factory=list)


def refresh(home: Home, settings: LLMSettings, server: Open) -> list[Night]:
    """Every open batch as its provider describes it now; those of other addresses as they were last seen.

    Raises:
        AlreadyRunning, ServerUnreachable, ServerRefused, SettingsError, StageError.
    """
    nights = Nights(home)
    with nights.locked(), contextlib.ExitStack() as stack:
        found = nights.open()
        ours = [n for n in found if n.batch_id and n.base_url == settings.base_url]
        if ours:
            opened = stack.enter_context(server())
            for night in ours:
                _look(night, nights, opened)
        return found


def fetch(home: Home, settings: LLMSettings, server: Open, as_of: dt.datetime) -> Fetched:
    """Download and import every batch that is over. What an expired or cancelled one did is paid for, so it is used.

    Raises:
        AlreadyRunning, LedgerError, ServerUnreachable, ServerRefused, SettingsError, StageError.
    """
    nights, made = Nights(home), Fetched()
    with nights.locked(), contextlib.ExitStack() as stack:
        ours = [n for n in nights.open() if n.batch_id and n.base_url == settings.base_url]
        opened = stack.enter_context(server()) if ours else None
        for night in ours:
            assert opened is not None
            remote = _look(night, nights, opened)
            if remote is None:
                made.unknown.append(night)
            elif not remote.is_over:
                made.waiting.append(night)
            else:
                files = {"output": remote.output_file_id, "errors": remote.error_file_id}
                for kind, file_id in files.items():
                    if file_id:
                        opened.download(file_id, nights.results(night, kind))
                made.imported.append((night, _take(home, night, nights, as_of)))
                for kind in files:  # what came back of requests that `kar forget` erased meanwhile
                    drop_lines(nights.results(night, kind), read_forgotten(home).holds_request)
                night.is_open = False
                nights.save(night)
    return made


def _look(night: Night, nights: Nights, server: BatchServer) -> RemoteBatch | None:
    """Ask how a batch stands, and write it down; None if the provider does not know it."""
    remote = server.retrieve(night.batch_id)
    if remote is None:
        night.status = "not known there"
    else:
        night.status, night.detail = remote.status, remote.detail
        night.completed, night.failed = remote.completed, remote.failed
    nights.save(night)
    return remote


def _take(home: Home, night: Night, nights: Nights, as_of: dt.datetime) -> Imported:
    """Import a batch's results against the requests that were sent with it, and compact the ledger."""
    date = dt.date.fromisoformat(night.date)
    paths = [p for kind in ("output", "errors") if (p := nights.results(night, kind)).exists()]
    with Results(paths) as results, Ledger.open(home.ledger) as ledger:
        made = take(
            stream(nights.requests(night)), results, ledger, as_of, lambda keys: arrivals.note(home, date, f"batch {night.id}", keys, as_of)
        )
        ledger.compact()
    return made


def forget(home: Home, own_id: str) -> Night:
    """Close a batch whose answers will never come, so that its requests are sent again.

    Raises:
        StageError: no open batch has this id.
        AlreadyRunning.
    """
    nights = Nights(home)
    with nights.locked():
        found = next((n for n in nights.open() if own_id in (n.id, n.batch_id)), None)
        if found is None:
            raise StageError(f"no open batch is called {own_id}", "see: kar batch status")
        found.is_open, found.status = False, "forgotten"
        nights.save(found)
    return found
