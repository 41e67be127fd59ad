"""What was turned away: rows that a stage rejected, and answers that the quality gate refused, with examples to read."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kar import flow
from kar.page.facts import Facts
from kar.untrusted import shown

_ROWS_SHOWN = 3
_ROW_CHARS = 300
_TEXTS_SHOWN = 2
_TEXT_CHARS = 1_200
_GROUPS_WITH_TEXTS = 60  # bounds the page: 60 × 2 × 1,200 characters


@dataclass(frozen=True)
class Rejected:
    """Rows of one stage left out for one reason. `examples` are up to three of them as JSON."""

    stage: str
    reason: str
    meaning: str
    count: int
    examples: list[str]


@dataclass(frozen=True)
class RefusedAnswer:
    """One refused text."""

    subject_id: str
    detail: str
    answer: str
    has_fallback: bool


@dataclass(frozen=True)
class Refused:
    """The answers of one view refused for one reason.

    Args:
        share: of all answers and imports of the view that came tonight.
    """

    view: str
    reason: str
    meaning: str
    count: int
    share: float
    fallback_count: int
    answers: list[RefusedAnswer]


def rejected(facts: Facts) -> list[Rejected]:
    """Per stage in flow order and reason, the most frequent first; reasons that met no row are left out."""
    return [
        Rejected(stage.name, reason, stage.rejects.get(reason, ""), count, _examples(facts, stage.name, reason))
        for stage in flow.FLOW
        if stage.name in facts.manifests
        for reason, count in sorted(facts.manifests[stage.name].rejected.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]


def clean_stages(facts: Facts) -> list[str]:
    """Stages that were run and left no row out."""
    return [s.name for s in flow.FLOW if s.name in facts.manifests and not any(facts.manifests[s.name].rejected.values())]


def _examples(facts: Facts, stage: str, reason: str) -> list[str]:
    rows = facts.manifests[stage].rejected_examples.get(reason, [])[:_ROWS_SHOWN]
    return [shown(json.dumps(row, ensure_ascii=False), _ROW_CHARS) for row in rows]


def refused(facts: Facts) -> list[Refused]:
    """Per view and reason, the most frequent first; full texts of the first two that have any."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in facts.refused.to_pylist():
        groups[row["view"], row["reason"]].append(row)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    came = _came(facts)
    return [_group(view, reason, rows, came[view], place < _GROUPS_WITH_TEXTS) for place, ((view, reason), rows) in enumerate(ordered)]


def _came(facts: Facts) -> Counter[str]:
    """View → texts that came tonight, good and refused."""
    origin = facts.knowledge.column("origin")
    good = facts.knowledge.filter(pc.is_in(origin, value_set=pa.array(["tonight", "import"])))
    return Counter(good.column("view").to_pylist()) + Counter(facts.refused.column("view").to_pylist())


def _group(view: str, reason: str, rows: list[dict[str, Any]], came: int, has_texts: bool) -> Refused:
    with_text = [row for row in rows if row["answer"].strip()] if has_texts else []
    answers = [
        RefusedAnswer(row["subject_id"], shown(row["detail"], _ROW_CHARS), shown(row["answer"], _TEXT_CHARS), row["has_fallback"])
        for row in with_text[:_TEXTS_SHOWN]
    ]
    meaning = flow.KNOWLEDGE.rejects.get(reason, "")
    return Refused(view, reason, meaning, len(rows), len(rows) / max(came, 1), sum(row["has_fallback"] for row in rows), answers)
