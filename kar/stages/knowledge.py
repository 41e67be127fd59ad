"""knowledge: ask the language model, keep every answer, accept what passes the quality gate.

reads   plan, request, history, item_profile, interaction, knowledge (previous)
writes  knowledge, refused
rejects empty                   the answer holds no text
        refusal                 the model declined
        echo                    the answer repeats the prompt
        truncated               the answer stopped at the token limit, also after the retry with more tokens
        truncated_by_reasoning  the token limit was spent on reasoning, the answer is empty
        too_short               fewer words than the template asks for at least
        repetition              the answer loops
        bad_request             the server refused the request for good (400, 404, 413, 422)
        exhausted               no answer after the last attempt
        over_budget             planned, but the token budget or the deadline was reached before the call
        unknown_subject         imported text for a subject that the tables do not hold
        duplicate_key           a second imported text for the same subject
        evidence_after_cutoff   imported text whose evidence is not in the user's events before the cutoff date
        missing_id              an imported row without a subject id
        bad_row                 an imported line that is not the expected JSON

The only stage that talks to a language model. A subject whose answer was refused keeps the last good knowledge of an
earlier night, if there is any; so do the subjects that were not asked tonight.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import SettingsError
from kar.llm.ask import Asked, ask
from kar.llm.client import Request
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Answer, Ledger
from kar.llm.local import model_revision
from kar.settings import KnowledgeSettings, LLMSettings, Settings
from kar.store import Inputs, Output
from kar.tables import TABLES, IdTypes
from kar.text import imports
from kar.text.quality import Refusal, clean, judge, judge_import, tidy
from kar.text.templates import load_template

_SHOWN_CHARS = 2_000
_LENGTH_FIELDS = ("max_completion_tokens", "max_tokens")
Key = tuple[str, str]  # view, subject_id


@dataclass
class Found:
    """What tonight brought: accepted rows as tables, and what was left out."""

    knowledge: list[pa.Table] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    warnings: list[str] = field(default_factory=list)

    def refuse(self, view: str, subject_id: str, refusal: Refusal, answer: str, key: str) -> None:
        self.refused.append(
            {
                "view": view,
                "subject_id": subject_id,
                "reason": refusal.reason,
                "detail": refusal.detail,
                "answer": answer[:_SHOWN_CHARS],
                "request_key": key,
            }
        )


def files(settings: Settings, inputs: Inputs) -> list[Path]:
    """The imported files. Raises SettingsError if one is not there."""
    folder = Path(settings.knowledge.imports_folder).expanduser()
    found = {view: folder / name for view, name in settings.knowledge.imports.items()}
    for view, path in found.items():
        if not path.is_file():
            raise SettingsError(
                f"knowledge.imports names {path} for {view}, which is not there", "mend knowledge.imports or imports_folder"
            )
    return list(found.values())


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    plan, previous = inputs.table("plan"), inputs.maybe_table("knowledge")
    found = Found()
    asked = _ask_plan(plan, inputs, settings, found)
    for view, path in zip(settings.knowledge.imports, files(settings, inputs), strict=True):
        _import_view(view, path, inputs, previous, settings.knowledge, found)
    carried = _carried(plan, previous, found)
    knowledge = pa.concat_tables([*found.knowledge, carried])
    fallback = set(_keys(carried))
    refused = [{**row, "has_fallback": (row["view"], row["subject_id"]) in fallback} for row in found.refused]
    out.write("knowledge", knowledge)
    out.write("refused", _refused_table(refused))
    _report(out, asked, found, knowledge, inputs, settings)


# ---- asked


def _ask_plan(plan: pa.Table, inputs: Inputs, settings: Settings, found: Found) -> Asked:
    """Ask what the plan says, in its order, and judge the answers."""
    rows = plan.filter(pc.equal(plan.column("decision"), "ask")).sort_by("rank")
    if rows.num_rows == 0:
        return Asked()
    sent = inputs.table("request")
    revision = model_revision(settings.llm, inputs.home)
    rules = _rules(rows, settings)
    requests = [
        Request(key, body.encode(), prompt, answer, version)
        for key, body, prompt, answer, version in zip(
            *(sent.column(c).to_pylist() for c in ("request_key", "body", "prompt_tokens", "answer_tokens", "template_version")),
            strict=True,
        )
    ]

    def retry(request: Request, answer: Answer) -> Request | None:
        return with_more_tokens(request, answer, revision, settings.knowledge, settings.llm.context_tokens)

    asked = ask(requests, settings.llm, inputs.home, revision, inputs.as_of, retry, total=len(requests))
    ends = _ends(requests, inputs)
    keys = list(zip(rows.column("view").to_pylist(), rows.column("subject_id").to_pylist(), strict=True))
    accepted: dict[int, tuple[str, Answer]] = {}
    for place, ((view, subject_id), request) in enumerate(zip(keys, requests, strict=True)):
        answers = ends[place]
        if not answers:
            found.dropped["over_budget"].append({"view": view, "subject_id": subject_id})
            continue
        text, answer, refusal = choose(answers, prompt_text(request.body), rules[view])
        if refusal is None:
            accepted[place] = text, answer
        else:
            found.refuse(view, subject_id, refusal, answer.text, answer.key)
    found.knowledge.append(_accepted_table(rows, accepted, settings.llm, inputs.ids))
    return asked


def _ends(requests: list[Request], inputs: Inputs) -> list[list[Answer]]:
    """What the ledger holds of each request: the second answer, if there is one, then the first."""

    def end(rows: list[Answer]) -> list[Answer]:
        ours = [a for a in rows if a.status == "ok" or a.asked_at == inputs.as_of]
        return [next((a for a in ours if a.status == "ok"), ours[-1])] if ours else []

    with Ledger.open(inputs.home.ledger) as ledger:
        found = ledger.find(request.key for request in requests)
    rows = [found.get(request.key, []) for request in requests]
    return [
        end([a for a in some if a.key != r.key]) + end([a for a in some if a.key == r.key]) for r, some in zip(requests, rows, strict=True)
    ]


def _rules(rows: pa.Table, settings: Settings) -> dict[str, KnowledgeSettings]:
    """The gate's settings for each asked view: a template may ask for more words than the settings do."""
    rules = {}
    for view in pc.unique(rows.column("view")).to_pylist():
        template = load_template(Path(settings.prompts.folder), settings.scenario.domain, view)
        least = max(settings.knowledge.min_words, template.output.min_words)
        rules[view] = settings.knowledge.model_copy(update={"min_words": least})
    return rules


def with_more_tokens(request: Request, answer: Answer, revision: str, settings: KnowledgeSettings, context_tokens: int) -> Request | None:
    """The same request with twice the answer's tokens, as far as the context allows; None if the answer was not cut.

    A different body, so a different key: the ledger keeps both.
    """
    refusal = judge(answer.text, answer.finish_reason, prompt_text(request.body), settings)
    if not settings.retry_truncated or refusal is None or not refusal.reason.startswith("truncated"):
        return None
    body = orjson.loads(request.body)
    name = next((n for n in _LENGTH_FIELDS if isinstance(body.get(n), int)), None)
    if name is None:
        return None
    room = context_tokens - max(answer.prompt_tokens, request.prompt_tokens)
    tokens = min(2 * body[name], room)
    if tokens <= body[name]:
        return None
    longer = body_bytes(body | {name: tokens})
    return Request(request_key(longer, revision), longer, request.prompt_tokens, tokens, request.template_version)


def choose(answers: list[Answer], prompt: str, settings: KnowledgeSettings) -> tuple[str, Answer, Refusal | None]:
    """The text to accept among one subject's answers, newest first, or why none is.

    Returns:
        (text, its answer, None), or ("", newest answer, why it was refused). Of cut answers the whole sentences may
        do (`accept_truncated_sentences`).
    """
    refusals = [_refusal(answer, prompt, settings) for answer in answers]
    for answer, refusal in zip(answers, refusals, strict=True):
        if refusal is None:
            return clean(answer.text, settings.max_words), answer, None
    for answer, refusal in zip(answers, refusals, strict=True):
        if settings.accept_truncated_sentences and refusal is not None and refusal.reason == "truncated":
            text = tidy(answer.text, settings.max_words)
            if judge(text, "stop", prompt, settings) is None:
                return text, answer, None
    named = [(a, r) for a, r in zip(answers, refusals, strict=True) if a.status == "ok"] or [(answers[0], refusals[0])]
    return "", named[0][0], named[0][1]


def _refusal(answer: Answer, prompt: str, settings: KnowledgeSettings) -> Refusal | None:
    if answer.status != "ok":
        return Refusal(answer.status, answer.detail)
    return judge(answer.text, answer.finish_reason, prompt, settings)


def prompt_text(body: bytes) -> str:
    """What a request's messages say, for the echo test."""
    messages = orjson.loads(body).get("messages", [])
    return "\n".join(m["content"] for m in messages if isinstance(m.get("content"), str))


def _accepted_table(rows: pa.Table, accepted: dict[int, tuple[str, Answer]], llm: LLMSettings, ids: IdTypes) -> pa.Table:
    """Knowledge rows of tonight: what the plan knows of the subject, and what the answer brought."""
    taken = rows.take(pa.array(list(accepted), pa.int64()))
    texts, answers = [text for text, _ in accepted.values()], [answer for _, answer in accepted.values()]
    return _knowledge(
        taken,
        ids,
        text=texts,
        origin=["tonight"] * len(texts),
        model=[llm.model] * len(texts),
        model_revision=[answer.revision for answer in answers],
        request_key=[answer.key for answer in answers],
        asked_at=[answer.asked_at for answer in answers],
        prompt_tokens=[answer.prompt_tokens for answer in answers],
        completion_tokens=[answer.completion_tokens for answer in answers],
    )


# ---- imported


def _import_view(view: str, path: Path, inputs: Inputs, previous: pa.Table | None, settings: KnowledgeSettings, found: Found) -> None:
    """Hold one file's texts against the tables and keep what may serve."""
    side = imports.side_of(view)
    lines = imports.read_imports(path, side, inputs.ids)
    for reason, examples in lines.rejected.items():
        found.dropped[reason].extend(examples)
    subjects = inputs.table("history" if side == "user" else "item_profile").select(["subject_id", "cutoff_at"])
    rows, later = imports.first_of_each(lines.rows)
    _refuse_rows(view, later, "duplicate_key", "an earlier line is about the same subject", found)
    place = pc.index_in(rows.column("subject_id"), value_set=subjects.column("subject_id").combine_chunks())
    _refuse_rows(view, rows.filter(pc.is_null(place)), "unknown_subject", f"no such {side} before the cutoff", found)
    rows, place = rows.filter(pc.is_valid(place)), place.drop_null()
    rows = rows.append_column("cutoff_at", subjects.column("cutoff_at").take(place))
    newest: pa.Array = pa.nulls(rows.num_rows, pa.timestamp("us", tz="UTC"))
    if side == "user":
        newest, unmet = imports.newest_evidence(rows, inputs.table("interaction"))
        is_bad = pc.greater(unmet, 0)
        _refuse_rows(view, rows.filter(is_bad), "evidence_after_cutoff", "its evidence is not among the user's events", found)
        rows, newest = rows.filter(pc.invert(is_bad)), newest.filter(pc.invert(is_bad))
        if without := newest.null_count:
            found.warnings.append(
                f"{without} imported texts of {view} name no evidence: whether they saw what examples ask cannot be checked"
            )
    refusals = [judge_import(text, settings) for text in rows.column("text").to_pylist()]
    is_good = pa.array([refusal is None for refusal in refusals], pa.bool_())
    for row, refusal in zip(rows.filter(pc.invert(is_good)).to_pylist(), [r for r in refusals if r], strict=True):
        found.refuse(view, row["subject_id"], refusal, row["text"], row["line_sha"])
    found.knowledge.append(_imported_table(view, rows.filter(is_good), newest.filter(is_good), inputs, previous, settings))


def _refuse_rows(view: str, rows: pa.Table, reason: Any, detail: str, found: Found) -> None:
    for row in rows.to_pylist():
        found.refuse(view, row["subject_id"], Refusal(reason, f"line {row['line']}: {detail}"), row["text"], row["line_sha"])


def _imported_table(
    view: str, rows: pa.Table, newest: pa.Array, inputs: Inputs, previous: pa.Table | None, settings: KnowledgeSettings
) -> pa.Table:
    """Knowledge rows of imported texts. A line that an earlier night imported keeps that night's time."""
    count = rows.num_rows
    asked_at: Any = pa.array([inputs.as_of] * count, pa.timestamp("us", tz="UTC"))
    if previous is not None:
        earlier = previous.filter(pc.and_(pc.equal(previous.column("view"), view), pc.equal(previous.column("origin"), "import")))
        place = pc.index_in(rows.column("line_sha"), value_set=earlier.column("request_key").combine_chunks())
        asked_at = pc.coalesce(earlier.column("asked_at").combine_chunks().take(place), asked_at)
    evidence = [items or [] for items in rows.column("evidence").to_pylist()]
    subjects = rows.column("subject_id").to_pylist()
    return _knowledge(
        rows.select(["subject_id"]),
        inputs.ids,
        view=[view] * count,
        text=[text.strip() for text in rows.column("text").to_pylist()],
        origin=["import"] * count,
        model=[settings.imports_written_by or "unknown"] * count,
        model_revision=[""] * count,
        template_version=[""] * count,
        request_key=rows.column("line_sha"),
        evidence_sha=[""] * count,
        cutoff_at=pc.coalesce(newest, rows.column("cutoff_at").combine_chunks()),
        asked_at=asked_at,
        prompt_tokens=[0] * count,
        completion_tokens=[0] * count,
        evidence_users=[[subject] * len(items) for subject, items in zip(subjects, evidence, strict=True)],
        evidence_items=evidence,
        evidence_newest_at=newest,
    )


# ---- carried forward


def _carried(plan: pa.Table, previous: pa.Table | None, found: Found) -> pa.Table:
    """The last good knowledge of subjects that are in the plan, or were refused tonight, and got nothing new."""
    if previous is None:
        return _schema_of_knowledge().empty_table()
    planned = plan.filter(pc.is_in(plan.column("decision"), value_set=pa.array(["ask", "fresh", "over_budget"])))
    wanted = set(_keys(planned)) | {(row["view"], row["subject_id"]) for row in found.refused}
    for table in found.knowledge:
        wanted -= set(_keys(table))
    is_wanted = pa.array([key in wanted for key in _keys(previous)], pa.bool_())
    carried = previous.filter(is_wanted)
    origin = pa.array(["last_good"] * carried.num_rows, pa.string())
    carried = carried.set_column(carried.column_names.index("origin"), "origin", origin)
    return carried.select(_schema_of_knowledge().names).cast(_schema_of_knowledge())


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(table.column("view").to_pylist(), table.column("subject_id").to_pylist(), strict=True))


# ---- tables and figures


def _schema_of_knowledge(ids: IdTypes = IdTypes()) -> pa.Schema:  # noqa: B008  # no id column in this table
    return pa.schema([pa.field(c.name, c.arrow(ids)) for c in TABLES["knowledge"].columns])


def _knowledge(rows: pa.Table, ids: IdTypes, **columns: Any) -> pa.Table:
    """A knowledge table from columns of `rows` and, before them, `columns`."""
    schema = _schema_of_knowledge(ids)
    arrays = []
    for wanted in schema:
        values = columns[wanted.name] if wanted.name in columns else rows.column(wanted.name)
        arrays.append(values.cast(wanted.type) if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, wanted.type))
    return pa.table(arrays, schema=schema)


def _refused_table(rows: list[dict[str, Any]]) -> pa.Table:
    declared = TABLES["refused"]
    # a line that stands in a file three times is two duplicates of one key: counted twice, shown once
    unique = {tuple(row[k] for k in declared.key): row for row in rows}
    return pa.Table.from_pylist(list(unique.values()), schema=pa.schema([pa.field(c.name, c.arrow(IdTypes())) for c in declared.columns]))


def _report(out: Output, asked: Asked, found: Found, knowledge: pa.Table, inputs: Inputs, settings: Settings) -> None:
    """Rejections, figures and warnings for the manifest."""
    by_reason: dict[str, list[dict[str, Any]]] = defaultdict(list, {r: list(rows) for r, rows in found.dropped.items()})
    refused: dict[str, Counter[str]] = defaultdict(Counter)
    for row in found.refused:
        refused[row["view"]][row["reason"]] += 1
        by_reason[row["reason"]].append({k: row[k] for k in ("view", "subject_id", "detail", "answer")})
    for reason, examples in by_reason.items():
        out.reject(reason, len(examples), examples)
    origins: dict[str, Counter[str]] = defaultdict(Counter)
    for view, origin in zip(knowledge.column("view").to_pylist(), knowledge.column("origin").to_pylist(), strict=True):
        origins[view][origin] += 1
    counts = {"user": inputs.table("history").num_rows, "item": inputs.table("item_profile").num_rows}
    is_asked = bool(asked.calls or asked.from_ledger)
    out.record(
        calls=asked.calls,
        answered=asked.answered,
        from_ledger=asked.from_ledger,
        pushed_back=asked.pushed_back,
        prompt_tokens=asked.prompt_tokens,
        completion_tokens=asked.completion_tokens,
        lost_tokens=asked.lost_tokens,
        usd=round(asked.usd, 6),
        seconds_asking=round(asked.seconds, 3),
        server_start_seconds=round(asked.server_start_seconds, 3),
        tokens_per_s=round(asked.completion_tokens / asked.seconds, 1) if asked.seconds else 0.0,
        stopped_by=asked.stopped_by,
        retried_truncated=asked.retried,
        coverage={view: round(sum(n.values()) / max(counts[imports.side_of(view)], 1), 4) for view, n in sorted(origins.items())},
        origins={view: dict(sorted(n.items())) for view, n in sorted(origins.items())},
        refused={view: dict(sorted(n.items())) for view, n in sorted(refused.items())},
        over_budget=dict(Counter(row["view"] for row in found.dropped.get("over_budget", []))),
        model=settings.llm.model if is_asked else "",
        model_revision=model_revision(settings.llm, inputs.home) if is_asked else "",
        imports_written_by=settings.knowledge.imports_written_by if settings.knowledge.imports else "",
    )
    if lost := by_reason.get("bad_request"):
        found.warnings.append(f"the server refused {len(lost)} requests for good; the first said: {lost[0]['detail'][:200]}")
    for sentence in found.warnings:
        out.warn(sentence)
