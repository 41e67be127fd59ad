"""`kar deadletters …`: what the quality gate or the server refused, and asking it again."""

from __future__ import annotations

import json
import textwrap
import unicodedata
from typing import TYPE_CHECKING, Annotated

import typer

from kar.cli.options import Overrides, Root, SettingsPath, day, now, open_scenario, say

if TYPE_CHECKING:
    from kar.llm.deadletters import Choice, DeadLetter
    from kar.llm.ledger import Answer

app = typer.Typer(help="Refused answers of a night: list, show, ask again.", no_args_is_help=True)
NewestDate = Annotated[str | None, typer.Option("--date", "-d", help="Partition date.", show_default="the newest")]
Views = Annotated[list[str] | None, typer.Option("--view", help="Only this view; may be given several times.", show_default="all")]
Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only this reason; may be given several times.", show_default="all")]
_WORDS = 12


@app.command("list")
def list_letters(
    settings: SettingsPath,
    date: NewestDate = None,
    view: Views = None,
    reason: Reasons = None,
    limit: Annotated[int, typer.Option(min=0, help="Most of them to list one by one.")] = 50,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Count the refused answers by view and reason, then list them with what they cost."""
    from itertools import islice

    from kar.llm.deadletters import counts, letters, refused_partition
    from kar.show import aligned

    _, place = open_scenario(settings, override, home)
    partition, choice = refused_partition(place, None if date is None else day(date)), _choice(view, reason)
    groups = counts(partition, choice)
    total = sum(r["count_all"] for r in groups)
    say(f"{total:,} dead letters of {partition.date}")
    if not total:
        return
    rows = [(r["view"], r["reason"], f"{r['count_all']:,}", f"{r['has_fallback_sum']:,}") for r in groups]
    say("\n".join(["", *aligned([("view", "reason", "refused", "last good stands in"), *rows]), ""]))
    for letter in islice(letters(place, partition, choice), limit):
        at = f"{letter.at:%Y-%m-%d %H:%M}" if letter.at else "imported"
        cost = f"{_attempts(letter.attempts)}, {letter.tokens:,} tokens" if letter.rows else "not asked"
        stands = "last good stands in" if letter.has_fallback else "missing"
        say(f"{letter.view} {_plain(letter.subject_id)}  {letter.request_key[:16]}  {letter.reason}: {_plain(letter.detail)}")
        say(f"    {at}, {cost}, {stands}: {_first_words(letter.answer)}")
    if total > limit:
        say(f"… and {total - limit:,} more; see --limit")


@app.command("show")
def show(
    what: Annotated[str, typer.Argument(metavar="KEY|VIEW", help="The request key, or its beginning; or a view, and then:")],
    settings: SettingsPath,
    subject: Annotated[str | None, typer.Argument(help="The subject, after a view.", show_default="none")] = None,
    date: NewestDate = None,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Show a refused answer whole, with the request that was sent and whatever asked it again."""
    from kar.errors import SourceError
    from kar.llm.deadletters import Choice, letters, refused_partition

    _, place = open_scenario(settings, override, home)
    partition = refused_partition(place, None if date is None else day(date))
    if subject is not None:
        found = list(letters(place, partition, Choice(views=[what], subject_id=subject)))
    else:
        found = [letter for letter in letters(place, partition, Choice()) if what in (letter.planned_key, letter.request_key)]
        found = found or [letter for letter in letters(place, partition, Choice()) if letter.request_key.startswith(what)]
    if not found:
        named = f"{what} {subject}" if subject is not None else f"key {what}"
        raise SourceError(f"no dead letter of {partition.date} is about {_plain(named)}", "see: kar deadletters list")
    say("\n\n".join("\n".join(_shown(letter)) for letter in found))


@app.command("replay")
def replay(
    settings: SettingsPath,
    reason: Annotated[list[str], typer.Option("--reason", help="Which to ask again; may be given several times.")],
    date: NewestDate = None,
    view: Views = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of an answer.", show_default="as before; twice for truncated")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, max=2.0, help="Of the sampling.", show_default="as before")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.", show_default="as before")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most requests to ask.", show_default="all")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be asked.")] = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Ask refused answers again, now, with something changed. What comes is taken by the next kar run knowledge."""
    from kar import flow
    from kar.llm import replay as replaying
    from kar.llm.deadletters import letters, refused_partition
    from kar.store.forgotten import nobody_is_forgotten

    if unknown := sorted(set(reason) - set(flow.KNOWLEDGE.rejects)):
        raise typer.BadParameter(f"{', '.join(unknown)}: say one of {', '.join(flow.KNOWLEDGE.rejects)}", param_hint="--reason")
    loaded, place = open_scenario(settings, override, home)
    partition = refused_partition(place, None if date is None else day(date))
    change = replaying.Change(max_tokens, temperature, seed)
    replaying.check(reason, change, loaded.llm, is_dry=dry_run)
    with nobody_is_forgotten(place):
        chosen = letters(place, partition, _choice(view, reason))
        made = replaying.replay(chosen, change, loaded.llm, place, partition.date, now(), limit=limit, is_dry=dry_run)
    for why, count in sorted(made.left_out.items()):
        say(f"left out {count:,}: {why}")
    usd = loaded.llm.price().usd(made.prompt_tokens, made.answer_tokens)
    most = f"{made.requests:,} requests, at most {made.prompt_tokens + made.answer_tokens:,} tokens" + (f", {usd:,.4f} USD" if usd else "")
    if dry_run or not made.requests:
        say(f"would ask {most}" if dry_run else "nothing to ask")
        return
    say(f"asked {most}: {made.answered:,} answered, {made.failed:,} failed, {made.from_ledger:,} were in the ledger")
    if made.stopped_by != "none":
        say(f"stopped by {made.stopped_by}; the same command goes on where it stopped")
    say(f"then: kar run knowledge --settings {settings} --date {partition.date}")


def _choice(views: list[str] | None, reasons: list[str] | None) -> Choice:
    from kar.llm.deadletters import Choice

    return Choice(views or (), reasons or ())


def _shown(letter: DeadLetter) -> list[str]:
    lines = [f"{letter.view} {_plain(letter.subject_id)}: {letter.reason} ({_plain(letter.detail)})"]
    if not letter.rows:
        return [*lines, "imported; the refused text:", *_wrapped(letter.answer)]
    for row in letter.rows:
        lines += ["", *_row(row, is_planned=row.key == letter.planned_key)]
    return lines


def _row(row: Answer, *, is_planned: bool) -> list[str]:
    """One row of the ledger: what was sent, and what came."""
    body = json.loads(row.body)
    rest = {name: value for name, value in body.items() if name != "messages"}
    again = f", asks {row.retry_of[:16]} again" if row.retry_of else ""
    tokens = f"{row.prompt_tokens} + {row.completion_tokens} tokens" + (f", {row.lost_tokens} lost" if row.lost_tokens else "")
    lines = [
        f"{row.key}{' (planned)' if is_planned else ''}{again}",
        f"  {row.status}{f', {row.finish_reason}' if row.finish_reason else ''}, asked {row.asked_at:%Y-%m-%d %H:%M}, "
        f"{_attempts(row.attempts)}, {tokens}, {_plain(row.model) or 'no model'}",
    ]
    if row.detail:
        lines.append(f"  {_plain(row.detail)}")
    for message in body.get("messages", []):
        lines += [f"  [{message.get('role')}]", *_wrapped(str(message.get("content")))]
    lines += [f"  {_plain(json.dumps(rest, ensure_ascii=False))}", "  [answer]", *_wrapped(row.text or "(none)")]
    return lines


def _wrapped(text: str) -> list[str]:
    return [
        line
        for paragraph in text.splitlines() or [""]
        for line in textwrap.wrap(_plain(paragraph), 100, initial_indent="    ", subsequent_indent="    ") or [""]
    ]


def _first_words(text: str) -> str:
    words = _plain(" ".join(text[:2_000].split())).split(" ")
    shown = " ".join(words[:_WORDS])[:160]
    return f"{shown} …" if len(words) > _WORDS else shown or "(no text)"


def _plain(text: str) -> str:
    """A text that cannot steer a terminal: control and bidi characters by their code points."""
    return "".join(f"<U+{ord(c):04X}>" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") and c != "\n" else c for c in text)


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"
