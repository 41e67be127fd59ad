"""features: adapt the newest vectors, verify them and publish a release.

reads   user, item, interaction, knowledge, refused (previous), knowledge_vector, comparison (newest training)
writes  release
rejects nothing: every user and item of the sources gets a row, without knowledge as missing

The release is published in any case. CURRENT moves to it if it is newer and passes every check of the promotion gate (`kar.release.gate`);
`held_back` says of a finished night that it did not.

The checkpoint is the one the adaptor stage marked for publication: arm knowledge of `adaptor.published_backbone`.

With `features.history_vectors` each item view is also published as a ranker with a knowledge-aware history sees it: per user the mean over the
liked and over the disliked items among the newest events that `adaptor.published_base` looks at, as of the cutoff of the histories.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import kar
from kar.errors import GateFailed, ModelError, NotMade, SpaceMismatch
from kar.model.bases import base_of, seen
from kar.model.pooled import NEVER, History, Items, Means, means
from kar.release import manifest
from kar.release.gate import Refused, Told, Uplift, judge
from kar.release.layout import TIME, Side, pooled_view, side_of
from kar.release.limits import Limits
from kar.release.pointer import folder_of, ids, maybe_current, promotes_over
from kar.release.publish import Published
from kar.release.reader import Release
from kar.release.remote import looking, publish
from kar.release.rows import Facts, Layering, Pooled, SideRows, ViewRows
from kar.release.verdicts import Gate, GateVerdict, refusal
from kar.settings import Settings
from kar.store import Home, Inputs, Manifest, Output, file_sha
from kar.tables import whole_view
from kar.tables.conform import subject_ids
from kar.tables.counting import counted, template_counts
from kar.verdict import verdict
from kar.warehouse import Warehouse

_RECONSTRUCTED_AFTER = dt.timedelta(days=2)
_NORMALISATION = "l2"
_CHUNK = 65_536
_LABELS = {"liked": 1, "disliked": 0}
# what a release tells of its knowledge: not the texts and the evidence, which are most of the table
_TOLD = [
    *("view", "subject_id", "origin", "model", "model_revision", "template_version", "request_key"),
    *("evidence_newest_at", "asked_at", "prompt_tokens", "completion_tokens"),
]
# of the knowledge partition's manifest, as the release's names them
_NIGHT_FIGURES = {
    "requests": "calls",
    "from_ledger": "from_ledger",
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "lost_tokens": "lost_tokens",
    "usd": "usd",
}


class Adapting(Protocol):
    """What this stage needs of `kar.model.checkpoint.Checkpoint`; N vectors, T encoder width, A adapted width."""

    encoder_id: str
    sha: str
    views: dict[str, list[str]]

    def adapt(self, view: str, vectors_NT: np.ndarray) -> np.ndarray: ...

    def missing(self, view: str) -> np.ndarray: ...


def files(settings: Settings, inputs: Inputs) -> list[Path]:
    """The checkpoint's files: their digests join the recipe.

    Raises:
        NotMade: the newest training holds no checkpoint of the published backbone.
    """
    folder = _checkpoint_folder(settings, inputs)
    found = sorted(path for path in folder.glob("*") if path.is_file())
    if not found:
        raise NotMade(
            f"features reads the checkpoint of {settings.adaptor.published_backbone}, and there is none in {folder.parent}",
            f"train with the arm knowledge: kar run adaptor --date {inputs.date}",
        )
    return found


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    from kar.model import checkpoint  # brings torch, which `kar plan` and the DAGs' parsing must not wait for

    publish_release(inputs, out, settings, checkpoint.load(_checkpoint_folder(settings, inputs)))


def publish_release(inputs: Inputs, out: Output, settings: Settings, checkpoint: Adapting) -> Published:
    """Publish what the checkpoint makes of the newest vectors, and write the stage's one row about it.

    Raises:
        SpaceMismatch: the vectors come from another encoder than the checkpoint was trained on.
        ModelError: the checkpoint does not know the views that the settings publish.
    """
    wanted: dict[Side, list[str]] = {"user": settings.adaptor.user_views, "item": settings.adaptor.item_views}
    knowledge = _of_views(inputs.table("knowledge", columns=_TOLD), [whole_view(view) for view in [*wanted["user"], *wanted["item"]]])
    vectors = _of_views(inputs.table("knowledge_vector"), [*wanted["user"], *wanted["item"]])
    _check_fit(checkpoint, wanted, vectors)
    users = _side("user", inputs.table("user").column("user_id"), wanted["user"], knowledge, vectors, checkpoint, out)
    items = _side("item", inputs.table("item").column("item_id"), wanted["item"], knowledge, vectors, checkpoint, out)
    ours = settings.features.history_vectors
    if settings.adaptor.history_knowledge if ours is None else ours:
        users = replace(users, views=(*users.views, *_pooled_views(inputs, settings, users.ids, items)))
    users, items = _with_active((users, items), inputs, settings.features.active_days)
    uplift = _uplift(inputs.table("comparison"), settings.adaptor.published_backbone, settings.adaptor.published_base)
    published = publish(
        inputs.home.releases_at,
        (users, items),
        _facts(inputs, settings, checkpoint, knowledge, uplift),
        promote=settings.features.promote,
        gate=_gate(inputs, settings, uplift),
        wait_s=settings.features.publisher_wait_s,
        layering=Layering(compact_at=settings.features.compact_at),
    )
    _warn(published, inputs, settings, out)
    out.write("release", _row(published))
    _record(out, published, promote=settings.features.promote)
    return published


def _checkpoint_folder(settings: Settings, inputs: Inputs) -> Path:
    training = inputs.folder("adaptor")
    assert training is not None, "at=latest resolves to a partition or raises NotMade"
    return training / "checkpoints" / settings.adaptor.published_backbone


def _of_views(table: pa.Table, views: list[str]) -> pa.Table:
    return table.filter(pc.is_in(table.column("view"), value_set=pa.array(views, pa.string())))


def _check_fit(checkpoint: Adapting, wanted: dict[Side, list[str]], vectors: pa.Table) -> None:
    for side, views in wanted.items():
        strange = [view for view in views if view not in checkpoint.views.get(side, [])]
        if strange:
            raise ModelError(f"the checkpoint was not trained on {strange}; it knows {checkpoint.views}", "train again: kar run adaptor")
    encoders = [e for e in pc.unique(vectors.column("encoder_id")).to_pylist() if e != checkpoint.encoder_id]
    if encoders:
        raise SpaceMismatch(
            f"the vectors were encoded by {encoders}, the checkpoint was trained on {checkpoint.encoder_id or 'none'}: they do not mix",
            "train again on the new vectors: kar run adaptor",
        )


def _side(
    side: Side, ids: pa.ChunkedArray, views: list[str], knowledge: pa.Table, vectors: pa.Table, checkpoint: Adapting, out: Output
) -> SideRows:
    """Every subject of the sources, ids ascending, with what is known of it in each view."""
    ordered = ids.combine_chunks().take(pc.sort_indices(ids))
    subjects = subject_ids(ordered)
    return SideRows(
        side,
        ordered,
        tuple(
            _view(view, subjects, _of_views(knowledge, [whole_view(view)]), _of_views(vectors, [view]), checkpoint, out) for view in views
        ),
    )


def _view(view: str, subjects: pa.Array, knowledge: pa.Table, vectors: pa.Table, checkpoint: Adapting, out: Output) -> ViewRows:
    # a factor's vectors come from the same answer as the whole text's, so its knowledge row tells what they have seen
    # row of each subject in the two tables; null where it is in neither
    vector_rows = pc.index_in(subjects, value_set=vectors.column("subject_id").combine_chunks())
    knowledge_rows = pc.index_in(subjects, value_set=knowledge.column("subject_id").combine_chunks())
    is_missing = vector_rows.is_null().to_numpy(zero_copy_only=False)
    orphans = int(np.sum(~is_missing & knowledge_rows.is_null().to_numpy(zero_copy_only=False)))
    if orphans:
        raise ModelError(f"{orphans} vectors of {view} have no knowledge row, so nothing tells what they have seen", "run: kar run vectors")
    if strangers := vectors.num_rows - int((~is_missing).sum()):
        out.warn(f"{strangers} subjects with knowledge of {view} are not in the sources and are not published")
    covered = np.flatnonzero(~is_missing)
    column = vectors.column("vector").combine_chunks()
    vectors_NT = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    known_NT = np.zeros((len(subjects), column.type.list_size), np.float32)
    known_NT[covered] = vectors_NT[vector_rows.drop_null().to_numpy()]
    default_A = np.asarray(checkpoint.missing(view), np.float32)
    adapted_NA = np.tile(default_A, (len(subjects), 1))
    for rows in (covered[first : first + _CHUNK] for first in range(0, len(covered), _CHUNK)):
        adapted_NA[rows] = checkpoint.adapt(view, known_NT[rows])
    told = knowledge.take(pc.if_else(pa.array(is_missing), pa.scalar(None, pa.int32()), knowledge_rows))
    return ViewRows(
        view=view,
        is_missing=is_missing,
        adapted=adapted_NA,
        knowledge=known_NT,
        default=default_A,
        evidence_newest_at=told.column("evidence_newest_at").combine_chunks(),
        asked_at=told.column("asked_at").combine_chunks(),
        origin=_lasting_origin(told.column("origin").combine_chunks()),
        model=told.column("model").combine_chunks(),
    )


def _pooled_views(inputs: Inputs, settings: Settings, user_ids: pa.Array, items: SideRows) -> list[ViewRows]:
    """Of each item view the liked and the disliked mean over each user's history."""
    events = base_of(settings.adaptor.published_base, settings.adaptor, settings.histories.cap).history_events
    history = _history(inputs, settings, user_ids, items.ids, events)
    found = []
    for view in items.views:
        seen_us, asked_us = (at.cast(pa.int64()).fill_null(NEVER).to_numpy() for at in (view.evidence_newest_at, view.asked_at))
        source = Items(view.adapted, ~view.is_missing, view.default, seen_us, asked_us)
        for label, value in _LABELS.items():
            found.append(_pooled_rows(Pooled(view.view, label, events), means(history, source, value), view.default))
    return found


def _history(inputs: Inputs, settings: Settings, user_ids: pa.Array, item_ids: pa.Array, events: int) -> History:
    """The newest events of every user, in rows of the release's ids."""
    column, operator, threshold = settings.examples.label_rule()
    parameters: dict[str, object] = {
        "cutoff_at": inputs.cutoff_at,
        "mode": settings.histories.mode,
        "cap": settings.histories.cap,
        "label_column": column,
        "label_operator": operator,
        "label_threshold": threshold,
        "history_events": events,
    }
    with Warehouse(inputs.ids) as warehouse:
        warehouse.read(inputs, "interaction")
        warehouse.make("core_event", "core_label", "core_history_event", **parameters)
        table = warehouse.run("core_pooled_event", **parameters)
    user_H = pc.index_in(table.column("user_id"), value_set=user_ids).to_numpy()
    item_H = pc.index_in(table.column("item_id"), value_set=item_ids).to_numpy()
    event_us_H = table.column("event_at").cast(TIME).cast(pa.int64()).to_numpy()
    return History(user_H.astype(np.int64), item_H.astype(np.int64), table.column("label").to_numpy(), event_us_H, len(user_ids))


def _pooled_rows(source: Pooled, found: Means, default: np.ndarray) -> ViewRows:
    rows = len(found.is_missing_U)

    def at(us_U: np.ndarray) -> pa.Array:
        return pa.array(us_U, mask=us_U == NEVER).cast(TIME)

    return ViewRows(
        view=pooled_view(source.view, source.label),
        is_missing=found.is_missing_U,
        adapted=found.vectors_UD,
        knowledge=np.zeros((rows, 0), np.float32),
        default=default,
        evidence_newest_at=at(found.seen_us_U),
        asked_at=at(found.asked_us_U),
        origin=pa.array(np.full(rows, "pooled", object), pa.string(), mask=found.is_missing_U),
        model=pa.nulls(rows, pa.string()),
        pooled_from=source,
    )


def _with_active(sides: tuple[SideRows, SideRows], inputs: Inputs, days: int) -> list[SideRows]:
    """Mark the subjects with an interaction in the last days before the cutoff: how many of them have knowledge is what coverage is about."""
    path = inputs.path("interaction")
    assert path is not None, "interactions of the date itself are no optional input"
    lately = [("event_at", ">=", inputs.cutoff_at - dt.timedelta(days=days)), ("event_at", "<", inputs.cutoff_at)]
    recent = pq.read_table(path, columns=["user_id", "item_id"], filters=lately)
    return [
        replace(side, is_active=pc.is_in(side.ids, value_set=pc.unique(recent.column(f"{side.side}_id"))).to_numpy(zero_copy_only=False))
        for side in sides
    ]


def _cost(inputs: Inputs, knowledge: pa.Table) -> dict[str, Any]:
    """What the night's answers cost, and what those cost that are in the release, whenever they were given (at tonight's prices)."""
    partition = inputs.partitions["knowledge", "knowledge"]
    figures = Manifest.read(partition.manifest_path).figures if partition is not None else {}
    asked = knowledge.filter(pc.not_equal(knowledge.column("origin"), "import"))
    # the answer to one request may be the knowledge of several views
    once = asked.group_by("request_key").aggregate([("prompt_tokens", "max"), ("completion_tokens", "max")])
    prompt, completion = (int(pc.sum(once.column(f"{name}_max")).as_py() or 0) for name in ("prompt_tokens", "completion_tokens"))
    price = figures.get("usd_per_million_tokens")
    return {
        "night": {name: figures.get(figure) for name, figure in _NIGHT_FIGURES.items()},
        "published": {
            "requests": once.num_rows,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "usd": None if price is None else round((prompt * price["prompt"] + completion * price["completion"]) / 1e6, 6),
        },
    }


def _lasting_origin(origin: pa.Array) -> pa.Array:
    """asked or import. "tonight" would turn into "last_good" the night after, and with it every byte of an unchanged table."""
    return pc.if_else(pc.equal(origin, "import"), "import", "asked")


def _uplift(comparison: pa.Table, backbone: str, base: str) -> list[dict[str, Any]]:
    """knowledge − each other arm, AUC, of the published backbone, as the training measured it; NaN becomes null."""
    chosen = [
        row
        for row in comparison.to_pylist()
        if (row["base"], row["backbone"], row["arm_a"], row["metric"]) == (base, backbone, "knowledge", "auc")
        and row["arm_b"] in ("base", "text", "permuted")
    ]
    columns = ("arm_b", "slice", "difference", "low", "high", "seed_count", "user_count")
    return [
        {"base": base, "backbone": backbone, "metric": "auc"}
        | {c: None if isinstance(row[c], float) and math.isnan(row[c]) else row[c] for c in columns}
        for row in chosen
    ]


def _gate(inputs: Inputs, settings: Settings, uplift: list[dict[str, Any]]) -> Gate:
    """The promotion gate with tonight's settings and counts; a backfill is not held against the newer release that is served."""
    limits = Limits(**settings.features.gate.model_dump())
    told = Told(
        refused=_refused(_knowledge_figures(inputs, "knowledge").get("quality", {})),
        refused_before=_refused(_knowledge_figures(inputs, "refused").get("last_judged", {})),
        uplift=_judged_uplift(inputs, settings, uplift) if settings.features.require_uplift else None,
    )

    def gate(new: Release, before: Release | None) -> tuple[GateVerdict, ...]:
        is_older = before is not None and before.id != new.id and not promotes_over(new.manifest, before.manifest)
        return judge(new, None if is_older else before, limits, told)

    return gate


def _knowledge_figures(inputs: Inputs, table: str) -> dict[str, Any]:
    """The figures of the knowledge stage: of tonight (table knowledge), of the night before (table refused); empty on the first."""
    partition = inputs.partitions[("knowledge", table)]
    return {} if partition is None else Manifest.read(partition.manifest_path).figures


def _refused(quality: dict[str, Any]) -> dict[str, Refused]:
    return {view: Refused(found["judged"], found["refused_share"]) for view, found in quality.items()}


def _judged_uplift(inputs: Inputs, settings: Settings, uplift: list[dict[str, Any]]) -> Uplift:
    """The verdict on the published backbone; positive only if knowledge helps."""
    ours = settings.adaptor
    both = seen(ours.published_base, ours, settings.histories.cap)
    judged = verdict(inputs.table("comparison").to_pylist(), ours.published_backbone, ours.published_base, both)
    lows = [row["low"] for row in uplift if row["slice"] == "all"]
    return Uplift(judged.is_positive, None if not lows or None in lows else min(lows), judged.sentence)


def _warn(published: Published, inputs: Inputs, settings: Settings, out: Output) -> None:
    if not settings.features.promote or published.is_promoted:
        return
    name = published.path.name
    if not _is_newer(inputs.home, published.manifest):
        out.warn(f"release {name} is published but CURRENT serves a newer one; to serve it: kar release rollback {name}")
        return
    for failed in (v for v in published.gate if not v.is_passed):
        out.warn(f"published but not promoted: {failed.check}: {failed.why}")


def _is_newer(home: Home, found: dict[str, Any]) -> bool:
    """Whether a release is newer than the one that is served."""
    with looking(home.releases_at) as published:
        current = maybe_current(published)
        return current is None or promotes_over(found, manifest.read(folder_of(published, current.release)))


def held_back(home: Home, made: Manifest) -> GateFailed | None:
    """What to end with after a night whose release is published but not promoted, although that was asked for; None: all is well.

    Asked again, it says so again, until a release that is at least as new is served.

    Args:
        made: the manifest of this stage's partition.
    """
    release = str(made.figures.get("release_id"))
    if not made.figures.get("gate_failed"):  # empty also where a promotion was not asked for
        return None
    with looking(home.releases_at) as published:
        if release not in ids(published) or not _is_newer(home, manifest.read(folder_of(published, release))):
            return None
    return refusal(release, len(made.gate), made.failed_checks)


def _facts(inputs: Inputs, settings: Settings, checkpoint: Adapting, knowledge: pa.Table, uplift: list[dict[str, Any]]) -> Facts:
    return Facts(
        scenario=settings.scenario.name,
        date=inputs.date,
        published_at=inputs.as_of,
        is_reconstructed=inputs.as_of > inputs.cutoff_at + _RECONSTRUCTED_AFTER,
        encoder_id=checkpoint.encoder_id,
        adaptor={
            "sha": checkpoint.sha,
            "backbone": settings.adaptor.published_backbone,
            "files": {path.name: file_sha(path) for path in files(settings, inputs)},
        },
        normalisation=_NORMALISATION,
        templates=template_counts(knowledge),
        models=counted(knowledge, ["view", "model", "model_revision", "origin"]),
        inputs={
            stage: {"date": partition.date.isoformat(), "recipe_sha": Manifest.read(partition.manifest_path).recipe_sha}
            for (stage, _), partition in sorted(inputs.partitions.items())
            if partition is not None
        },
        uplift=uplift,
        code_version=kar.__version__,
        cost=_cost(inputs, knowledge),
        active_days=settings.features.active_days,
    )


def _row(published: Published) -> pa.Table:
    found = published.manifest
    users, items = (found["tables"][f"{side}_knowledge"] for side in ("user", "item"))
    cutoff = found["data_cutoff"]
    row = {
        "release_id": found["release"],
        "space_id": found["space_id"],
        "data_cutoff": dt.datetime.fromisoformat(cutoff) if cutoff else None,
        "published_at": dt.datetime.fromisoformat(found["published_at"]),
        "is_promoted": published.is_promoted,
        "is_reconstructed": found["is_reconstructed"],
        "manifest_sha": published.manifest_sha,
        "user_count": users["rows"],
        "item_count": items["rows"],
        "user_covered_share": users["covered_share"],
        "item_covered_share": items["covered_share"],
    }
    return pa.Table.from_pylist([row])


def _record(out: Output, published: Published, *, promote: bool) -> None:
    found = published.manifest
    coverage = {view: share for table in found["tables"].values() for view, share in table["coverage"].items()}
    active = {name.removesuffix("_knowledge"): table["covered_active_share"] for name, table in found["tables"].items()}
    out.record(
        release_id=found["release"],
        space_id=found["space_id"],
        is_new=published.is_new,
        is_promoted=published.is_promoted,
        gate=[asdict(verdict) for verdict in published.gate],
        gate_failed=[v.check for v in published.gate if not v.is_passed] if promote and not published.is_promoted else [],
        covered_share={view: coverage[view] for view in sorted(coverage, key=lambda v: (side_of(v), v))},
        covered_active_share=active,
        release_bytes=sum(found["bytes"].values()),
        written_bytes=published.written_bytes,
    )
