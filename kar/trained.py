"""What `kar training` prints and decides: the trainings there are, whether another is due, and a person's word on one of them."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar.release.layout import whole
from kar.settings import Settings
from kar.show import aligned, made
from kar.store import Home, Manifest, Partition, trainings
from kar.store.locking import locked
from kar.text.variants import load_splits


@dataclass(frozen=True)
class Due:
    """Whether a training is due at a date.

    Args:
        why: the first reason that holds, or why there is none.
        training: date of the training in use; empty: none.
    """

    due: bool
    why: str
    training: str = ""


def due(settings: Settings, home: Home, date: dt.date) -> Due:
    """Whether the adaptor should be trained again for a date: the newest training in use is held against the settings and that night's vectors.

    A held-back training that is newer, and that would not be due itself, is a reason to look at it and none to train the same again every night.

    Raises:
        StageError: a manifest or somebody's word on a training cannot be read.
        TemplateError: a template that is missing or wrong.
    """
    used = trainings.latest_promoted(home, date)
    reason = "no training yet" if used is None else _reason(settings, home, used, date)
    name = used.date.isoformat() if used is not None else ""
    if not reason:
        return Due(False, "the training in use has met this encoder and these templates, and is young enough", name)
    for held in reversed(trainings.newer_held_back(home, date)):
        if not _reason(settings, home, held, date):
            return Due(False, f"{reason}, but that of {held.date} is held back: {trainings.why_held_back(held)}", name)
    return Due(True, reason, name)


def _reason(settings: Settings, home: Home, training: Partition, date: dt.date) -> str:
    """Why a training should not be the newest any more; empty: no reason."""
    ours, origin = settings.adaptor, _origin(training, settings.adaptor.published_backbone)
    if origin is None:
        return f"no checkpoint of {ours.published_backbone}"
    known = origin.get("views", {})
    wanted = {"user": ours.user_views, "item": ours.item_views}
    if strange := [view for side, views in wanted.items() for view in views if view not in known.get(side, [])]:
        return f"another view: {', '.join(strange)}"
    if (encoders := _encoders(home, date, [*ours.user_views, *ours.item_views])) and encoders != {origin.get("encoder_id")}:
        return "another encoder"
    if view := _new_template(settings, home, training, date):
        return f"another template of {view}"
    days = ours.retrain_after_days
    return f"older than {days} days" if days is not None and (date - training.date).days > days else ""


def _origin(training: Partition, backbone: str) -> dict[str, Any] | None:
    """Where a checkpoint comes from, as its JSON says; its weights are not looked at, so no torch is needed."""
    path = training.path / "checkpoints" / backbone / "checkpoint.json"
    try:
        origin: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["origin"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return origin


def _encoders(home: Home, date: dt.date, views: list[str]) -> set[str]:
    """Which encoders made the vectors that the night's release would be made of; empty where there are none yet."""
    partition = home.latest("vectors", date)
    if partition is None:
        return set()
    table = pq.read_table(partition.table("knowledge_vector"), columns=["view", "encoder_id"], filters=pc.field("view").isin(views))
    return set(pc.unique(table.column("encoder_id")).to_pylist())


def _new_template(settings: Settings, home: Home, training: Partition, date: dt.date) -> str:
    """The first view whose texts are written by a template that the training met none of; empty: there is none, or it does not say what it met.

    Texts of a template that is no longer in use are no reason, although another training met them: the next one would not meet them either.
    """
    met: dict[str, dict[str, int]] = Manifest.read(training.manifest_path).figures.get("templates") or {}
    partition = home.latest("knowledge", date)
    if not met or partition is None:
        return ""
    in_use = {split.view: {template.version for template in split.templates} for split in load_splits(settings)}
    table = pq.read_table(partition.table("knowledge"), columns=["view", "template_version"])
    for view in sorted({whole(view) for view in [*settings.adaptor.user_views, *settings.adaptor.item_views]}):
        now = set(pc.unique(table.filter(pc.equal(table.column("view"), view)).column("template_version")).to_pylist())
        if (now & in_use.get(view, now)) - met.get(view, {}).keys():  # imported texts have no template in use
            return view
    return ""


@dataclass(frozen=True)
class Listed:
    """One training.

    Args:
        state: in use · promoted (an older one) · held back.
        auc, base_auc: on valid, seeds averaged, of the published backbone; None: not measured.
        why: it is held back, or by whose word it is not.
    """

    date: str
    made_at: str
    state: str
    backbone: str
    auc: float | None
    base_auc: float | None
    users: int | None
    failed: list[str]
    why: str


def listed(home: Home) -> list[Listed]:
    """Every training, newest first."""
    used = trainings.latest_promoted(home, dt.date.max)
    return [_listed(partition, used) for partition in reversed(home.partitions(trainings.STAGE))]


def _listed(partition: Partition, used: Partition | None) -> Listed:
    manifest, word = Manifest.read(partition.manifest_path), trainings.word_on(partition)
    valid = manifest.figures.get("valid") or {}
    is_used = used is not None and partition.date == used.date
    why = trainings.why_held_back(partition)
    if word is not None and word.is_promoted:
        why = f"promoted by somebody's word at {word.at[:16]}{f': {word.why}' if word.why else ''}"
    return Listed(
        date=partition.date.isoformat(),
        made_at=manifest.made_at[:19],
        state="in use" if is_used else "held back" if trainings.is_held_back(partition) else "promoted",
        backbone=valid.get("backbone", ""),
        auc=valid.get("auc"),
        base_auc=valid.get("base_auc"),
        users=valid.get("users"),
        failed=list(trainings.failed_checks(partition)),
        why=why,
    )


def listing(home: Home) -> str:
    """The same as lines, the one in use marked."""
    found = listed(home)
    if not found:
        return f"no training is made in {home.path}"
    table = [("", "training", "made at", "state", "backbone", "valid AUC", "base", "users")]
    table += [
        (
            "→" if one.state == "in use" else "",
            one.date,
            one.made_at,
            one.state,
            one.backbone,
            _auc(one.auc),
            _auc(one.base_auc),
            _count(one.users),
        )
        for one in found
    ]
    return "\n".join([*aligned(table), *(f"\n{one.date}: {one.why}" for one in found if one.why)])


def listing_json(home: Home) -> list[dict[str, Any]]:
    """The same for programs."""
    return [asdict(one) for one in listed(home)]


def _auc(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def decide(home: Home, date: dt.date, is_promoted: bool, now: dt.datetime, why: str = "") -> str:
    """Let readers use a training whatever its gate said, or keep them from it; says what came of it. Asked again, it does nothing.

    Raises:
        NotMade: there is no training of that date.
        AlreadyRunning: it is being made anew.
    """
    partition = made(home, trainings.STAGE, date)
    with locked(partition.lock, f"the training of {date} is being made anew", "wait for it: it is judged anew"):
        if trainings.is_held_back(partition) != is_promoted:
            return f"the training of {date} is {'promoted' if is_promoted else 'held back'} already"
        trainings.decide(partition, is_promoted, now, why)
    used = trainings.latest_promoted(home, dt.date.max)
    now_used = f"the one in use is that of {used.date}" if used is not None else "none is in use now"
    return f"the training of {date} is {'promoted' if is_promoted else 'held back'}; {now_used}"
