"""`kar batch …`: tonight's requests as files, and their answers back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kar.cli.options import Date, Overrides, Root, SettingsPath, day, now, open_scenario, say

if TYPE_CHECKING:
    from kar.llm.batch.importing import Imported
    from kar.llm.batch.results import Faults
    from kar.settings import Settings

app = typer.Typer(
    help="Ask by file: OpenAI's Batch API at half the price, or vllm run-batch where a server cannot run. Set llm.provider = 'batch'.",
    no_args_is_help=True,
)
MostRequests = Annotated[int, typer.Option(min=1, help="Of one file. OpenAI takes no more than 50,000.")]
MostBytes = Annotated[int, typer.Option(min=1, help="Of one file. OpenAI takes no more than 200,000,000.")]


@app.command("export")
def export(
    settings: SettingsPath,
    date: Date = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="batches/export in the scenario's folder")] = None,
    most_requests: MostRequests = 50_000,
    most_bytes: MostBytes = 200_000_000,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Write the date's planned requests that have no answer yet as JSON lines, in the files OpenAI and vllm run-batch take."""
    from kar.llm.batch import export as exporting
    from kar.llm.batch.nights import Nights, planned_requests
    from kar.llm.batch.planned import pending
    from kar.llm.ledger.reading import Reading

    loaded, place = open_scenario(settings, override, home)
    on = day(date)
    counts: Counter[str] = Counter()
    folder, planned = out or place.path / "batches/export", planned_requests(place, on)
    with Reading(place.ledger) as ledger:
        rest = pending(planned, {"answered": ledger.held, "open": Nights(place).known()}, counts)
        made = exporting.export(rest, folder, f"requests-{on}", most_requests=most_requests, most_bytes=most_bytes)
    for part in made.parts:
        say(f"wrote {part.path}: {part.requests:,} requests, {part.size_bytes:,} bytes")
    say(f"{made.requests:,} requests to send{_left_out(counts)}")
    _say_too_large(made.too_large)
    if made.requests:
        say(f"at most {made.prompt_tokens + made.answer_tokens:,} tokens; {_money(loaded, made.prompt_tokens, made.answer_tokens)}")
        say(f"then: kar batch import RESULTS.jsonl --settings {settings} --date {on}")


@app.command("import")
def import_results(
    files: Annotated[list[Path], typer.Argument(help="Result files: OpenAI's output and error files, or what vllm run-batch wrote.")],
    settings: SettingsPath,
    date: Date = None,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Put the answers in result files into the ledger. What it holds already stays as it is."""
    from kar.llm import arrivals
    from kar.llm.batch.importing import take
    from kar.llm.batch.nights import planned_requests
    from kar.llm.batch.planned import pending
    from kar.llm.batch.results import Results
    from kar.llm.ledger import Ledger

    loaded, place = open_scenario(settings, override, home)
    on, as_of = day(date), now()
    planned = planned_requests(place, on)
    with Results(files) as results, Ledger.open(place.ledger) as ledger:
        made = take(pending(planned, {}, Counter()), results, ledger, as_of, lambda keys: arrivals.note(place, on, "batch", keys, as_of))
        ledger.compact()
    say("\n".join(_taken(made, loaded)))
    if made.keys:
        say(f"then: kar run all --settings {settings} --date {on}")


@app.command("submit")
def submit(
    settings: SettingsPath,
    date: Date = None,
    most_requests: MostRequests = 50_000,
    most_bytes: MostBytes = 200_000_000,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Send the date's unanswered requests to the Batch API at llm.base_url. What an open batch holds is not sent again."""
    from kar.llm.batch import sending
    from kar.llm.batch.remote import BatchServer

    loaded, place = open_scenario(settings, override, home)
    made = sending.submit(
        place, day(date), loaded.llm, lambda: BatchServer(loaded.llm), now(), most_requests=most_requests, most_bytes=most_bytes
    )
    for night in made.started:
        was = ", started by an earlier command that was stopped" if night in made.resumed else ""
        say(f"{night.id} is {night.status} as {night.batch_id}: {night.requests:,} requests of {night.date}{was}")
    say(f"{sum(night.requests for night in made.started):,} requests sent{_left_out(made.left_out)}")
    _say_too_large(made.too_large)
    if made.started:
        prompt, answer = sum(n.prompt_tokens for n in made.started), sum(n.answer_tokens for n in made.started)
        say(f"at most {prompt + answer:,} tokens; {_money(loaded, prompt, answer)}")
        say(f"then, within 24 hours: kar batch fetch --settings {settings}")


@app.command("status")
def status(settings: SettingsPath, override: Overrides = None, home: Root = None) -> None:
    """Show every open batch as the provider describes it now."""
    from kar.llm.batch import sending
    from kar.llm.batch.remote import BatchServer
    from kar.show import aligned

    loaded, place = open_scenario(settings, override, home)
    found = sending.refresh(place, loaded.llm, lambda: BatchServer(loaded.llm))
    if not found:
        say("no batch is open")
        return
    rows = [("batch", "date", "status", "requests", "answered", "failed", "provider's id", "at")]
    rows += [(n.id, n.date, n.status, f"{n.requests:,}", f"{n.completed:,}", f"{n.failed:,}", n.batch_id or "–", n.base_url) for n in found]
    say("\n".join([*aligned(rows), *(f"{n.id}: {n.detail}" for n in found if n.detail)]))


@app.command("fetch")
def fetch(settings: SettingsPath, override: Overrides = None, home: Root = None) -> None:
    """Download the batches that are over and put their answers into the ledger; expired and cancelled ones too."""
    from kar.llm.batch import sending
    from kar.llm.batch.remote import BatchServer

    loaded, place = open_scenario(settings, override, home)
    made = sending.fetch(place, loaded.llm, lambda: BatchServer(loaded.llm), now())
    for night, imported in made.imported:
        say(f"{night.id} of {night.date}: {night.status}")
        if night.detail:
            say(f"  the provider refused it: {night.detail}")
        say("\n".join(f"  {line}" for line in _taken(imported, loaded)))
        if imported.unanswered:
            say(f"  ask for the rest again: kar batch submit --settings {settings} --date {night.date}")
    for night in made.waiting:
        say(f"{night.id} of {night.date}: {night.status}, {night.completed:,} of {night.requests:,} answered; fetch it later")
    for night in made.unknown:
        say(f"{night.id}: {night.base_url} knows no batch {night.batch_id}; if it is gone for good: kar batch forget {night.id}")
    if not (made.imported or made.waiting or made.unknown):
        say("no batch is open")
    for on in sorted({night.date for night, imported in made.imported if imported.keys}):
        say(f"then: kar run all --settings {settings} --date {on}")


@app.command("forget")
def forget(
    batch: Annotated[str, typer.Argument(help="Which, as status names it.")],
    settings: SettingsPath,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Give up a batch whose answers will never come, so that its requests may be sent again."""
    from kar.llm.batch import sending

    night = sending.forget(open_scenario(settings, override, home)[1], batch)
    say(f"{night.id} is forgotten; its {night.requests:,} requests go with the next batch")


def _taken(made: Imported, settings: Settings) -> list[str]:
    """What came of an import, in words."""
    lines = [
        f"answers added           {made.answered:,}",
        f"refused for good        {made.refused:,}",
        f"without an answer       {made.exhausted:,}",
        f"in the ledger before    {made.known:,}",
        f"still to be answered    {made.unanswered:,}",
    ]
    if made.repeated:
        lines.append(f"second results          {made.repeated:,}")
    lines += _named("nobody asked for       ", made.unknown, "; planned for another date, or planned anew since they were sent")
    lines += _named("no result lines        ", made.faulty, "")
    tokens = made.prompt_tokens + made.completion_tokens
    return [*lines, f"{tokens:,} tokens; {_money(settings, made.prompt_tokens, made.completion_tokens)}"]


def _named(words: str, faults: Faults, why: str) -> list[str]:
    return [f"{words} {faults.count:,}{why}", *(f"  {example}" for example in faults.examples[:5])] if faults.count else []


def _left_out(counts: Counter[str]) -> str:
    words = {"answered": "in the ledger already", "open": "in an open batch", "repeated": "with the same prompt as another"}
    return "".join(f", {counts[why]:,} {shown}" for why, shown in words.items() if counts[why])


def _say_too_large(keys: Sequence[str]) -> None:
    if keys:
        say(f"{len(keys):,} requests are larger than --most-bytes and left out: {', '.join(keys[:3])}")


def _money(settings: Settings, prompt_tokens: int, completion_tokens: int) -> str:
    share = settings.llm.batch_price_share
    usd = settings.llm.model_copy(update={"provider": "batch"}).price().usd(prompt_tokens, completion_tokens)
    return f"{usd:,.4f} USD ({share:.0%} of the price per token in [llm])" if usd else "no price per token is set in [llm]"
