"""Texts that the user already has, held against the tables: what may serve becomes knowledge rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import SettingsError
from kar.settings import KnowledgeSettings, Settings
from kar.stages.knowledge.judging import refused_row
from kar.store import Inputs, read_forgotten
from kar.tables import TABLES, IdTypes
from kar.text import imports
from kar.text.quality import Refusal, judge_import


@dataclass
class Imported:
    """What the imported files brought.

    Args:
        knowledge: rows that may serve, one table a view.
        refused: rows of table refused, without `has_fallback`.
        repeated: reason → lines that say the same as another refused one: counted, not shown again.
        rejected: lines that never became a row, by reason.
        forgotten: lines about somebody whom `kar forget` took away.
    """

    knowledge: list[pa.Table] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    repeated: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    warnings: list[str] = field(default_factory=list)
    forgotten: int = 0

    def refuse(self, view: str, rows: pa.Table, reason: str, detail: str) -> None:
        for row in rows.to_pylist():
            refusal = Refusal(reason, f"line {row['line']}: {detail}")
            self.refused.append(refused_row(view, row["subject_id"], refusal, row["text"], row["line_sha"]))

    def fold_repeats(self) -> None:
        """One refused row a key: a line that stands in a file three times is two duplicates of one key."""
        unique = {tuple(row[k] for k in TABLES["refused"].key): row for row in self.refused}
        self.repeated = Counter(row["reason"] for row in self.refused) - Counter(row["reason"] for row in unique.values())
        self.refused = list(unique.values())


def imported_files(settings: Settings) -> dict[str, Path]:
    """View → its file. Raises SettingsError if one is not there."""
    folder = Path(settings.knowledge.imports_folder).expanduser()
    found = {view: folder / name for view, name in settings.knowledge.imports.items()}
    for view, path in found.items():
        if not path.is_file():
            raise SettingsError(
                f"knowledge.imports names {path} for {view}, which is not there", "mend knowledge.imports or imports_folder"
            )
    return found


def import_all(inputs: Inputs, settings: Settings) -> Imported:
    """Read and check every imported file."""
    found = Imported()
    for view, path in imported_files(settings).items():
        _import_view(view, path, inputs, settings.knowledge, found)
    found.fold_repeats()
    return found


def _import_view(view: str, path: Path, inputs: Inputs, settings: KnowledgeSettings, found: Imported) -> None:
    side = imports.side_of(view)
    lines = imports.read_imports(path, side, inputs.ids)
    forgotten = read_forgotten(inputs.home)
    for reason, examples in lines.rejected.items():
        found.rejected[reason].extend({"line": one["line"]} if forgotten.names_one(one["shown"]) else one for one in examples)
    subjects = inputs.table("history" if side == "user" else "item_profile").select(["subject_id", "cutoff_at"])
    is_kept = [not forgotten.holds(side, subject) for subject in lines.rows.column("subject_id").to_pylist()]
    found.forgotten += is_kept.count(False)
    rows, later = imports.first_of_each(lines.rows.filter(pa.array(is_kept, pa.bool_())))
    found.refuse(view, later, "duplicate_key", "an earlier line is about the same subject")
    place = pc.index_in(rows.column("subject_id"), value_set=subjects.column("subject_id").combine_chunks())
    found.refuse(view, rows.filter(pc.is_null(place)), "unknown_subject", f"no such {side} before the cutoff")
    rows, place = rows.filter(pc.is_valid(place)), place.drop_null()
    rows = rows.append_column("cutoff_at", subjects.column("cutoff_at").take(place))
    newest: pa.Array = pa.nulls(rows.num_rows, pa.timestamp("us", tz="UTC"))
    if side == "user":
        newest, unmet = imports.newest_evidence(rows, inputs.table("interaction"))
        is_bad = pc.greater(unmet, 0)
        found.refuse(view, rows.filter(is_bad), "evidence_after_cutoff", "its evidence is not among the user's events")
        rows, newest = rows.filter(pc.invert(is_bad)), newest.filter(pc.invert(is_bad))
        if without := newest.null_count:
            found.warnings.append(
                f"{without} imported texts of {view} name no evidence: whether they saw what examples ask cannot be checked"
            )
    refusals = [judge_import(text, settings) for text in rows.column("text").to_pylist()]
    is_good = pa.array([refusal is None for refusal in refusals], pa.bool_())
    for row, refusal in zip(rows.filter(pc.invert(is_good)).to_pylist(), [r for r in refusals if r], strict=True):
        found.refused.append(refused_row(view, row["subject_id"], refusal, row["text"], row["line_sha"]))
    found.knowledge.append(_knowledge_rows(view, rows.filter(is_good), newest.filter(is_good), inputs, settings))


def _knowledge_rows(view: str, rows: pa.Table, newest: pa.Array, inputs: Inputs, settings: KnowledgeSettings) -> pa.Table:
    """Knowledge rows of imported texts. A line that an earlier night imported keeps that night's time."""
    count = rows.num_rows
    evidence = [items or [] for items in rows.column("evidence").to_pylist()]
    subjects = rows.column("subject_id").to_pylist()
    schema = TABLES["knowledge"].schema(IdTypes())
    columns: dict[str, Any] = {
        "view": [view] * count,
        "subject_id": subjects,
        "text": [text.strip() for text in rows.column("text").to_pylist()],
        "origin": ["import"] * count,
        "model": [settings.imports_written_by or "unknown"] * count,
        "model_revision": [""] * count,
        "template_version": [""] * count,
        "request_key": rows.column("line_sha"),
        "evidence_sha": [""] * count,
        "cutoff_at": pc.coalesce(newest, rows.column("cutoff_at").combine_chunks()),
        "asked_at": _imported_at(view, rows, inputs),
        "prompt_tokens": [0] * count,
        "completion_tokens": [0] * count,
        "evidence_users": [[subject] * len(items) for subject, items in zip(subjects, evidence, strict=True)],
        "evidence_items": evidence,
        "evidence_newest_at": newest,
        "neighbour_items": [[]] * count,
    }
    made = {n: v.cast(schema.field(n).type) if isinstance(v, pa.Array | pa.ChunkedArray) else v for n, v in columns.items()}
    return pa.table({n: pa.array(v, schema.field(n).type) if isinstance(v, list) else v for n, v in made.items()}, schema=schema)


def _imported_at(view: str, rows: pa.Table, inputs: Inputs) -> pa.Array:
    now: pa.Array = pa.array([inputs.as_of] * rows.num_rows, pa.timestamp("us", tz="UTC"))
    previous = inputs.maybe_table("knowledge")
    if previous is None:
        return now
    earlier = previous.filter(pc.and_(pc.equal(previous.column("view"), view), pc.equal(previous.column("origin"), "import")))
    place = pc.index_in(rows.column("line_sha"), value_set=earlier.column("request_key").combine_chunks())
    return pc.coalesce(earlier.column("asked_at").combine_chunks().take(place), now)
