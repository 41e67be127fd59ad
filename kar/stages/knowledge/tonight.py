"""What the stage asks tonight, beside what shares of the night have asked already (`kar ask`)."""

from __future__ import annotations

from kar.llm.ask import Asked
from kar.llm.budget import rest
from kar.settings import Settings
from kar.stages.knowledge.asking import ask_some, held_count, planned_revision, requests_of
from kar.stages.knowledge.attempts import Attempt, Attempts, settled, summed
from kar.store import Inputs


def ask_requests(inputs: Inputs, settings: Settings) -> tuple[Asked, str | None]:
    """Ask what the plan says, in its order; of a batch, count what has come; with llm.ask off, what shares have brought.

    Returns:
        What the night took, its shares included, and the model's revision in the keys; None: nothing is planned.

    Raises:
        ModelChanged: the server serves another model than the plan was made for; nothing was asked.
    """
    revision, llm = planned_revision(inputs), settings.llm
    if revision is None:
        return Asked(), None
    if llm.provider == "batch":
        return Asked(from_ledger=held_count(inputs)), revision
    before = settled(inputs, llm, Attempts.of_plan(inputs).all())
    shares = summed(before)
    if not llm.ask:
        return shares if before else Asked(from_ledger=held_count(inputs)), revision
    total = inputs.count("request")
    if llm.deadline_s is not None and llm.deadline_s <= 0:
        held = held_count(inputs)
        own = Asked(from_ledger=held, stopped_by="deadline" if held < total else "none")
    else:
        left = rest(llm, shares.prompt_tokens + shares.completion_tokens, shares.usd)
        own = ask_some(inputs, settings.model_copy(update={"llm": left}), requests_of(inputs), revision, total)
    if not before:
        return own, revision
    asked = summed([*before, Attempt(0, 0, 0, inputs.as_of, total, is_over=True, asked=own)])
    asked.from_ledger = max(shares.from_ledger, own.from_ledger - shares.answered)
    return asked, revision
