"""The gate before a training's checkpoint is used: what the training shows on valid is held against limits and against the last training in use.

    judge(now, last, limits) → one verdict per check; a training that fails one is kept and held back, and readers stay with the one before it

    check         measured, of the published backbone over the published base, seeds averaged
    finite        predictions on valid that are no finite number
    auc           AUC of the arm knowledge
    over base     the same, less that of the arm base
    since last    the same, less that of the last training that was promoted, if both follow the same rules of label and split
    covered       share of the valid examples that meet knowledge
    test users    users on test, as a count; their results are not looked at

Judged on valid alone: test says whether the knowledge helped, once, and chooses nothing. A check without a measurement is passed: an arm that was
not trained, no training before, too few users or examples for an AUC to mean anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kar.release.verdicts import GateVerdict, at_least, at_most, unmeasured
from kar.settings.schema import TrainingGateSettings


@dataclass(frozen=True)
class Measured:
    """What a training shows on valid.

    Args:
        date: of its partition.
        protocol: digest of the rules by which its examples were labelled and split; two AUCs of different rules are not compared.
        base, backbone: the published ones.
        auc: of the arm knowledge, seeds averaged; None: the arm was not trained; NaN: it is not defined.
        base_auc: of the arm base.
        seed_count: of the arm knowledge.
        users, examples: on valid.
        test_users: on test.
        covered_share: of the valid examples, those that meet knowledge.
        not_finite: predictions of the arm knowledge on valid that are no finite number.
    """

    date: str
    protocol: str
    base: str
    backbone: str
    auc: float | None
    base_auc: float | None
    seed_count: int
    users: int
    examples: int
    test_users: int
    covered_share: float | None
    not_finite: int

    def figures(self) -> dict[str, Any]:
        """As a manifest holds it, which knows no NaN."""
        return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in asdict(self).items()}


def told(figures: Mapping[str, Any]) -> Measured | None:
    """What a manifest says of a training; None: an earlier version made it, which did not measure."""
    found = figures.get("valid") or {}
    return Measured(**found) if set(found) == set(Measured.__dataclass_fields__) else None


def valid_auc(rows: Sequence[Mapping[str, Any]], base: str, backbone: str, arm: str) -> tuple[float | None, int]:
    """AUC over all valid examples, seeds averaged, and how many seeds; None: the arm was not trained.

    Args:
        rows: of the table metric.
    """
    key = (base, backbone, arm, "valid", "all", "auc")
    found = [row["value"] for row in rows if tuple(row[name] for name in ("base", "backbone", "arm", "split", "slice", "metric")) == key]
    return (float(np.mean(found)) if found else None), len(found)


def judge(now: Measured, last: Measured | None, limits: TrainingGateSettings) -> tuple[GateVerdict, ...]:
    """Every check's verdict, in the order of the table above.

    Args:
        last: the training in use; None: there is none, or it was not measured.
    """
    return tuple(_verdicts(now, last, limits))


def _verdicts(now: Measured, last: Measured | None, limits: TrainingGateSettings) -> Iterator[GateVerdict]:
    yield at_most("finite", now.not_finite, 0, f"of {now.seed_count * now.examples} predictions on valid those that are no finite number")
    if now.auc is None or (few := _few(now, limits)):
        for check in ("auc", "over base", "since last"):
            yield unmeasured(check, "the arm knowledge was not trained" if now.auc is None else f"valid has {few}")
    else:
        yield _auc(now, now.auc, limits)
        yield _over_base(now, now.auc, limits)
        yield _since_last(now, now.auc, last, limits)
    if now.covered_share is None:
        yield unmeasured("covered", "there are no valid examples")
    else:
        yield at_least(
            "covered", now.covered_share, limits.min_covered_share, f"share of {now.examples} valid examples that meet knowledge"
        )
    yield at_least("test users", now.test_users, limits.min_test_users, "users on test")


def _few(of: Measured, limits: TrainingGateSettings) -> str:
    """What there is too little of for an AUC to mean anything; empty: there is enough."""
    if of.users < limits.min_valid_users:
        return f"{of.users} users, fewer than {limits.min_valid_users}"
    return f"{of.examples} examples, fewer than {limits.min_valid_examples}" if of.examples < limits.min_valid_examples else ""


def _auc(now: Measured, auc: float, limits: TrainingGateSettings) -> GateVerdict:
    if not math.isfinite(auc):
        why = f"AUC on valid is not defined, for all {now.examples} examples have one label: look at examples.label and the split"
        return GateVerdict("auc", None, limits.min_auc, False, why)
    return at_least("auc", auc, limits.min_auc, f"AUC on valid of {now.users} users, mean over seeds ({now.seed_count})")


def _over_base(now: Measured, auc: float, limits: TrainingGateSettings) -> GateVerdict:
    if now.base_auc is None:
        return unmeasured("over base", "the arm base was not trained")
    if not math.isfinite(auc - now.base_auc):
        return unmeasured("over base", "AUC on valid is not defined")
    what = f"AUC on valid {auc:.4f}, of the base without knowledge {now.base_auc:.4f}; the difference"
    return at_least("over base", auc - now.base_auc, -limits.max_loss_to_base, what)


def _since_last(now: Measured, auc: float, last: Measured | None, limits: TrainingGateSettings) -> GateVerdict:
    if last is None or last.auc is None:
        return unmeasured("since last", "no training that was measured is in use to hold it against")
    if (now.protocol, now.base) != (last.protocol, last.base):
        return unmeasured("since last", f"the training of {last.date} has other rules of label, split or base")
    if few := _few(last, limits):
        return unmeasured("since last", f"valid of the training of {last.date} had {few}")
    if not math.isfinite(auc):
        return unmeasured("since last", "AUC on valid is not defined")
    what = f"AUC on valid {auc:.4f}, of the training of {last.date} ({last.backbone}) {last.auc:.4f}; the difference"
    return at_least("since last", auc - last.auc, -limits.max_drop, what)
