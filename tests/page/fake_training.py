"""Rows of the adaptor's tables as a training would leave them, with known numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SLICES = ("all", "warm", "cold", "covered", "uncovered")
# kind → {(arm_b): (difference, low, high)} of knowledge − arm_b on all examples
KINDS: dict[str, dict[str, tuple[float, float, float]]] = {
    "helps": {"text": (0.0034, 0.0012, 0.0056), "permuted": (0.0069, 0.0055, 0.0082), "base": (0.0120, 0.0101, 0.0139)},
    "beats_base_only": {"text": (-0.0011, -0.0034, 0.0013), "permuted": (0.0021, 0.0002, 0.0041), "base": (0.0064, 0.0040, 0.0089)},
    "no_difference": {"text": (-0.0004, -0.0019, 0.0011), "permuted": (0.0003, -0.0012, 0.0018), "base": (0.0005, -0.0013, 0.0022)},
    "hurts": {"text": (-0.0061, -0.0085, -0.0037), "permuted": (-0.0008, -0.0022, 0.0006), "base": (-0.0048, -0.0070, -0.0027)},
    "too_few": {"text": (0.0052, -0.0139, 0.0246), "permuted": (0.0091, -0.0102, 0.0281), "base": (0.0170, -0.0041, 0.0377)},
    "not_measured": {"base": (0.0064, 0.0040, 0.0089)},
}
_WIDER = {"all": (1.0, 1.0), "warm": (0.8, 1.1), "cold": (2.4, 6.0), "covered": (1.3, 1.2), "uncovered": (0.1, 1.7)}
# by training count: how much larger than over all the difference is, and how much wider its interval
_BY_COUNT = {"0": (3.0, 3.5), "1-5": (2.2, 6.0), "6-20": (1.5, 2.5), "21-100": (1.1, 1.6), "101+": (0.8, 1.2)}


@dataclass(frozen=True)
class FakeTraining:
    """What was trained.

    Args:
        kind: of `KINDS`.
        ablations: arms beside the usual ones; each a little worse than knowledge.
        is_tuned: whether each arm tried three settings.
    """

    base: str
    backbones: tuple[str, ...]
    arms: tuple[str, ...]
    ablations: tuple[str, ...]
    seeds: tuple[int, ...]
    kind: str
    examples: int
    users: int
    is_tuned: bool = False

    def _runs(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The key of each training, and the place of its seed."""
        for backbone in self.backbones:
            for arm in (*self.arms, *self.ablations):
                for place, seed in enumerate(self.seeds):
                    yield {"base": self.base, "backbone": backbone, "arm": arm, "seed": seed}, place

    def _auc(self, backbone: str, arm: str) -> float:
        """Mean test AUC, so that it agrees with the differences of the kind."""
        top = 0.7921 if backbone == "fibinet" else 0.7879
        differences = KINDS.get(self.kind, KINDS["helps"])
        if arm in self.ablations:
            return top - self._ablation(arm)[0]
        return top - (differences[arm][0] if arm in differences else 0.0)

    def _ablation(self, arm: str) -> tuple[float, float, float]:
        place = self.ablations.index(arm)
        return 0.0008 + 0.001 * place, 0.0008 * place - 0.0002, 0.0018 + 0.0012 * place

    def metric(self) -> Iterator[dict[str, Any]]:
        shift = {"all": 0.0, "warm": 0.004, "cold": -0.045, "covered": 0.006, "uncovered": -0.011}
        counts = {"example_count": self.examples, "user_count": self.users}
        for key, place in self._runs():
            noise = (place - (len(self.seeds) - 1) / 2) * 0.0006
            for split in ("valid", "test"):
                for name in SLICES:
                    auc = self._auc(key["backbone"], key["arm"]) + noise + shift[name] + (0.002 if split == "valid" else 0)
                    values = {"auc": auc, "gauc": auc - 0.031, "logloss": 1.32 - auc, "ece": 0.8 - auc}
                    if name == "all":
                        values["head_share"] = 0.31
                    for metric, value in values.items():
                        yield {**key, "split": split, "slice": name, "metric": metric, "value": value, **counts}

    def comparison(self) -> Iterator[dict[str, Any]]:
        for backbone in self.backbones:
            for arm, (difference, low, high) in KINDS.get(self.kind, {}).items():
                for name in SLICES:
                    scale, width = _WIDER[name]
                    half = (high - low) / 2 * width
                    for metric, sign in (("auc", 1), ("gauc", 0.8), ("logloss", -0.5)):
                        middle = difference * scale * sign
                        ends = (low, high) if (name, metric) == ("all", "auc") else (middle - half, middle + half)
                        family = ("", 1) if name == "all" else ("slices", 9)
                        yield self._row(backbone, ("knowledge", arm), name, metric, (middle, *ends), family)
                for count, (scale, width) in _BY_COUNT.items():
                    half = (high - low) / 2 * width
                    ends = (difference * scale, difference * scale - half, difference * scale + half)
                    yield self._row(backbone, ("knowledge", arm), f"item:{count}", "auc", ends, ("slices", 9))
            for arm in self.ablations:
                less, low, high = self._ablation(arm)
                yield self._row(backbone, ("knowledge", arm), "all", "auc", (less, low, high), ("ablations", len(self.ablations)))
                ends = (0.012 - less, 0.012 - high, 0.012 - low)
                yield self._row(backbone, (arm, "base"), "all", "auc", ends, ("ablations", len(self.ablations)))

    def _row(
        self, backbone: str, pair: tuple[str, str], name: str, metric: str, interval: tuple[float, float, float], family: tuple[str, int]
    ) -> dict[str, Any]:
        middle, low, high = interval
        se = (high - low) / 3.92
        p = math.erfc(abs(middle) / se / math.sqrt(2))
        return {
            "base": self.base,
            "backbone": backbone,
            "arm_a": pair[0],
            "arm_b": pair[1],
            "slice": name,
            "metric": metric,
            "difference": middle,
            "low": low,
            "high": high,
            "se": se,
            "p": p,
            "p_holm": min(1.0, p * family[1]),
            "family": family[0],
            "family_count": family[1],
            "detectable": 2.8 * se,
            "seed_count": len(self.seeds),
            "user_count": self.users,
            "example_count": self.examples,
            "resamples": 1000,
        }

    def calibration(self) -> Iterator[dict[str, Any]]:
        for key, place in self._runs():
            for decile in range(10):
                actual = 0.08 + 0.09 * decile
                ratio = 1.0 + (0.02 if key["arm"] == "knowledge" else 0.06) * (decile - 4.5) / 4.5 + 0.001 * (place - 1)
                counts = {"example_count": max(self.examples // 10, 1)}
                yield {**key, "decile": decile, **counts, "predicted": actual * ratio, "actual": actual, "ratio": ratio}

    def epoch(self) -> Iterator[dict[str, Any]]:
        for key, place in self._runs():
            best = 4 + (place + len(key["arm"])) % 3
            top = self._auc(key["backbone"], key["arm"]) + 0.002 + 0.0006 * place
            for epoch in range(best + 3):
                auc = top - 0.06 * math.exp(-1.1 * epoch) - 0.0012 * max(0, epoch - best)
                row = {**key, "epoch": epoch, "train_loss": 0.6 - 0.01 * epoch, "valid_auc": auc, "valid_logloss": 1.32 - auc}
                yield {**row, "is_chosen": epoch == best}

    def gate_weight(self) -> Iterator[dict[str, Any]]:
        for backbone in self.backbones:
            for view in ("user.preference", "item.facts"):
                for place, expert in enumerate(("own:0", "own:1", "shared:0", "shared:1")):
                    key = {"base": self.base, "backbone": backbone, "view": view, "expert": expert}
                    yield {**key, "weight": (0.1, 0.2, 0.3, 0.4)[place], "subject_count": 12}

    def study(self) -> Iterator[dict[str, Any]]:
        """Three trials an arm: as set, one that failed, and a better one; the base arm's first stays the best."""
        for backbone in self.backbones:
            for arm in self.arms if self.is_tuned else ():
                for trial, (rate, auc) in enumerate(((0.001, 0.71), (0.02, math.nan), (0.00234, 0.70 if arm == "base" else 0.73))):
                    key = {"base": self.base, "backbone": backbone, "arm": arm, "trial": trial, "seconds": 60.0}
                    parameters = json.dumps({"batch_size": 512, "learning_rate": rate})
                    state = "failed" if math.isnan(auc) else "complete"
                    yield {
                        **key,
                        "state": state,
                        "valid_auc": auc,
                        "parameters": parameters,
                        "is_chosen": trial == (0 if arm == "base" else 2),
                    }

    def view_use(self) -> Iterator[dict[str, Any]]:
        for backbone in self.backbones:
            for view, drops in (("user.preference", (0.0021, 0.0021, math.nan)), ("item.facts", (0.0093, 0.0012, 0.0078))):
                for place, drop in zip(("everywhere", "target", "history"), drops, strict=True):
                    key = {"base": self.base, "backbone": backbone, "view": view, "left_out": place, "seed": 1}
                    values = {"auc_drop": drop, "logloss_rise": drop / 2, "example_count": 40, "subject_count": 12}
                    yield {**key, **values, "mean_norm": 1.2, "residual_gate": math.nan}
