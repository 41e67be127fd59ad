"""Whether knowledge helped, in one sentence: the rule that the page, and whoever promotes a release, goes by.

Knowledge helps only if it beats raw text (`text`), the same texts handed to the wrong subjects (`permuted`) and the
ranker alone (`base`), each by a paired interval over users that excludes 0. Beating `base` alone says nothing of the
language model: the arm also has more parameters and sees more text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["helps", "beats_base_only", "no_difference", "hurts", "too_few", "not_measured"]
Standing = Literal["above", "below", "level", "unclear"]

HALF_WIDTH = 0.01
"""An interval that holds 0 and reaches further than this to either side, in AUC, cannot tell."""

CONTROLS = ("text", "permuted")
AGAINST = {"text": "raw text", "permuted": "shuffled knowledge", "base": "the base"}


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Args:
        sentence: plain words with the deciding difference and its interval.
        is_positive: whether the knowledge helped; true for kind "helps" alone.
        kind: which of the six answers it is.
    """

    sentence: str
    is_positive: bool
    kind: Kind


@dataclass(frozen=True)
class _Difference:
    arm: str
    difference: float
    low: float
    high: float
    user_count: int

    @property
    def standing(self) -> Standing:
        if self.low > 0:
            return "above"
        if self.high < 0:
            return "below"
        return "unclear" if (self.high - self.low) / 2 > HALF_WIDTH else "level"

    def __str__(self) -> str:
        return (
            f"{_signed(self.difference)} test AUC against {AGAINST[self.arm]} (95 % interval {_signed(self.low)} to {_signed(self.high)})"
        )


def verdict(comparisons: Iterable[Mapping[str, Any]], backbone: str, base: str) -> Verdict:
    """Judge the knowledge arm of one backbone by test AUC over all examples.

    Args:
        comparisons: rows of the declared table `comparison` as mappings; those of other bases, backbones, slices and metrics are passed over.
        backbone, base: whose rows count.
    """
    found = _differences(comparisons, backbone, base)
    if any(arm not in found for arm in CONTROLS):
        return _not_measured(found)
    standings = {arm: difference.standing for arm, difference in found.items()}
    if all(standing == "above" for standing in standings.values()):
        return Verdict(_helped(found), True, "helps")
    if standings.get("base") == "below":
        return Verdict(f"Knowledge hurt: {found['base']}.", False, "hurts")
    if "unclear" in standings.values() and all(standings[arm] in ("above", "unclear") for arm in CONTROLS):
        return Verdict(_too_few(found), False, "too_few")
    if standings.get("base") == "above":
        return Verdict(_beat_base(found), False, "beats_base_only")
    unbeaten = _not_above(found)
    # what is known first: below, then level; an interval too wide to tell comes last
    first = min(unbeaten, key=lambda d: ("below", "level", "unclear").index(d.standing))
    words = "did not help" if first.standing == "below" else "made no difference"
    return Verdict(f"Knowledge {words}: {first}.", False, "no_difference")


def _differences(comparisons: Iterable[Mapping[str, Any]], backbone: str, base: str) -> dict[str, _Difference]:
    """Knowledge − arm on AUC over all test examples, where it is defined: arm → difference."""
    found = {}
    for row in comparisons:
        is_ours = (row["base"], row["backbone"], row["arm_a"], row["slice"], row["metric"]) == (base, backbone, "knowledge", "all", "auc")
        if is_ours and row["arm_b"] in AGAINST and _is_defined(row):
            found[row["arm_b"]] = _Difference(row["arm_b"], row["difference"], row["low"], row["high"], row["user_count"])
    return found


def _is_defined(row: Mapping[str, Any]) -> bool:
    return all(math.isfinite(row[name]) for name in ("difference", "low", "high"))


def _not_above(found: dict[str, _Difference]) -> list[_Difference]:
    """What knowledge did not beat: raw text first, for that is the question; then shuffled knowledge, then the base."""
    return [found[arm] for arm in AGAINST if arm in found and found[arm].standing != "above"]


def _helped(found: dict[str, _Difference]) -> str:
    text, permuted = found["text"], found["permuted"]
    return (
        f"Knowledge helped: {text}, and {_signed(permuted.difference)} against {AGAINST['permuted']} "
        f"({_signed(permuted.low)} to {_signed(permuted.high)})."
    )


def _beat_base(found: dict[str, _Difference]) -> str:
    worst = min((d for d in _not_above(found) if d.arm in CONTROLS), key=lambda d: d.high)
    return (
        f"Knowledge did not beat {AGAINST[worst.arm]}: {_signed(worst.difference)} test AUC "
        f"(95 % interval {_signed(worst.low)} to {_signed(worst.high)}), "
        f"so its {_signed(found['base'].difference)} over the base is not the language model’s doing."
    )


def _too_few(found: dict[str, _Difference]) -> str:
    first = next(found[arm] for arm in AGAINST if arm in found and found[arm].standing == "unclear")
    return f"Too few test users to tell: {first}, from {first.user_count:,} users."


def _not_measured(found: dict[str, _Difference]) -> Verdict:
    missing = " and ".join(AGAINST[arm] for arm in CONTROLS if arm not in found)
    sentence = f"Whether knowledge helped was not measured: there is no test AUC against {missing}."
    return Verdict(sentence, False, "not_measured")


def _signed(value: float) -> str:
    """+0.0034, −0.0012"""
    return f"{value:+.4f}".replace("-", "−")
