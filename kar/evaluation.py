"""What `kar evaluate` prints: the arms, their differences, where the uplift comes from, what it cost, and the verdict.

Everything is read from what the newest training left; nothing is trained or resampled here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.errors import NotMade
from kar.model.bases import seen
from kar.page import figures
from kar.page.facts import trained_with
from kar.page.numbers import DASH, count, fixed, p_value, signed
from kar.release.layout import whole
from kar.settings import AdaptorSettings, Settings
from kar.show import aligned, made
from kar.store import Home, Manifest, Partition, trainings
from kar.verdict import OVER, verdict, written_tokens

_CURVE = ("base", "text", "permuted")
_NAMED = ("all", "warm", "cold", "covered", "uncovered", "held_out")
Told = dict[str, Any]


def evaluation(settings: Settings, home: Home, date: dt.date | None) -> Told:
    """A training judged, as plain values for `--json` and for `text`.

    Args:
        date: of the training; None: the newest.

    Raises:
        NotMade: nothing is trained (for that date).
    """
    partition = _partition(home, date)
    manifest = Manifest.read(partition.manifest_path)
    ours = trained_with(manifest, settings)
    cap = manifest.recipe.get("settings", {}).get("histories", {}).get("cap", settings.histories.cap)
    metric, comparison, calibration = (pq.read_table(partition.table(n)).to_pylist() for n in ("metric", "comparison", "calibration"))
    cost = _cost(settings, ours, home, partition.date)
    tokens = cost["tokens"] if cost and cost["texts"] else None
    published = (ours.published_base, ours.published_backbone)
    runs = []
    for base, backbone in figures.names([*metric, *comparison], published):
        of_run = figures.of(comparison, (base, backbone))
        judged = verdict(of_run, backbone, base, seen(base, ours, cap), tokens)  # type: ignore[arg-type]
        runs.append(
            {
                "base": base,
                "backbone": backbone,
                "is_published": (base, backbone) == published,
                "verdict": dataclasses.asdict(judged),
                "arms": [dataclasses.asdict(arm) for arm in figures.arms(figures.of(metric, (base, backbone)))],
                "differences": [row for by_metric in figures.over_all(of_run).values() for row in by_metric.values()],
                "slices": [row for row in of_run if row["slice"] != "all"],
                "calibration": figures.of(calibration, (base, backbone)),
            }
        )
    over_all = [row for row in metric if (row["split"], row["slice"]) == ("test", "all")]
    told: Told = _plain(
        {
            "scenario": settings.scenario.name,
            "date": partition.date.isoformat(),
            "published": {"base": published[0], "backbone": published[1]},
            "seeds": ours.seeds,
            "test_examples": max((row["example_count"] for row in over_all), default=0),
            "test_users": max((row["user_count"] for row in over_all), default=0),
            "test_touched": manifest.figures.get("test_touched", {}),
            "test_head_share": manifest.figures.get("test_head_share"),
            "cost": cost,
            "runs": runs,
            "held_back": trainings.why_held_back(partition),
            "warnings": manifest.warnings,
        }
    )
    return told


def _partition(home: Home, date: dt.date | None) -> Partition:
    if date is not None:
        return made(home, "adaptor", date)
    trained = home.partitions("adaptor")
    if not trained:
        raise NotMade("adaptor has not been made for any date: nothing is trained yet", "run: kar run all")
    return trained[-1]


def _cost(settings: Settings, ours: AdaptorSettings, home: Home, date: dt.date) -> Told | None:
    """What the texts cost that this training met; None if their partition is gone.

    tokens and usd are of the texts that the arms used, whenever they were written. asked_tokens is what that night's asking took,
    refused and lost answers among it.
    """
    partition = home.latest("knowledge", settings.snapshot_date(date))
    if partition is None:
        return None
    table = pq.read_table(partition.table("knowledge"), columns=["view", "origin", "prompt_tokens", "completion_tokens"])
    views = sorted({whole(view) for view in [*ours.user_views, *ours.item_views]})
    table = table.filter(pc.field("view").isin(views))
    written = table.filter(pc.field("origin") != "import")
    prompt, completion = (int(pc.sum(written[name]).as_py() or 0) for name in ("prompt_tokens", "completion_tokens"))
    night = Manifest.read(partition.manifest_path).figures
    return {
        "date": partition.date.isoformat(),
        "texts": written.num_rows,
        "imported": table.num_rows - written.num_rows,
        "tokens": prompt + completion,
        "usd": round(settings.llm.price().usd(prompt, completion), 6),
        "asked_tokens": sum(int(night.get(name) or 0) for name in ("prompt_tokens", "completion_tokens", "lost_tokens")),
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is not defined is null."""
    if isinstance(value, dict):
        return {key: _plain(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_plain(of) for of in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def text(told: Told) -> str:
    """An evaluation as a page of a terminal, the verdict last."""
    seeds, touched = len(told["seeds"]), sorted(set(told["test_touched"].values()))
    lines = [
        f"{told['scenario']}, training of {told['date']}: {told['test_examples']:,} test examples of {told['test_users']:,} users, "
        f"{seeds} seed{'s' if seeds != 1 else ''}",
        "epochs and settings were chosen on valid; "
        + (f"each arm met the test examples {' or '.join(map(str, touched))} ×, once a seed" if touched else "test was not touched"),
    ]
    for run in reversed(told["runs"]):  # the published one last: it is nearest to the prompt
        lines += ["", *_run(run)]
    lines += ["", *(f"warning  {sentence}" for sentence in told["warnings"])]
    if told["held_back"]:
        lines.append(f"held back, so neither releases nor reports use this training: {told['held_back']}")
    published = next((run for run in told["runs"] if run["is_published"]), None)
    verdict_ = published["verdict"] if published else {"sentence": "The published backbone was not trained.", "power": ""}
    lines.append(f"verdict  {verdict_['sentence']}")
    if verdict_["power"]:
        lines.append(f"power    {verdict_['power']}")
    return "\n".join([*lines, f"cost     {_cost_words(told['cost'])}"])


def _run(run: Told) -> list[str]:
    mark = ", published" if run["is_published"] else ""
    lines = [f"{run['backbone']} {OVER.get(run['base'], run['base'])}{mark}", *_arms(run["arms"])]
    main = [row for row in run["differences"] if row["family"] != "ablations"]
    ablations = [row for row in run["differences"] if row["family"] == "ablations"]
    if main:
        lines += ["", *_differences(main)]
    if ablations:
        sizes = sorted({row["family_count"] for row in ablations})
        lines += ["", f"ablations: p (Holm) is corrected over the {' and '.join(map(str, sizes))} of a kind", *_differences(ablations)]
    if slices := _slices(run["slices"]):
        lines += [
            "",
            "AUC by slice; item:1-5 are examples whose item was trained on 1 to 5 times; * p (Holm, over the slices) < 0.05",
            *slices,
        ]
    return lines


def _arms(arms: list[Told]) -> list[str]:
    table: list[tuple[str, ...]] = [("arm", "AUC", "GAUC", "LogLoss", "RelaImpr", "ECE", "head items on top")]
    for arm in arms:
        cells = [_spread(arm["metrics"][name]) for name in ("auc", "gauc", "logloss", "ece", "head_share")]
        improvement = arm["relative_improvement"]
        shown = DASH if improvement is None else f"{signed(100 * improvement, 2)} %"
        table.append((arm["arm"], *cells[:3], shown, *cells[3:]))
    return aligned(table)


def _spread(found: Told) -> str:
    return fixed(found["mean"]) + ("" if found["sd"] is None else f" ± {fixed(found['sd'])}")


def _differences(rows: list[Told]) -> list[str]:
    table: list[tuple[str, ...]] = [("difference", "AUC", "95 %", "p", "p (Holm)", "could find", "GAUC", "LogLoss")]
    for pair in figures.pairs(rows):
        of = {row["metric"]: row for row in rows if (row["arm_a"], row["arm_b"]) == pair}
        auc = of["auc"]
        others = (signed(of[name]["difference"]) if name in of else DASH for name in ("gauc", "logloss"))
        tests = (p_value(auc["p"]), p_value(auc["p_holm"]) if auc["family"] else DASH, fixed(auc["detectable"]))
        table.append((f"{pair[0]} − {pair[1]}", signed(auc["difference"]), _interval(auc), *tests, *others))
    return aligned(table)


def _slices(rows: list[Told]) -> list[str]:
    """Named slices, then the curve of the uplift against the training count."""
    found = {(row["slice"], row["arm_b"]): row for row in rows if (row["arm_a"], row["metric"]) == ("knowledge", "auc")}
    against = [arm for arm in _CURVE if any(arm_b == arm for _, arm_b in found)]
    order = [*_NAMED, *(f"{side}:{n}" for side in ("item", "user") for n in figures.COUNTS)]
    table: list[tuple[str, ...]] = [("slice", "examples", "users", *(f"knowledge − {arm}" for arm in against))]
    for name in order:
        of = {arm: found[name, arm] for arm in against if (name, arm) in found}
        if of:
            some = next(iter(of.values()))
            cells = (f"{signed(of[a]['difference'])}{_star(of[a])} {_interval(of[a])}" if a in of else DASH for a in against)
            table.append((name, count(some["example_count"]), count(some["user_count"]), *cells))
    return aligned(table) if len(table) > 1 and against else []


def _star(row: Told) -> str:
    return "*" if row["p_holm"] is not None and row["p_holm"] < 0.05 else " "


def _interval(row: Told) -> str:
    return "" if row["low"] is None else f"{signed(row['low'])} … {signed(row['high'])}"


def _cost_words(cost: Told | None) -> str:
    if cost is None:
        return "not known: the knowledge that this training met is not here any more"
    parts = []
    if cost["texts"]:
        usd = f", {cost['usd']:,.2f} USD" if cost["usd"] else ", no price per token is set in [llm]"
        parts.append(f"{cost['texts']:,} texts written for {written_tokens(cost['tokens'])}{usd}")
    if cost["imported"]:
        parts.append(f"{cost['imported']:,} texts imported, whose cost is not known")
    if not parts:
        parts.append("no text: the knowledge arm met none")
    if cost["asked_tokens"]:
        parts.append(f"the asking of {cost['date']} took {written_tokens(cost['asked_tokens'])}, refused answers among them")
    return "; ".join(parts)
