"""The hyper-parameter studies: what each arm tried on valid, and what it took. As many trials for every arm, or the arms could not be compared."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from kar.page.figures import ARMS


@dataclass(frozen=True)
class ArmStudy:
    """One arm's trials over one base and backbone.

    Args:
        trial_count, failed_count: of all trials, and of those whose loss was no longer finite.
        as_set: AUC on valid with the settings as they are, the first trial; NaN: it failed.
        best: AUC on valid of the chosen trial; NaN: none was chosen, the settings stand.
        chosen: the chosen parameters that differ from the settings, in words; empty: the settings themselves.
        seconds: of all its trials.
    """

    arm: str
    trial_count: int
    failed_count: int
    as_set: float
    best: float
    chosen: str
    seconds: float


def studies(rows: list[dict[str, Any]]) -> list[ArmStudy]:
    """Of one base and backbone, the four main arms first; none where nothing was tuned."""
    arms = sorted({row["arm"] for row in rows}, key=lambda arm: (ARMS.index(arm) if arm in ARMS else len(ARMS), arm))
    return [_study(arm, sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["trial"])) for arm in arms]


def _study(arm: str, trials: list[dict[str, Any]]) -> ArmStudy:
    chosen = next((trial for trial in trials if trial["is_chosen"]), None)
    return ArmStudy(
        arm,
        len(trials),
        sum(trial["state"] == "failed" for trial in trials),
        trials[0]["valid_auc"] if trials[0]["trial"] == 0 else math.nan,
        chosen["valid_auc"] if chosen else math.nan,
        _changes(json.loads(trials[0]["parameters"]), json.loads(chosen["parameters"])) if chosen else "",
        sum(trial["seconds"] for trial in trials),
    )


def _changes(settings: dict[str, Any], chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_said(value)}" for name, value in chosen.items() if value != settings.get(name))


def _said(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
