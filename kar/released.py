"""What `kar release list`, `show`, `verify` and `collect` print. Reads releases; writes nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq

from kar import release as releasing
from kar.errors import NotMade
from kar.release import durable, layout, manifest, pointer, shelf
from kar.release.collect import Collected
from kar.release.shelf import Listed
from kar.release.verdicts import refusal
from kar.show import aligned, made, printed_json
from kar.store import Home, Manifest


def of_report(home: Home, date: dt.date) -> str:
    """The release that the report of a date names.

    Raises:
        NotMade: there is no report of that date, or no release behind it.
    """
    if not home.partition("report", date).exists():
        raise NotMade(f"there is no report of {date}", f"run: kar run report --date {date}")
    if not home.partition("features", date).exists():
        raise NotMade(
            f"the report of {date} names no release: features has not been made for {date}", f"run: kar run features --date {date}"
        )
    return of_date(home, date)


def of_date(home: Home, date: dt.date) -> str:
    """The release that the features partition of a date published. Raises NotMade."""
    return str(pq.read_table(made(home, "features", date).table("release"), columns=["release_id"]).column(0)[0].as_py())


@dataclass(frozen=True)
class Promoted:
    """What came of promoting a night's release.

    Args:
        release_id, path, date: of that night's release.
        is_promoted: whether CURRENT points at it now.
        served: the release that CURRENT points at now; empty: none.
        why: in words; empty where it was promoted by this very call.
    """

    release_id: str
    path: str
    date: str
    is_promoted: bool
    served: str
    why: str = ""


def promote_date(home: Home, date: dt.date, now: dt.datetime, *, despite_gate: bool = False, wait_s: float = durable.WAIT_S) -> Promoted:
    """Serve the release of a night, if it is newer than what is served. Asked again, it does nothing.

    Raises:
        NotMade: features has not been made for that date.
        GateFailed: its gate, as the night was judged, said no.
        ReleaseNotFound: it was removed since. And as `kar.release.promote`.
    """
    name = of_date(home, date)
    path = f"{home.releases_at}/releases/{name}"
    with releasing.remote.looking(home.releases_at) as folder:
        candidate = manifest.read(pointer.folder_of(folder, name))
        current = pointer.maybe_current(folder)
        served = manifest.read(pointer.folder_of(folder, current.release)) if current else None
    if served is not None and served["release"] == name:
        return Promoted(name, path, candidate["date"], True, name, f"{name} is served already")
    if served is not None and not pointer.promotes_over(candidate, served):
        why = (
            f"{name} is not promoted: {served['release']}, which is served, is newer (data cutoff {served['data_cutoff']}, date "
            f"{served['date']}); to go back to it on purpose: kar release rollback {name}"
        )
        return Promoted(name, path, candidate["date"], False, str(served["release"]), why)
    night = Manifest.read(made(home, "features", date).manifest_path)
    if night.failed_checks and not despite_gate:
        raise refusal(name, len(night.gate), night.failed_checks)
    # the night's verdicts decide, not those of the manifest, which keeps what was said when the same content was published first
    releasing.promote(home.releases_at, name, now, despite_gate=True, wait_s=wait_s)
    return Promoted(name, path, candidate["date"], True, name)


def listing(home: Home, now: dt.datetime) -> str:
    """One line per release, newest publication first, the current one marked; then what is wrong."""
    found = releasing.list_releases(home.published, now)
    wrong = shelf.problems(home.published, now) if found else []
    if not found:
        return f"no release is published in {home.releases_at}"
    table = [("", "release", "data cutoff", "published", "users", "items", "MB", "uplift", "notes")]
    for entry in found:
        table.append(
            (
                "→" if entry.is_current else "",
                entry.id,
                f"{entry.data_cutoff:%Y-%m-%d %H:%M}" if entry.data_cutoff else "–",
                f"{entry.published_at:%Y-%m-%d %H:%M}" if entry.published_at else "–",
                _covered(entry, "user"),
                _covered(entry, "item"),
                f"{entry.bytes / 1e6:,.1f}",
                _uplift(entry.manifest or {}),
                ", ".join(_notes(entry)),
            )
        )
    below = [f"users, items: share with knowledge; of {len(found)} releases the one with → is served"]
    return "\n".join([*aligned(table), "", *below, *(f"\n! {error}" for error in wrong)])


def listing_json(home: Home, now: dt.datetime) -> str:
    """The same for programs."""
    return printed_json(
        [
            {
                "release": entry.id,
                "is_current": entry.is_current,
                "served_since": entry.served_since,
                "data_cutoff": entry.data_cutoff,
                "published_at": entry.published_at,
                "space_id": entry.space_id,
                "is_reconstructed": entry.is_reconstructed,
                "bytes": entry.bytes,
                "failed_checks": entry.failed_checks,
                "pins": [asdict(pin) for pin in entry.pins],
                "leases": [asdict(lease) for lease in entry.leases],
                "problem": entry.problem,
            }
            for entry in releasing.list_releases(home.published, now)
        ]
    )


def _covered(entry: Listed, side: layout.Side) -> str:
    return f"{entry.manifest['tables'][layout.table_name(side)]['covered_share']:.1%}" if entry.manifest else "–"


def _uplift(found: dict[str, Any]) -> str:
    """AUC of knowledge − base over everybody, as the training behind the release measured it."""
    rows = [row for row in found.get("uplift", []) if row["arm_b"] == "base" and row["slice"] == "all" and row["difference"] is not None]
    return f"{rows[0]['difference']:+.4f}" if rows else "–"


def _notes(entry: Listed) -> Iterator[str]:
    if entry.problem:
        yield f"damaged: {entry.problem}"
    if entry.is_reconstructed:
        yield "reconstructed"
    if entry.failed_checks:
        yield f"gate failed ({', '.join(entry.failed_checks)})"
    if entry.pins:
        yield "pinned"
    if entry.leases:
        yield f"leased by {len(entry.leases)}"
    if entry.served_since is None and not entry.problem:
        yield "never served"


def shown(home: Home, text: str | None, now: dt.datetime) -> str:
    """What a release binds, readable."""
    opened = releasing.open(pointer.named(home.published, text))
    entry = next(one for one in releasing.list_releases(home.published, now) if one.id == opened.id)
    served = f"served since {entry.served_since:%Y-%m-%d %H:%M} UTC" if entry.is_current else "not served now"
    if not entry.is_current and entry.served_since:
        served += f"; last from {entry.served_since:%Y-%m-%d %H:%M} UTC"
    lines = [f"release {opened.id}, {served}", f"  in {home.releases_at}/releases/{opened.id}", ""]
    lines += _labelled(
        [*_clocks(opened), *_tables(opened), *_sources(opened.manifest), *_judged(opened.manifest), *_kept(opened.manifest, entry)]
    )
    return "\n".join([*lines, "", f"the whole manifest: kar release show {opened.id} --json"])


def _clocks(opened: releasing.Release) -> Iterator[tuple[str, str]]:
    found = opened.manifest
    yield "date", found["date"]
    yield "data cutoff", f"{opened.data_cutoff:%Y-%m-%d %H:%M:%S} UTC" if opened.data_cutoff else "none: no prompt saw an interaction"
    yield "published", f"{opened.published_at:%Y-%m-%d %H:%M:%S} UTC"
    if found["is_reconstructed"]:
        yield "reconstructed", "yes: made long after its date; its language model may know what came later"
    yield "space", f"{opened.space_id}: encoder {opened.encoder_id}, adaptor {str(found['space']['adaptor_sha'])[:12]}"
    yield "parent", found["parent"] or "none"


def _tables(opened: releasing.Release) -> Iterator[tuple[str, str]]:
    for side in layout.SIDES:
        table = opened.manifest["tables"][layout.table_name(side)]
        active = table.get("covered_active_share")
        of_active = "" if active is None else f"; {active:.1%} of the {table['active_count']:,} active ones"
        yield f"{side}s", f"{table['rows']:,}, {table['covered_share']:.1%} with knowledge{of_active}"
        for view, share in table["coverage"].items():
            yield "", f"{view}  {share:.1%}, {_floats(opened, view)}"


def _sources(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for one in found.get("models", []):
        yield "written by", f"{one['view']}  {one['model'] or 'an unnamed model'}, {one['count']:,} rows"
    for view, versions in found.get("templates", {}).items():
        for version, count in versions.items():
            yield "template", f"{view}  {version or 'imported'}, {count:,} rows"
    for stage, read in found.get("inputs", {}).items():
        yield "reads", f"{stage} of {read['date']}"
    for label, told in found.get("cost", {}).items():
        parts = [f"{value:,} {name.replace('_', ' ')}" for name, value in told.items() if value is not None]
        yield "cost", f"{label}: {', '.join(parts) or 'not known'}"


def _judged(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for row in found.get("uplift", []):
        yield "uplift", f"knowledge − {row['arm_b']}, {row['slice']}: {_interval(row)}"
    for one in found.get("gate", []):
        yield "gate", f"{'passed' if one['is_passed'] else 'FAILED'}  {one['check']}: {one['why']}"


def _kept(found: dict[str, Any], entry: Listed) -> Iterator[tuple[str, str]]:
    written = found.get("bytes")
    new = "" if written is None else f", {written['written'] / 1e6:,.2f} MB of them its own when it was written"
    yield "files", f"{len(manifest.files(found))}, {entry.bytes / 1e6:,.2f} MB{new}; code {found.get('code_version') or 'unnamed'}"
    for pin in entry.pins:
        yield "kept", str(pin)
    for lease in entry.leases:
        yield "kept", f"leased by {lease}"


def _floats(opened: releasing.Release, view: str) -> str:
    adapted = f"{opened.width(view)} adapted floats"
    return f"{adapted}, pooled from histories" if opened.is_pooled(view) else f"{adapted}, {opened.width(view, 'knowledge')} of knowledge"


def _interval(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return "not measured"
    low, high = row.get("low"), row.get("high")
    return f"{row['difference']:+.4f}" + (f" [{low:+.4f}, {high:+.4f}]" if low is not None and high is not None else "")


def _labelled(told: Sequence[tuple[str, str]]) -> list[str]:
    """A label is shown once for the lines that follow under it."""
    width = max(len(label) for label, _ in told)
    lines, last = [], ""
    for label, text in told:
        lines.append(f"  {('' if label == last else label).ljust(width)}  {text}")
        last = label or last
    return lines


def manifest_json(home: Home, text: str | None) -> str:
    """manifest.json of a release."""
    return printed_json(releasing.open(pointer.named(home.published, text)).manifest)


def verified(home: Home, text: str | None) -> str:
    """Recompute a release. Raises ReleaseCorrupt at the first difference.

    Args:
        text: its id or how that begins; None: the one served.
    """
    where = home.releases_at
    name = releasing.remote.looked(where, lambda folder: pointer.named(folder, text).name)
    # no name: CURRENT, with the digest of the manifest that it gives
    found = releasing.verify(where if text is None else f"{where}/releases/{name}")
    return f"{found['release']}: every digest, row count and schema is as its manifest says"


def collected(told: Collected) -> str:
    """What was kept, and why; what went."""
    went = "would be removed" if told.is_dry_run else "removed"
    table = [("release", "", "why")]
    table += [(one.release, "kept" if one.is_kept else went, "; ".join(one.why) or "nobody needs it") for one in told.judged]
    freed = f"{len(told.removed)} of {len(told.judged)} releases {went}, {told.freed_bytes / 1e6:,.1f} MB of their own"
    run_out = [f"{told.leases_run_out} leases of readers that are gone {went}"] if told.leases_run_out else []
    return "\n".join([*(aligned(table) if told.judged else []), *([""] if told.judged else []), freed, *run_out])
