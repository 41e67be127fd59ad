"""All that the night came to, in key order: tonight's texts, imported ones, and the last good ones for the rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kar.stages.knowledge.importing import Imported
from kar.stages.knowledge.judging import FACTORS, Judged
from kar.stages.knowledge.keyed import Key, Keyed, joined, keys
from kar.stages.knowledge.spool import Spool
from kar.store import Inputs, Output
from kar.tables import TABLES, IdTypes, grown

KNOWLEDGE = TABLES["knowledge"].schema(IdTypes())  # no id column in this table
REFUSED = pa.schema([f for f in TABLES["refused"].schema(IdTypes()) if f.name != "has_fallback"])
_CARRIED = pa.array(["ask", "fresh", "over_budget", "refused"])
_ROWS = 8_192
_EXAMPLES = 20


@dataclass
class Written:
    """Counts for the manifest.

    Args:
        origins: view → origin → rows of knowledge.
        factors: view → factor ("": about all of them) → rows of factor_knowledge.
        refused: view → reason → rows of refused.
        examples: reason → a few refused rows.
    """

    origins: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    factors: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    refused: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))


def write(inputs: Inputs, out: Output, spool: Mapping[str, Spool], judged: Judged, imported: Imported) -> Written:
    """Merge the sorted sources into tables knowledge, factor_knowledge and refused, a part of the plan at a time."""
    written = Written()
    sources = _Sources(inputs, spool, imported)
    with (
        out.writer("knowledge") as knowledge_writer,
        out.writer("factor_knowledge") as factor_writer,
        out.writer("refused") as refused_writer,
    ):
        for plan, last in _plan_parts(inputs):
            good, bad = _without_duplicates(sources.accepted.upto(last), judged)
            made = pa.concat_tables([good, sources.imported.upto(last)])
            refusals = pa.concat_tables([bad, sources.refused.upto(last), sources.import_refused.upto(last)])
            planned = plan.filter(pc.is_in(plan.column("decision"), value_set=_CARRIED))
            carried = _carried(sources.previous.upto(last), [planned, refusals], made)
            still = _still_refused(sources.previous_refused.upto(last), plan)
            refusals = pa.concat_tables([refusals, still])
            has_fallback = pc.is_in(joined(refusals), value_set=joined(carried).combine_chunks())
            part = pa.concat_tables([made, carried])
            factors = _factors(part, _of(sources.factors.upto(last), good), _of(sources.previous_factors.upto(last), carried))
            knowledge_writer.add(part)
            factor_writer.add(factors)
            refused_writer.add(refusals.append_column("has_fallback", has_fallback))
            _count(written, part, factors, refusals)
    return written


class _Sources:
    """Everything that becomes a row, each sorted by key."""

    def __init__(self, inputs: Inputs, spool: Mapping[str, Spool], imported: Imported) -> None:
        self.accepted = Keyed(KNOWLEDGE, spool["accepted"].parts())
        self.factors = Keyed(FACTORS, spool["factors"].parts())
        self.refused = Keyed(REFUSED, spool["refused"].parts())
        self.imported = Keyed(KNOWLEDGE, [_sorted(pa.concat_tables([KNOWLEDGE.empty_table(), *imported.knowledge]))])
        self.import_refused = Keyed(REFUSED, [_sorted(pa.Table.from_pylist(imported.refused, schema=REFUSED))])
        self.previous = Keyed(KNOWLEDGE, _earlier(inputs, "knowledge", KNOWLEDGE))
        self.previous_factors = Keyed(FACTORS, _earlier(inputs, "factor_knowledge", FACTORS))
        self.previous_refused = Keyed(REFUSED, _earlier(inputs, "refused", REFUSED))


def _plan_parts(inputs: Inputs) -> Iterator[tuple[pa.Table, Key | None]]:
    """The plan in parts, each with its last key; the last part's is None: whatever is left comes with it."""
    held: pa.Table | None = None
    for part in inputs.stream("plan", ["view", "subject_id", "decision", "request_key"], rows=_ROWS):
        if held is not None:
            yield held, keys(held.slice(held.num_rows - 1))[0]
        held = part
    yield (held if held is not None else inputs.table("plan").select(["view", "subject_id", "decision", "request_key"])), None


def _earlier(inputs: Inputs, table: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """The last night's table in parts; nothing on the first night."""
    if inputs.path(table) is not None:
        for part in inputs.stream(table, schema.names, rows=_ROWS):
            yield grown(table, part, schema.names).cast(schema)


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by([("view", "ascending"), ("subject_id", "ascending")])


def _without_duplicates(accepted: pa.Table, judged: Judged) -> tuple[pa.Table, pa.Table]:
    """Texts that are too much like many others are refused after all."""
    if not judged.duplicates or not accepted.num_rows:
        return accepted, REFUSED.empty_table()
    is_alike = pa.array([key in judged.duplicates for key in keys(accepted)], pa.bool_())
    alike = accepted.filter(is_alike)
    refusals = [judged.duplicates[key] for key in keys(alike)]
    columns = {
        "view": alike.column("view"),
        "subject_id": alike.column("subject_id"),
        "reason": pa.array([r.reason for r in refusals], pa.string()),
        "detail": pa.array([r.detail for r in refusals], pa.string()),
        "answer": pc.utf8_slice_codeunits(alike.column("text"), 0, 2_000),
        "request_key": alike.column("request_key"),
    }
    return accepted.filter(pc.invert(is_alike)), pa.table([columns[f.name] for f in REFUSED], schema=REFUSED)


def _carried(previous: pa.Table, wanted: list[pa.Table], made: pa.Table) -> pa.Table:
    """The last good knowledge of those who are wanted and got nothing new."""
    own = joined(previous)
    is_wanted = pc.or_(*(pc.is_in(own, value_set=joined(table).combine_chunks()) for table in wanted))
    is_left = pc.and_(is_wanted, pc.invert(pc.is_in(own, value_set=joined(made).combine_chunks())))
    carried = previous.filter(is_left)
    origin = pa.array(["last_good"] * carried.num_rows, pa.string())
    return carried.set_column(KNOWLEDGE.get_field_index("origin"), KNOWLEDGE.field("origin"), origin)


def _of(rows: pa.Table, subjects: pa.Table) -> pa.Table:
    """The rows of these views and subjects."""
    return rows.filter(pc.is_in(joined(rows), value_set=joined(subjects).combine_chunks()))


def _factors(knowledge: pa.Table, tonight: pa.Table, carried: pa.Table) -> pa.Table:
    """Every knowledge row factor by factor; one without factors as a single row about all of them."""
    told = pa.concat_tables([tonight, carried])
    is_whole = pc.invert(pc.is_in(joined(knowledge), value_set=joined(told).combine_chunks()))
    whole = knowledge.filter(is_whole).select(["view", "subject_id", "text"])
    return pa.concat_tables([told, whole.add_column(2, "factor", pa.array([""] * whole.num_rows, pa.string())).cast(FACTORS)])


def _still_refused(previous: pa.Table, plan: pa.Table) -> pa.Table:
    """Last night's refusals of those who were not asked because the ledger would give the same answer again."""
    same = plan.filter(pc.equal(plan.column("decision"), "refused"))
    if not same.num_rows:
        return REFUSED.empty_table()
    return previous.filter(pc.is_in(joined(previous), value_set=joined(same).combine_chunks()))


def _count(written: Written, knowledge: pa.Table, factors: pa.Table, refusals: pa.Table) -> None:
    for row in factors.group_by(["view", "factor"]).aggregate([([], "count_all")]).to_pylist():
        written.factors[row["view"]][row["factor"]] += row["count_all"]
    for row in knowledge.group_by(["view", "origin"]).aggregate([([], "count_all")]).to_pylist():
        written.origins[row["view"]][row["origin"]] += row["count_all"]
    for row in refusals.group_by(["view", "reason"]).aggregate([([], "count_all")]).to_pylist():
        written.refused[row["view"]][row["reason"]] += row["count_all"]
    for row in refusals.slice(0, _EXAMPLES).to_pylist():
        shown = written.examples[row["reason"]]
        if len(shown) < _EXAMPLES:
            shown.append({k: row[k] for k in ("view", "subject_id", "detail", "answer")})
