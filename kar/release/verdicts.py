"""What a promotion gate said of a release, as the manifest holds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kar.errors import GateFailed

if TYPE_CHECKING:
    from kar.release.reader import Release


@dataclass(frozen=True)
class GateVerdict:
    """One check of the gate.

    Args:
        check: its name, e.g. `rows`, `effective_rank`; with a view where it is about one: `norm item.facts`.
        measured: what was found; None: there was nothing to measure (no release before, a view without knowledge).
        limit: the threshold it was held against.
        is_passed: whether the release may be promoted as far as this check goes; a check without a measurement passes.
        why: one sentence with both figures, for the log, the page and the exit message.
    """

    check: str
    measured: float | None
    limit: float | None
    is_passed: bool
    why: str


Gate = Callable[["Release", "Release | None"], Sequence[GateVerdict]]
"""Judges a release that is written and verified but not in place yet, against the one that is served now (None: there is none)."""


def at_least(check: str, measured: float, limit: float, what: str) -> GateVerdict:
    """A verdict that is passed from the limit on; NaN is not."""
    return GateVerdict(check, _plain(measured), limit, measured >= limit, f"{what}: {measured:.5g}, at least {limit:.5g} is wanted")


def at_most(check: str, measured: float, limit: float, what: str) -> GateVerdict:
    """A verdict that is passed up to the limit; NaN is not."""
    return GateVerdict(check, _plain(measured), limit, measured <= limit, f"{what}: {measured:.5g}, at most {limit:.5g} is allowed")


def unmeasured(check: str, why: str) -> GateVerdict:
    """There was nothing to measure, and so nothing to hold against the release."""
    return GateVerdict(check, None, None, True, why)


def refusal(release: str, checks: int, failed: Mapping[str, str]) -> GateFailed:
    """What a night, or a promotion, ends with whose release the gate held back.

    Args:
        checks: how many there were.
        failed: check → why.
    """
    told = "; ".join(f"{check}: {why}" for check, why in failed.items())
    return GateFailed(
        f"release {release} is published, but not promoted: {len(failed)} of {checks} checks failed: {told}",
        "look at the report; mend the cause and run again, or change [features.gate] and run features again, or serve it as it is: "
        f"kar release promote --despite-gate {release}",
    )


def _plain(measured: float) -> float | None:
    """A number that JSON can hold, six digits."""
    return float(f"{measured:.6g}") if math.isfinite(measured) else None
