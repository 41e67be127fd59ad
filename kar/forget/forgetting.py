"""The order of forgetting; see `kar.forget`."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import log
from kar import run as runner
from kar.errors import ReleaseError, SourceError
from kar.forget import journal as journals
from kar.forget import partitions, remains
from kar.forget.gather import STAGES, Gathered, gather
from kar.forget.partitions import Work
from kar.forget.receipt import Receipt
from kar.forget.subjects import SIDES, Subjects
from kar.llm.batch.forgetting import erase as erase_from_batches
from kar.llm.batch.nights import Nights
from kar.llm.ledger import forget as ledger
from kar.llm.ledger.idle import held_shards
from kar.llm.ledger.ledger import Ledger
from kar.release import forget as releases
from kar.settings import Settings
from kar.store import Forgotten, Home, read_forgotten
from kar.store.forgotten import Side, alone
from kar.store.locking import locked

_NAMED = 10
Named = tuple[Side, str]


def forget(settings: Settings, home: Home, subjects: Subjects, now: dt.datetime, *, is_dry: bool = False) -> Receipt:
    """Take every byte about the subjects out of the home, and keep them out.

    Args:
        now: the clock, UTC; leases run out by it.
        is_dry: say what would be touched; nothing is written but locks.

    Returns:
        What was done; written to `<home>/<scenario>/forgotten/receipts/` too, unless it was dry.

    Raises:
        SourceError: an id that nothing in the home knows; nothing was touched.
        AlreadyRunning: a stage, a batch command or another writer of the ledger is at work.
        StageError: an earlier, unfinished run was about others; a table cannot be read.
        LedgerError, ReleaseError: as these rooms raise. The same command goes on where it stopped.
    """
    receipt, unknown = _forget(settings, home, subjects, now, is_dry=is_dry, may_be_unknown=False)
    assert receipt is not None
    assert not unknown
    return receipt


def forget_known(
    settings: Settings, home: Home, subjects: Subjects, now: dt.datetime, *, is_dry: bool = False
) -> tuple[Receipt | None, list[Named]]:
    """As `forget`, passing over ids that nothing knows.

    Returns:
        What was done, None if nothing was to do; and (side, id) of those that were passed over.

    Raises:
        As `forget`, but for the unknown.
    """
    return _forget(settings, home, subjects, now, is_dry=is_dry, may_be_unknown=True)


def _forget(
    settings: Settings, home: Home, subjects: Subjects, now: dt.datetime, *, is_dry: bool, may_be_unknown: bool
) -> tuple[Receipt | None, list[Named]]:
    if home.published_uri:
        raise ReleaseError(
            f"releases lie in {home.published_uri}, and kar forget takes people out of releases in folders only; nothing was touched",
            "without features.published it takes them out of all else; then publish the next night, promote it and collect the others there",
        )
    started = time.monotonic()
    if not home.path.is_dir():
        raise SourceError(f"there is no {home.path}, so nothing to forget", "check --home and the settings' scenario.name")
    with _all_locks(home) as shards:
        if not is_dry:
            partitions.recover(home)
        listed = read_forgotten(home)
        gathered = gather(home, subjects)
        unknown = _unknown(home, subjects, gathered, listed)
        if unknown and not may_be_unknown:
            _refuse_unknown(home, unknown)
        subjects = subjects.without(unknown)
        if not subjects:
            return None, unknown
        with_them = listed.plus(users=subjects.users, items=subjects.items)
        journal = journals.open_journal(home, with_them, subjects.users, subjects.items, now.isoformat())
        work = Work(home, runner.id_types(settings), subjects, gathered, journal, now, is_dry)
        receipt = Receipt(home.scenario, journal.users, journal.items, now.isoformat(), is_dry=is_dry)
        doomed = ledger.doomed_rows(home.ledger, gathered.keys, gathered.kept, gathered.quotes.are_in if gathered.quotes else None)
        if not is_dry:
            with_them.plus(requests=doomed.keys).write(home)  # first of all: from now on nobody reads them again
            partitions.note_manifests(home, journal)
            partitions.note_replays(work, settings)
            journal.write(home)
        if elsewhere := settings.features.published:
            journal.note(f"releases at {elsewhere} were not looked into: publish the next night there, and remove the older ones")
        _ledger_and_batches(work, shards, doomed)
        made = _releases(work)
        partitions.rewrite(work)
        if is_dry:
            remains.count(work)
        else:
            partitions.reseal(work, settings)
            remains.clear(work, settings)
            if made.new_ids:
                releases.collect_old(home.published, made, now)
        _fill(receipt, journal, made, subjects.words())
        receipt.seconds = round(time.monotonic() - started, 3)
        if not is_dry:
            receipt.write(home, f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}")
            journals.path_of(home).unlink()
    log.info("forgotten" if not is_dry else "would be forgotten", subjects=len(subjects), seconds=receipt.seconds)
    return receipt, unknown


@contextlib.contextmanager
def _all_locks(home: Home) -> Iterator[list[Ledger]]:
    """Nobody else writes below the home. Raises AlreadyRunning, naming the stage that runs where it is known."""
    with contextlib.ExitStack() as stack:
        _refuse_running_stage(home)
        stack.enter_context(alone(home))
        if (home.path / "batches").is_dir():
            stack.enter_context(Nights(home).locked())
        yield stack.enter_context(held_shards(home.ledger)) if home.ledger.is_dir() else []


def _refuse_running_stage(home: Home) -> None:
    """Raises AlreadyRunning, with its name and date, if a stage holds its lock: also one that an older kar runs."""
    for stage in STAGES:
        for path in sorted((home.path / stage).glob(".date=*.lock")):
            date = path.name.removeprefix(".date=").removesuffix(".lock")
            with locked(path, f"{stage} is running for {date} in {home.path}", "wait for it, or stop it; nothing was forgotten"):
                pass


def _unknown(home: Home, subjects: Subjects, gathered: Gathered, listed: Forgotten) -> list[Named]:
    """Ids that no table and no release holds and that were not forgotten before."""
    missing = [(side, one) for side, one in subjects.pairs() if one not in gathered.met[side] and not listed.holds(side, one)]
    released = releases.met(home.published, _by_side(subjects)) if missing else {}
    return [(side, one) for side, one in missing if one not in released[side]]


def _refuse_unknown(home: Home, unknown: list[Named]) -> NoReturn:
    named = ", ".join(f"{side} {one}" for side, one in unknown[:_NAMED])
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    raise SourceError(
        f"nothing in {home.path} is about {named}{more}; nobody was forgotten",
        "look for the id as the source writes it: kar show user ID; leave out those that are not there",
    )


def _ledger_and_batches(work: Work, shards: list[Ledger], doomed: ledger.Doomed) -> None:
    journal, home = work.journal, work.home
    journal.add("ledger", rows_removed=len(doomed.digests), of_others_that_quote=doomed.quoting)
    if work.gathered.kept:
        journal.stays.append(f"{len(work.gathered.kept)} requests in the ledger that others asked them in the very same words")
    has_batches = (home.path / "batches").is_dir()
    if has_batches:
        erased = erase_from_batches(Nights(home), doomed.keys, is_dry=True)
        journal.add("batches", requests_removed=erased.requests, lines_removed=erased.lines)
        if erased.sent:
            journal.note(f"the provider of batches {', '.join(erased.sent)} was sent requests of the forgotten: ask it to delete the files")
    if work.is_dry:
        return
    journal.write(home)  # before anything goes: a run that goes on finds less
    if home.ledger.is_dir():
        ledger.erase(home.ledger, shards, doomed)
    if has_batches:
        erase_from_batches(Nights(home), doomed.keys, is_dry=False)


def _releases(work: Work) -> releases.Rewritten:
    """Publish anew; what a killed run has published so far is remembered."""
    if work.is_dry:
        held, _ = releases.holding(work.home.published, _by_side(work.subjects))
        work.journal.add("releases", rows_removed=sum(held.values()), releases_published_anew=len(held))
        return releases.Rewritten()
    made = releases.publish_anew(work.home.published, _by_side(work.subjects), _active(work))
    work.journal.releases |= made.new_ids
    work.journal.add("releases", rows_removed=made.rows, releases_published_anew=len(work.journal.releases))
    work.journal.write(work.home)
    return made


def _active(work: Work) -> releases.Active:
    """Who had done something in the days before a release's cutoff, by the interactions of its date."""

    def active(found: dict[str, Any], side: Side, ids: pa.Array) -> np.ndarray | None:
        date, days = dt.date.fromisoformat(found["date"]), found.get("active_days")
        path = work.home.partition("sources", date).table("interaction")
        if days is None or not path.is_file():
            return None
        end = runner.cutoff_of(date)
        lately = [("event_at", ">=", end - dt.timedelta(days=days)), ("event_at", "<", end)]
        recent = pq.read_table(path, columns=[f"{side}_id"], filters=lately).column(0)
        found_ids: np.ndarray = pc.is_in(ids, value_set=pc.unique(recent)).to_numpy(zero_copy_only=False)
        return found_ids

    return active


def _fill(receipt: Receipt, journal: journals.Journal, made: releases.Rewritten, words: re.Pattern[str]) -> None:
    """A path or an error may name somebody; the receipt names nobody."""
    receipt.places, receipt.releases = journal.totals(), journal.releases
    receipt.still_leased = made.still_leased
    damaged = [f"release {name} cannot be read and may hold the forgotten: {why}" for name, why in made.damaged.items()]
    receipt.not_done += [words.sub("…", sentence) for sentence in journal.notes + damaged]
    receipt.kept += journal.stays


def _by_side(subjects: Subjects) -> dict[Side, frozenset[str]]:
    return {side: subjects.of(side) for side in SIDES}
