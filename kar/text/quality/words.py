"""The first quality gate: is an answer knowledge at all? Per answer, without a model; a later gate compares answers.

Order matters: an answer that loops until the token limit is called `repetition`, not `truncated`, because asking it
again with more tokens would pay for a longer loop.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from kar.settings import KnowledgeSettings

# Chinese, Japanese and Korean write without blanks: there each sign counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？][」』”）]*")
_ABBREVIATION = re.compile(r"(?:\b(?:[Mm]rs?|[Mm]s|[Dd]r|[Ss]t|[Jj]r|[Ss]r|vs|[Pp]rof|no|[Vv]ol|etc|e\.g|i\.e)|\b[A-Z])\.$")
_REFUSAL = re.compile(
    r"\bas an? (?:(?:ai|artificial intelligence),? (?:i\b|(?:language )?(?:model|assistant)\b)|(?:large )?language model\b)"
    r"|\bi(?:['’]m| am) (?:an? (?:ai|artificial intelligence|(?:large )?language model)\b|(?:sorry|afraid|unable|not able)\b)"
    r"|\bi apologi[sz]e\b"
    r"|\bi (?:can(?:no|['’])t|could(?:n['’]t| not)|do(?:n['’]t| not)|won['’]t|will not|am not able to) "
    r"(?:\w+ ){0,2}(?:provide|help|assist|answer|access|have|fulfil\w*|comply|determine|analy[sz]e|describe|know|see|find)\b"
    r"|\b(?:please|could you|can you) (?:\w+ ){0,2}(?:provide|share|tell|give|specify|clarify|send) (?:me|us|the|more|your|a|some)\b"
    r"|\b(?:how can i|how may i|what can i|i(?:['’]d| would) be happy to|i(?:['’]m| am) (?:here|happy|ready) to) (?:\w+ )?(?:help|assist|do for)\b",
    re.IGNORECASE,
)
_REFUSAL_CHARS = 300  # a refusal stands at the start; later such words are usually somebody's lines
_ECHO_WORDS = 5
_ECHO_SHARE = 0.4
_REPETITION_WORDS = 4
_REPETITION_LEAST = 12  # fewer 4-grams say nothing
_TAIL_TIMES = 4  # the text ends in the same words so many times in a row


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a text is not accepted.

    Args:
        reason: one of the knowledge stage's reasons.
        detail: what exactly was seen, with the figure that decided.
    """

    reason: str
    detail: str


def judge(text: str, finish_reason: str, prompt_text: str, settings: KnowledgeSettings) -> Refusal | None:
    """Judge one answer.

    Args:
        text: as the model gave it.
        finish_reason: stop, length, content_filter …
        prompt_text: what it was asked, for the echo; may be empty.
        settings: min_words and max_repetition_share.

    Returns:
        None if the text may become knowledge.
    """
    words = words_of(text)
    if not words:
        if finish_reason == "length":
            return Refusal("truncated_by_reasoning", "no text, and the token limit was reached")
        return Refusal("empty", f"no words in {len(text)} characters")
    if finish_reason == "content_filter":
        return Refusal("refusal", "the server's content filter stopped it")
    if found := _REFUSAL.search(text[:_REFUSAL_CHARS]):
        return Refusal("refusal", f"says {found.group(0)!r}")
    lower = [w.lower() for w in words]
    if (share := _echo_share(lower, [w.lower() for w in words_of(prompt_text)])) > _ECHO_SHARE:
        return Refusal("echo", f"{share:.0%} of its words stand in the prompt in runs of {_ECHO_WORDS} or more")
    if loop := _loop(lower, settings.max_repetition_share):
        return Refusal("repetition", loop)
    if finish_reason == "length":
        return Refusal("truncated", f"cut at the token limit after {len(words)} words")
    if len(words) < settings.min_words:
        return Refusal("too_short", f"{len(words)} words, at least {settings.min_words} are asked for")
    return None


def judge_import(text: str, settings: KnowledgeSettings) -> Refusal | None:
    """Judge a text that somebody else accepted before: only whether there is enough of it."""
    count = len(words_of(text))
    if count == 0:
        return Refusal("empty", f"no words in {len(text)} characters")
    if count < settings.min_words:
        return Refusal("too_short", f"{count} words, at least {settings.min_words} are asked for")
    return None


def tidy(text: str, max_words: int) -> str:
    """Surrounding blanks off, lines joined, and cut after the last whole sentence within `max_words`.

    Returns:
        The text; empty if it holds no whole sentence.
    """
    joined = " ".join(text.split())
    kept = 0
    for end in _SENTENCE_END.finditer(joined):
        head = joined[: end.end()]
        if len(words_of(head)) > max_words:
            break
        if not _ABBREVIATION.search(joined[: end.start() + 1]):
            kept = end.end()
    return joined[:kept]


def clean(text: str, max_words: int) -> str:
    """An accepted answer as it is stored: blanks joined; longer than `max_words`, only its whole sentences."""
    joined = " ".join(text.split())
    return joined if len(words_of(joined)) <= max_words else tidy(joined, max_words) or joined


def words_of(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return _WORD.findall(text)


def _echo_share(words: list[str], prompt: list[str]) -> float:
    """Share of the answer's words that lie in runs of 5 which the prompt holds too."""
    seen = set(_runs(prompt, _ECHO_WORDS))
    is_copied = [False] * len(words)
    for place, run in enumerate(_runs(words, _ECHO_WORDS)):
        if run in seen:
            is_copied[place : place + _ECHO_WORDS] = [True] * _ECHO_WORDS
    return sum(is_copied) / len(words)


def _loop(words: list[str], most_share: float) -> str:
    """What repeats, or an empty string: many repeated 4-grams, or one phrase said over and over at the end."""
    for size in range(1, len(words) // _TAIL_TIMES + 1):
        tail = words[-size:]
        if all(words[-size * (n + 1) : len(words) - size * n] == tail for n in range(1, _TAIL_TIMES)):
            return f"ends in {' '.join(tail[:8])!r} {_TAIL_TIMES} times or more"
    runs = _runs(words, _REPETITION_WORDS)
    if len(runs) < _REPETITION_LEAST:
        return ""
    counts = Counter(runs)
    share = 1 - len(counts) / len(runs)
    if share <= most_share:
        return ""
    most, times = counts.most_common(1)[0]
    return f"{share:.0%} of its {_REPETITION_WORDS}-word runs are repeats; {' '.join(most)!r} stands in it {times} times"


def _runs(words: list[str], size: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(size)), strict=False))
