"""Planned requests, streamed to the language model; every answer ends in the ledger and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from kar.errors import ModelChanged
from kar.llm.ask import Asked, ask
from kar.llm.client import Request
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Answer
from kar.llm.ledger.reading import Reading
from kar.llm.stream import length_field
from kar.settings import KnowledgeSettings, Settings
from kar.store import Inputs
from kar.text.quality import judge

_COLUMNS = ("request_key", "body", "prompt_tokens", "answer_tokens", "template_version", "family")
_ROWS = 512


def planned_revision(inputs: Inputs) -> str | None:
    """The model's revision in the planned keys; None: nothing is planned."""
    first = next(inputs.stream("request", ["revision"], rows=1), None)
    return None if first is None or first.num_rows == 0 else str(first.column("revision")[0].as_py())


def requests_of(inputs: Inputs) -> Iterator[Request]:
    """The planned requests, in the order to send them."""
    for part in inputs.stream("request", list(_COLUMNS), rows=_ROWS):
        for key, body, prompt, answer, version, family in zip(*(part.column(c).to_pylist() for c in _COLUMNS), strict=True):
            yield Request(key, body.encode(), prompt, answer, version, family=family)


def held_count(inputs: Inputs) -> int:
    """How many planned requests have a good answer."""
    with Reading(inputs.home.ledger) as ledger:
        parts = (part.column("request_key").to_pylist() for part in inputs.stream("request", ["request_key"]))
        return sum(len(ledger.held(keys)) for keys in parts)


def ask_some(
    inputs: Inputs, settings: Settings, requests: Iterable[Request], revision: str, total: int, *, is_beside: bool = False
) -> Asked:
    """Ask planned requests in their order, and once more those whose answers were cut.

    Args:
        total: how many there are.
        is_beside: other processes ask others at the same time.

    Raises:
        ModelChanged: the server serves another model than the plan was made for; nothing was asked.
    """

    def retry(request: Request, answer: Answer) -> Request | None:
        return with_more_tokens(request, answer, revision, settings.knowledge, settings.llm.context_tokens)

    try:
        return ask(requests, settings.llm, inputs.home, revision, inputs.as_of, retry, total=total, is_beside=is_beside)
    except ModelChanged as changed:
        raise ModelChanged(changed.what, f"run: kar run prompts --date {inputs.date}") from None


def with_more_tokens(request: Request, answer: Answer, revision: str, settings: KnowledgeSettings, context_tokens: int) -> Request | None:
    """The same request with twice the answer's tokens, as far as the context allows; None if the answer was not cut.

    A different body, so a different key: the ledger keeps both, and the second says which one it asks again.
    """
    if not settings.retry_truncated or answer.finish_reason != "length":
        return None
    refusal = judge(answer.text, answer.finish_reason, prompt_text(answer.body), settings)
    if refusal is None or not refusal.reason.startswith("truncated"):
        return None  # a loop that ran into the limit would only get longer
    body = orjson.loads(request.body)
    name = length_field(body)
    if name is None:
        return None
    room = context_tokens - max(answer.prompt_tokens, request.prompt_tokens)
    tokens = min(2 * body[name], room)
    if tokens <= body[name]:
        return None
    longer = body_bytes(body | {name: tokens})
    return Request(
        request_key(longer, revision),
        longer,
        request.prompt_tokens,
        tokens,
        request.template_version,
        family=request.family,
        retry_of=request.key,
    )


def prompt_text(body: str) -> str:
    """What a request's messages say, for the echo test."""
    messages = orjson.loads(body).get("messages", [])
    return "\n".join(m["content"] for m in messages if isinstance(m.get("content"), str))
