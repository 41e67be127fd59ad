"""What the commands print: the state of the partitions, all that is known of one subject.

Reads finished partitions and releases; writes nothing, computes nothing that is not shown.
"""

from __future__ import annotations

import datetime as dt
import json
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import flow
from kar.errors import NotMade, ReleaseError, SourceError
from kar.release import remote
from kar.release.shelf import Service
from kar.settings import Settings
from kar.store import Home, Manifest, Partition, trainings

_WIDTH = 100
_NAMES = frozenset({"stopped_by", "model", "model_revision", "server_version", "release_id", "space_id"})
Side = Literal["user", "item"]


def finished(home: Home, date: dt.date) -> str:
    """Where the release and the report of a finished run lie, and the verdict."""
    report = home.partition("report", date)
    lines = []
    if report.exists():
        manifest = Manifest.read(report.manifest_path)
        if verdict := manifest.figures.get("verdict_sentence"):
            lines.append(f"verdict  {verdict}")
        lines.append(f"report   {report.path / 'index.html'}")
    features = home.partition("features", date)
    if features.exists():
        row = pq.read_table(features.table("release")).to_pylist()[0]
        failed = Manifest.read(features.manifest_path).failed_checks
        why = f"not promoted, failed: {', '.join(failed)}" if failed else "not promoted"
        current = "CURRENT" if _service(home, row["release_id"]).is_now else why
        lines.append(f"release  {home.releases_at}/releases/{row['release_id']}  ({current})")
    return "\n".join(lines)


def outcome(home: Home, made: Manifest) -> dict[str, Any]:
    """A partition in a few words for a program: where it lies, counts, and those of its figures that are one number or name."""
    rows = {name: table["rows"] for name, table in made.tables.items()}
    figures = {name: value for name, value in made.figures.items() if isinstance(value, bool | int | float) or name in _NAMES}
    if made.stage == "prompts":
        figures["requests"] = rows.get("request", 0)
    if made.stage == "knowledge":
        figures["tokens"] = sum(made.figures.get(name, 0) for name in ("prompt_tokens", "completion_tokens"))
    return {
        "stage": made.stage,
        "date": made.date,
        "path": str(home.partition(made.stage, dt.date.fromisoformat(made.date)).path),
        "rows": rows,
        "rejected": made.rejected,
        "seconds": made.seconds,
        "warnings": len(made.warnings),
        "figures": figures,
    }


def overview(settings: Settings, home: Home) -> str:
    """Stages × dates: rows and seconds of what is made."""
    lines = [f"scenario {settings.scenario.name} in {home.path}", ""]
    table = [("stage", "date", "rows", "rejected", "seconds", "made at")]
    for stage in flow.FLOW:
        partitions = home.partitions(stage.name)
        if not partitions:
            table.append((stage.name, "–", "", "", "", "not made"))
        for partition in partitions[-7:]:
            made = Manifest.read(partition.manifest_path)
            rows = sum(t["rows"] for t in made.tables.values())
            rejected = sum(made.rejected.values())
            table.append((stage.name, made.date, f"{rows:,}", f"{rejected:,}", f"{made.seconds:,.1f}", made.made_at[:19]))
    held = held_back_trainings(home)
    return "\n".join([*lines, *aligned(table), *([""] if held else []), *held])


def subject(settings: Settings, home: Home, side: Side, subject_id: str, date: dt.date | None) -> str:
    """All that is known of one user or item at a date (None: the newest that has histories).

    Raises:
        NotMade: no histories yet.
        SourceError: nobody of that id.
    """
    histories = home.partitions("histories")
    if date is None and not histories:
        raise NotMade("histories has not been made for any date", "run: kar run all")
    day = date or histories[-1].date
    partition = made(home, "histories", day)
    name = "history" if side == "user" else "item_profile"
    rows = rows_of(partition, name, subject_id)
    if not rows:
        raise SourceError(f"{side} {subject_id!r} is not in the histories of {day}", "look the id up as the source writes it")
    lines = [f"{side} {subject_id} on {day}", ""]
    lines += _history(rows[0]) if side == "user" else _profile(rows[0])
    for stage, table, shown in (
        ("prompts", "plan", _plan),
        ("prompts", "request", _request),
        ("knowledge", "knowledge", _knowledge),
        ("knowledge", "refused", _refused),
    ):
        part = home.partition(stage, day)
        if part.exists():
            for row in rows_of(part, table, subject_id, side):
                lines += ["", *shown(row, home)]
                if table == "knowledge":
                    lines += _factors(part, row)
    return "\n".join([*lines, "", _in_release(home, side, rows[0][f"{side}_id"])])


def rows_of(partition: Partition, table: str, subject_id: str, side: str | None = None) -> list[dict[str, Any]]:
    """One subject's rows of a table; of a table with views those of the side's."""
    condition = pc.field("subject_id") == subject_id
    if side is not None:
        condition = condition & pc.starts_with(pc.field("view"), f"{side}.")
    rows: list[dict[str, Any]] = pq.read_table(partition.table(table), filters=condition).to_pylist()
    return rows


def _history(row: dict[str, Any]) -> list[str]:
    lines = [f"history: {len(row['titles'])} events shown of {row['position']} before {row['cutoff_at']:%Y-%m-%d %H:%M:%S}, oldest first"]
    for title, rating, at in zip(row["titles"], row["ratings"], row["event_ats"], strict=True):
        lines.append(f"  {at:%Y-%m-%d %H:%M}  {'–' if rating != rating else f'{rating:g}':>4}  {title}")
    return lines


def _profile(row: dict[str, Any]) -> list[str]:
    mean = "" if row["rating_mean"] is None else f", mean rating {row['rating_mean']:.2f}"
    return [f"profile: {row['event_count']} events before the cutoff{mean}", *_wrapped(row["text"])]


def _plan(row: dict[str, Any], _: Home) -> list[str]:
    because = f", because {row['reason']}" if row["reason"] else ""
    return [f"plan for {row['view']}: {row['decision']}{because} ({row['template_version'] or 'imported'})"]


def _request(row: dict[str, Any], _: Home) -> list[str]:
    lines = [f"prompt for {row['view']}, place {row['place']} of tonight's requests"]
    for message in json.loads(row["body"])["messages"]:
        lines += [f"  [{message['role']}]", *_wrapped(message["content"])]
    return lines


def _knowledge(row: dict[str, Any], home: Home) -> list[str]:
    origin = f"{row['origin']}, written by {row['model'] or 'an unnamed model'} {row['model_revision'].split(':')[-1][:12]}".rstrip()
    lines = [f"knowledge {row['view']} ({origin}; {len(row['evidence_items'])} events of evidence)", *_wrapped(row["text"])]
    answer = _answer(home, row["request_key"]) if row["origin"] != "import" else None
    if answer is not None and answer.text.strip() != row["text"].strip():
        lines += ["  the answer as it came:", *_wrapped(answer.text)]
    return lines


def _factors(partition: Partition, row: dict[str, Any]) -> list[str]:
    """The factors of a text that has them, one a line."""
    if not partition.table("factor_knowledge").is_file():  # made by an earlier version
        return []
    is_its = (pc.field("view") == row["view"]) & (pc.field("subject_id") == row["subject_id"]) & (pc.field("factor") != "")
    found = pq.read_table(partition.table("factor_knowledge"), filters=is_its).to_pylist()
    if not found:
        return []
    named = [(told["factor"].replace("_", " "), told["text"]) for told in found]
    width = max(len(name) for name, _ in named)
    return [f"  in {len(found)} factors:", *(f"    {name.ljust(width)}  {text}" for name, text in named)]


def _refused(row: dict[str, Any], _: Home) -> list[str]:
    return [f"refused {row['view']}: {row['reason']} ({row['detail']})", *_wrapped(row["answer"])]


def _answer(home: Home, key: str) -> Any:
    from kar.llm.ledger import look_up

    return look_up(home.ledger, [key]).get(key)


def _in_release(home: Home, side: Side, subject_id: object) -> str:
    from kar import release as releasing

    try:
        opened = releasing.open(home.releases_at)
    except ReleaseError:
        return "release: none is published"
    parts = []
    for view in opened.views(side):
        _, is_missing = opened.vectors(side, view, [subject_id])
        parts.append(f"{view} {'is_missing' if is_missing[0] else 'present'}")
    return f"release {opened.id}: {', '.join(parts)}{_held_back(home)}"


def _held_back(home: Home) -> str:
    """Lines about the newest night's release, if a check of the gate keeps it from being served, and about trainings that are held back."""
    lines = []
    for newest in home.partitions("features")[-1:]:
        night = Manifest.read(newest.manifest_path)
        release = night.figures.get("release_id", "")
        if night.failed_checks and _service(home, release).since is None:
            lines.append(f"not served: release {release}, failed: {', '.join(night.failed_checks)}")
    return "".join(f"\n{line}" for line in [*lines, *held_back_trainings(home)])


def held_back_trainings(home: Home) -> list[str]:
    """A line about each training that is newer than the one in use and held back."""
    return [f"not used: {sentence}" for sentence in trainings.told_of_held_back(home, dt.date.max)]


def _service(home: Home, release: str) -> Service:
    """What CURRENT says now; the features partition knows only what was at publication."""
    try:
        return remote.service(home.releases_at, release)
    except ReleaseError:
        return Service()


def made(home: Home, stage: str, date: dt.date) -> Partition:
    """A finished partition. Raises NotMade."""
    partition = home.partition(stage, date)
    if not partition.exists():
        raise NotMade(f"{stage} has not been made for {date}", f"run: kar run {stage} --date {date}")
    return partition


def _wrapped(text: str) -> list[str]:
    return [
        line
        for paragraph in text.splitlines() or [""]
        for line in textwrap.wrap(paragraph, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    ]


def printed_json(value: object) -> str:
    """For programs; times as texts."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align; columns of numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    is_number = [all(not row[i] or row[i][0].isdigit() for row in rows[1:]) and len(rows) > 1 for i in range(len(rows[0]))]
    return ["  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, is_number, strict=True)).rstrip() for row in rows]
