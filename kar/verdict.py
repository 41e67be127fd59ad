"""Whether knowledge helped, in one sentence: the one rule that the page, `kar evaluate` and whoever promotes a release go by.

Knowledge helps only if it beats raw text (`text`), the same texts handed to the wrong subjects (`permuted`) and the
ranker alone (`base`), each by a paired interval over users that excludes 0. Beating `base` alone says nothing of the
language model: the arm also has more parameters and sees more text. And a base that sees fewer events than the prompt did
is beaten by data, not by knowledge. All three must be beaten at once, so none of them is corrected for the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["helps", "from_data", "beats_base_only", "no_difference", "hurts", "too_few", "not_measured"]
Standing = Literal["above", "below", "level", "unclear"]

HALF_WIDTH = 0.01
"""An interval that holds 0 and reaches further than this to either side, in AUC, cannot tell."""

CONTROLS = ("text", "permuted")
AGAINST = {"text": "raw text", "permuted": "shuffled knowledge", "base": "the base"}
OVER = {"thin": "over the thin base", "same_evidence": "over the same evidence", "rich": "over the rich base"}


@dataclass(frozen=True)
class Seen:
    """Events of a user's history that the base sees, and that a prompt may show (0: no prompt of the knowledge tells of events)."""

    base_events: int
    prompt_events: int

    @property
    def is_even(self) -> bool:
        return self.base_events >= self.prompt_events


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Args:
        sentence: plain words with the deciding difference and its interval, and the base.
        is_positive: whether the knowledge helped; true for kind "helps" alone.
        kind: which of the seven answers it is.
        power: what this test set could tell at all, as a sentence; empty if nothing was measured.
    """

    sentence: str
    is_positive: bool
    kind: Kind
    power: str = ""


@dataclass(frozen=True)
class _Difference:
    arm: str
    difference: float
    low: float
    high: float
    detectable: float
    user_count: int

    @property
    def standing(self) -> Standing:
        if self.low > 0:
            return "above"
        if self.high < 0:
            return "below"
        return "unclear" if (self.high - self.low) / 2 > HALF_WIDTH else "level"

    @property
    def interval(self) -> str:
        return f"95 % {signed(self.low)} … {signed(self.high)}"

    def __str__(self) -> str:
        return f"{signed(self.difference)} AUC against {AGAINST[self.arm]} ({self.interval})"


def verdict(
    comparisons: Iterable[Mapping[str, Any]], backbone: str, base: str, seen: Seen | None = None, tokens: int | None = None
) -> Verdict:
    """Judge the knowledge arm of one backbone by test AUC over all examples.

    Args:
        comparisons: rows of the declared table `comparison` as mappings; those of other bases, backbones, slices and metrics are passed over.
        backbone, base: whose rows count.
        seen: how much base and prompt saw; None: taken for even.
        tokens: what the knowledge cost; None: it is not said.
    """
    found = _differences(comparisons, backbone, base)
    over = OVER.get(base, f"over the base {base}")
    kind, words = _judged(found, over, seen)
    if tokens is not None and kind != "not_measured":
        words = f"{words}; it cost {written_tokens(tokens)}"
    return Verdict(words[0].upper() + words[1:] + ".", kind == "helps", kind, _power(found))


def _judged(found: dict[str, _Difference], over: str, seen: Seen | None) -> tuple[Kind, str]:
    """The answer, as a sentence without its capital and its full stop."""
    if any(arm not in found for arm in CONTROLS):
        missing = " and ".join(AGAINST[arm] for arm in CONTROLS if arm not in found)
        return "not_measured", f"whether knowledge helps {over} was not measured: there is no test AUC against {missing}"
    standings = {arm: difference.standing for arm, difference in found.items()}
    if all(standing == "above" for standing in standings.values()):
        if seen is not None and not seen.is_even:
            return "from_data", f"{_beats(found, over)}; but {_uneven(seen)}"
        return "helps", _beats(found, over)
    if standings.get("base") == "below":
        return "hurts", f"{over}, knowledge hurts: {found['base']}"
    if "unclear" in standings.values() and all(standings[arm] in ("above", "unclear") for arm in CONTROLS):
        first = next(found[arm] for arm in AGAINST if arm in found and standings[arm] == "unclear")
        return "too_few", f"too few test users to tell: {over}, knowledge stands at {first}, from {first.user_count:,} users"
    if standings.get("base") == "above":
        return "beats_base_only", _beats_base(found, over)
    # what is known first: below, then level; an interval too wide to tell comes last
    first = min(_not_above(found), key=lambda d: ("below", "level", "unclear").index(d.standing))
    return "no_difference", f"{over}, knowledge {'does not help' if first.standing == 'below' else 'makes no difference'}: {first}"


def _differences(comparisons: Iterable[Mapping[str, Any]], backbone: str, base: str) -> dict[str, _Difference]:
    """Knowledge − arm on AUC over all test examples, where it is defined: arm → difference."""
    found = {}
    for row in comparisons:
        is_ours = (row["base"], row["backbone"], row["arm_a"], row["slice"], row["metric"]) == (base, backbone, "knowledge", "all", "auc")
        if is_ours and row["arm_b"] in AGAINST and _is_defined(row):
            names = ("difference", "low", "high", "detectable", "user_count")
            found[row["arm_b"]] = _Difference(row["arm_b"], **{name: row[name] for name in names})
    return found


def _is_defined(row: Mapping[str, Any]) -> bool:
    return all(math.isfinite(row[name]) for name in ("difference", "low", "high"))


def _not_above(found: dict[str, _Difference]) -> list[_Difference]:
    """What knowledge did not beat: raw text first, for that is the question; then shuffled knowledge, then the base."""
    return [found[arm] for arm in AGAINST if arm in found and found[arm].standing != "above"]


def _beats(found: dict[str, _Difference], over: str) -> str:
    first, *others = [found[arm] for arm in AGAINST if arm in found]
    more = (f"beats {AGAINST[d.arm]} by {signed(d.difference)} ({signed(d.low)} … {signed(d.high)})" for d in others)
    return "; ".join([f"{over}, knowledge beats {AGAINST[first.arm]} by {signed(first.difference)} AUC ({first.interval})", *more])


def _uneven(seen: Seen) -> str:
    return (
        f"that base sees {seen.base_events} events of a history and the prompt saw up to {seen.prompt_events}: "
        "an uplift over it is one from data, not from knowledge"
    )


def _beats_base(found: dict[str, _Difference], over: str) -> str:
    worst = min((d for d in _not_above(found) if d.arm in CONTROLS), key=lambda d: d.high)
    return (
        f"{over}, knowledge does not beat {AGAINST[worst.arm]}: {signed(worst.difference)} AUC ({worst.interval}), "
        f"so its {signed(found['base'].difference)} over the base is not the language model’s doing"
    )


def _power(found: dict[str, _Difference]) -> str:
    told = [d for d in found.values() if math.isfinite(d.detectable)]
    if not told:
        return ""
    widest = max(told, key=lambda d: d.detectable)
    return (
        f"With {widest.user_count:,} test users a true difference of {widest.detectable:.4f} AUC would be found in four of five such tests, "
        "a smaller one less often (80 % power at 5 % two-sided)."
    )


def written_tokens(count: int) -> str:
    """8,412 tokens · 120 k tokens · 1.2 M tokens"""
    if count < 10_000:
        return f"{count:,} tokens"
    return f"{count / 1e3:,.0f} k tokens" if count < 999_500 else f"{count / 1e6:,.1f} M tokens"


def signed(value: float) -> str:
    """+0.0034, −0.0012"""
    return f"{value:+.4f}".replace("-", "−")
