"""A range of past dates, oldest first: what it will ask and cost, and then the nights themselves.

Each date is an ordinary run: the same stages with that date's cutoff, whose last-good knowledge is an older date's, never a newer one's.
What a run today makes of a past date was not there on that date: such a release is marked reconstructed, and CURRENT stays where it is
unless asked otherwise. A date that is made already does nothing, so a backfill that was stopped goes on by the same command.
"""

from __future__ import annotations

import datetime as dt
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import flow, lineage, log
from kar import run as runner
from kar.bill import Bill, asked
from kar.errors import BackfillError, KarError
from kar.release.remote import service
from kar.settings import Settings
from kar.show import aligned
from kar.store import Home, Manifest, Output, Partition, trainings
from kar.tables import TABLES

Clock = Callable[[], dt.datetime]


@dataclass(frozen=True)
class Foreseen:
    """What one date will ask.

    Args:
        whole, held, paid: of all its requests, of those whose answers the ledger holds, and of those that will be sent.
        has_training: whether a checkpoint of that date or an older one is there, which a release needs.
    """

    date: dt.date
    whole: Bill
    held: Bill
    paid: Bill
    has_training: bool


def dates_between(first: dt.date, last: dt.date) -> list[dt.date]:
    """Both ends included. Raises BackfillError if the last is before the first."""
    if last < first:
        raise BackfillError(f"a backfill from {first} to {last} has no date in it", "give the older date first")
    return [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]


def foresee(settings: Settings, home: Home, dates: list[dt.date], clock: Clock) -> list[Foreseen]:
    """Plan every date as the backfill would meet it, where all that is asked is answered well; asks nothing, changes nothing.

    The planner itself runs, in a scratch home beside the real one that holds links to what is made already. A date's plan depends on the
    knowledge of the dates before it: in its place stands one that has answers without text.
    """
    scratch = Home(home.root / f".backfill-{uuid.uuid4().hex[:8]}", home.scenario)
    try:
        _link(home, scratch)
        found = []
        for date in dates:
            with lineage.rehearsal():
                runner.run_all(settings, scratch, date, clock, list(flow.PLANNING))
            whole, held, paid = asked(scratch, scratch.partition("prompts", date))
            if paid.requests or not scratch.partition("knowledge", date).exists():
                _answer_all(settings, scratch, date, clock())
            found.append(Foreseen(date, whole, held, paid, trainings.latest_promoted(home, date) is not None))
        return found
    finally:
        shutil.rmtree(scratch.root, ignore_errors=True)


def bill(settings: Settings, foreseen: list[Foreseen]) -> str:
    """What `kar backfill` says before anything is spent."""
    table = [("date", "to ask", "in the ledger", "tokens at most", "USD at most", "release")]
    for night in foreseen:
        release = "reconstructed" if night.has_training else "none: no training at or before this date"
        costs = (f"{night.paid.requests:,}", f"{night.held.requests:,}", f"{night.paid.tokens:,}", f"{night.paid.usd(settings):,.2f}")
        table.append((night.date.isoformat(), *costs, release))
    total = Bill(*(sum(getattr(n.paid, name) for n in foreseen) for name in ("requests", "prompt_tokens", "answer_tokens")))
    return "\n".join(
        [
            f"backfill of {len(foreseen)} dates, {foreseen[0].date} to {foreseen[-1].date}, model {settings.llm.model} ({settings.llm.provider})",
            "",
            *aligned(table),
            "",
            f"at most {total.requests:,} requests, {total.tokens:,} tokens, {total.usd(settings):,.2f} USD, if every answer is accepted; "
            "a subject whose answer is refused may be asked again on a later date",
        ]
    )


def backfill(settings: Settings, home: Home, dates: list[dt.date], clock: Clock, *, promote: bool = False) -> list[str]:
    """Run the dates in order; returns a line about each.

    Args:
        promote: let CURRENT move to a release whose data cutoff is newer than the one it serves.

    Raises:
        BackfillError: a stage failed; the dates before it are made and stay.
    """
    ours = settings.model_copy(update={"features": settings.features.model_copy(update={"promote": promote})})
    said = []
    for date in dates:
        publishes = trainings.latest_promoted(home, date) is not None
        try:
            made = runner.run_all(ours, home, date, clock, [*flow.NIGHTLY, *(flow.PUBLISHING if publishes else ())])
        except KarError as error:
            raise BackfillError(f"the backfill stopped at {date}; the dates before it are made. {error.what}", error.do) from error
        said.append(_line(home, date, {manifest.stage: manifest for manifest in made}))
        log.info(f"backfill: {said[-1]}")
    return said


def _line(home: Home, date: dt.date, made: dict[str, Manifest]) -> str:
    figures = made["knowledge"].figures
    line = f"{date}  asked {figures.get('calls', 0):,}, from the ledger {figures.get('from_ledger', 0):,}"
    if "features" not in made:
        return f"{line}, no release: no training at or before this date"
    row = pq.read_table(home.partition("features", date).table("release")).to_pylist()[0]
    is_served = service(home.releases_at, row["release_id"]).is_now
    marks = ["reconstructed"] * row["is_reconstructed"] + ["CURRENT"] * is_served
    failed = [] if is_served else made["features"].figures.get("gate_failed") or []
    held = f", not promoted: the gate's checks {', '.join(failed)} failed" if failed else ""
    return f"{line}, release {row['release_id']}{' (' + ', '.join(marks) + ')' if marks else ''}{held}"


def _link(home: Home, scratch: Home) -> None:
    """Every finished partition and all that stands beside them, as links: the scratch home reads them and replaces only its links."""
    scratch.path.mkdir(parents=True)
    stages = {stage.name for stage in flow.EVERY}
    for stage in stages:
        for partition in home.partitions(stage):
            target = scratch.partition(stage, partition.date).path
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(partition.path, target_is_directory=True)
    for folder, target in ((home.path, scratch.path), (home.root, scratch.root)):
        for path in folder.glob("[!.]*"):
            if path.name not in stages | {home.scenario}:
                (target / path.name).symlink_to(path)


def _answer_all(settings: Settings, scratch: Home, date: dt.date, at: dt.datetime) -> None:
    """The knowledge partition that the date would have if every request were answered well: texts empty, all else as the plan says."""
    planned = scratch.partition("prompts", date)
    plan = pq.read_table(planned.table("plan"))
    asked_for = plan.filter(pc.equal(plan["decision"], "ask"))
    count = asked_for.num_rows
    known = {name: asked_for[name] for name in asked_for.column_names}
    known |= {
        "text": pa.array([""] * count),
        "origin": pa.array(["tonight"] * count),
        "model": pa.array([settings.llm.model] * count),
        "model_revision": pa.array([Manifest.read(planned.manifest_path).figures.get("model_revision", "")] * count),
        "asked_at": pa.array([at] * count, pa.timestamp("us", "UTC")),
        "completion_tokens": asked_for["answer_tokens"],
    }
    schema = TABLES["knowledge"].schema(runner.id_types(settings))
    tables = [pa.table({name: known[name] for name in schema.names}).cast(schema)]
    before = scratch.latest("knowledge", date, before=True)
    if before is not None:
        last = pq.read_table(before.table("knowledge"), columns=schema.names)
        keys = pc.binary_join_element_wise(last["view"], last["subject_id"], "\0")
        is_new = pc.is_in(keys, value_set=pc.binary_join_element_wise(asked_for["view"], asked_for["subject_id"], "\0").combine_chunks())
        tables.append(last.filter(pc.invert(is_new)).cast(schema))
    _seal(settings, scratch.partition("knowledge", date), pa.concat_tables(tables))


def _seal(settings: Settings, partition: Partition, knowledge: pa.Table) -> None:
    folder = Path(f"{partition.path}.made")
    folder.mkdir(parents=True)
    out = Output(flow.KNOWLEDGE, folder, runner.id_types(settings))
    for name in flow.KNOWLEDGE.writes:
        empty = TABLES[name].schema(runner.id_types(settings)).empty_table()
        out.write(name, knowledge if name == "knowledge" else empty)
    Manifest(stage="knowledge", date=partition.date.isoformat(), recipe_sha="", recipe={}, tables=out.tables).write(folder)
    if partition.path.is_symlink():
        partition.path.unlink()
    folder.rename(partition.path)
