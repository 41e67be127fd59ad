"""What the run cost: seconds per stage, and the language model's calls, tokens and money."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.compute as pc
from markupsafe import Markup

from kar import flow
from kar.page.facts import Facts
from kar.page.marks import stack
from kar.verdict import written_tokens


@dataclass(frozen=True)
class StageCost:
    """One stage; figures are None where it was not run or does not spend such a thing."""

    name: str
    title: str
    date: str
    rows: int | None
    rejected: int | None
    seconds: float | None
    share: float | None
    lane: Markup
    prompt_tokens: float | None
    completion_tokens: float | None
    usd: float | None


@dataclass(frozen=True)
class Asking:
    """The language model's bill. None: the knowledge stage did not record it."""

    calls: float | None
    answered: float | None
    from_ledger: float | None
    prompt_tokens: float | None
    completion_tokens: float | None
    usd: float | None
    seconds: float | None
    tokens_per_s: float | None
    token_budget: int | None
    spent_share: float | None
    lane: Markup
    end: str


def stages(facts: Facts) -> list[StageCost]:
    """Every stage of the flow in order; the report itself has no time yet."""
    total = sum(manifest.seconds for manifest in facts.manifests.values())
    return [_stage(facts, stage, total) for stage in flow.FLOW]


def total_seconds(facts: Facts) -> float:
    return sum(manifest.seconds for manifest in facts.manifests.values())


def _stage(facts: Facts, stage: flow.Stage, total: float) -> StageCost:
    made = facts.manifests.get(stage.name)
    share = made.seconds / total if made and total else None
    asks = stage.name == "knowledge"
    return StageCost(
        name=stage.name,
        title=stage.title,
        date=made.date if made else "",
        rows=sum(table.get("rows", 0) for table in made.tables.values()) if made else None,
        rejected=sum(made.rejected.values()) if made else None,
        seconds=made.seconds if made else None,
        share=share,
        lane=stack([("time", share or 0.0)], height=14),
        prompt_tokens=_tokens(facts, "prompt_tokens") if asks else None,
        completion_tokens=_tokens(facts, "completion_tokens") if asks else None,
        usd=facts.number("knowledge", "usd") if asks else None,
    )


def asking(facts: Facts) -> Asking:
    """The knowledge stage's figures beside the budget it was given."""
    prompt, completion = _tokens(facts, "prompt_tokens"), _tokens(facts, "completion_tokens")
    budget = facts.ran_with("knowledge", "llm", "token_budget")
    spent = (prompt or 0) + (completion or 0) if prompt is not None or completion is not None else None
    share = spent / budget if budget and spent is not None else None
    return Asking(
        calls=facts.number("knowledge", "calls"),
        answered=facts.number("knowledge", "answered"),
        from_ledger=facts.number("knowledge", "from_ledger"),
        prompt_tokens=prompt,
        completion_tokens=completion,
        usd=facts.number("knowledge", "usd"),
        seconds=facts.number("knowledge", "seconds_asking"),
        tokens_per_s=facts.number("knowledge", "tokens_per_s"),
        token_budget=budget,
        spent_share=share,
        lane=stack([("time", min(share or 0.0, 1.0))], height=14),
        end=_end(facts.figure("knowledge", "stopped_by"), _asked_count(facts)),
    )


def text_tokens(facts: Facts) -> str:
    """What the texts of this date took, whenever they were written, in words; empty if none was (imports are not counted)."""
    written = facts.knowledge.filter(pc.not_equal(facts.knowledge.column("origin"), "import"))
    spent = sum(int(pc.sum(written.column(name)).as_py() or 0) for name in ("prompt_tokens", "completion_tokens"))
    return written_tokens(spent) if written.num_rows else ""


def _asked_count(facts: Facts) -> int:
    return int(pc.sum(pc.equal(facts.plan.column("decision"), "ask")).as_py() or 0)


def _tokens(facts: Facts, name: str) -> float | None:
    """As the stage recorded them (refused answers cost too), else the sum over tonight's accepted texts."""
    recorded = facts.number("knowledge", name)
    if recorded is not None or facts.knowledge.num_rows == 0:
        return recorded
    tonight = facts.knowledge.filter(pc.equal(facts.knowledge.column("origin"), "tonight"))
    return float(pc.sum(tonight.column(name)).as_py() or 0)


def _end(stopped_by: object, planned: int) -> str:
    """Why the asking ended, in words."""
    reason = str(stopped_by or "").replace("_", " ")
    if "usd" in reason:
        return "It stopped because the money budget was spent."
    if "budget" in reason:
        return "It stopped because the token budget was spent."
    if "deadline" in reason:
        return "It stopped because the deadline had come."
    if reason in ("", "done", "end", "finished", "nothing", "none", "plan"):
        return "It asked everything that was planned." if planned else "Nothing was planned, so nothing was asked."
    return f"It stopped because of: {reason}."
