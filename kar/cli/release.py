"""`kar release …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kar.cli.options import Overrides, Root, SettingsPath, day, now, open_scenario, say

app = typer.Typer(
    help="Published releases: list, show, compare, verify; promote and roll back; pin and collect.\n\n"
    "A release is named by its id, or by as much of its beginning as no other shares, such as its date.",
    no_args_is_help=True,
)
ReleaseId = Annotated[str, typer.Argument(help="Which: its id or how that begins.", show_default=False)]
MaybeRelease = Annotated[str | None, typer.Argument(help="Which: its id or how that begins.", show_default="the one served")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
ReportDate = Annotated[
    str | None, typer.Option("--report", metavar="DATE", help="The release that the report of this date names.", show_default="none")
]


@app.command("list")
def list_releases(settings: SettingsPath, as_json: AsJson = False, override: Overrides = None, home: Root = None) -> None:
    """List the releases, newest first, the served one marked; say what is wrong with the folder, if anything."""
    from kar.released import listing, listing_json

    place = open_scenario(settings, override, home)[1]
    say(listing_json(place, now()) if as_json else listing(place, now()))


@app.command("show")
def show(
    settings: SettingsPath, release_id: MaybeRelease = None, as_json: AsJson = False, override: Overrides = None, home: Root = None
) -> None:
    """Show what a release binds: tables, space, clocks, models, coverage, uplift, gate; --json: its whole manifest."""
    from kar.released import manifest_json, shown

    place = open_scenario(settings, override, home)[1]
    say(manifest_json(place, release_id) if as_json else shown(place, release_id, now()))


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
    say((compared_json if as_json else compared)(place, before, after, movers))


@app.command("verify")
def verify(settings: SettingsPath, release_id: MaybeRelease = None, override: Overrides = None, home: Root = None) -> None:
    """Recompute every digest, row count and schema of a release; name the first difference."""
    from kar.released import verified

    say(verified(open_scenario(settings, override, home)[1], release_id))


@app.command("promote")
def promote(
    release_id: ReleaseId,
    settings: SettingsPath,
    despite_gate: Annotated[bool, typer.Option("--despite-gate", help="Also if its gate said no.")] = False,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Serve a release with newer data than the one served, after verifying it."""
    from kar.release import promote, shelf

    loaded, place = open_scenario(settings, override, home)
    name = _named(place.published, release_id)
    was = shelf.served_now(place.published)
    promote(place.published, name, now(), despite_gate=despite_gate, wait_s=loaded.features.publisher_wait_s)
    say(f"{name} is served" + (f"; before it was {was}" if was not in ("", name) else " already" if was == name else ""))


@app.command("rollback")
def rollback(release_id: ReleaseId, settings: SettingsPath, override: Overrides = None, home: Root = None) -> None:
    """Serve an earlier release again, after verifying it; also mends a CURRENT that is damaged or points nowhere."""
    from kar.release import rollback, shelf

    loaded, place = open_scenario(settings, override, home)
    name = _named(place.published, release_id)
    was = shelf.served_now(place.published)
    rollback(place.published, name, now(), wait_s=loaded.features.publisher_wait_s)
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
    from kar.release import pins
    from kar.released import of_report

    place = open_scenario(settings, override, home)[1]
    if report is not None and release_id is not None:
        raise typer.BadParameter("name a release, or a report's date, not both", param_hint="--report")
    date = day(report).isoformat() if report is not None else ""
    name = of_report(place, day(report)) if report is not None else _named(place.published, release_id)
    say(f"{name} is {pins.add(place.published, name, why, date, now())}")


@app.command("unpin")
def unpin(
    settings: SettingsPath,
    release_id: Annotated[str | None, typer.Argument(help="Which: its id or how that begins.", show_default="see --report")] = None,
    report: ReportDate = None,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Let a release go that was pinned, or what was pinned with a report; collect judges it as any other then."""
    from kar.release import pins

    place = open_scenario(settings, override, home)[1]
    if (report is None) == (release_id is None):
        raise typer.BadParameter("name a release, or a report's date", param_hint="RELEASE_ID")
    if report is not None:
        gone = pins.remove(place.published, report_date=day(report).isoformat())
    else:
        gone = pins.remove(place.published, pins.named(place.published, str(release_id)))
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
    wait_s = loaded.features.publisher_wait_s
    say(collected(collect(place.published, keep or loaded.features.keep, at=now(), dry_run=dry_run, wait_s=wait_s)))


def _named(published: Path, text: str | None) -> str:
    from kar.release import pointer

    return pointer.named(published, text).name
