"""Tonight's texts in figures, and what moved since last night: a model that was swapped, or a template that broke."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from kar.settings import KnowledgeSettings

_VOCABULARY_TEXTS = 2_000  # distinct words grow with the texts they are counted over, so it is always over as many
_FEWEST = 30  # texts of a view on either night; fewer say nothing


class Figures:
    """Counts per view over the texts of one night."""

    def __init__(self) -> None:
        self._judged: Counter[str] = Counter()
        self._refused: dict[str, Counter[str]] = defaultdict(Counter)
        self._accepted: Counter[str] = Counter()
        self._words: Counter[str] = Counter()
        self._sample: dict[str, Counter[int]] = defaultdict(Counter)

    def judged(self, view: str, reason: str | None) -> None:
        """Count one judged answer and why it was refused, None: it was not."""
        self._judged[view] += 1
        if reason is not None:
            self._refused[view][reason] += 1

    def refused(self, view: str, reason: str) -> None:
        """Count a reason for an answer that was counted as judged before."""
        self._refused[view][reason] += 1

    def accepted(self, view: str, words: list[str]) -> None:
        """Count one accepted text. Words in lower case."""
        self._accepted[view] += 1
        self._words[view] += len(words)
        if self._accepted[view] <= _VOCABULARY_TEXTS:
            self._sample[view].update(map(hash, words))  # 2,000 texts' words as strings would be most of the memory

    def of(self, view: str) -> dict[str, Any]:
        """judged, accepted: counts · mean_words · distinct_word_share (of the words of the first 2,000 accepted texts, and
        how many these were) · refused_share per reason."""
        accepted, judged, sample = self._accepted[view], self._judged[view], self._sample[view]
        return {
            "judged": judged,
            "accepted": accepted,
            "mean_words": round(self._words[view] / accepted, 2) if accepted else 0.0,
            "distinct_word_share": round(len(sample) / sample.total(), 4) if sample else 0.0,
            "vocabulary_texts": min(accepted, _VOCABULARY_TEXTS),
            "refused_share": {reason: round(n / judged, 4) for reason, n in sorted(self._refused[view].items())} if judged else {},
        }

    def views(self) -> list[str]:
        return sorted(set(self._judged) | set(self._accepted))


def drift(tonight: Mapping[str, Any], last_night: Mapping[str, Any] | None, settings: KnowledgeSettings) -> list[str]:
    """What of tonight's texts is unlike last night's, a sentence each, for the manifest's warnings.

    Args:
        tonight, last_night: view → the figures of `QualityGate.figures()`; None: there was no last night.
        settings: max_length_drift, max_vocabulary_drift (relative), max_refused_rise, max_near_duplicate_rise (of the share).

    Returns:
        Sentences; empty if nothing moved, or if either night has fewer than 30 texts of the view.
    """
    sentences = []
    for view, now in sorted(tonight.items()):
        before = (last_night or {}).get(view)
        if before is None or min(now["judged"], before["judged"]) < _FEWEST:
            continue
        if min(now["accepted"], before["accepted"]) >= _FEWEST:
            sentences += _text_drift(view, now, before, settings)
        reasons = sorted(set(now["refused_share"]) | set(before["refused_share"]))
        for reason in reasons:
            share, was = now["refused_share"].get(reason, 0.0), before["refused_share"].get(reason, 0.0)
            if share - was > settings.max_refused_rise:
                sentences.append(f"{view}: {share:.1%} of the answers are refused as {reason}, {was:.1%} last night")
    return sentences


def _text_drift(view: str, now: Mapping[str, Any], before: Mapping[str, Any], settings: KnowledgeSettings) -> list[str]:
    sentences = []
    if (change := _change(now["mean_words"], before["mean_words"])) > settings.max_length_drift:
        sentences.append(f"{view}: {now['mean_words']:.0f} words a text, {before['mean_words']:.0f} last night ({change:.0%} apart)")
    as_many = _change(now["vocabulary_texts"], before["vocabulary_texts"]) <= 0.2
    if as_many and (change := _change(now["distinct_word_share"], before["distinct_word_share"])) > settings.max_vocabulary_drift:
        shares = f"{now['distinct_word_share']:.1%} of its words are distinct, {before['distinct_word_share']:.1%} last night"
        sentences.append(f"{view}: {shares} ({change:.0%} apart)")
    share, was = now["near_duplicate_share"], before["near_duplicate_share"]
    if share - was > settings.max_near_duplicate_rise:
        sentences.append(f"{view}: {share:.1%} of the texts are near-duplicates of many others, {was:.1%} last night")
    return sentences


def _change(now: float, before: float) -> float:
    """How far apart, as a share of the earlier figure."""
    return abs(now - before) / before if before else float(bool(now))
