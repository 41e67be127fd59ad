"""What the promotion gate said of the release: one line a check, those that failed first."""

from __future__ import annotations

from dataclasses import dataclass

from kar.page.facts import Facts


@dataclass(frozen=True)
class Check:
    """One check. `measured` None: there was nothing to measure."""

    check: str
    measured: float | None
    limit: float | None
    is_passed: bool
    why: str


def checks(facts: Facts) -> list[Check]:
    """Every verdict of the night's release; none where it was published by a version without a gate."""
    found = [Check(**{name: row.get(name) for name in Check.__annotations__}) for row in facts.figure("features", "gate") or []]
    return sorted(found, key=lambda c: (c.is_passed, c.measured is None))


def failed(found: list[Check]) -> list[Check]:
    return [check for check in found if not check.is_passed]
