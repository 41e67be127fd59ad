"""A cheap judge: how much likelier is the answer with its source before it than without?

Mint keeps the generated texts that are likely given their source under a language model. Likelihood alone favours
whatever is easily said (a generic profile is very likely); the gain over the same text without its source is what the
source explains. Off by default: it costs two prefills an answer, and vLLM reads no cached
prefix for them.

Here are the request bodies and the arithmetic; `kar.llm.likelihood` sends them.

Source: Mysore, McCallum, Zamani: Large Language Model Augmented Narrative Driven Recommendations (2023), section on
filtering; the gain is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kar.settings import KnowledgeSettings
from kar.text.quality.refusal import Refusal

LogprobRow = Mapping[str, Any] | None  # one prompt position of vLLM: token id → {"logprob", "rank", "decoded_token"}; None for the first


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Mean log-likelihood of an answer's tokens, in nats.

    Args:
        with_source: given the prompt it was asked with.
        without_source: given the same prompt with nothing of the subject in it.
        tokens: how many tokens the answer has.
    """

    with_source: float
    without_source: float
    tokens: int

    @property
    def gain(self) -> float:
        """Nats a token that the source explains."""
        return self.with_source - self.without_source


def bodies(
    model: str, messages: Sequence[Mapping[str, str]], blank: Sequence[Mapping[str, str]], answer: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The chat requests that score an answer on vLLM: (with its source, without it, up to where the answer begins).

    Args:
        messages: the prompt that the answer answers.
        blank: the same prompt with nothing of the subject in it (a template rendered with empty variables).
        answer: the text to score.

    Returns:
        Bodies of `prompt_logprobs: 0`: the log-probability of each token of the prompt alone. One token is generated,
        the fewest a server grants. The third one's length says how many tokens of the second are the answer's.
    """
    said = {"role": "assistant", "content": answer}

    def body(turns: list[Mapping[str, str]], *, is_answered: bool) -> dict[str, Any]:
        return {
            "model": model,
            "messages": [dict(turn) for turn in turns],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
            "add_generation_prompt": not is_answered,
            "continue_final_message": is_answered,  # the answer stays open: no end of turn is scored
        }

    return body([*messages, said], is_answered=True), body([*blank, said], is_answered=True), body([*blank], is_answered=False)


def token_logprobs(rows: Sequence[LogprobRow]) -> list[float]:
    """The log-probability of each prompt token that was there, first token left out (nothing comes before it).

    With `prompt_logprobs: 0` a row holds the prompt's token alone; with more, vLLM puts the prompt's token first.
    """
    found = []
    for row in rows:
        if row:
            first = next(iter(row.values()))
            found.append(float(first["logprob"] if isinstance(first, Mapping) else first))
    return found


def likelihood(with_source: Sequence[float], without_source: Sequence[float], frame_count: int) -> Likelihood | None:
    """The means over the answer's tokens, which are the last ones of both requests.

    Args:
        with_source, without_source: `token_logprobs` of the first two requests of `bodies`.
        frame_count: how many log-probabilities the third one has.

    Returns:
        None if the answer has no token, or a log-probability is not finite.
    """
    tokens = len(without_source) - frame_count
    if tokens < 1 or len(with_source) < tokens:
        return None
    sums = [math.fsum(values[-tokens:]) for values in (with_source, without_source)]
    if not all(math.isfinite(total) for total in sums):
        return None
    return Likelihood(sums[0] / tokens, sums[1] / tokens, tokens)


def unlikely(found: Likelihood | None, settings: KnowledgeSettings) -> Refusal | None:
    """Refuse an answer that its source hardly explains; one that could not be scored passes."""
    if not settings.judge or found is None or found.gain >= settings.min_likelihood_gain:
        return None
    return Refusal(
        "unlikely",
        f"its source explains {found.gain:.2f} nats a token of it ({found.tokens} tokens), asked for {settings.min_likelihood_gain:.2f}",
    )
