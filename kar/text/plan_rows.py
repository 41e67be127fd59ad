"""What the plan and the requests of one part look like as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from kar.tables import TABLES, IdTypes
from kar.text.factors import Message
from kar.text.templates import Template
from kar.text.views import ViewPlan

_PLAN = pa.schema([f for f in TABLES["plan"].schema(IdTypes()) if f.name != "cutoff_at"])  # one value for all: added at the end
_REQUEST = TABLES["request"].schema(IdTypes())


def request_rows(
    made: ViewPlan,
    ranks: np.ndarray,
    body_of: Callable[[Template, list[Message]], bytes],
    key_of: Callable[[bytes], str],
    revision: str,
) -> pa.Table:
    """The requests of those who are asked, written out, in the order of the part's subjects.

    Args:
        ranks: int64 [S], −1: not asked.
    """
    asked = np.flatnonzero(ranks >= 0)
    template, write = made.template, made.prompts.write
    bodies = [body_of(template, write(s)) for s in asked.tolist()]
    columns = {
        "place": ranks[asked],
        "view": [made.view] * len(asked),
        "subject_id": [made.subjects[s] for s in asked.tolist()],
        "request_key": [key_of(body) for body in bodies],
        "revision": [revision] * len(asked),
        "family": [template.version] * len(asked),
        "body": pa.array(bodies, pa.binary()).cast(pa.string()),
        "prompt_tokens": made.prompts.prompt_tokens[asked],
        "answer_tokens": np.full(len(asked), template.output.max_tokens),
        "template_version": [template.version] * len(asked),
        "form": [template.form] * len(asked),
    }
    return pa.table({name: columns[name] for name in _REQUEST.names}, schema=_REQUEST)


def due_rows(made: ViewPlan, ranks: np.ndarray, requests: pa.Table) -> pa.Table:
    """The plan's rows of the due subjects."""
    prompts, is_asked = made.prompts, ranks >= 0
    keys = np.array(made.held_keys, object)
    is_held = keys != ""
    keys[is_asked] = requests.column("request_key").to_pylist()
    decision = np.select([is_asked, ~prompts.fits, is_held], ["ask", "empty", "refused"], "over_budget")
    return _table(
        len(ranks),
        view=made.view,
        template=made.template,
        subject_id=made.subjects,
        decision=decision,
        reason=made.reasons,
        rank=ranks,
        value=made.value,
        prompt_tokens=prompts.prompt_tokens,
        answer_tokens=np.full(len(ranks), made.template.output.max_tokens),
        history_shown=prompts.shown,
        history_dropped=prompts.dropped,
        request_key=keys,
        evidence_sha=made.evidence_shas,
        evidence_users=prompts.evidence_users,
        evidence_items=prompts.evidence_items,
        evidence_newest_at=prompts.evidence_newest_at,
        neighbour_items=prompts.neighbours,
    )


def other_rows(view: str, template: Template | None, decision: str, subjects: pa.ChunkedArray, shas: pa.ChunkedArray) -> pa.Table:
    """Rows that are not due: no reason, no request, no evidence of tonight's."""
    count = len(subjects)
    zeros, nothing = np.zeros(count, np.int64), pa.repeat("", count)
    nobody = pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.string()))
    return _table(
        count,
        view=view,
        template=template,
        subject_id=subjects,
        decision=pa.repeat(decision, count),
        reason=nothing,
        rank=zeros - 1,
        value=zeros.astype(np.float64),
        prompt_tokens=zeros,
        answer_tokens=zeros,
        history_shown=zeros,
        history_dropped=zeros,
        request_key=nothing,
        evidence_sha=shas,
        evidence_users=nobody,
        evidence_items=nobody,
        evidence_newest_at=pa.nulls(count, _PLAN.field("evidence_newest_at").type),
        neighbour_items=nobody,
    )


def _table(count: int, view: str, template: Template | None, **columns: Any) -> pa.Table:
    columns |= {
        "view": pa.repeat(view, count),
        "template_id": pa.repeat(template.id if template else "", count),
        "template_version": pa.repeat(template.version if template else "", count),
        "form": pa.repeat(template.form if template else "prose", count),
    }
    arrays = []
    for wanted in _PLAN:
        values = columns[wanted.name]
        arrays.append(values.cast(wanted.type) if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, wanted.type))
    return pa.table(arrays, schema=_PLAN)
