"""`kar ledger …`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kar.cli.options import Overrides, Root, SettingsPath, open_scenario, say
from kar.errors import LedgerError
from kar.store import Home, Manifest
from kar.untrusted import shown

if TYPE_CHECKING:
    from kar.llm.ledger import Stats
    from kar.settings import LLMSettings

app = typer.Typer(help="Paid answers: count, check, take out, bring in. Nothing here deletes any.", no_args_is_help=True)
_SHOWN = 20


@app.command("stats")
def stats(settings: SettingsPath, override: Overrides = None, home: Root = None) -> None:
    """Show rows, tokens and money by model, template version and day."""
    from kar.llm import ledger

    loaded, place = open_scenario(settings, override, home)
    say("\n".join([f"ledger   {place.ledger}", *_figures(ledger.stats(place.ledger), loaded.llm)]))


@app.command("export")
def export(
    path: Annotated[Path, typer.Argument(help="Where to: .parquet (lossless) or .jsonl.")],
    settings: SettingsPath,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Write every row to one file. Of a damaged ledger: every row that can still be read."""
    from kar.llm import ledger

    place = open_scenario(settings, override, home)[1]
    exported = ledger.export(place.ledger, path)
    say(f"{exported.rows:,} rows written to {path}")
    _warn("left out", exported.left_out)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="PATH", help="An export, another ledger's folder, or a shard's .sqlite file.")],
    settings: SettingsPath,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Take in every row that is not there yet. Doing it twice adds nothing."""
    from kar.llm import ledger
    from kar.store import read_forgotten
    from kar.store.forgotten import nobody_is_forgotten

    place = open_scenario(settings, override, home)[1]
    with nobody_is_forgotten(place):
        merged = ledger.merge(place.ledger, source, read_forgotten(place).holds_request)
    if merged.forgotten:
        say(f"{merged.forgotten:,} rows left out: kar forget erased their requests")
    say(f"{merged.read:,} rows read, {merged.added:,} added, {merged.known:,} were there already")
    _warn("left out", merged.left_out)


@app.command("verify")
def verify(settings: SettingsPath, override: Overrides = None, home: Root = None) -> None:
    """Compute every key, digest and page check again; name the first differences."""
    from kar.llm import ledger

    place = open_scenario(settings, override, home)[1]
    if not place.ledger.is_dir() and _nothing_was_asked(place):
        say(f"there is no ledger in {place.path}, and no night has asked anything: nothing to verify")
        return
    found = ledger.verify(place.ledger)
    if found.faults:
        raise LedgerError(
            f"{found.faults:,} faults in the ledger {place.ledger}, {found.rows:,} rows read:\n"
            + "\n".join(f"  {what}" for what in found.first),
            "no row with a fault is ever used; save the others with: kar ledger export FILE.parquet, move the ledger folder away, "
            "then: kar ledger import FILE.parquet",
        )
    say(f"{found.rows:,} rows: every key is that of its body, every digest and page as it was written")


def _nothing_was_asked(place: Home) -> bool:
    """Whether no finished night has an answer of the ledger's: then a ledger that is not there is not one that was lost."""
    figures = (Manifest.read(partition.manifest_path).figures for partition in place.partitions("knowledge"))
    return not any(of.get("calls") or of.get("from_ledger") for of in figures)


@app.command("compact")
def compact(settings: SettingsPath, override: Overrides = None, home: Root = None) -> None:
    """Move the rows of every shard into a Parquet part and let small parts grow together. Not while somebody writes."""
    from kar.llm import ledger
    from kar.store.forgotten import nobody_is_forgotten

    place = open_scenario(settings, override, home)[1]
    if not place.ledger.is_dir():
        say(f"there is no ledger in {place.path} yet: nothing to compact")
        return
    with nobody_is_forgotten(place):
        done = ledger.compact_all(place.ledger)
    say(f"{done.rows:,} rows of {done.shards:,} shards moved; {done.parts_before:,} parts before, {done.parts:,} now")


def _figures(found: Stats, llm: LLMSettings) -> list[str]:
    """The figures of a ledger, as lines."""
    prices = llm.usd_per_million_prompt_tokens, llm.usd_per_million_completion_tokens
    statuses = ", ".join(f"{count:,} {status}" for status, count in found.statuses.items())
    lines = [
        f"rows     {found.rows:,}{f' ({statuses})' if statuses else ''}",
        f"keys     {found.keys:,} different requests",
        f"on disk  {found.bytes / 1e6:,.1f} MB in {found.shards:,} shards and {found.parts:,} parts",
    ]
    from kar.show import aligned

    table: list[tuple[str, ...]] = [
        ("model", "template version", "day", "rows", "good", "prompt", "cached", "completion", "reasoning", "lost", "USD")
    ]
    for group in found.groups:
        tokens = (group.prompt_tokens, group.cached_tokens, group.completion_tokens, group.reasoning_tokens, group.lost_tokens)
        money = f"{group.usd(*prices):,.4f}" if any(prices) else ""
        counts = (f"{n:,}" for n in (group.rows, group.good, *tokens))
        table.append((group.model or "–", group.template_version, str(group.day), *counts, money))
    if any(prices):
        lines.append(f"money    {sum(group.usd(*prices) for group in found.groups):,.2f} USD at the prices in [llm]")
    else:
        lines.append("money    no price per token is set in [llm]")
    return [*lines, "", *aligned(table)] if found.groups else lines


def _warn(what: str, found: list[str]) -> None:
    """Say on stderr what a command could not take along."""
    for line in found[:_SHOWN]:
        typer.echo(shown(f"{what}: {line}"), err=True)
    if len(found) > _SHOWN:
        typer.echo(f"{what}: {len(found) - _SHOWN:,} more", err=True)
