"""`kar release …`"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from kar.cli.options import Overrides, Root, SettingsPath, as_line, day, now, open_scenario, releases_of, say

if TYPE_CHECKING:
    from kar.store import Home

T = TypeVar("T")
app = typer.Typer(
    help="Published releases: list, show, compare, verify; promote and roll back; pin and collect.\n\n"
    "A release is named by its id, or by as much of its beginning as no other shares, such as its date.",
    no_args_is_help=True,
)
ReleaseId = Annotated[str, typer.Argument(help="Which: its id or how that begins.", show_default=False)]
MaybeRelease = Annotated[str | None, typer.Argument(help="Which: its id or how that begins.", show_default="the one served")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
OfDate = Annotated[
    str | None, typer.Option("--date", "-d", metavar="DATE", help="The release of that night, YYYY-MM-DD.", show_default="none")
]
ReportDate = Annotated[
    str | None, typer.Option("--report", metavar="DATE", help="The release that the report of this date names.", show_default="none")
]


@app.command("list")
def list_releases(settings: SettingsPath, as_json: AsJson = False, override: Overrides = None, home: Root = None) -> None:
    """List the releases, newest first, the served one marked; say what is wrong with the folder, if anything."""
    from kar.released import listing, listing_json

    place = open_scenario(settings, override, home)[1]
    say(_asked(place, lambda at: listing_json(at, now()) if as_json else listing(at, now())))


@app.command("show")
def show(
    settings: SettingsPath, release_id: MaybeRelease = None, as_json: AsJson = False, override: Overrides = None, home: Root = None
) -> None:
    """Show what a release binds: tables, space, clocks, models, coverage, uplift, gate; --json: its whole manifest."""
    from kar.released import manifest_json, shown

    place = open_scenario(settings, override, home)[1]
    say(_asked(place, lambda at: manifest_json(at, release_id) if as_json else shown(at, release_id, now())))


@app.command("diff")
def diff(
    settings: SettingsPath,
    before: Annotated[str | None, typer.Argument(help="Compare from this one.", show_default="served before the other")] = None,
    after: Annotated[str | None, typer.Argument(help="To this one.", show_default="the one served")] = None,
    movers: Annotated[int, typer.Option(min=0, help="Show so many subjects of each view, those whose vectors turned furthest.")] = 10,
    as_json: AsJson = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Say what moved: subjects added, lost, changed, cosines, coverage, and the texts of those that turned furthest."""
    from kar.compared import compared, compared_json

    place = open_scenario(settings, override, home)[1]
    say(_asked(place, lambda at: (compared_json if as_json else compared)(at, before, after, movers)))


@app.command("verify")
def verify(
    settings: SettingsPath, release_id: MaybeRelease = None, date: OfDate = None, override: Overrides = None, home: Root = None
) -> None:
    """Recompute every digest, row count and schema of a release; name the first difference."""
    from kar.released import of_date, verified

    if date is not None and release_id is not None:
        raise typer.BadParameter("name a release, or a night's date, not both", param_hint="--date")
    place = open_scenario(settings, override, home)[1]
    if release_id is None and date is None and _nothing_was_published(place):
        say(f"no night has published anything in {place.path}: nothing to verify")
        return
    say(verified(place, release_id if date is None else of_date(place, day(date))))


@app.command("promote")
def promote(
    settings: SettingsPath,
    release_id: Annotated[str | None, typer.Argument(help="Which: its id or how that begins.", show_default="see --date")] = None,
    date: OfDate = None,
    despite_gate: Annotated[bool, typer.Option("--despite-gate", help="Also if its gate said no.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --date: the last line of stdout is one JSON object.")] = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Serve a release with newer data than the one served, after verifying it.

    By --date, for schedulers: an older night is left unserved without an error, one that is served already is left alone; exit code 3 if its
    gate said no.
    """
    from kar.release import promote

    if (date is None) == (release_id is None):
        raise typer.BadParameter("name a release, or a night's date", param_hint="RELEASE_ID")
    if as_json and date is None:
        raise typer.BadParameter("goes with --date", param_hint="--json")
    loaded, place = open_scenario(settings, override, home)
    if date is not None:
        from kar.released import promote_date

        done = promote_date(place, day(date), now(), despite_gate=despite_gate, wait_s=loaded.features.publisher_wait_s)
        say(as_line(asdict(done)) if as_json else done.why or f"{done.release_id} is served")
        return
    name = _named(place, release_id)
    was = _served_now(place)
    promote(place.releases_at, name, now(), despite_gate=despite_gate, wait_s=loaded.features.publisher_wait_s)
    say(f"{name} is served" + (f"; before it was {was}" if was not in ("", name) else " already" if was == name else ""))


@app.command("rollback")
def rollback(release_id: ReleaseId, settings: SettingsPath, override: Overrides = None, home: Root = None) -> None:
    """Serve an earlier release again, after verifying it; also mends a CURRENT that is damaged or points nowhere."""
    from kar.release import rollback

    loaded, place = open_scenario(settings, override, home)
    name = _named(place, release_id)
    was = _served_now(place)
    rollback(place.releases_at, name, now(), wait_s=loaded.features.publisher_wait_s)
    say(f"{name} is served" + (f"; before it was {was}" if was else ""))


@app.command("pin")
def pin(
    settings: SettingsPath,
    release_id: MaybeRelease = None,
    report: ReportDate = None,
    why: Annotated[str, typer.Option(help="Whoever wonders later is told so.", show_default="no reason")] = "",
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Keep a release for good, or the one that a report names: collect leaves it alone."""
    from kar.release import pins, remote
    from kar.released import of_report

    place = open_scenario(settings, override, home)[1]
    if report is not None and release_id is not None:
        raise typer.BadParameter("name a release, or a report's date, not both", param_hint="--report")
    date = day(report).isoformat() if report is not None else ""
    name = of_report(place, day(report)) if report is not None else _named(place, release_id)
    pinned = remote.changed(place.releases_at, lambda folder: pins.add(folder, name, why, date, now()))
    say(f"{name} is {pinned}")


@app.command("unpin")
def unpin(
    settings: SettingsPath,
    release_id: Annotated[str | None, typer.Argument(help="Which: its id or how that begins.", show_default="see --report")] = None,
    report: ReportDate = None,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Let a release go that was pinned, or what was pinned with a report; collect judges it as any other then."""
    from kar.release import pins, remote

    place = open_scenario(settings, override, home)[1]
    if (report is None) == (release_id is None):
        raise typer.BadParameter("name a release, or a report's date", param_hint="RELEASE_ID")
    if report is not None:
        gone = remote.changed(place.releases_at, lambda folder: pins.remove(folder, report_date=day(report).isoformat()))
    else:
        gone = remote.changed(place.releases_at, lambda folder: pins.remove(folder, pins.named(folder, str(release_id))))
    for one in gone:
        say(f"{one.release} is no longer {one}")


@app.command("collect")
def collect(
    settings: SettingsPath,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Keep so many of those served last, and of those never served.", show_default="features.keep")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Remove releases that nobody needs: not served now or lately, not pinned, not leased. Joins reach as far back as what is kept."""
    from kar.release import collect
    from kar.released import collected

    loaded, place = open_scenario(settings, override, home)
    if _nothing_was_published(place):
        say(f"no night has published anything in {place.path}: nothing to collect")
        return
    wait_s = loaded.features.publisher_wait_s
    say(collected(collect(place.releases_at, keep or loaded.features.keep, at=now(), dry_run=dry_run, wait_s=wait_s)))


def _nothing_was_published(place: Home) -> bool:
    """Whether there is neither a folder of releases nor a night that made one: then nothing was lost."""
    return not place.published_uri and not place.published.is_dir() and not place.partitions("features")


def _asked(place: Home, question: Callable[[Home], T]) -> T:
    """Ask something of the releases, wherever they lie."""
    with releases_of(place) as at:
        return question(at)


def _named(place: Home, text: str | None) -> str:
    from kar.release import pointer

    return _asked(place, lambda at: pointer.named(at.published, text).name)


def _served_now(place: Home) -> str:
    from kar.release import shelf

    return _asked(place, lambda at: shelf.served_now(at.published))
