"""knowledge: ask the language model, keep every answer, accept what passes the quality gate.

reads   plan, request, history, item_profile, interaction, knowledge (previous), factor_knowledge (previous), refused (previous)
writes  knowledge, factor_knowledge, refused, pace
rejects empty                   the answer holds no text
        refusal                 the model declined
        asks_for_input          the model asked back instead of answering
        echo                    the answer repeats the prompt
        truncated               the answer stopped at the token limit, also after the retry with more tokens
        truncated_by_reasoning  the token limit was spent on reasoning, the answer is empty
        too_short               fewer words than the template asks for at least
        repetition              the answer loops
        empty_list              a list or an object without any entry
        not_a_list              a list or an object was asked for, the answer is none
        broken_json             JSON that is not the object of factors that was asked for
        wrong_language          surely in none of the languages that knowledge.languages names
        off_domain              more words of other things than of this kind of item
        entity_mismatch         about titles that the user never met, or about another item than its own
        sensitive_inference     guesses a user's age, gender, health, religion, origin, politics or sexuality
        near_duplicate          alike more other texts of its view than knowledge.max_near_duplicates
        unlikely                its source hardly explains it (only where knowledge.judge is on)
        bad_request             the server refused the request for good (400, 404, 413, 422)
        exhausted               no answer after the last attempt
        over_budget             planned, but the token budget or the deadline was reached before the call
        not_asked               planned, and no share of the night has asked it (llm.ask = false, kar run knowledge --answers held)
        awaits_batch            planned, and no batch has brought its answer yet (llm.provider = 'batch')
        unknown_subject         imported text for a subject that the tables do not hold
        duplicate_key           a second imported text for the same subject
        evidence_after_cutoff   imported text whose evidence is not in the user's events before the cutoff date
        missing_id              an imported row without a subject id
        bad_row                 an imported line that is not the expected JSON
        forgotten               an imported text about a user or item that kar forget took away; shown nowhere

The only stage that talks to a language model. A subject whose answer was refused keeps the last good knowledge of an
earlier night, if there is any; so do the subjects that were not asked tonight. With `llm.provider = "batch"` nothing is
asked here: the stage takes what `kar batch import` and `fetch` have put into the ledger. With `llm.ask = false` it takes what shares of the
night (`kar ask`, `shares.py`) have put there, and its figures are the sum of theirs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from kar.llm.arrivals import arrivals_path
from kar.llm.ask import Asked
from kar.settings import Settings
from kar.stages.knowledge.importing import Imported, import_all, imported_files
from kar.stages.knowledge.judging import FACTORS, Judged, judge_asked
from kar.stages.knowledge.spool import spools
from kar.stages.knowledge.tonight import ask_requests
from kar.stages.knowledge.writing import KNOWLEDGE, REFUSED, Written, write
from kar.store import Inputs, Manifest, Output
from kar.store.forgotten import list_path
from kar.tables import from_rows
from kar.text.imports import side_of
from kar.text.quality import drift


def files(settings: Settings, inputs: Inputs) -> list[Path]:
    """The imported files and who is left out of them, and the note of what came into the ledger since.

    Raises:
        SettingsError: an import is not there.
    """
    imported = list(imported_files(settings).values())
    noted = [arrivals_path(inputs.home, inputs.date), *([list_path(inputs.home)] if imported else [])]
    return imported + [path for path in noted if path.exists()]


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    """Ask, judge, write: three walks over the plan, none of which holds it whole."""
    imported = import_all(inputs, settings)  # first: a broken file is found before anything is paid for
    asked, revision = ask_requests(inputs, settings)
    with spools(out.folder, accepted=KNOWLEDGE, factors=FACTORS, refused=REFUSED) as spool:
        judged = judge_asked(inputs, settings, spool, asked, revision) if revision is not None else Judged()
        written = write(inputs, out, spool, judged, imported)
    out.write("pace", _pace(asked))
    _record(inputs, out, settings, asked, revision or "", judged, imported, written)


def _record(
    inputs: Inputs, out: Output, settings: Settings, asked: Asked, revision: str, judged: Judged, imported: Imported, written: Written
) -> None:
    """Rejections, figures and warnings for the manifest."""
    if imported.forgotten:
        out.reject("forgotten", imported.forgotten)
    for reason, examples in imported.rejected.items():
        out.reject(reason, len(examples), examples)
    why = _why_unanswered(settings, asked)
    if unanswered := sum(judged.unanswered.values()):
        out.reject(why, unanswered, judged.examples)
    totals: Counter[str] = sum(written.refused.values(), imported.repeated)
    for reason, count in sorted(totals.items()):
        out.reject(reason, count, written.examples.get(reason))
    counts = {"user": inputs.count("history"), "item": inputs.count("item_profile")}
    last_judged: dict[str, Any] = _last_figures(inputs).get("last_judged", {})
    is_asked = bool(asked.calls or asked.from_ledger)
    paid = (asked, judged.scored)  # the scores of the optional judge are paid for like answers
    out.record(
        calls=sum(a.calls for a in paid),
        answered=asked.answered,
        from_ledger=asked.from_ledger,
        pushed_back=sum(a.pushed_back for a in paid),
        prompt_tokens=sum(a.prompt_tokens for a in paid),
        cached_tokens=sum(a.cached_tokens for a in paid),
        completion_tokens=sum(a.completion_tokens for a in paid),
        lost_tokens=sum(a.lost_tokens for a in paid),
        usd=round(sum(a.usd for a in paid), 6),
        usd_per_million_tokens={"prompt": settings.llm.price().prompt, "completion": settings.llm.price().completion},
        seconds_asking=round(asked.seconds, 3),
        server_start_seconds=round(asked.server_start_seconds, 3),
        tokens_per_s=round(asked.completion_tokens / asked.seconds, 1) if asked.seconds else 0.0,
        prefix_hit_share=asked.prefix_hit_share if asked.prefix_hit_share == asked.prefix_hit_share else None,
        stopped_by=asked.stopped_by,
        retried_truncated=asked.retried,
        coverage={view: round(sum(n.values()) / max(counts[side_of(view)], 1), 4) for view, n in sorted(written.origins.items())},
        origins=_plain(written.origins),
        refused=_plain(written.refused),
        factors=_plain(written.factors),
        **{name: dict(judged.unanswered) if name == why else {} for name in ("over_budget", "not_asked", "awaits_batch")},
        quality=judged.quality,
        likelihood=_likelihood(judged),
        last_judged=last_judged | judged.quality,
        model=settings.llm.model if is_asked else "",
        model_revision=revision if is_asked else "",
        server_version=asked.identity.server_version if asked.identity else "",
        imports_written_by=settings.knowledge.imports_written_by if settings.knowledge.imports else "",
    )
    if lost := totals["bad_request"]:
        first = written.examples["bad_request"][0]["detail"][:200]
        out.warn(f"the server refused {lost} requests for good; the first said: {first}")
    if unanswered and why == "not_asked":
        out.warn(
            f"{unanswered} planned requests were not asked: nothing is asked here (llm.ask), and their shares did not come to an end; "
            f"kar ask --date {inputs.date} --shard I/N asks them, then run knowledge again"
        )
    for sentence in [*imported.warnings, *judged.warnings, *drift(judged.quality, last_judged, settings.knowledge)]:
        out.warn(sentence)


def _why_unanswered(settings: Settings, asked: Asked) -> str:
    """The reason of requests without any answer."""
    if settings.llm.provider == "batch":
        return "awaits_batch"
    return "over_budget" if settings.llm.ask or asked.stopped_by != "none" else "not_asked"


def _likelihood(judged: Judged) -> dict[str, Any]:
    """What the optional judge saw, and what it took; empty where it is off."""
    if not judged.likelihood:
        return {}
    scored = judged.scored
    took = {n: getattr(scored, n) for n in ("calls", "from_ledger", "prompt_tokens", "completion_tokens", "stopped_by")}
    return {"views": judged.likelihood, **took, "usd": round(scored.usd, 6), "seconds": round(scored.seconds, 3)}


def _last_figures(inputs: Inputs) -> dict[str, Any]:
    """The figures of the last night; empty on the first."""
    partition = inputs.partitions[("knowledge", "knowledge")]
    return {} if partition is None else Manifest.read(partition.manifest_path).figures


def _pace(asked: Asked) -> pa.Table:
    return from_rows("pace", [dataclasses.asdict(look) for look in asked.pace])


def _plain(counts: dict[str, Counter[str]]) -> dict[str, Any]:
    return {view: dict(sorted(n.items())) for view, n in sorted(counts.items())}
