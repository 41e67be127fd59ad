"""Whom the knowledge covers: each view's subjects by what became of them tonight."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from kar.page.facts import Facts
from kar.page.marks import stack

KNOWN = {
    "tonight": "written tonight",
    "fresh": "still fresh",
    "fallback": "last good stands in",
    "import": "imported",
}
UNKNOWN = {
    "over_budget": "over budget",
    "refused": "refused",
    "empty": "nothing to tell from",
    "unasked": "not asked",
}


@dataclass(frozen=True)
class ViewCoverage:
    """One view.

    Args:
        counts: fate (a key of KNOWN or UNKNOWN) → subjects.
        total: subjects that the view could cover.
    """

    view: str
    counts: dict[str, int]
    total: int
    lane: Markup

    @property
    def known_count(self) -> int:
        return sum(self.counts.get(fate, 0) for fate in KNOWN)

    @property
    def known_share(self) -> float | None:
        return self.known_count / self.total if self.total else None


def views(facts: Facts) -> list[ViewCoverage]:
    """Every view of the plan or the knowledge, users' views first."""
    counts = _fates(facts.plan, facts.knowledge, facts.refused)
    names = sorted(counts, key=lambda view: (not view.startswith("user."), view))
    return [_view(name, counts[name], facts.subject_count(name)) for name in names]


def _view(view: str, counts: dict[str, int], subjects: int) -> ViewCoverage:
    total = max(subjects, sum(counts.values()))
    if total > sum(counts.values()):
        counts = {**counts, "unasked": counts.get("unasked", 0) + total - sum(counts.values())}
    parts = [(f"fate-{fate}", counts.get(fate, 0) / total) for fate in [*KNOWN, *UNKNOWN]] if total else []
    return ViewCoverage(view, counts, total, stack(parts))


def _fates(plan: pa.Table, knowledge: pa.Table, refused: pa.Table) -> dict[str, dict[str, int]]:
    """view → fate → subjects, by one join over (view, subject)."""
    keys = ["view", "subject_id"]
    told = refused.select([*keys, "reason"])
    budget = pc.equal(told.column("reason"), "over_budget")
    turned = told.filter(pc.invert(budget)).select(keys).group_by(keys).aggregate([])
    unpaid = told.filter(budget).select(keys).group_by(keys).aggregate([])
    rows = (
        plan.select([*keys, "decision"])
        .join(knowledge.select([*keys, "origin"]), keys, join_type="full outer")
        .join(_marked(turned, "is_refused"), keys, join_type="full outer")
        .join(_marked(unpaid, "is_unpaid"), keys, join_type="full outer")
    )
    fates = rows.append_column("fate", _fate(rows)).group_by(["view", "fate"]).aggregate([([], "count_all")])
    found: dict[str, dict[str, int]] = {}
    for row in fates.to_pylist():
        found.setdefault(row["view"], {})[row["fate"]] = row["count_all"]
    return found


def _marked(keys: pa.Table, name: str) -> pa.Table:
    return keys.append_column(name, pa.array([True] * keys.num_rows, pa.bool_()))


def _fate(rows: pa.Table) -> pa.ChunkedArray:
    """The first case that holds, row by row."""
    origin, decision = (pc.fill_null(rows.column(name), "") for name in ("origin", "decision"))
    is_last_good = pc.equal(origin, "last_good")
    cases = {
        "tonight": pc.equal(origin, "tonight"),
        "import": pc.equal(origin, "import"),
        "fresh": pc.and_(is_last_good, pc.equal(decision, "fresh")),
        "fallback": pc.not_equal(origin, ""),
        "refused": pc.fill_null(rows.column("is_refused"), False),
        "over_budget": pc.or_(pc.equal(decision, "over_budget"), pc.fill_null(rows.column("is_unpaid"), False)),
        "empty": pc.equal(decision, "empty"),
    }
    conditions = pc.make_struct(*cases.values(), field_names=list(cases))
    return pc.case_when(conditions, *[pa.scalar(fate) for fate in cases], pa.scalar("unasked"))
